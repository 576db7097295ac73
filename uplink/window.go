package uplink

import (
	"context"
	"errors"
	"maps"
	"math/bits"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// errTroubled interrupts the pump: something came back, or was too large to go
// with the rest, and has to be delivered before anything new.
var errTroubled = errors.New("records are open")

// calmRounds is how many full windows have to pass before a window that was made
// smaller after a refusal is doubled again.
const calmRounds = 8

// freeClasses is the number of powers of two from 1 to chunkRecords.
const freeClasses = 9

// ackStampEvery is how many acknowledged records share one look at the clock.
const ackStampEvery = 64

// window holds what was read from the log and is not delivered yet, in order,
// and bounds how much of it is in flight. The pump puts chunks in, the client's
// promises settle them, from any goroutine.
type window struct {
	maxBytes   int
	maxRecords int
	large      int                            // bytes of a record that does not go with others
	ack        func(class string, seq uint64) // moves the cursor
	produce    func(*kgo.Record)              // hands a record to the client, never blocks

	// gate is held while a record is handed to the client. Whoever learns that
	// the broker refused something closes it before the client learns it, so
	// that no later record of the same partition slips in front of it.
	gate   sync.Mutex
	closed bool

	mu        sync.Mutex
	lanes     []*lane
	limit     int // records in flight; below maxRecords after a batch was refused
	calm      int // records delivered since limit changed
	records   int // in flight
	bytes     int // in flight
	troubled  bool
	onTrouble func()                // interrupts a pump that waits for new events; may be nil
	ready     func() bool           // what the pump waits for; nil: it doesn't
	wake      chan struct{}         // capacity 1
	free      [freeClasses][]*chunk // settled ones, by the power of two that they have room for
	spare     int                   // records that the free chunks have room for
	busySince time.Time             // when the window was empty for the last time
	lastAck   time.Time
	delivered uint64 // all classes
}

// lane is the part of a window that belongs to one class.
type lane struct {
	class     string
	chunks    []*chunk // in order; the first one is not settled completely
	acked     uint64   // the cursor as it was given to the log
	delivered uint64
}

// place is a record in the window.
type place struct {
	chunk *chunk
	index int
}

func (p place) record() *kgo.Record { return &p.chunk.records[p.index] }
func (p place) size() int           { return p.chunk.sizes[p.index] }
func (p place) seq() uint64         { return p.chunk.seq(p.index) }

func newWindow(maxRecords, maxBytes int, ack func(string, uint64)) *window {
	return &window{
		maxBytes: maxBytes, maxRecords: maxRecords, large: largeRecord, limit: maxRecords,
		ack: ack, wake: make(chan struct{}, 1),
	}
}

// successor returns an empty window that counts on from w. What may still come
// back to w moves the cursor as far as it is delivered, and nothing else.
func (w *window) successor() *window {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := newWindow(w.maxRecords, w.maxBytes, w.ack)
	s.large, s.delivered, s.lastAck = w.large, w.delivered, w.lastAck
	for _, l := range w.lanes {
		s.lanes = append(s.lanes, &lane{class: l.class, delivered: l.delivered})
	}
	return s
}

// blank returns an empty chunk for the next of n events, and how many of them it
// may take.
func (w *window) blank(n int) (*chunk, int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n = min(n, chunkRecords, w.limit)
	class := bits.Len(uint(n - 1)) // rounded up: small batches must not take the memory of large ones
	if free := w.free[class]; len(free) > 0 {
		c := free[len(free)-1]
		w.free[class] = free[:len(free)-1]
		w.spare -= cap(c.records)
		return c, n
	}
	return newChunk(1 << class), n
}

// recycle keeps a settled chunk for blank. w.mu is held.
func (w *window) recycle(c *chunk) {
	room := cap(c.records)
	if w.spare+room > w.maxRecords {
		return
	}
	class := bits.Len(uint(room - 1))
	w.free[class] = append(w.free[class], c)
	w.spare += room
}

// admit waits until c fits, takes it in behind what is there of its class, and
// hands its records to the client, up to one that is too large for a batch: that
// one and all behind it stay open, which is trouble. It returns errTroubled,
// without taking c in, when something else that is open has to go first.
func (w *window) admit(ctx context.Context, class string, c *chunk) error {
	n := len(c.records)
	// Once the window was full it has to become a quarter empty, so that the pump
	// does not run for each few records.
	slack := 0
	err := w.wait(ctx, func() bool {
		if w.troubled || w.records == 0 ||
			w.records+max(n, slack*w.limit/4) <= w.limit && w.bytes+max(c.bytes, slack*w.maxBytes/4) <= w.maxBytes {
			return true
		}
		slack = 1
		return false
	})
	if err != nil {
		return err
	}
	if w.isTroubled() {
		return errTroubled
	}
	w.mu.Lock()
	c.lane = w.lane(class)
	c.lane.chunks = append(c.lane.chunks, c)
	w.charge(n, c.bytes)
	w.mu.Unlock()
	for i := range n {
		if c.sizes[i] > w.large || !w.pass(&c.records[i]) {
			w.withhold(c, i)
			break
		}
	}
	return nil
}

// again hands records that came back to the client once more, in their order.
func (w *window) again(places []place) {
	for _, p := range places {
		w.mu.Lock()
		w.charge(1, p.size())
		w.mu.Unlock()
		if !w.pass(p.record()) {
			w.mu.Lock()
			w.records--
			w.bytes -= p.size()
			w.mu.Unlock()
			return
		}
	}
}

// pass hands r to the client unless the gate is closed.
func (w *window) pass(r *kgo.Record) bool {
	w.gate.Lock()
	defer w.gate.Unlock()
	if w.closed {
		return false
	}
	w.produce(r)
	return true
}

// shut closes the gate: whatever was not handed to the client yet waits until
// nothing is in flight. When it returns no record is on its way in.
func (w *window) shut() {
	w.gate.Lock()
	w.closed = true
	w.gate.Unlock()
	w.mu.Lock()
	w.trouble()
	w.mu.Unlock()
}

// charge counts n records in. w.mu is held.
func (w *window) charge(n, bytes int) {
	if w.records == 0 {
		w.busySince = time.Now()
	}
	w.records += n
	w.bytes += bytes
}

// withhold counts out the records of c from i on, which were not handed over.
func (w *window) withhold(c *chunk, i int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ; i < len(c.records); i++ {
		w.records--
		w.bytes -= c.sizes[i]
	}
	w.trouble()
}

// trouble interrupts the pump. w.mu is held.
func (w *window) trouble() {
	w.troubled = true
	if w.onTrouble != nil {
		w.onTrouble()
	}
	w.notify()
}

func (w *window) isTroubled() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.troubled
}

