package modbus

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// holey answers everything but a request that touches register 13; it counts those.
type holey struct {
	healed  atomic.Bool
	touched atomic.Int64
}

func (h *holey) answer(c net.Conn, _ int, req []byte) {
	at, count := int(req[8])<<8|int(req[9]), int(req[10])<<8|int(req[11])
	if at <= 13 && 13 < at+count && !h.healed.Load() {
		h.touched.Add(1)
		c.Write(frameOf(req, req[7]|exception, illegalAddress))
		return
	}
	c.Write(dataOf(req, make([]byte, 2*count)...))
}

func holeyConfig(url, dir string) (Config, *memory) {
	sink := newMemory()
	d := Device{Name: "d", Unit: 1, Every: 20 * time.Millisecond}
	for at := range 30 {
		d.Tags = append(d.Tags, Tag{Name: fmt.Sprint(at), Read: "holding", At: at, Type: "uint16"})
	}
	return Config{Name: "bus", Connection: url, Sink: sink, StateDir: dir, Devices: []Device{d}}, sink
}

// taught runs a source until it knows the hole, and stops it.
func taught(t *testing.T, url, dir string) {
	t.Helper()
	c, sink := holeyConfig(url, dir)
	s := start(t, c)
	for range 3 {
		if r := sink.next(t); len(r.Bad) != 1 || r.Bad["13"] != "exception-2" {
			t.Fatalf("got %s", r.event.Payload)
		}
	}
	s.stop()
	// As if it had been refused for long.
	file := filepath.Join(dir, "bus.json")
	var notes notesFile
	if err := json.Unmarshal(readFile(t, file), &notes); err != nil {
		t.Fatal(err)
	}
	r := &notes.Devices["d"].Refused[0]
	r.WaitSeconds, r.Next = 86400, time.Now().Add(20*time.Hour).UTC()
	data, err := json.MarshalIndent(notes, "", " ")
	if err == nil {
		err = os.WriteFile(file, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestRefusedAddressesAreRememberedOverARestart(t *testing.T) {
	t.Parallel()
	var h holey
	url, dir := newPeer(t, h.answer, nil).url(), filepath.Join(t.TempDir(), "modbus")
	taught(t, url, dir)
	h.touched.Store(0)
	c, sink := holeyConfig(url, dir)
	s := start(t, c)
	for range 3 {
		if r := sink.next(t); len(r.Bad) != 1 || r.Bad["13"] != "exception-2" || len(r.Values) != 29 {
			t.Fatalf("got %s", r.event.Payload)
		}
	}
	if n := h.touched.Load(); n != 0 {
		t.Errorf("the refused register was asked for %d times after the restart", n)
	}
	s.stop()
	if s.schedule.devices[0].lessons.changed {
		t.Error("written again though nothing was learned")
	}
}

// TestWhatMakesNotesVoid changes what the notes are about, or damages them.
func TestWhatMakesNotesVoid(t *testing.T) {
	tests := []struct {
		name   string
		change func(t *testing.T, file string, c *Config)
		warns  bool
	}{
		{"a changed address", func(_ *testing.T, _ string, c *Config) { c.Devices[0].Tags[29].At = 60 }, false},
		{"a changed unit", func(_ *testing.T, _ string, c *Config) { c.Devices[0].Unit = 2 }, false},
		{"changed limits", func(_ *testing.T, _ string, c *Config) { c.Devices[0].Grouping.MaxRegisters = 100 }, false},
		{"another format", func(t *testing.T, file string, _ *Config) { edit(t, file, `"format": 1`, `"format": 2`) }, true},
		{"a file cut short", func(t *testing.T, file string, _ *Config) { truncate(t, file, 40) }, true},
		{"an empty file", func(t *testing.T, file string, _ *Config) { truncate(t, file, 0) }, true},
		{"rubbish", func(t *testing.T, file string, _ *Config) { edit(t, file, "{", "\x00") }, true},
		{"a file that is too large", func(t *testing.T, file string, _ *Config) { truncate(t, file, maxNotes+1) }, true},
		{"a reason that nobody gives", func(t *testing.T, file string, _ *Config) { edit(t, file, "exception-2", "exception-9") }, false},
		{"a time long ago", func(t *testing.T, file string, _ *Config) {
			edit(t, file, time.Now().Add(20*time.Hour).UTC().Format("2006-"), "1999-")
		}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var h holey
			url, dir := newPeer(t, h.answer, nil).url(), t.TempDir()
			taught(t, url, dir)
			c, sink := holeyConfig(url, dir)
			var log bytes.Buffer
			c.Log = slog.New(slog.NewTextHandler(&log, nil))
			test.change(t, filepath.Join(dir, "bus.json"), &c)
			h.healed.Store(true)
			s := start(t, c)
			begin := time.Now()
			for r := sink.next(t); len(r.Values) != 30; r = sink.next(t) {
				if len(r.Bad) > 1 || time.Since(begin) > patience {
					t.Fatalf("got %s", r.event.Payload)
				}
			}
			s.stop()
			if warned := strings.Contains(log.String(), "is forgotten, and learned anew"); warned != test.warns {
				t.Errorf("a warning: %v, want %v\n%s", warned, test.warns, log.String())
			}
		})
	}
}

func edit(t *testing.T, file, from, to string) {
	t.Helper()
	text := string(readFile(t, file))
	if !strings.Contains(text, from) {
		t.Fatalf("%s has no %q:\n%s", file, from, text)
	}
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, from, to)), 0o600); err != nil {
		t.Fatal(err)
	}
}

