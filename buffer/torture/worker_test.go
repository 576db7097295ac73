//go:build torture

package torture

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"sluice/buffer"
)

// job is one damaged directory for a worker.
type job struct {
	Dir      string
	Manifest string
	Touched  []string // files whose events may be missing
	Trim     bool     // acknowledge in the first life already
	Loud     bool     // log to standard error
	Blind    []string // classes of which nothing is left that tells which numbers were used: some may be used again
}

// verdict is what the worker found.
type verdict struct {
	Problems []string
	Refused  string  // the error of Open
	OpenMs   float64 // the slower of two
	// Events of the original that central was to get: all, and those in
	// touched files; of these it got so many.
	All, AllCame, Touched, TouchedCame uint64
	ToldTwice                          uint64 // numbers that came though a gap record says they are missing
}

// openLimit is how long an open may take.
const openLimit = 10 * time.Second

// answerLimit is how long a worker may take for a directory: two opens, and all that is
// read, delivered and closed besides, on a busy machine.
const answerLimit = 6 * openLimit

// damageWorker opens directories, one job a line, until its input ends.
func damageWorker() int {
	manifests := map[string]*manifest{}
	in := json.NewDecoder(bufio.NewReader(os.Stdin))
	out := json.NewEncoder(os.Stdout)
	for {
		var j job
		if err := in.Decode(&j); err != nil {
			return 0
		}
		m, err := loadManifest(manifests, j.Manifest)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
		w := &worker{job: j, manifest: m, seen: map[string]map[uint64]uint64{}, acked: map[string]uint64{}}
		w.examine()
		if err := out.Encode(w.verdict); err != nil {
			return 2
		}
	}
}

