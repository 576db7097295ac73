//go:build torture

package powercut

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// faulty are the calls that are made to fail, one after the other. write is not
// among them: strace counts the calls of each thread, and the Go runtime, which
// writes now and then, ends when that fails.
var faulty = []string{"fdatasync", "fsync", "pwrite64", "ftruncate", "renameat", "unlinkat"}

// TestPowerCutAfterFaults makes each call of the first brief scenario, and every
// fourth of the others, fail in turn, with EIO or ENOSPC, and cuts the power at
// some instant after that. What a failed write did is unknown for ever. What a
// failed sync left pending is made durable by a later sync in one model, and
// never in the other.
func TestPowerCutAfterFaults(t *testing.T) {
	b := newBench(t)
	t.Logf("seed %d, failing states go to %s", b.seed, b.saver.dir)
	defer b.progress(t)()
	for i := range brief {
		s := &brief[i]
		t.Run(strings.ReplaceAll(s.name, " ", "-"), func(t *testing.T) {
			sound, err := record(s, b.folder(), "")
			if err != nil {
				t.Fatal(err)
			}
			b.worth(t, sound)
			for _, call := range faulty {
				b.faults(t, faults{scenario: s, call: call, odd: i, step: 1 + 3*min(i, 1)})
			}
		})
	}
	t.Logf("%d states in all, %d failures", b.tally.states.Load(), b.tally.failures.Load())
}

// TestPowerCutAfterKills kills a process at its calls, and cuts the power while
// the next one is at work: that one finds what no sync has covered.
func TestPowerCutAfterKills(t *testing.T) {
	b := newBench(t)
	t.Logf("seed %d, failing states go to %s", b.seed, b.saver.dir)
	defer b.progress(t)()
	for i := range killed {
		s := &killed[i]
		t.Run(strings.ReplaceAll(s.name, " ", "-"), func(t *testing.T) {
			for _, call := range faulty {
				b.faults(t, faults{scenario: s, call: call, kill: true, step: 1 + 3*i})
			}
		})
	}
	t.Logf("%d states in all, %d failures", b.tally.states.Load(), b.tally.failures.Load())
}

// faults has calls of one kind fail, or be the last of the process.
type faults struct {
	scenario *scenario
	call     string
	kill     bool
	odd      int // which error comes first
	step     int // every step-th call
}

// fault is the one for the n-th call.
func (f faults) fault(n int) inject {
	if f.kill {
		return inject(fmt.Sprintf("%s:signal=KILL:when=%d", f.call, n))
	}
	fault := fmt.Sprintf("%s:error=%s:when=%d", f.call, []string{"EIO", "ENOSPC"}[(n/f.step+f.odd)%2], n)
	if n/f.step%5 == 4 { // and some in a row
		fault += fmt.Sprintf("..%d", n+3)
	}
	return inject(fault)
}

// models are those under which the power is cut.
func (f faults) models() []model {
	if f.kill { // no sync fails
		return []model{{}}
	}
	return []model{{}, {forgetful: true}}
}

// record makes recordings, each with a later call failing, until there is none.
func (f faults) record(t *testing.T, b *bench, out chan<- *recording) {
	defer close(out)
	for n, bad := 1+int(b.seed%uint64(f.step)), 0; bad < 5; n += f.step {
		rec, err := record(f.scenario, b.folder(), f.fault(n))
		switch {
		case err != nil:
			t.Error(err)
			bad++
		case rec.injected == 0:
			return
		default:
			out <- rec
		}
	}
}

func (b *bench) faults(t *testing.T, f faults) {
	t.Helper()
	begin, before := time.Now(), b.tally.states.Load()
	recs := make(chan *recording)
	go f.record(t, b, recs)
	hit, doubts, failed := map[string]int{}, 0, 0
	for rec := range recs {
		from, where := rec.firstFault()
		hit[where]++
		for _, m := range f.models() {
			e := b.exploration(rec, m, b.states/1100)
			e.from, e.thin = from, true
			b.explore(t, e)
			doubts += e.doubts
			failed += e.failed()
		}
	}
	if len(hit) == 0 && f.step == 1 { // else the seed may have left all of a few out
		t.Errorf("no %s was hit", f.call)
	}
	states := b.tally.states.Load() - before
	t.Logf("%-18s %-9s hit at %v: %d states, %d with doubts, %d failures, %.0f states/s", f.scenario.name, f.call, hit,
		states, doubts, failed, float64(states)/time.Since(begin).Seconds())
}

// firstFault is the place of the first call that was made to fail, or of the last
// one before a kill, and what kind of file it was on.
func (r *recording) firstFault() (step int, where string) {
	steps := r.lives[0]
	var hit *call
	for i, s := range steps {
		if s.name == "writev" { // a mark
			continue
		}
		step, hit = i, s.call
		if s.exit && s.injected {
			step--
			break
		}
	}
	if hit == nil {
		return 0, ""
	}
	base := filepath.Base(hit.path + hit.fdPath) // one of them is empty
	switch {
	case strings.Contains(base, ".seg"):
		base = "segment" + strings.TrimLeft(base, "0123456789-")
	case strings.HasSuffix(hit.fdPath, "classes/"+process), base == "classes", base == dataDir:
		base = "folder " + base
	}
	return max(step, 0), base
}
