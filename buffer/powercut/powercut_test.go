//go:build torture

package powercut

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// What the tests are told.
const (
	envStates = "SLUICE_POWERCUT_STATES" // about how many states are looked at
	envSeed   = "SLUICE_POWERCUT_SEED"
	envSave   = "SLUICE_POWERCUT_SAVE"   // folder for failing states
	envReplay = "SLUICE_POWERCUT_REPLAY" // folder of a failing state
)

const (
	defaultStates = 44_000
	leastStates   = 20_000
)

// bench is what all tests share.
type bench struct {
	scratch string // in memory, where there is such a place
	pool    *pool
	seed    uint64
	states  int
	saver   *saver
	tally   tally
	folders atomic.Int64
}

// tally counts over all explorations that are to hold.
type tally struct {
	states, failures atomic.Int64
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{seed: uint64(time.Now().UnixNano()), states: defaultStates,
		saver: &saver{t: t, dir: os.Getenv(envSave), kinds: map[string]int{}}}
	for name, to := range map[string]func(uint64){envSeed: func(n uint64) { b.seed = n }, envStates: func(n uint64) { b.states = int(n) }} {
		if s := os.Getenv(name); s != "" {
			n, err := strconv.ParseUint(s, 10, 64)
			if err != nil {
				t.Fatalf("%s is %q: a number is needed", name, s)
			}
			to(n)
		}
	}
	memory := "/dev/shm"
	if st, err := os.Stat(memory); err != nil || !st.IsDir() {
		memory = ""
	}
	dir, err := os.MkdirTemp(memory, "sluice-powercut-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	b.scratch = dir
	if b.saver.dir == "" {
		b.saver.dir = filepath.Join(os.TempDir(), fmt.Sprintf("sluice-powercut-%d", b.seed))
	}
	b.pool = newPool(2 * runtime.NumCPU()) // each waits for its buffer now and then
	t.Cleanup(func() {
		if err := b.pool.close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// progress prints what has been done every ten seconds until it is stopped.
func (b *bench) progress(t *testing.T) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		begin, tick := time.Now(), time.NewTicker(10*time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				n := b.tally.states.Load()
				t.Logf("%d states, %.0f/s, %d failures", n, float64(n)/time.Since(begin).Seconds(), b.tally.failures.Load())
			}
		}
	}()
	return func() { close(done); <-ended }
}

// TestPowerCut looks at what power cuts leave of each scenario.
func TestPowerCut(t *testing.T) {
	if dir := os.Getenv(envReplay); dir != "" {
		said, sound, err := replay(dir, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if t.Log(said); !sound {
			t.Fail()
		}
		return
	}
	b := newBench(t)
	t.Logf("seed %d, about %d states, failing ones go to %s", b.seed, b.states, b.saver.dir)
	defer b.progress(t)()
	ran := 0
	for i := range scenarios {
		t.Run(strings.ReplaceAll(scenarios[i].name, " ", "-"), func(t *testing.T) {
			ran++
			b.scenario(t, &scenarios[i], b.states*3/4/len(scenarios))
		})
	}
	n := b.tally.states.Load()
	t.Logf("%d states in all, %d failures", n, b.tally.failures.Load())
	if ran == len(scenarios) && n < leastStates && b.states >= defaultStates {
		t.Errorf("only %d states (at least %d)", n, leastStates)
	}
}

// cutsAgain is how many states of a scenario are the begin of another recording.
const cutsAgain = 4

func (b *bench) scenario(t *testing.T, s *scenario, states int) {
	t.Helper()
	rec, err := record(s, b.folder(), "")
	if err != nil {
		t.Fatal(err)
	}
	b.worth(t, rec)
	e := b.exploration(rec, model{}, states)
	if e.keep = cutsAgain; s.few {
		e.budget, e.thin, e.keep = 200, true, 0
	}
	begin := time.Now()
	b.explore(t, e)
	t.Log(e.summary(time.Since(begin)))
	b.again(t, e, states/10/cutsAgain)
}

// again runs the buffer on some of the disks that cuts left, and cuts again.
func (b *bench) again(t *testing.T, first *exploration, states int) {
	t.Helper()
	n, failed := 0, 0
	for _, cut := range first.kept {
		rec, err := recordAfter(first.rec, cut, b.folder())
		if err != nil {
			t.Fatalf("after the cut at %s: %v", cut.label, err)
		}
		e := b.exploration(rec, model{}, states)
		e.thin = true
		b.explore(t, e)
		n += len(e.seen)
		failed += e.failed()
	}
	t.Logf("%-18s cut again after %d of these states: %d states, %d failures", first.rec.scenario.name, len(first.kept), n, failed)
}

// worth checks that the recording went through what the scenario is for.
func (b *bench) worth(t *testing.T, rec *recording) {
	t.Helper()
	s := rec.scenario
	if got := rec.segments(); got.made < s.least.made || got.rewritten < s.least.rewritten || got.removed < s.least.removed {
		t.Errorf("the recording is poor: segments %+v, at least %+v are wanted", got, s.least)
	}
	told, err := rec.reasons()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range s.shows {
		if !slices.Contains(told, r) {
			t.Errorf("the recording is poor: no gap record with the reason %s", r)
		}
	}
}

// folder is the name of a new one in memory.
func (b *bench) folder() string { return filepath.Join(b.scratch, fmt.Sprint(b.folders.Add(1))) }

func (b *bench) exploration(rec *recording, m model, budget int) *exploration {
	return &exploration{rec: rec, model: m, budget: budget, seed: b.seed, pool: b.pool, tally: &b.tally}
}

// explore runs e and reports each kind of failure.
func (b *bench) explore(t *testing.T, e *exploration) {
	t.Helper()
	e.dir, e.saver = b.folder(), b.saver
	if err := errors.Join(e.run(), os.RemoveAll(e.dir)); err != nil {
		t.Error(err)
	}
	for _, k := range e.kinds() {
		t.Errorf("fault %q: %s", e.rec.fault, k)
	}
}
