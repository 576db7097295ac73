//go:build torture

package torture

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestDamageCostsOnlyWhatIsDamaged damages copies of directories in every way
// of kinds, and has workers open them.
func TestDamageCostsOnlyWhatIsDamaged(t *testing.T) {
	if kept := os.Getenv(envReplay); kept != "" {
		replay(t, kept)
		return
	}
	seed := newSeed(t)
	r := &ruin{dir: fastDir(t), kept: filepath.Join(os.TempDir(), "sluice-torture-kept"), kinds: map[string]*tally{}}
	for _, s := range shapes {
		r.originals = append(r.originals, makeOriginal(t, filepath.Join(r.dir, strings.ReplaceAll(s.name, " ", "-")), s))
	}
	var todo []damageCase
	for n, k := range kinds {
		for i := range k.cases {
			todo = append(todo, damageCase{Kind: k.name, Shape: r.shapeFor(k, i), Seed: seed + uint64(n)<<32 + uint64(i)})
		}
	}
	cases := make(chan damageCase)
	var workers sync.WaitGroup
	for n := range 2 {
		workers.Go(func() { r.work(t, n, cases) })
	}
	for _, c := range todo {
		cases <- c
	}
	close(cases)
	workers.Wait()
	r.report(t, seed, len(todo))
}

// damageCase is one directory, repeatable with its original.
type damageCase struct {
	Kind, Shape string
	Seed        uint64   // an odd one trims in the first life
	Damage      string   // what was done
	Problems    []string // what went wrong
}

// tally sums up a kind.
type tally struct {
	verdict
	cases, failed, dead, left int
	slowest                   float64
	refusal                   string
}

// ruin is the whole test.
type ruin struct {
	dir, kept string
	originals []*original

	mu       sync.Mutex
	kinds    map[string]*tally
	saved    int
	failures []string // each failed directory, for the end of the output
}

func (r *ruin) fail(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, what)
}

func (r *ruin) shapeFor(k kind, n int) string {
	if len(k.shapes) > 0 {
		return k.shapes[n%len(k.shapes)]
	}
	return shapes[n%len(shapes)].name
}

func (r *ruin) original(shape string) *original {
	for _, o := range r.originals {
		if o.shape.name == shape {
			return o
		}
	}
	return nil
}

func findKind(name string) kind {
	for _, k := range kinds {
		if k.name == name {
			return k
		}
	}
	return kind{}
}

func (r *ruin) tally(name string) *tally {
	if r.kinds[name] == nil {
		r.kinds[name] = &tally{}
	}
	return r.kinds[name]
}

// deadlyEnough is how many workers a kind may cost before its other cases are
// left out, and counted as failed: each may cost a minute.
const deadlyEnough = 3

// work damages and judges cases with a worker of its own.
func (r *ruin) work(t *testing.T, n int, cases <-chan damageCase) {
	var h *hand
	defer func() { h.end() }()
	for c := range cases {
		r.mu.Lock()
		k := r.tally(c.Kind)
		k.cases++
		enough := k.dead >= deadlyEnough
		if enough {
			k.left++
		}
		r.mu.Unlock()
		if enough {
			continue
		}
		dir := filepath.Join(r.dir, fmt.Sprintf("case-%d", n))
		v, dead, err := r.one(&h, dir, &c, false)
		if err != nil {
			r.fail(fmt.Sprintf("%s, shape %q, seed %d: the rig failed: %v", c.Kind, c.Shape, c.Seed, err))
			continue
		}
		c.Problems = v.Problems
		r.note(t, c, v, dead)
	}
}

