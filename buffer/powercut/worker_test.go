//go:build torture

package powercut

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"sluice/buffer"
	"sluice/drivers"
)

// task has a worker open a disk and read it.
type task struct {
	Dir      string `json:"dir"`
	Scenario string `json:"scenario"`
	Base     int64  `json:"base"`
}

// answer is what the worker found. It does not judge: the same disk may have to
// be held against the promises of several instants.
type answer struct {
	Err         string                     `json:"err,omitempty"`
	Incarnation string                     `json:"incarnation,omitempty"`
	First       map[string]map[string]read `json:"first,omitempty"`  // by class and uplink
	Second      map[string]map[string]read `json:"second,omitempty"` // after a clean close
	Aside       []string                   `json:"aside,omitempty"`  // files set aside as damaged
}

// read is what an uplink got of a class.
type read struct {
	Cursor uint64 `json:"cursor"`
	Items  []item `json:"items"`
	Next   uint64 `json:"next"`          // the next number, when all was read
	New    uint64 `json:"new,omitempty"` // the number of the first event that was appended then
}

// item is a run of events with contiguous numbers and ids, a gap record, or
// something that nobody appended.
type item struct {
	Seq uint64 `json:"s"`
	ID  int    `json:"i,omitempty"`
	N   uint64 `json:"n,omitempty"`
	Gap *gap   `json:"g,omitempty"`
	Bad string `json:"b,omitempty"`
}

func (i item) last() uint64 { return i.Seq + max(i.N, 1) - 1 }

// gap is the value of a gap record.
type gap struct {
	First  uint64   `json:"first"`
	Last   uint64   `json:"last"`
	Count  uint64   `json:"count"`
	Reason string   `json:"reason"`
	Kept   []uint64 `json:"kept,omitempty"` // not missing, ascending
}

// spans lists the missing numbers.
func (g gap) spans() (list spans) {
	list = spans{{g.First, g.Last}}
	for _, seq := range g.Kept {
		last := list[len(list)-1]
		list = append(list[:len(list)-1], (spans{{seq, seq}}).without(last)...)
	}
	return list
}

func (g gap) sound() bool {
	n := uint64(0)
	for _, x := range g.spans() {
		n += x.last - x.first + 1
	}
	return g.First > 0 && g.Last >= g.First && n == g.Count
}

// The ids of the events that are appended after a cut. The first is acknowledged
// before the close, the second is not.
const (
	newID  = 900_000
	lastID = 900_010
)

// items turns a batch into what is compared.
func (s *scenario) items(base time.Time, b buffer.Batch) (list []item) {
	for i, e := range b.Events {
		it := s.item(base, b.Class, b.First+uint64(i), e)
		if n := len(list) - 1; n >= 0 && it.N == 1 && list[n].N > 0 && it.Seq == list[n].last()+1 && it.ID == list[n].ID+int(list[n].N) {
			list[n].N++
			continue
		}
		list = append(list, it)
	}
	return list
}

func (s *scenario) item(base time.Time, class string, seq uint64, e drivers.Event) item {
	if e.Type == buffer.TypeGap && e.Source == buffer.SourceBuffer {
		var g gap
		if err := json.Unmarshal(e.Payload, &g); err != nil || !g.sound() {
			return item{Seq: seq, Bad: fmt.Sprintf("gap record %.80q", e.Payload)}
		}
		return item{Seq: seq, Gap: &g}
	}
	id, ok := idOf(class, e.Payload)
	if !ok || !reflect.DeepEqual(e, s.remembered(base, class, id)) {
		return item{Seq: seq, Bad: fmt.Sprintf("%s %s %s, %d bytes: %.40q", e.Class, e.Type, e.Time, len(e.Payload), e.Payload)}
	}
	return item{Seq: seq, ID: id, N: 1}
}

// remembered is event, made once.
func (s *scenario) remembered(base time.Time, class string, id int) drivers.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := fmt.Sprintf("%d %s %d", base.Unix(), class, id)
	e, ok := s.events[key]
	if !ok {
		if len(s.events) > 2000 { // of another recording
			s.events = nil
		}
		if s.events == nil {
			s.events = map[string]drivers.Event{}
		}
		e = s.event(base, class, id)
		s.events[key] = e
	}
	return e
}

// deadly is a scenario that ends the worker: that must be noticed.
const deadly = "end of the worker"

// runWorker answers tasks, one a line, until in ends.
func runWorker(in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var t task
		if err := json.Unmarshal(lines.Bytes(), &t); err != nil {
			return err
		}
		if t.Scenario == deadly {
			return errors.New("as asked")
		}
		b, err := json.Marshal(check(t))
		if err != nil {
			return err
		}
		if _, err = out.Write(append(b, '\n')); err != nil {
			return err
		}
	}
	return lines.Err()
}

// patience bounds each wait for the buffer. It is less than the pool's, so that
// a wait that is too long is told with its place.
const patience = 8 * time.Second

func check(t task) (a answer) {
	fail := func(where string, err error) answer {
		a.Err = where + ": " + err.Error()
		return a
	}
	s, err := scenarioNamed(t.Scenario)
	if err != nil {
		return fail("scenario", err)
	}
	x := &examiner{scenario: s, base: time.Unix(t.Base, 0), dir: filepath.Join(t.Dir, dataDir)}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err = x.open(); err != nil {
		return fail("open", err)
	}
	a.Incarnation = x.buf.Incarnation()
	if err = x.readAll(ctx); err == nil {
		err = x.appendNew(ctx)
	}
	a.First = x.got
	if err = errors.Join(err, x.close()); err != nil {
		return fail("first opening", err)
	}
	if err = x.open(); err != nil {
		return fail("open again", err)
	}
	err = x.readAll(ctx)
	a.Second = x.got
	if again := x.buf.Incarnation(); again != a.Incarnation {
		err = errors.Join(err, fmt.Errorf("the incarnation was %s and is %s", a.Incarnation, again))
	}
	if err = errors.Join(err, x.close()); err != nil {
		return fail("second opening", err)
	}
	a.Aside, err = filepath.Glob(filepath.Join(x.dir, "classes", "*", "*.corrupt-*"))
	if err != nil {
		return fail("glob", err)
	}
	for i, p := range a.Aside {
		a.Aside[i] = strings.TrimPrefix(p, x.dir)
	}
	return a
}

