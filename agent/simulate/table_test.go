package simulate

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

var update = flag.Bool("update", false, "write the golden files anew")

func testView() view {
	return view{
		Title: "Sluice: 20 machines over MQTT and 2 Modbus meters to an embedded Kafka", Elapsed: 11 * time.Second,
		Phase: "the link to Kafka is cut: the plant works on, the buffer fills", Cut: true, Heals: 2400 * time.Millisecond,
		Sources: []sourceRow{
			{Name: "line-mqtt", Up: true, Sent: 2_163, Taken: 2_162, Rate: 209.6},
			{Name: "bus-1", Up: false, Sent: 78, Taken: 78, Rate: 0},
		},
		Uplink: uplinkRow{Name: "central", Delivered: 1_234_567, Rate: 0, Error: "dial tcp 127.0.0.1:21012: connection refused"},
		Classes: []classRow{
			{Name: "class alarm", Backlog: 3, Bytes: 1, Oldest: 0.4, Full: 1600},
			{Name: "class process", Backlog: 800, Bytes: 261_333, Oldest: 5.25, Full: 1600},
		},
		Stored: 1_234_570,
	}
}

func TestTableLooksAsItDid(t *testing.T) {
	healthy := testView()
	healthy.Cut, healthy.Uplink.Up, healthy.Uplink.Error = false, true, ""
	tests := []struct {
		name  string
		view  view
		width int
		color bool
	}{
		{"cut", testView(), 100, false},
		{"cut-color", testView(), 100, true},
		{"cut-narrow-color", testView(), 40, true},
		{"healthy", healthy, 100, false},
		{"empty", view{}, 100, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := strings.Join(tt.view.table(tt.width, tt.color), "\n") + "\n" + tt.view.line() + "\n"
			golden(t, filepath.Join("testdata", "table-"+tt.name+".txt"), got)
		})
	}
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		must(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	must(t, err)
	if got != string(want) {
		t.Errorf("%s differs (-update writes it anew):\n%s", file, got)
	}
}

func TestBar(t *testing.T) {
	tests := []struct {
		name    string
		n, full uint64
		marks   int
	}{
		{"empty", 0, 100, 0},
		{"anything shows", 1, 1_000_000, 1},
		{"half", 50, 100, barWidth / 2},
		{"full", 100, 100, barWidth},
		{"more than full", 1000, 100, barWidth},
		{"no measure", 5, 0, barWidth},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := bar(tt.n, tt.full)
			if len(got) != barWidth || strings.Count(got, "#") != tt.marks {
				t.Errorf("%q has %d marks, not %d", got, strings.Count(got, "#"), tt.marks)
			}
		})
	}
}

func TestClipKeepsTheWidthAndTheColor(t *testing.T) {
	tests := []struct {
		name, line, want string
		width            int
	}{
		{"short", "abc", "abc", 5},
		{"long", "abcdef", "abc", 3},
		{"color doesn't count", "\x1b[1mabc\x1b[0m", "\x1b[1mabc\x1b[0m", 3},
		{"color is switched off behind the end", "\x1b[1mabcdef\x1b[0m", "\x1b[1mabc\x1b[0m", 3},
		{"control characters are blanked", "a\nb\x07\x1bZ", "a b  Z", 9},
		{"letters of two bytes", "äöü", "äö", 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := clip(tt.line, tt.width); got != tt.want || !utf8.ValidString(got) {
				t.Errorf("%q, not %q", got, tt.want)
			}
		})
	}
}

func TestScreenDrawsInPlaceOnATerminal(t *testing.T) {
	var out bytes.Buffer
	s := &screen{w: &out, width: func() int { return 60 }}
	s.show(testView())
	lines := strings.Count(out.String(), "\n")
	out.Reset()
	s.show(testView())
	if got := out.String(); !strings.HasPrefix(got, "\x1b["+thousands(uint64(lines))+"A") || strings.Count(got, "\n") != lines {
		t.Errorf("the second table doesn't go back %d lines: %q", lines, got)
	}
	out.Reset()
	s.close()
	if !strings.Contains(out.String(), "\x1b[?25h") {
		t.Error("the cursor isn't given back")
	}
}

func TestScreenPrintsALineNowAndThenInALog(t *testing.T) {
	tests := []struct {
		name  string
		env   map[string]string
		lines int
	}{
		{"a file, though the terminal is known", map[string]string{"TERM": "xterm"}, 4},
		{"NO_COLOR", map[string]string{"TERM": "xterm", "NO_COLOR": "1"}, 4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, err := os.Create(filepath.Join(t.TempDir(), "out"))
			must(t, err)
			defer f.Close()
			s := newScreen(f, func(key string) string { return tt.env[key] })
			v := testView()
			for i := range 21 { // 5 s in steps of 250 ms: at 0, 2 and 4 s, and where the phase changes
				v.Elapsed = time.Duration(i) * 250 * time.Millisecond
				if i == 3 {
					v.Phase = "another"
				}
				s.show(v)
			}
			s.close()
			got, err := os.ReadFile(f.Name())
			must(t, err)
			if n := strings.Count(string(got), "\n"); n != tt.lines || bytes.Contains(got, []byte("\x1b")) {
				t.Errorf("%d lines, not %d:\n%s", n, tt.lines, got)
			}
		})
	}
}

func TestRateIsTheMeanOfTheWindow(t *testing.T) {
	var r rate
	start := time.Now()
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	steps := []struct {
		ms    int
		value uint64
		want  float64
	}{{0, 100, 0}, {500, 150, 100}, {1000, 200, 100}, {2000, 300, 100}, {3000, 300, 50}, {4000, 300, 0}, {4500, 20, 0}}
	for _, s := range steps {
		if got := r.add(at(s.ms), s.value); got != s.want {
			t.Errorf("at %d ms: %v, not %v", s.ms, got, s.want)
		}
	}
}
