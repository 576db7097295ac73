package floor

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func open(t *testing.T, dir string, a Applied) (*Store, Report) {
	t.Helper()
	s, r, err := Open(dir, a, now)
	if err != nil {
		t.Fatal(err)
	}
	return s, r
}

func save(t *testing.T, s *Store, edit func(*Memory)) {
	t.Helper()
	m := s.Memory()
	edit(&m)
	if err := s.Save(m); err != nil {
		t.Fatal(err)
	}
}

func full(m *Memory) {
	m.Topic = "MTIzNDU2Nzg5MDEyMzQ1Ng"
	m.See(now.Add(time.Hour))
	m.Documents = map[string]Known{"all": {Epoch: 1, Version: 1<<64 - 1, Digest: "d1", Withdrawn: true}, "agent:gw-1": {Version: 3, Digest: "d2", Failed: true}}
	m.Applied = Applied{Target: "agent:gw-1", Version: 2, Digest: "d0", Issued: now, Trust: 2}
	m.Commands = map[string]Ran{"c-1": {Digest: "d", Expires: now.Add(2 * time.Hour)}}
	m.Trust = &Trust{Base: "b", Number: 2, Epoch: 1, Keys: []string{"ed25519:A"}, Threshold: 1}
}

func TestSavedIsReadBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "remote")
	s, r := open(t, dir, Applied{})
	if !r.Fresh || r.Lost || !s.Memory().Born.Equal(now) {
		t.Errorf("%+v, born %s", r, s.Memory().Born)
	}
	save(t, s, full)
	again, r := open(t, dir, Applied{})
	if r.Fresh || r.Lost || len(r.Damaged) > 0 || !reflect.DeepEqual(again.Memory(), s.Memory()) {
		t.Errorf("%+v\n%+v, want\n%+v", r, again.Memory(), s.Memory())
	}
	// What is returned is a copy.
	m := again.Memory()
	m.Documents["all"], m.Trust.Keys[0] = Known{}, ""
	if !reflect.DeepEqual(again.Memory(), s.Memory()) {
		t.Error("a change of the copy changed the memory")
	}
}

// One file that is damaged in any way costs nothing; both do not stop the start,
// and versions stay at those of the running config.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir, Applied{})
	save(t, s, full)
	save(t, s, func(m *Memory) { m.Documents["agent:gw-1"] = Known{Version: 4, Digest: "d3"} })
	want := s.Memory()
	whole, err := os.ReadFile(filepath.Join(dir, copies[0]))
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(whole)
	flipped[len(flipped)/2] ^= 1
	damages := map[string][]byte{"gone": nil, "empty": {}, "torn": whole[:len(whole)/2], "zeros": make([]byte, len(whole)), "rubbish": []byte("rubbish\n{}"),
		"a flipped bit": flipped, "longer": append(bytes.Clone(whole), 'x'), "huge": make([]byte, maxBytes+1),
		"no JSON": fmt.Appendf(nil, "%s 9 %s\nnull}", format, digest([]byte("null}")))}
	damage := func(name string, data []byte) {
		path := filepath.Join(dir, name)
		if data == nil {
			err = os.Remove(path)
		} else {
			err = os.WriteFile(path, data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	running := Applied{Target: "agent:gw-1", Version: 4, Digest: "d3", Issued: now.Add(time.Minute), Trust: 2}
	for kind, data := range damages {
		for i := range copies {
			t.Run(fmt.Sprint(kind, " ", i), func(t *testing.T) {
				damage(copies[i], data)
				s, r := open(t, dir, Applied{})
				if r.Fresh || r.Lost || len(r.Damaged) > 1 || (data != nil) != (len(r.Damaged) == 1) {
					t.Errorf("%+v", r)
				}
				if !reflect.DeepEqual(s.Memory(), want) {
					t.Errorf("%+v", s.Memory())
				}
				save(t, s, func(*Memory) {}) // mends it
				if _, r = open(t, dir, Applied{}); len(r.Damaged) > 0 {
					t.Errorf("after a save: %+v", r)
				}
			})
		}
		t.Run(kind+" both", func(t *testing.T) {
			damage(copies[0], data)
			damage(copies[1], data)
			s, r := open(t, dir, running)
			if r.Lost != (data != nil) || r.Fresh != (data == nil) {
				t.Errorf("%+v", r)
			}
			m := s.Memory()
			if m.Documents["agent:gw-1"] != (Known{Version: 4, Digest: "d3"}) || m.Applied != running || m.LeastTrust != 2 || !m.Born.Equal(now.Add(time.Minute)) || m.Trust != nil {
				t.Errorf("%+v", m)
			}
			damage(copies[0], whole)
			damage(copies[1], whole)
			open(t, dir, Applied{})
		})
	}
}

func TestTheNewerCopyCounts(t *testing.T) {
	for name, counters := range map[string][2]int{"first": {9, 8}, "second": {8, 9}} {
		dir, state := t.TempDir(), map[string][]byte{}
		for i, n := range counters {
			body := fmt.Appendf(nil, `{"topic":"%d"}`, n)
			state[copies[i]] = append(fmt.Appendf(nil, "%s %d %s\n", format, n, digest(body)), body...)
		}
		put(t, dir, state)
		if s, _ := open(t, dir, Applied{}); s.Memory().Topic != "9" {
			t.Errorf("the %s is newer, topic %s is read", name, s.Memory().Topic)
		}
	}
}

func TestOpenRefusesANewerFormat(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, map[string][]byte{copies[0]: fmt.Appendf(nil, "sluice-memory 2 9 %s\n{}", digest([]byte("{}")))})
	if _, _, err := Open(dir, Applied{}, now); err == nil || !strings.Contains(err.Error(), "newer version") {
		t.Errorf("error %v", err)
	}
}

func TestRunningConfigIsTheLeast(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir, Applied{})
	save(t, s, full)
	for _, tt := range []struct {
		a    Applied
		want uint64
	}{
		{Applied{Target: "agent:gw-1", Epoch: 1, Version: 2, Digest: "x"}, 2}, // of a later epoch
		{Applied{Target: "agent:gw-1", Epoch: 0, Version: 9, Digest: "x"}, 3}, // of an epoch that is past
		{Applied{}, 3},
	} {
		s, _ := open(t, dir, tt.a)
		if got := s.Memory().Documents["agent:gw-1"].Version; got != tt.want {
			t.Errorf("%+v: version %d, want %d", tt.a, got, tt.want)
		}
	}
}

