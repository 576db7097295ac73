package floor

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"
)

func version(n uint64) Trial {
	return Trial{Good: Good{Applied: Applied{Target: "all", Version: n, Digest: fmt.Sprint("d", n), Issued: now}, Text: fmt.Sprintf("version: %d\n", n)},
		Target: "all", Digest: fmt.Sprint("d", n), Starts: 1, Up: []string{"source a", "uplink b"}}
}

func TestConfigsAreReadBack(t *testing.T) {
	dir := t.TempDir()
	open := func() *Configs {
		t.Helper()
		c, damaged, err := OpenConfigs(Dir(dir), dir)
		if err != nil || len(damaged) > 0 {
			t.Fatal(damaged, err)
		}
		return c
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	c := open()
	if c.Good != nil || c.Trial != nil {
		t.Fatalf("%+v", c)
	}
	must(c.Try(version(1)))
	if c = open(); c.Good != nil || !reflect.DeepEqual(*c.Trial, version(1)) {
		t.Fatalf("%+v", c.Trial)
	}
	must(c.Commit())
	must(c.Try(version(2)))
	if c = open(); c.Good.Text != "version: 1\n" || c.Good.Applied != version(1).Applied || c.Trial.Applied.Version != 2 {
		t.Fatalf("%+v %+v", c.Good, c.Trial)
	}
	must(c.Drop())
	must(c.Drop()) // again does no harm
	must(c.Try(Trial{Target: "all", Digest: "d3", File: true, Starts: 1}))
	if c = open(); c.Trial == nil || !c.Trial.File {
		t.Fatalf("%+v", c.Trial)
	}
	must(c.Commit())
	if c = open(); c.Good != nil || c.Trial != nil {
		t.Fatalf("%+v %+v", c.Good, c.Trial)
	}
	must(c.Try(version(4)))
	must(c.Commit())
	path := filepath.Join(dir, goodName)
	data, err := os.ReadFile(path)
	must(err)
	for name, change := range map[string]func(b []byte) []byte{
		"a bit":       func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"cut":         func(b []byte) []byte { return b[:len(b)-1] },
		"empty":       func([]byte) []byte { return nil },
		"not a file ": func([]byte) []byte { return []byte("sluice-config 1 x\n{}") },
	} {
		must(os.WriteFile(path, change(slices.Clone(data)), 0o600))
		if c, damaged, err := OpenConfigs(Dir(dir), dir); err != nil || c.Good != nil || !slices.Equal(damaged, []string{goodName}) {
			t.Errorf("%s: %v %v %v", name, c, damaged, err)
		}
	}
	must(os.WriteFile(path, append([]byte("sluice-config 2 "+digest([]byte("{}"))+"\n"), "{}"...), 0o600))
	if _, _, err := OpenConfigs(Dir(dir), dir); !errors.Is(err, errNewer) {
		t.Error(err)
	}
}

// What was before is about the good one only as long as that is the one it was kept for.
func TestWhatThereIsToGoBackTo(t *testing.T) {
	dir := t.TempDir()
	var c *Configs
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		var damaged []string
		if c, damaged, err = OpenConfigs(Dir(dir), dir); err != nil || len(damaged) > 0 {
			t.Fatal(damaged, err)
		}
	}
	must(nil)
	must(c.Keep(Before{Target: "all", Digest: "d1", Starts: 1})) // of the file
	if c.Young() {
		t.Error("what is on trial is young already")
	}
	must(c.Try(version(1)))
	must(c.Commit())
	if !c.Young() || c.Before.Text != "" || c.Before.Starts != 1 {
		t.Errorf("%+v", c.Before)
	}
	must(c.Revert())
	if c.Good != nil || c.Before != nil || c.Young() {
		t.Errorf("%+v %+v", c.Good, c.Before)
	}
	must(c.Try(version(1)))
	must(c.Commit())
	must(c.Keep(Before{Good: *c.Good, Target: "all", Digest: "d2", File: true, Starts: 1}))
	must(c.Try(Trial{Target: "all", Digest: "d2", File: true, Starts: 1}))
	must(c.Commit())
	if !c.Young() || c.Good != nil {
		t.Errorf("%+v %+v", c.Good, c.Before)
	}
	must(c.Revert())
	if c.Good == nil || c.Good.Applied != version(1).Applied || c.Young() {
		t.Errorf("%+v %+v", c.Good, c.Before)
	}
	must(c.Settle())
}