func loadManifest(have map[string]*manifest, path string) (*manifest, error) {
	if m := have[path]; m != nil {
		return m, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	m := &manifest{}
	have[path] = m
	return m, json.Unmarshal(b, m)
}

// worker examines one directory.
type worker struct {
	job
	manifest *manifest
	verdict  verdict
	buf      *buffer.Buffer
	seen     map[string]map[uint64]uint64 // by class and incarnation: what a number held
	acked    map[string]uint64            // by uplink and class: in the life before
}

func (w *worker) wrong(format string, args ...any) {
	if len(w.verdict.Problems) < 8 {
		w.verdict.Problems = append(w.verdict.Problems, fmt.Sprintf(format, args...))
	}
}

// newEvents are appended to each class in each life.
const newEvents = 20

func (w *worker) config() buffer.Config {
	c := buffer.Config{Dir: w.Dir, Uplinks: map[string][]string{"central": nil, "dr": nil}, Segment: 1 << 20, Memory: 1 << 20, Log: slog.New(slog.DiscardHandler)}
	if w.Loud {
		c.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	for name := range w.manifest.Classes {
		c.Classes = append(c.Classes, buffer.Class{Name: name, KeepBytes: 64 << 20})
	}
	return c
}

// examine lives twice in the directory: what the first start mended must hold
// for the second, in which files are trimmed behind the uplinks.
func (w *worker) examine() {
	for life := 2; life <= 3; life++ {
		if !w.open() {
			return
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- w.buf.Run(ctx) }()
		w.append(life)
		for _, uplink := range []string{"dr", "central"} {
			for class, r := range w.read(uplink, life == 3 || w.Trim) {
				w.judge(uplink, class, r, life)
				if w.Trim {
					w.acked[uplink+class] = r.last
				}
			}
		}
		cancel()
		if err := errors.Join(<-ended, w.buf.Close()); err != nil {
			w.wrong("life %d ends: %v", life, err)
		}
	}
}

func (w *worker) open() bool {
	begin := time.Now()
	b, err := buffer.Open(w.config())
	d := time.Since(begin)
	w.verdict.OpenMs = max(w.verdict.OpenMs, d.Seconds()*1000)
	if d > openLimit {
		w.wrong("the open took %s", d)
	}
	if err != nil {
		w.verdict.Refused = err.Error()
		return false
	}
	w.buf = b
	return true
}

// append adds events to every class and waits until they are durable.
func (w *worker) append(life int) {
	var wg sync.WaitGroup
	for class := range w.manifest.Classes {
		for n := range newEvents {
			wg.Add(1)
			err := w.buf.Append(context.Background(), makeEvent(class, newID(life, 0, n), time.Now(), 200), func(err error) {
				if err != nil {
					w.wrong("append: %v", err)
				}
				wg.Done()
			})
			if err != nil {
				w.wrong("append: %v", err)
				wg.Done()
			}
		}
	}
	wg.Wait()
}

// reading is what an uplink was given of a class in one life.
type reading struct {
	from   uint64 // its cursor when it began
	first  uint64
	last   uint64
	got    spans
	gaps   []gapRecord
	events []numbered
}

type numbered struct {
	seq   uint64
	event id
	here  bool // of an incarnation that the buffer had or has
}

// read takes everything there is. With ack it acknowledges each batch, and
// waits at times so that what is delivered is trimmed before it reads on.
func (w *worker) read(uplink string, ack bool) map[string]*reading {
	all, at, batches := map[string]*reading{}, map[string]uint64{}, 0
	rd, err := w.buf.Reader(uplink)
	if err != nil {
		w.wrong("%v", err)
		return nil
	}
	defer rd.Close()
	for class, st := range w.buf.Stats().Classes {
		if w.manifest.Classes[class] != nil {
			all[class] = &reading{from: st.Uplinks[uplink].Acked}
		}
		at[class] = st.Uplinks[uplink].Acked
	}
	for behind(w.buf, at) {
		b, err := rd.Next(context.Background())
		if err != nil {
			w.wrong("%s: %v", uplink, err)
			break
		}
		if b.First <= at[b.Class] {
			w.wrong("%s: number %d after %d", uplink, b.First, at[b.Class])
		}
		at[b.Class] = b.Last()
		if r := all[b.Class]; r != nil {
			w.take(r, b)
		}
		if batches++; ack {
			rd.Ack(b.Class, b.Last())
			if batches < 20 || batches%100 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
	}
	for class, r := range all {
		r.last = at[class]
	}
	return all
}

// take checks a batch, byte for byte and against what its numbers held before.
func (w *worker) take(r *reading, b buffer.Batch) {
	if r.first == 0 {
		r.first = b.First
	}
	held, blind := w.manifest.Classes[b.Class].Held, slices.Contains(w.Blind, b.Class)
	original := b.Incarnation == w.manifest.Incarnation
	here := original || b.Incarnation == w.buf.Incarnation()
	if here {
		r.got.add(b.First, b.Last())
	}
	seen := w.seen[b.Class+b.Incarnation]
	if seen == nil {
		seen = map[uint64]uint64{}
		w.seen[b.Class+b.Incarnation] = seen
	}
	for i, e := range b.Events {
		seq, content := b.First+uint64(i), uint64(heldGap)
		if e.Type == buffer.TypeGap {
			g, err := readGap(b.Class, e)
			if err != nil {
				w.wrong("number %d: %v", seq, err)
			}
			r.gaps = append(r.gaps, g)
		} else {
			event, err := readEvent(b.Class, e)
			if err != nil {
				w.wrong("number %d: %v", seq, err)
			}
			content = uint64(event)
			r.events = append(r.events, numbered{seq, event, here})
		}
		if before, ok := seen[seq]; ok && before != content {
			w.wrong("number %s/%d holds two things: %s and %s", b.Incarnation, seq, id(before), id(content))
		}
		seen[seq] = content
		if original && !blind && seq <= uint64(len(held)) && held[seq-1] != content {
			w.wrong("number %d holds %s, it was %s", seq, id(content), id(held[seq-1]))
		}
	}
}

// judge holds a reading against the manifest.
func (w *worker) judge(uplink, class string, r *reading, life int) {
	c := w.manifest.Classes[class]
	who := fmt.Sprintf("life %d, %s, class %s", life-1, uplink, class)
	appended := life - 1 // lives whose events were not acknowledged yet
	if acked := w.acked[uplink+class]; acked > 0 {
		appended = 1
		if r.from > acked {
			w.wrong("%s: begins after %d, it had acknowledged %d", who, r.from, acked)
		}
	} else if r.from > c.Acked[uplink] {
		w.wrong("%s: begins after %d, it had acknowledged %d", who, r.from, c.Acked[uplink])
	}
	got, told := r.got.sorted(), explained(r.gaps)
	want := spans{{r.from + 1, r.last}}
	if holes := want.without(got).without(told); r.last > r.from && len(holes) > 0 {
		w.wrong("%s: %s neither came nor does a gap record stand for them", who, holes)
	}
	fresh := map[id]bool{}
	for _, e := range r.events {
		if int(e.event>>44) >= 2 && e.here {
			fresh[e.event] = true
		}
	}
	if n := appended * newEvents; len(fresh) != n {
		w.wrong("%s: %d of %d new events came", who, len(fresh), n)
	}
	w.untouched(who, c, r, got)
	if uplink == "central" && life == 2 {
		w.survival(c, got)
		w.verdict.ToldTwice += told.count(1, r.last) - told.without(got).count(1, r.last)
	}
}

// untouched makes sure that what lies in whole files came.
func (w *worker) untouched(who string, c *heldClass, r *reading, got spans) {
	for _, f := range c.Files {
		if slices.Contains(w.Touched, f.Path) || f.Last == 0 {
			continue
		}
		var missing spans
		for seq := max(f.First, r.from+1); seq <= f.Last; seq++ {
			if c.Held[seq-1] != 0 && !got.has(seq) {
				missing.add(seq, seq)
			}
		}
		if len(missing) > 0 {
			w.wrong("%s: %s lie in %s, which is whole, and did not come", who, missing, filepath.Base(f.Path))
		}
	}
}

// survival counts which events of the original came.
func (w *worker) survival(c *heldClass, got spans) {
	for _, f := range c.Files {
		touched := slices.Contains(w.Touched, f.Path)
		for seq := f.First; seq <= f.Last; seq++ {
			if h := c.Held[seq-1]; h == 0 || h&heldGap != 0 {
				continue
			}
			came := uint64(0)
			if got.has(seq) {
				came = 1
			}
			w.verdict.All++
			w.verdict.AllCame += came
			if touched {
				w.verdict.Touched++
				w.verdict.TouchedCame += came
			}
		}
	}
}

func (v verdict) String() string {
	var b strings.Builder
	for i, p := range v.Problems[:min(3, len(v.Problems))] {
		if i > 0 {
			b.WriteString("; ")
		}
		first, _, _ := strings.Cut(p, "\n")
		b.WriteString(first)
	}
	return b.String()
}