// one damages a copy of an original and has it opened.
func (r *ruin) one(h **hand, dir string, c *damageCase, loud bool) (v verdict, dead bool, err error) {
	defer func() { err = errors.Join(err, os.RemoveAll(dir), os.RemoveAll(dir+".aside")) }()
	o, k := r.original(c.Shape), findKind(c.Kind)
	if o == nil || k.do == nil {
		return v, false, errors.New("no such kind or shape")
	}
	victim, err := newVictim(dir, o, r.originals, c.Seed)
	if err != nil {
		return v, false, err
	}
	k.do(victim)
	c.Damage = victim.describe()
	if victim.err != nil {
		return v, false, victim.err
	}
	j := job{Dir: dir, Manifest: filepath.Join(o.dir, "manifest.json"), Touched: sortedKeys(victim.touched), Trim: c.Seed%2 == 1, Loud: loud, Blind: victim.blind()}
	v, dead, err = order(h, j)
	if err != nil || dead {
		return v, dead, err
	}
	if v.Refused != "" && !k.mayFail {
		v.Problems = append(v.Problems, "the buffer does not open: "+v.Refused)
	}
	if v.Refused == "" && k.mustFail {
		v.Problems = append(v.Problems, "the buffer opens")
	}
	if v.Refused != "" && !strings.Contains(v.Refused, dir) {
		v.Problems = append(v.Problems, "the error names no path: "+v.Refused)
	}
	if v.Refused != "" && victim.undo != nil { // nothing may have been lost meanwhile
		if err := victim.undo(); err != nil {
			return v, false, err
		}
		again, dead, err := order(h, j)
		again.Problems = append(again.Problems, v.Problems...)
		if again.Refused != "" {
			again.Problems = append(again.Problems, "the cause is away, and it does not open: "+again.Refused)
		}
		again.Refused = v.Refused
		return again, dead, err
	}
	return v, false, nil
}

// order gives a job to the worker, starting one if need be.
func order(h **hand, j job) (v verdict, dead bool, err error) {
	if *h == nil {
		if *h, err = newHand(false); err != nil {
			return v, false, err
		}
	}
	v, err = (*h).do(j)
	if err != nil { // the worker is gone
		said := (*h).stderr.String()
		(*h).end()
		*h = nil
		return verdict{Problems: []string{err.Error() + ": " + said}}, true, nil
	}
	return v, false, nil
}

// hand is a worker process.
type hand struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr head
}

func newHand(loud bool) (*hand, error) {
	h := &hand{cmd: command(roleDamage)}
	var err error
	if h.in, err = h.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	h.out = bufio.NewReader(out)
	h.cmd.Stderr = &h.stderr
	if loud {
		h.cmd.Stderr = os.Stderr
	}
	return h, h.cmd.Start()
}

// do has a directory examined; an error means that the worker died or gave no
// answer in time.
func (h *hand) do(j job) (verdict, error) {
	var v verdict
	js, err := json.Marshal(j)
	if err != nil {
		return v, err
	}
	late := time.AfterFunc(answerLimit, func() { _ = h.cmd.Process.Kill() })
	_, err = h.in.Write(append(js, '\n'))
	var line []byte
	if err == nil {
		line, err = h.out.ReadBytes('\n')
	}
	if !late.Stop() {
		return v, fmt.Errorf("no answer in %s", answerLimit)
	}
	if err != nil {
		return v, fmt.Errorf("the worker died (%w)", err)
	}
	return v, json.Unmarshal(line, &v)
}

func (h *hand) end() {
	if h == nil {
		return
	}
	h.in.Close()
	late := time.AfterFunc(patience, func() { _ = h.cmd.Process.Kill() })
	_ = h.cmd.Wait() // its verdicts have said all
	late.Stop()
}

// note adds a case to its kind; a failed one is kept.
func (r *ruin) note(t *testing.T, c damageCase, v verdict, dead bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.tally(c.Kind)
	k.All, k.AllCame, k.Touched, k.TouchedCame, k.ToldTwice = k.All+v.All, k.AllCame+v.AllCame, k.Touched+v.Touched, k.TouchedCame+v.TouchedCame, k.ToldTwice+v.ToldTwice
	k.slowest = max(k.slowest, v.OpenMs)
	if v.Refused != "" {
		k.refusal = v.Refused
	}
	if len(v.Problems) == 0 {
		return
	}
	k.failed++
	if dead {
		k.dead++
	}
	where := "not kept"
	if k.failed <= 3 && r.saved < 30 {
		r.saved++
		where = r.keep(t, c)
	}
	r.failures = append(r.failures, fmt.Sprintf("%s, shape %q, seed %d (%s): %s\n      again: %s=%s", c.Kind, c.Shape, c.Seed, c.Damage, v, envReplay, where))
}

