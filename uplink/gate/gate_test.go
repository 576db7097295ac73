package gate

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// at is a moment of a week in which the day is a Monday to Sunday: 2026-01-05 is a Monday.
func at(t *testing.T, zone *time.Location, text string) time.Time {
	t.Helper()
	name, clock, _ := strings.Cut(text, " ")
	days := map[string]int{"Mon": 5, "Tue": 6, "Wed": 7, "Thu": 8, "Fri": 9, "Sat": 10, "Sun": 11}
	m, err := time.ParseInLocation("2006-01-02 15:04", fmt.Sprintf("2026-01-%02d %s", days[name], clock), zone)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestSchedule(t *testing.T) {
	for _, tt := range []struct {
		entries []string
		in, out []string
		next    [2]string // from, to
	}{
		{[]string{"Mon-Fri 22:00-06:00"},
			[]string{"Mon 22:00", "Tue 05:59", "Sat 05:59", "Fri 23:59"}, []string{"Mon 05:59", "Mon 21:59", "Tue 06:00", "Sat 22:00", "Sun 23:00"},
			[2]string{"Sat 06:00", ""}},
		{[]string{"Sat,Sun", "12:00-13:30"},
			[]string{"Sat 00:00", "Sun 23:59", "Wed 12:00", "Wed 13:29"}, []string{"Fri 23:59", "Wed 13:30"}, [2]string{"Wed 13:30", "Thu 12:00"}},
		{[]string{"fri-MON 00:00-24:00"}, []string{"Fri 00:00", "Sat 12:00", "Mon 23:59"}, []string{"Tue 00:00", "Thu 23:59"}, [2]string{"Tue 00:00", "Fri 00:00"}},
		{[]string{"Wed 08:00-09:00,17:00-18:00"}, []string{"Wed 08:30", "Wed 17:00"}, []string{"Wed 09:00", "Wed 16:59", "Thu 08:30"}, [2]string{"Wed 09:00", "Wed 17:00"}},
		{nil, []string{"Mon 00:00"}, nil, [2]string{"Mon 00:00", ""}},
		{[]string{"Mon-Sun"}, []string{"Mon 00:00", "Sun 23:59"}, nil, [2]string{"Mon 00:00", ""}},
		{[]string{"Sun 23:00-01:00"}, []string{"Sun 23:00", "Mon 00:59"}, []string{"Mon 01:00", "Mon 23:30"}, [2]string{"Sun 23:00", ""}},
	} {
		t.Run(strings.Join(tt.entries, "; "), func(t *testing.T) {
			s, err := ParseSchedule(tt.entries)
			if err != nil {
				t.Fatal(err)
			}
			for _, zone := range []*time.Location{time.UTC, time.FixedZone("", -7*3600-1800)} {
				for _, text := range tt.in {
					if !s.Includes(at(t, zone, text)) {
						t.Errorf("%s is not in it", text)
					}
				}
				for _, text := range tt.out {
					if s.Includes(at(t, zone, text)) {
						t.Errorf("%s is in it", text)
					}
				}
			}
			from := at(t, time.UTC, tt.next[0])
			next := s.Next(from)
			if want := tt.next[1]; want != "" && !next.Equal(at(t, time.UTC, want)) {
				t.Errorf("after %s comes %s, want %s", tt.next[0], next, want)
			}
			for m := from; !next.IsZero() && m.Before(next); m = m.Add(time.Minute) {
				if s.Includes(m) != s.Includes(from) {
					t.Fatalf("changes at %s, before %s", m, next)
				}
			}
		})
	}
}

func TestScheduleThatNeverChanges(t *testing.T) {
	s, err := ParseSchedule([]string{"00:00-24:00"})
	if next := s.Next(time.Now()); err != nil || !next.IsZero() {
		t.Errorf("%v, next %s", err, next)
	}
}

func TestWrongSchedules(t *testing.T) {
	for entry, want := range map[string]string{
		"":                    "is not days, times or both",
		"Mon Tue 10:00-11:00": "is not days, times or both",
		"Mon Tue":             "from when to when",
		"10:00-11:00 Mon":     "has its days behind its times",
		"Mond 10:00-11:00":    `"Mond", which is no day`,
		"Mon- 10:00-11:00":    `"Mon-", which is no day`,
		"10:00":               "from when to when",
		"10:00-10:00":         "no time at all",
		"24:00-01:00":         "a day begins at 00:00",
		"9:00-10:00":          `"9:00", which is no time of the day`,
		"09:00-24:01":         `"24:01"`,
		"09:60-10:00":         `"09:60"`,
		"-1:00-10:00":         "no time of the day",
		"+9:00-10:00":         `"+9:00"`,
	} {
		if _, err := ParseSchedule([]string{"Mon", entry}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", entry, err, want)
		}
	}
}

// FuzzSchedule asks that what is accepted can be judged at any time.
func FuzzSchedule(f *testing.F) {
	f.Add("Mon-Fri 22:00-06:00", int64(1767600000))
	f.Add("Sat,Sun", int64(0))
	f.Fuzz(func(t *testing.T, entry string, unix int64) {
		s, err := ParseSchedule([]string{entry})
		if err != nil {
			return
		}
		m := time.Unix(unix%(1<<40), 0).UTC()
		if next := s.Next(m); !next.IsZero() && (s.Includes(next) == s.Includes(m) || !next.After(m)) {
			t.Errorf("%q at %s: next %s", entry, m, next)
		}
	})
}

func TestZones(t *testing.T) {
	for name, want := range map[string]string{"": "UTC", "UTC": "UTC", "local": "Local", "+05:30": "+05:30", "-08:00": "-08:00"} {
		if z, err := Zone(name); err != nil || z.String() != want {
			t.Errorf("%q: %v, %v", name, z, err)
		}
	}
	for _, name := range []string{"+15:00", "+1", "-", "Nowhere/Else", "../etc/passwd"} {
		if z, err := Zone(name); err == nil {
			t.Errorf("%q: %v", name, z)
		}
	}
	z, _ := Zone("-08:00")
	if got := at(t, z, "Mon 00:00").UTC(); !got.Equal(at(t, time.UTC, "Mon 08:00")) {
		t.Errorf("midnight at -08:00 is %s", got)
	}
}

func script(t *testing.T, body string) []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ask")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return []string{path}
}