// interruptible calls cancel as soon as there is trouble, at once if there is
// some, until the returned function is called.
func (w *window) interruptible(cancel func()) (release func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.onTrouble = cancel
	if w.troubled {
		cancel()
	}
	return func() {
		w.mu.Lock()
		w.onTrouble = nil
		w.mu.Unlock()
	}
}

// wait blocks until ready, which is called with w.mu held, or ctx ends.
func (w *window) wait(ctx context.Context, ready func() bool) error {
	for {
		w.mu.Lock()
		if ready() {
			w.ready = nil
			w.mu.Unlock()
			return nil
		}
		w.ready = ready
		w.mu.Unlock()
		select {
		case <-w.wake:
		case <-ctx.Done():
			w.mu.Lock()
			w.ready = nil
			w.mu.Unlock()
			return ctx.Err()
		}
	}
}

// waitIdle blocks until nothing is in flight or ctx ends.
func (w *window) waitIdle(ctx context.Context) error {
	return w.wait(ctx, func() bool { return w.records == 0 })
}

// notify wakes a pump that has what it waits for. w.mu is held.
func (w *window) notify() {
	if w.ready != nil && w.ready() {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// finish is the promise of every record.
func (w *window) finish(r *kgo.Record, err error) {
	s := r.Context.(*slot)
	c, i := s.chunk, s.index
	w.mu.Lock()
	w.records--
	w.bytes -= c.sizes[i]
	l, seq := c.lane, uint64(0)
	if err != nil {
		c.fail(i, err)
		w.trouble()
	} else {
		c.settle(i)
		l.delivered++
		w.delivered++
		w.relax()
		if c.left == 0 || w.records == 0 {
			seq = w.advance(l)
		}
		if w.records == 0 || w.delivered%ackStampEvery == 0 {
			w.lastAck = time.Now()
		}
		w.notify()
	}
	w.mu.Unlock()
	if seq > 0 {
		w.ack(l.class, seq)
	}
}

// relax widens a narrowed window after a calm time. w.mu is held.
func (w *window) relax() {
	if w.limit == w.maxRecords {
		return
	}
	if w.calm++; w.calm >= calmRounds*w.limit {
		w.limit = min(2*w.limit, w.maxRecords)
		w.calm = 0
	}
}

// setLimit sets how many records may be in flight.
func (w *window) setLimit(n int) {
	w.mu.Lock()
	w.limit = max(1, min(n, w.maxRecords))
	w.calm = 0
	w.mu.Unlock()
}

// getLimit returns how many records may be in flight.
func (w *window) getLimit() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.limit
}

// advance drops l's chunks that are settled and returns how far its cursor may
// go; 0: no further than it is. w.mu is held.
func (w *window) advance(l *lane) uint64 {
	seq := l.acked
	n := 0
	for _, c := range l.chunks {
		if c.prefix > 0 {
			seq = c.seq(c.prefix - 1)
		}
		if c.left > 0 {
			break
		}
		n++
		w.recycle(c)
	}
	if n > 0 {
		l.chunks = append(l.chunks[:0], l.chunks[n:]...)
		clear(l.chunks[len(l.chunks):cap(l.chunks)])
	}
	if seq == l.acked {
		return 0
	}
	l.acked = seq
	return seq
}

// ackAll moves every cursor as far as it goes.
func (w *window) ackAll() {
	w.mu.Lock()
	moved := map[string]uint64{}
	for _, l := range w.lanes {
		if seq := w.advance(l); seq > 0 {
			moved[l.class] = seq
		}
	}
	w.mu.Unlock()
	for class, seq := range moved {
		w.ack(class, seq)
	}
}

// settle settles a record that is not in flight: it was delivered by another
// way, or the log has accounted for it.
func (w *window) settle(p place, delivered bool) {
	w.mu.Lock()
	l := p.chunk.lane
	if delivered {
		l.delivered++
		w.delivered++
		w.lastAck = time.Now()
	}
	p.chunk.settle(p.index)
	seq := w.advance(l)
	w.mu.Unlock()
	if seq > 0 {
		w.ack(l.class, seq)
	}
}

// failure is a record that came back, with the reason.
type failure struct {
	place
	err error
}

// review ends the trouble. It returns what is not delivered, in order within
// each class, and those among it that came back with an error. Nothing may be in
// flight.
func (w *window) review() (open []place, failed []failure) {
	w.gate.Lock()
	w.closed = false
	w.gate.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.troubled = false
	for _, l := range w.lanes {
		for _, c := range l.chunks {
			for i := c.prefix; i < len(c.records); i++ {
				if c.isSettled(i) {
					continue
				}
				open = append(open, place{c, i})
				if c.errs != nil && c.errs[i] != nil {
					failed = append(failed, failure{place{c, i}, c.errs[i]})
				}
			}
			c.errs = nil
		}
	}
	return open, failed
}

// failures returns the records that came back so far, each with its reason.
func (w *window) failures() (failed []failure) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.lanes {
		for _, c := range l.chunks {
			for i, err := range c.errs {
				if err != nil {
					failed = append(failed, failure{place{c, i}, err})
				}
			}
		}
	}
	return failed
}

// resize sets the bounds of what is in flight.
func (w *window) resize(records, bytes int) {
	w.mu.Lock()
	w.maxRecords, w.maxBytes, w.limit, w.calm = records, bytes, records, 0
	w.mu.Unlock()
}

// lane returns the lane of a class. w.mu is held.
func (w *window) lane(class string) *lane {
	for _, l := range w.lanes {
		if l.class == class {
			return l
		}
	}
	l := &lane{class: class}
	w.lanes = append(w.lanes, l)
	return l
}

// progress is what the window knows of the link.
type progress struct {
	delivered map[string]uint64
	total     uint64
	inFlight  int
	lastAck   time.Time
	stalled   time.Duration // how long something is in flight without any of it being acknowledged
}

func (w *window) progress() progress {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := progress{delivered: map[string]uint64{}, total: w.delivered, inFlight: w.records, lastAck: w.lastAck}
	for _, l := range w.lanes {
		p.delivered[l.class] = l.delivered
	}
	if w.records > 0 {
		since := w.busySince
		if w.lastAck.After(since) {
			since = w.lastAck
		}
		p.stalled = time.Since(since)
	}
	maps.DeleteFunc(p.delivered, func(_ string, n uint64) bool { return n == 0 })
	return p
}