// examiner reads one disk through the buffer.
type examiner struct {
	scenario *scenario
	base     time.Time
	dir      string

	buf     *buffer.Buffer
	stop    context.CancelFunc
	ended   chan error
	readers map[string]*buffer.Reader
	got     map[string]map[string]read
}

func (x *examiner) open() error {
	cfg := x.scenario.config(x.dir)
	cfg.SpillAfter = min(cfg.SpillAfter, 10*time.Millisecond) // what is appended here is waited for
	b, err := buffer.Open(cfg)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	x.buf, x.stop, x.ended, x.readers, x.got = b, stop, make(chan error, 1), map[string]*buffer.Reader{}, map[string]map[string]read{}
	for class, st := range b.Stats().Classes {
		x.got[class] = map[string]read{}
		for uplink, u := range st.Uplinks {
			x.got[class][uplink] = read{Cursor: u.Acked}
		}
	}
	for _, uplink := range x.uplinks() {
		if x.readers[uplink], err = b.Reader(uplink); err != nil {
			stop()
			return errors.Join(err, b.Close())
		}
	}
	go func() { x.ended <- b.Run(ctx) }()
	return nil
}

func (x *examiner) uplinks() []string { return slices.Sorted(maps.Keys(x.scenario.uplinks)) }

// readAll reads until every uplink has all that is stored. Reading may itself
// append gap records.
func (x *examiner) readAll(ctx context.Context) error {
	for more := true; more; {
		more = false
		for _, uplink := range x.uplinks() {
			for x.lacks(uplink) {
				more = true
				b, err := x.readers[uplink].Next(ctx)
				if err != nil {
					return fmt.Errorf("%s reads: %w (has %s)", uplink, err, x.places())
				}
				r := x.got[b.Class][uplink]
				r.Items = append(r.Items, x.scenario.items(x.base, b)...)
				x.got[b.Class][uplink] = r
			}
		}
	}
	for class, st := range x.buf.Stats().Classes {
		for uplink, r := range x.got[class] {
			r.Next = st.Next
			x.got[class][uplink] = r
		}
	}
	return nil
}

// upTo is the last number that r holds.
func (r read) upTo() uint64 {
	if n := len(r.Items); n > 0 {
		return r.Items[n-1].last()
	}
	return r.Cursor
}

// lacks reports whether something is stored that the uplink has not read. What a
// gap record at the very end stands for is nothing that could be read.
func (x *examiner) lacks(uplink string) bool {
	for class, st := range x.buf.Stats().Classes {
		if r, ok := x.got[class][uplink]; ok && r.upTo()+1 < st.Next {
			return true
		}
	}
	return false
}

func (x *examiner) places() string {
	var b strings.Builder
	for class, st := range x.buf.Stats().Classes {
		for uplink, r := range x.got[class] {
			fmt.Fprintf(&b, "%s of %s: up to %d, next is %d; ", uplink, class, r.upTo(), st.Next)
		}
	}
	return b.String()
}

// appendNew acknowledges all that was read, appends two events to each class,
// reads them and acknowledges the first.
func (x *examiner) appendNew(ctx context.Context) error {
	before := x.got
	x.got = map[string]map[string]read{}
	for class, uplinks := range before {
		x.got[class] = map[string]read{}
		for uplink, r := range uplinks {
			x.readers[uplink].Ack(class, r.Next-1)
			x.got[class][uplink] = read{Cursor: r.Next - 1}
		}
	}
	err := x.put(ctx)
	if err == nil {
		err = x.readAll(ctx)
	}
	for class, uplinks := range before {
		for uplink, r := range uplinks {
			for _, it := range x.got[class][uplink].Items {
				if it.N > 0 && it.ID == newID {
					r.New = it.Seq
					x.readers[uplink].Ack(class, it.Seq)
				}
			}
			before[class][uplink] = r
		}
	}
	x.got = before
	return err
}

// put appends the new events and waits until they are acknowledged.
func (x *examiner) put(ctx context.Context) error {
	for class := range x.got {
		durable := make(chan error, 2)
		for _, id := range []int{newID, lastID} {
			if err := x.buf.Append(ctx, x.scenario.event(x.base, class, id), func(err error) { durable <- err }); err != nil {
				return fmt.Errorf("append to %s: %w", class, err)
			}
		}
		for range 2 {
			select {
			case err := <-durable:
				if err != nil {
					return fmt.Errorf("commit to %s: %w", class, err)
				}
			case <-ctx.Done():
				return fmt.Errorf("commit to %s: %w; %+v", class, ctx.Err(), x.buf.Stats().Classes[class])
			}
		}
	}
	return nil
}

func (x *examiner) close() error {
	for _, r := range x.readers {
		r.Close()
	}
	x.stop()
	select {
	case err := <-x.ended:
		if err = errors.Join(err, x.buf.Close()); err != nil {
			return fmt.Errorf("close: %w", err)
		}
		return nil
	case <-time.After(patience):
		return errors.New("the buffer does not stop")
	}
}

// remove removes a disk that has been looked at.
func remove(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove a disk: %w", err)
	}
	return nil
}
