//go:build torture

package powercut

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// exploration goes through a recording and has the disks looked at that a power
// cut may leave at each instant.
type exploration struct {
	rec    *recording
	model  model
	budget int  // about how many states
	from   int  // step of the first life at which to begin, for recordings that differ only after it
	thin   bool // few states for many instants, most of them for the first ones
	seed   uint64
	pool   *pool
	dir    string
	saver  *saver
	tally  *tally

	disk   *disk
	images *images
	rnd    *rand.Rand
	marks  []mark
	share  float64 // of the choices that are looked at, 1 for most
	dry    bool    // only count them
	total  float64

	keep int // how many of the states are kept
	kept []trial

	mu       sync.Mutex
	seen     map[uint64]*state
	failures map[string]int // by kind
	instants int
	judged   int
	doubts   int // states with a gap record for what was never used, or with files set aside
	broken   error
	under    sync.WaitGroup
}

// state is a disk that was or is being looked at.
type state struct {
	answer  *answer // nil: it is being looked at
	waiting []trial
	marks   int // the last instant it was judged for
}

// trial is a disk at one instant.
type trial struct {
	image image
	label string
	marks []mark
}

// run explores. The first pass only counts the choices, to spread the budget.
func (e *exploration) run() error {
	e.dry = true
	if err := e.pass(); err != nil {
		return err
	}
	e.dry, e.share = false, min(1, float64(e.budget)/max(1, e.total))
	var err error
	if e.images, err = newImages(filepath.Join(e.dir, "pool")); err != nil {
		return err
	}
	err = e.pass()
	e.under.Wait()
	if err == nil {
		err = e.broken
	}
	return err
}

func (e *exploration) pass() error {
	e.rnd = rand.New(rand.NewPCG(e.seed, uint64(len(e.rec.scenario.name))))
	e.disk, e.marks, e.seen, e.failures, e.instants = e.rec.disk(e.model), e.rec.marks(), map[uint64]*state{}, map[string]int{}, 0
	for n, steps := range e.rec.lives {
		h := newHost(e.disk)
		for i, s := range steps {
			if err := e.step(h, s, n > 0 || i >= e.from); err != nil {
				return err
			}
		}
		if err := e.instant(fmt.Sprintf("end of process %d", n), true); err != nil {
			return err
		}
	}
	return nil
}

// step has a call change the disk and looks at what a cut before or after it may
// leave.
func (e *exploration) step(h *host, s step, look bool) error {
	if s.name == "writev" && s.fdPath == e.rec.reports {
		if s.exit {
			return nil
		}
		m, err := parseMarks(s.data)
		if err != nil || len(m) == 0 {
			return err
		}
		e.marks = append(e.marks, m...) // a promise counts as soon as it is on its way
		if look && m[0].Kind == markAcked {
			return e.instant(fmt.Sprintf("line %d: event %d acknowledged", s.line, m[0].ID), false)
		}
		return nil
	}
	if err := h.take(s); err != nil || !look || s.effect == nil {
		return err
	}
	label := fmt.Sprintf("line %d: %s of %s", s.line, s.name, strings.TrimPrefix(s.path+s.fdPath, e.disk.root))
	switch s.effect.(type) {
	case covered, *meta:
		if s.exit {
			return e.instant(label+" returns", false)
		}
		return e.instant(label+" begins", true)
	}
	return nil
}

// soon is how many instants count as near to the begin of a thin exploration.
const soon = 40

// instant looks at some of the disks that a cut now may leave.
func (e *exploration) instant(label string, full bool) error {
	e.instants++
	p := e.disk.pending()
	cuts := p.cuts(full, e.rnd)
	for i, c := range cuts {
		weight := 1.0
		if i < 2 { // nothing and everything: the likeliest, and in most explorations always looked at
			weight = 8
		}
		if e.thin && e.instants < soon { // after a fault, or at the start on what a cut has left
			weight *= 8
		}
		always := i < 2 && !e.thin
		keep := e.rnd.Float64() < e.share*weight
		if e.dry && !always {
			e.total += weight
		}
		if e.dry || !keep && !always {
			continue
		}
		t := trial{image: e.images.build(e.disk, p, c), marks: e.marks[:len(e.marks):len(e.marks)]}
		t.label = label + ": " + p.describe(c)
		if err := e.try(t); err != nil {
			return err
		}
	}
	return nil
}