func truncate(t *testing.T, file string, size int64) {
	t.Helper()
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
}

func TestNotesThatCannotBeWrittenStopNothing(t *testing.T) {
	t.Parallel()
	var h holey
	dir := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c, sink := holeyConfig(newPeer(t, h.answer, nil).url(), dir)
	var log bytes.Buffer
	c.Log = slog.New(slog.NewTextHandler(&log, nil))
	s := start(t, c)
	for range 3 {
		sink.next(t)
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "can't be kept") {
		t.Errorf("no warning:\n%s", log.String())
	}
}

func TestRefusedTagIsTriedAgainAtGrowingIntervals(t *testing.T) {
	l, x, now := newLessons(), mkTag("holding", 1, 1), time.Unix(1_000_000, 0)
	var waits []time.Duration
	for range 20 {
		l.refuse(x, "exception-2", now)
		waits = append(waits, l.refused[x].wait)
		if len(l.due([]*tag{x}, now.Add(l.refused[x].wait-1))) != 0 || len(l.due([]*tag{x}, now.Add(l.refused[x].wait))) != 1 {
			t.Fatalf("due at the wrong time after %v", waits)
		}
		now = now.Add(l.refused[x].wait)
	}
	if waits[0] != time.Second || waits[1] != 2*time.Second || waits[19] != 24*time.Hour {
		t.Errorf("waits %v", waits)
	}
	next := now.Add(time.Hour)
	l.refused[x].next = next
	l.tryAll(now)
	if len(l.due([]*tag{x}, now)) != 1 {
		t.Error("not tried again when the device is back")
	}
	l.refused[x].next = next
	l.tryAll(now.Add(restAfterAll - 1))
	if len(l.due([]*tag{x}, now)) != 0 {
		t.Error("tried again at each return of a device that comes and goes")
	}
}

func TestTimesOfNotesAreBoundedByTheClockOfToday(t *testing.T) {
	x, now := &tag{spec: &spec{name: "v"}}, time.Unix(1_000_000, 0)
	for _, test := range []struct{ next, want time.Duration }{
		{time.Hour, time.Hour}, {-time.Hour, 0}, {20 * 365 * 24 * time.Hour, 2 * time.Hour},
	} {
		d := &device{tags: []*tag{x}, lessons: newLessons()}
		known := notesDevice{Refused: []notesRefusal{{"v", "exception-2", 7200, now.Add(test.next)}},
			Cuts: []notesCut{{"holding", 5, now.Add(test.next)}}}
		known.teach(d, now)
		if got := d.lessons.refused[x].next.Sub(now); got != test.want {
			t.Errorf("noted for %v: tried again after %v, want %v", test.next, got, test.want)
		}
		if until, has := d.lessons.cuts[cut{tables["holding"], 5}]; has != (test.next > 0) || until.Sub(now) > cutsKept && has {
			t.Errorf("noted for %v: a cut until %v, %v", test.next, until, has)
		}
	}
}