func TestSaveDoesNotForget(t *testing.T) {
	s, _ := open(t, t.TempDir(), Applied{})
	save(t, s, full)
	for name, tt := range map[string]struct {
		edit func(*Memory)
		ok   bool
	}{
		"nothing new":                 {func(*Memory) {}, true},
		"a lower version":             {func(m *Memory) { m.Documents["agent:gw-1"] = Known{Version: 2} }, false},
		"a lower epoch":               {func(m *Memory) { m.Documents["all"] = Known{Version: 1<<64 - 1} }, false},
		"a target less":               {func(m *Memory) { delete(m.Documents, "all") }, false},
		"an earlier time":             {func(m *Memory) { m.Highest = now }, false},
		"a command that may return":   {func(m *Memory) { delete(m.Commands, "c-1") }, false},
		"an expired command":          {func(m *Memory) { m.See(now.Add(3*time.Hour + KeepCommands)); m.Forget(m.Highest) }, true},
		"a new epoch":                 {func(m *Memory) { m.Trust.Number, m.Trust.Epoch, m.Documents, m.Highest = 3, 2, nil, now }, true},
		"other keys, with the file's": {func(m *Memory) { m.Trust.Base, m.Trust.Epoch, m.Documents, m.Highest = "c", 0, nil, now }, true},
		"no keys, and forgetful":      {func(m *Memory) { m.Documents = nil }, false},
		"too many targets": {func(m *Memory) {
			for i := range MaxTargets + 1 {
				m.Documents[fmt.Sprintf("label:a=%d", i)] = Known{}
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			m := s.Memory()
			tt.edit(&m)
			again := *s // the cases do not follow one another
			if err := again.Save(m); (err == nil) != tt.ok {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestClockIsNeverBeforeWhatWasSeen(t *testing.T) {
	var m Memory
	m.See(now)
	m.See(now.Add(-time.Hour))
	if !m.Now(now.Add(-48*time.Hour)).Equal(now) || !m.Now(now.Add(time.Hour)).Equal(now.Add(time.Hour)) {
		t.Errorf("%s", m.Now(now.Add(-48*time.Hour)))
	}
}

// TestPowerCut cuts the power after every call of four saves, also when one of
// the calls fails: what a save returned for is there, and nothing is lost.
func TestPowerCut(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	total, found := 0, findings{}
	for failAt := range 50 {
		states, wrong := history(t, lies{}, failAt, rand.New(rand.NewPCG(seed, uint64(failAt))), found)
		total += states
		for _, w := range wrong {
			t.Errorf("call %d fails: %s", failAt, w)
		}
	}
	t.Logf("%d states, %d different ones", total, len(found))
	if total < 10000 {
		t.Errorf("only %d states", total)
	}
}

// The model can tell: without one of the syncs it finds losses.
func TestPowerCutFindsMissingSyncs(t *testing.T) {
	for name, l := range map[string]lies{"files": {fileSync: true}, "folder": {dirSync: true}} {
		if _, wrong := history(t, l, 0, rand.New(rand.NewPCG(1, 2)), findings{}); len(wrong) == 0 {
			t.Errorf("%s are not synced, and nothing is lost", name)
		} else {
			t.Logf("%s: %d states are wrong, such as: %s", name, len(wrong), wrong[0])
		}
	}
}

// FuzzMemory: whatever a file holds, it is read or set aside.
func FuzzMemory(f *testing.F) {
	body := []byte(`{"born":"2026-01-01T00:00:00Z","documents":{"all":{"epoch":1,"version":2}}}`)
	f.Add(append(fmt.Appendf(nil, "%s 7 %s\n", format, digest(body)), body...))
	f.Add([]byte("sluice-memory 1 1 x\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, _, err := parse(data); err == nil && m.Clone().Now(now).Before(now) {
			t.Errorf("the clock goes back to %s", m.Now(now))
		}
	})
}