// try judges a disk at an instant, and has it looked at when it is new.
func (e *exploration) try(t trial) error {
	e.mu.Lock()
	st := e.seen[t.image.hash]
	switch {
	case st != nil && st.marks == len(t.marks):
		e.mu.Unlock()
		return nil
	case st != nil:
		st.marks = len(t.marks)
		a := st.answer
		if a == nil {
			st.waiting = append(st.waiting, t)
		}
		e.mu.Unlock()
		if a != nil {
			e.judge(t, *a)
		}
		return nil
	}
	st = &state{waiting: []trial{t}, marks: len(t.marks)}
	e.seen[t.image.hash] = st
	n := len(e.seen)
	e.mu.Unlock()
	if k := e.rnd.IntN(n); len(e.kept) < e.keep { // each state has the same chance
		e.kept = append(e.kept, t)
	} else if k < e.keep {
		e.kept[k] = t
	}
	dir := filepath.Join(e.dir, fmt.Sprint(n))
	if err := e.images.write(t.image, dir); err != nil {
		return err
	}
	e.under.Add(1)
	e.pool.submit(task{Dir: dir, Scenario: e.rec.scenario.name, Base: e.rec.base.Unix()}, func(a answer) { e.answered(st, dir, a) })
	return nil
}

// answered judges a disk for all instants that wait for it.
func (e *exploration) answered(st *state, dir string, a answer) {
	defer e.under.Done()
	e.mu.Lock()
	st.answer = &a
	waiting := st.waiting
	st.waiting = nil
	if len(a.Aside) > 0 || a.doubts() {
		e.doubts++
	}
	e.mu.Unlock()
	if w := waiting[0].image.written(dir); w != "" && a.Err == "" {
		a.Err = "a segment of an earlier process was written: " + w
	}
	for _, t := range waiting {
		e.judge(t, a)
	}
	e.tally.states.Add(1)
	if err := remove(dir); err != nil {
		e.mu.Lock()
		e.broken = err
		e.mu.Unlock()
	}
}

// doubts reports whether numbers are said to be lost by damage.
func (a answer) doubts() bool {
	for _, uplinks := range a.First {
		for _, r := range uplinks {
			if slices.ContainsFunc(r.Items, func(i item) bool { return i.Gap != nil && i.Gap.Reason == "corrupt" }) {
				return true
			}
		}
	}
	return false
}

func (e *exploration) judge(t trial, a answer) {
	failure := judge(e.rec.scenario, t.marks, a, e.model.earlyAcks)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.judged++
	if failure == "" {
		return
	}
	kind := kindOf(failure)
	e.failures[kind]++
	e.tally.failures.Add(1)
	if e.saver != nil {
		if err := e.saver.save(e, t, a, failure); err != nil {
			e.broken = err
		}
	}
}

// total of failures.
func (e *exploration) failed() (n int) {
	for _, k := range e.failures {
		n += k
	}
	return n
}

func (e *exploration) summary(took time.Duration) string {
	calls := 0
	for _, l := range e.rec.lives {
		calls += len(l) / 2
	}
	f := e.rec.segments()
	return fmt.Sprintf("%-18s trace %4.1f MB, %4d calls, %2d segments made, %2d rewritten, %2d removed; %4d instants, %.0f choices, %5d states, %5d judgements, %4d with doubts, %d failures, %3.0f states/s",
		e.rec.scenario.name, float64(e.rec.bytes)/1e6, calls, f.made, f.rewritten, f.removed, e.instants, e.total, len(e.seen), e.judged, e.doubts, e.failed(), float64(len(e.seen))/took.Seconds())
}

// kinds lists the failures by kind.
func (e *exploration) kinds() (lines []string) {
	for k, n := range e.failures {
		lines = append(lines, fmt.Sprintf("%5d times: %s", n, k))
	}
	slices.Sort(lines)
	return lines
}