// adoption goes through what a keeper does to adopt version 2 in place of version
// 1, or to try it and roll it back, and looks at every power cut in between: what a
// start then runs must be among what it may run at that step.
func adoption(t *testing.T, l lies, back bool, r *rand.Rand) (states int, wrong []string) {
	t.Helper()
	d := &disk{names: map[string]int{}, durable: map[string]int{}, lies: l}
	watched := &watch{disk: d, cut: func() {}}
	dir := t.TempDir()
	s, c := &Store{folder: watched}, &Configs{folder: watched, dir: dir}
	m := Memory{Born: now, Highest: now, Documents: map[string]Known{"all": {Version: 1, Digest: "d1"}}, Applied: version(1).Applied}
	steps := func(list ...func() error) {
		t.Helper()
		for _, f := range list {
			if err := f(); err != nil {
				t.Fatal(err)
			}
		}
	}
	steps(func() error { return s.Save(m) }, func() error { return c.Try(version(1)) }, c.Commit)
	allowed := []string{"good 1"}
	found := map[string]string{}
	watched.cut = func() {
		for _, state := range d.states(r) {
			states++
			key := fmt.Sprint(state)
			if _, known := found[key]; !known {
				at := filepath.Join(dir, fmt.Sprint(states))
				put(t, at, state)
				found[key] = runs(t, at)
			}
			if got := found[key]; !slices.Contains(allowed, got) {
				wrong = append(wrong, fmt.Sprintf("call %d: a start runs %q, want one of %q", d.calls, got, allowed))
			}
		}
	}
	step := func(f func() error, during, after []string) {
		t.Helper()
		allowed = during
		steps(f)
		allowed = after
		watched.cut()
	}
	m = m.Clone()
	m.Documents["all"] = Known{Version: 2, Digest: "d2"}
	step(func() error { return s.Save(m) }, []string{"good 1"}, []string{"good 1"})
	step(func() error { return c.Try(version(2)) }, []string{"good 1", "trial 2"}, []string{"trial 2"})
	m = m.Clone()
	if back {
		m.Documents["all"] = Known{Version: 2, Digest: "d2", Failed: true}
		step(func() error { return s.Save(m) }, []string{"good 1", "trial 2"}, []string{"good 1"})
		step(c.Drop, []string{"good 1"}, []string{"good 1"})
		return states, wrong
	}
	step(func() error { return c.Keep(Before{Good: *c.Good, Target: "all", Digest: "d2", Starts: 1}) }, []string{"trial 2"}, []string{"trial 2"})
	step(c.Commit, []string{"trial 2", "good 2"}, []string{"good 2"})
	m.Applied = version(2).Applied
	step(func() error { return s.Save(m) }, []string{"good 2"}, []string{"good 2"})
	m = m.Clone() // it turns out to be bad
	m.Documents["all"] = Known{Version: 2, Digest: "d2", Failed: true}
	step(func() error { return s.Save(m) }, []string{"good 2"}, []string{"good 2"})
	step(c.Revert, []string{"good 2", "good 1"}, []string{"good 1"})
	return states, wrong
}

// runs is what a start on a folder runs.
func runs(t *testing.T, dir string) string {
	t.Helper()
	c, damaged, err := OpenConfigs(Dir(dir), dir)
	if err != nil {
		t.Fatal(err)
	}
	var by Applied
	if c.Good != nil {
		by = c.Good.Applied
	}
	s, report, err := Open(dir, by, now)
	switch {
	case err != nil:
		t.Fatal(err)
	case len(damaged) > 0 || report.Lost:
		return "damaged"
	}
	if x := c.Trial; x != nil {
		if k := s.Memory().Documents[x.Target]; k.Digest != x.Digest || !k.Failed {
			return fmt.Sprint("trial ", x.Applied.Version)
		}
	}
	if c.Good == nil {
		return "file"
	}
	return fmt.Sprint("good ", by.Version)
}

func TestPowerCutWhileAConfigIsAdopted(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for _, back := range []bool{false, true} {
		states, wrong := adoption(t, lies{}, back, rand.New(rand.NewPCG(seed, 1)))
		for _, w := range wrong {
			t.Errorf("rolled back %t: %s", back, w)
		}
		if t.Logf("rolled back %t: %d states", back, states); states < 200 {
			t.Errorf("only %d states", states)
		}
	}
	for name, l := range map[string]lies{"files": {fileSync: true}, "folder": {dirSync: true}} {
		if _, wrong := adoption(t, l, false, rand.New(rand.NewPCG(1, 2))); len(wrong) == 0 {
			t.Errorf("%s are not synced, and nothing is wrong", name)
		}
	}
}