// keep saves what is needed to see a failure again: the originals and the case.
func (r *ruin) keep(t *testing.T, c damageCase) string {
	run := filepath.Join(r.kept, filepath.Base(r.dir))
	dir := filepath.Join(run, fmt.Sprintf("case-%02d", r.saved))
	js, err := json.MarshalIndent(c, "", "  ")
	err = errors.Join(err, os.MkdirAll(dir, 0o700))
	for _, o := range r.originals {
		to := filepath.Join(run, "originals", filepath.Base(o.dir))
		if _, statErr := os.Stat(to); statErr != nil {
			err = errors.Join(err, copyDir(o.dir, to))
		}
	}
	if err = errors.Join(err, os.WriteFile(filepath.Join(dir, "case.json"), js, 0o600)); err != nil {
		t.Errorf("keep a failed case: %v", err)
	}
	return dir
}

// report prints a line for each kind and fails the test for those that failed.
func (r *ruin) report(t *testing.T, seed uint64, all int) {
	t.Logf("%-40s %5s %6s %9s %9s %9s %8s", "kind of damage", "cases", "failed", "survived", "of files", "told too", "slowest")
	failed, slowest := 0, 0.0
	var broken []string
	for _, kind := range kinds {
		k := r.kinds[kind.name]
		bad := k.failed + k.left
		failed, slowest = failed+bad, max(slowest, k.slowest)
		t.Logf("%-40s %5d %6d %9s %9s %9d %5.0f ms", kind.name, k.cases, bad, percent(k.AllCame, k.All), percent(k.TouchedCame, k.Touched), k.ToldTwice, k.slowest)
		if k.refusal != "" && kind.mayFail {
			t.Logf("    no start can mend it: %s", strings.ReplaceAll(k.refusal, r.dir, ""))
		}
		if bad > 0 {
			broken = append(broken, fmt.Sprintf("%s (%d of %d)", kind.name, bad, k.cases))
		}
		if k.left > 0 {
			t.Errorf("%s: %d killed or silenced their process, %d were not tried after that", kind.name, k.dead, k.left)
		}
		if share := float64(k.TouchedCame) / float64(max(1, k.Touched)); k.Touched > 0 && share < kind.survives {
			t.Errorf("%s: %.3f of the events in damaged files survived, %.3f must", kind.name, share, kind.survives)
		}
	}
	if all < 1000 {
		t.Errorf("only %d directories", all)
	}
	for _, f := range r.failures { // last, where whoever sees only the end of the output sees them
		t.Error(f)
	}
	t.Logf("SUMMARY damage: seed %d, %d directories of %d kinds and %d shapes, %d failed%s, slowest open %.0f ms", seed, all, len(kinds), len(shapes), failed,
		strings.TrimRight(": "+strings.Join(broken, ", "), ": "), slowest)
}

// replay opens one kept case again, with the product's log.
func replay(t *testing.T, kept string) {
	b, err := os.ReadFile(filepath.Join(kept, "case.json"))
	var c damageCase
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		t.Fatal(err)
	}
	r := &ruin{dir: fastDir(t), kinds: map[string]*tally{}}
	for _, s := range shapes {
		dir := filepath.Join(filepath.Dir(kept), "originals", strings.ReplaceAll(s.name, " ", "-"))
		o := &original{shape: s, dir: dir}
		if o.manifest, err = loadManifest(map[string]*manifest{}, filepath.Join(dir, "manifest.json")); err != nil {
			t.Fatal(err)
		}
		r.originals = append(r.originals, o)
	}
	var h *hand
	defer func() { h.end() }()
	if h, err = newHand(true); err != nil {
		t.Fatal(err)
	}
	v, dead, err := r.one(&h, filepath.Join(r.dir, "case"), &c, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s, shape %q, seed %d: %s", c.Kind, c.Shape, c.Seed, c.Damage)
	if dead || len(v.Problems) > 0 {
		t.Errorf("dead %v: %s", dead, strings.Join(v.Problems, "\n"))
	}
}