func TestQuestions(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, tt := range []struct {
		name    string
		q       Question
		metered bool
		err     string // empty: none
	}{
		{"a file that is not there", Question{File: filepath.Join(dir, "none")}, false, ""},
		{"an empty file", Question{File: file("empty", "\n")}, true, ""},
		{"yes", Question{File: file("yes", "Yes\n")}, true, ""},
		{"0", Question{File: file("0", "0")}, false, ""},
		{"another word", Question{File: file("else", "perhaps")}, false, `says "perhaps", neither yes nor no`},
		{"a folder", Question{File: dir}, false, "is a directory"},
		{"a command that prints", Question{Command: script(t, "echo first; echo GENERAL.METERED:no")}, false, ""},
		{"as NetworkManager does", Question{Command: script(t, `echo "GENERAL.METERED:yes (guessed)"`)}, true, ""},
		{"with its arguments", Question{Command: append(script(t, `echo "$2"`), "a b", "unmetered")}, false, ""},
		{"exit 0", Question{Command: script(t, "true")}, true, ""},
		{"exit 1", Question{Command: script(t, "exit 1")}, false, ""},
		{"exit 1 with a complaint", Question{Command: script(t, "echo no modem >&2; exit 1")}, false, `"no modem"`},
		{"exit 3", Question{Command: script(t, "echo yes; exit 3")}, false, "exit status 3"},
		{"no such program", Question{Command: []string{filepath.Join(dir, "none")}}, false, "no such file"},
		{"one that hangs, with a child", Question{Command: script(t, "sleep 100 & wait")}, false, "no answer within 300ms"},
		{"one that prints for ever", Question{Command: script(t, "while :; do echo yes; done")}, false, "no answer within 300ms"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.q.Timeout = 300 * time.Millisecond
			if tt.err == "" || !strings.Contains(tt.err, "no answer") {
				tt.q.Timeout = 30 * time.Second
			}
			begin := time.Now()
			metered, err := tt.q.ask(t.Context())
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) || metered != tt.metered {
				t.Errorf("metered %t, %v", metered, err)
			}
			if took := time.Since(begin); took > 20*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// TestALinkOpensAndCloses follows a link over a day that is made up.
func TestALinkOpensAndCloses(t *testing.T) {
	flag := filepath.Join(t.TempDir(), "metered")
	write := func(text string) {
		if err := os.WriteFile(flag, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) { // its clock begins at 2000-01-01 00:00 UTC, a Saturday
		no := false
		l, err := New(Config{Schedule: []string{"Sat 01:00-02:00"}, Metered: &Question{File: flag, Every: 30 * time.Second, Timeout: time.Second}, OnlyMetered: &no})
		if err != nil {
			t.Fatal(err)
		}
		is := func(open bool, why string) {
			t.Helper()
			if s := l.State(); s.Open != open || !strings.Contains(s.Why, why) || open && s.Why != "" {
				t.Errorf("%s: %+v", time.Now().UTC().Format("15:04:05"), s)
			}
		}
		is(false, "closed by its schedule until Sat 01:00 UTC")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx) }()
		time.Sleep(time.Minute)
		if s := l.State(); s.Metered || s.Unknown != "" {
			t.Errorf("%+v", s)
		}
		_, changed := l.Changed()
		<-changed
		if now := time.Now().UTC().Format("15:04:05"); now != "01:00:00" {
			t.Errorf("it opened at %s", now)
		}
		is(true, "")
		write("yes")
		time.Sleep(31 * time.Second)
		is(false, "closed while the link is metered (file "+flag+")")
		write("no")
		time.Sleep(31 * time.Second)
		is(true, "")
		write("perhaps") // for three questions the last answer counts
		time.Sleep(65 * time.Second)
		is(true, "")
		time.Sleep(30 * time.Second)
		is(false, "closed, since it is not known whether the link is metered: file "+flag+`: says "perhaps"`)
		write("no")
		time.Sleep(31 * time.Second)
		is(true, "")
		time.Sleep(time.Hour)
		is(false, "closed by its schedule until Sat 01:00 UTC")
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestAnUnknownLinkCountsAsMetered(t *testing.T) {
	for _, only := range []bool{true, false} {
		l, err := New(Config{Metered: &Question{File: "/x", Every: time.Second, Timeout: time.Second}, OnlyMetered: &only})
		if err != nil {
			t.Fatal(err)
		}
		if s := l.State(); s.Open != only || !s.Metered || s.Unknown == "" {
			t.Errorf("only metered %t: %+v", only, s)
		}
	}
}

func TestNoLinkIsOpen(t *testing.T) {
	var l *Link
	s, changed := l.Changed()
	if !s.Open || s.Metered || changed != nil || !l.State().Open {
		t.Errorf("%+v", s)
	}
}

func TestNewSaysWhatIsWrong(t *testing.T) {
	yes := true
	q := Question{File: "/x", Every: 1, Timeout: 1}
	for want, cfg := range map[string]Config{
		`"Mo" has "Mo"`:                {Schedule: []string{"Mo"}},
		"time zones of this machine":   {Zone: "Nowhere"},
		"needs a file or a command":    {OnlyMetered: &yes},
		"either a file or a command":   {Metered: &Question{Every: 1, Timeout: 1}},
		"no absolute path":             {Metered: &Question{Command: []string{"nmcli"}, Every: 1, Timeout: 1}},
		"every 0s":                     {Metered: &Question{File: "/x", Timeout: 1}},
		"either a file or a command\n": {Metered: &Question{File: "/x", Command: []string{"/y"}, Every: 1, Timeout: 1}, Zone: "UTC"},
	} {
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error()+"\n", want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := New(Config{Metered: &q, OnlyMetered: &yes, Schedule: []string{"Mon"}, Zone: "local"}); err != nil {
		t.Error(err)
	}
}
