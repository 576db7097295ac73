package uplink

import (
	"context"
	"errors"
	"maps"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/buffer"
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
	large      int                                        // bytes of a record that does not go with others
	ack        func(class string, run uint32, seq uint64) // moves the cursor
	produce    func(*kgo.Record)                          // hands a record to the client, never blocks

	// gate is held while a record is handed to the client. Whoever learns that
	// the broker refused something closes it before the client learns it, so
	// that no later record of the same partition slips in front of it.
	gate   sync.Mutex
	closed bool
	routes map[string]*route // by topic, since the last review

	mu        sync.Mutex
	lanes     []*lane
	limit     int // records in flight; below maxRecords after a batch was refused
	budget    budget
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
	delivered uint64                    // all classes
	counts    map[string]*atomic.Uint64 // by class, shared with the windows before
}

// lane is the part of a window that belongs to one class.
type lane struct {
	class  string
	run    uint32         // of the log's reading
	chunks []*chunk       // in order; the first one is not settled completely
	acked  uint64         // the cursor as it was given to the log
	count  *atomic.Uint64 // what was delivered of the class
}

// place is a record in the window.
type place struct {
	chunk *chunk
	index int
}

func (p place) record() *kgo.Record { return &p.chunk.records[p.index] }
func (p place) size() int           { return p.chunk.sizes[p.index] }
func (p place) seq() uint64         { return p.chunk.seq(p.index) }

// isGap reports whether the record is a gap record. One of these is never set aside: the
// gap record that stood for it would be refused like it, and so on without end.
func (p place) isGap() bool {
	return slices.ContainsFunc(p.record().Headers, func(h kgo.RecordHeader) bool {
		return h.Key == headerType && string(h.Value) == buffer.TypeGap
	})
}

func newWindow(maxRecords, maxBytes int, ack func(string, uint32, uint64)) *window {
	return &window{
		maxBytes: maxBytes, maxRecords: maxRecords, large: largeRecord, limit: maxRecords,
		ack: ack, wake: make(chan struct{}, 1), counts: map[string]*atomic.Uint64{}, budget: newBudget(maxBytes),
		routes: map[string]*route{},
	}
}

// successor returns an empty window that counts on from w. What may still come
// back to w moves the cursor as far as it is delivered, and nothing else.
func (w *window) successor() *window {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := newWindow(w.maxRecords, w.maxBytes, w.ack)
	s.large, s.delivered, s.lastAck = w.large, w.delivered, w.lastAck
	s.counts = maps.Clone(w.counts)
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

// room waits until there is room for some more, and returns how many records and
// bytes the next chunk should have; errTroubled when something came back. How much
// may be in flight is a matter of time (budget.go), as well as of memory.
func (w *window) room(ctx context.Context) (records, bytes int, err error) {
	// Once the window was full it has to become a quarter empty, so that the pump
	// does not run for each few records.
	slack := 0
	err = w.wait(ctx, func() bool {
		records, bytes = max(1, min(chunkRecords, w.limit/4)), w.budget.size/8
		if w.troubled || w.records == 0 ||
			w.records+max(records, slack*w.limit/4) <= w.limit && w.bytes+max(bytes, slack*w.budget.size/4) <= w.budget.size {
			return true
		}
		if slack == 0 && w.bytes+bytes > w.budget.size {
			w.budget.short = true
		}
		slack = 1
		return false
	})
	if err == nil && w.isTroubled() {
		err = errTroubled
	}
	return records, bytes, err
}

// admit waits until c fits, takes it in behind what is there of its class, and
// hands its records to the client, up to one that is too large for a batch: that
// one and all behind it stay open, which is trouble. It returns errTroubled,
// without taking c in, when something else that is open has to go first.
func (w *window) admit(ctx context.Context, batch buffer.Batch, c *chunk) error {
	n := len(c.records)
	err := w.wait(ctx, func() bool {
		return w.troubled || w.records == 0 || w.records+n <= w.limit && w.bytes+c.bytes <= w.maxBytes
	})
	if err != nil {
		return err
	}
	if w.isTroubled() {
		return errTroubled
	}
	w.mu.Lock()
	c.lane, c.at = w.lane(batch.Class, batch.Run), time.Now()
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
	w.hand(r.Context.(*slot), r.Topic)
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
		s.place()
		c.fail(i, err)
		w.trouble()
	} else {
		c.settle(i)
		l.count.Add(1)
		w.delivered++
		w.relax()
		if c.left == 0 {
			w.budget.look(c.at, time.Now())
		}
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
		w.ack(l.class, l.run, seq)
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
	moved := map[*lane]uint64{}
	for _, l := range w.lanes {
		if seq := w.advance(l); seq > 0 {
			moved[l] = seq
		}
	}
	w.mu.Unlock()
	for l, seq := range moved {
		w.ack(l.class, l.run, seq)
	}
}

// settle settles a record that is not in flight: it was delivered by another
// way, or the log has accounted for it.
func (w *window) settle(p place, delivered bool) {
	w.mu.Lock()
	l := p.chunk.lane
	if delivered {
		l.count.Add(1)
		w.delivered++
		w.lastAck = time.Now()
	}
	p.chunk.settle(p.index)
	seq := w.advance(l)
	w.mu.Unlock()
	if seq > 0 {
		w.ack(l.class, l.run, seq)
	}
}

// resize sets the bounds of what is in flight.
func (w *window) resize(records, bytes int) {
	w.mu.Lock()
	w.maxRecords, w.maxBytes, w.limit, w.calm, w.budget = records, bytes, records, 0, newBudget(bytes)
	w.mu.Unlock()
}

// lane returns the lane of a reading of a class. Others of the class that have
// nothing in them are over. w.mu is held.
func (w *window) lane(class string, run uint32) *lane {
	for _, l := range w.lanes {
		if l.class == class && l.run == run {
			return l
		}
	}
	if w.counts[class] == nil {
		w.counts[class] = new(atomic.Uint64)
	}
	w.lanes = slices.DeleteFunc(w.lanes, func(l *lane) bool { return l.class == class && len(l.chunks) == 0 })
	l := &lane{class: class, run: run, count: w.counts[class]}
	w.lanes = append(w.lanes, l)
	return l
}
