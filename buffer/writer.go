package buffer

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"sluice/drivers"
)

// run is the lane's writer: it gathers, commits, acknowledges and keeps the
// limits, until ctx ends and what is queued then is committed.
func (l *lane) run(ctx context.Context) {
	debug.SetPanicOnFault(true) // a fault in a mapped file is an error of that file, not the end
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-l.acked:
		case <-tick.C:
		case <-l.wake:
			l.gather(ctx)
		}
		l.tidy()
		for ctx.Err() == nil && l.commitNext(ctx) {
			l.tidy() // under load this loop may never end
			if l.waits() {
				l.gather(ctx)
			}
		}
	}
	l.finish()
}

// tidy removes what is delivered, and once a second what has expired.
func (l *lane) tidy() {
	if time.Since(l.expired) >= time.Second {
		l.expired = time.Now()
		l.expire()
	}
	l.trim(l.class.Retain)
	l.settle()
}

func (l *lane) waits() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pending) > 0
}

// finish commits what is queued, if the disk takes it.
func (l *lane) finish() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	l.stopping = true
	for ctx.Err() == nil && l.commitNext(ctx) {
	}
	l.shut()
}

// gather waits for company: until there is enough of it or commit_delay is over.
func (l *lane) gather(ctx context.Context) {
	if l.commitDelay == 0 || l.enough() {
		return
	}
	delay := time.NewTimer(l.commitDelay)
	defer delay.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-delay.C:
			return
		case <-l.wake:
			if l.enough() {
				return
			}
		}
	}
}

func (l *lane) enough() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pending) >= enoughEvents || l.pendBytes >= min(enoughBytes, l.memory/2)
}

// commitNext commits the next part of the queue; false when there is nothing
// left to do for now.
func (l *lane) commitNext(ctx context.Context) bool {
	items := l.take()
	if len(items) == 0 {
		return false
	}
	if !l.makeRoom(items) {
		if l.class.WhenFull == DropNewest {
			if l.stopping || !l.rest(ctx) { // a stop is no reason to drop: the sources still have it
				items = l.putBack(items)
				return len(items) > 0 && l.store(ctx, items)
			}
			if !l.makeRoom(items) {
				var ok bool
				if items, ok = l.refuse(ctx, items); !ok || len(items) == 0 {
					l.putBackAll(items)
					return ok
				}
			}
		} else if items = l.putBack(items); len(items) == 0 {
			return false
		}
	}
	if !l.store(ctx, items) {
		l.putBackAll(items)
		return false
	}
	return true
}

// take moves the front of the queue out. Its bytes stay counted until it is
// committed: it is still in memory.
func (l *lane) take() []item {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, bytes := 0, int64(0)
	for n < len(l.pending) && n < commitEvents && (n == 0 || bytes < commitBytes) {
		bytes += cost(&l.pending[n].event)
		n++
	}
	items := l.pending[:n:n]
	l.pending = l.pending[n:]
	if len(l.pending) == 0 {
		l.pending = nil // the array belongs to items now
	}
	return items
}

// putBack returns events to the front of the queue, and gives gap records,
// which are written whatever the limits.
func (l *lane) putBack(items []item) (gaps []item) {
	var events []item
	for _, it := range items {
		if it.gap != nil {
			gaps = append(gaps, it)
		} else {
			events = append(events, it)
		}
	}
	l.putBackAll(events)
	return gaps
}

func (l *lane) putBackAll(items []item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending = append(items[:len(items):len(items)], l.pending...)
}

// store commits items, again and again while the disk refuses, and acknowledges
// them; false when ctx ends first. After a failed commit the file is left as it
// is and a new one takes over: what a failed sync left in the page cache and
// what is on the disk may differ, and only a file never written again is what
// its last good commit says.
func (l *lane) store(ctx context.Context, items []item) bool {
	wait := 50 * time.Millisecond
	for {
		begin := time.Now()
		err := l.commit(items)
		if err == nil {
			if l.observe != nil {
				l.observe(time.Since(begin))
			}
			l.acknowledge(items)
			return true
		}
		l.failed(err)
		select {
		case <-ctx.Done():
			return false
		case <-l.acked: // a segment that is delivered may be the room that is missing
		case <-time.After(wait):
		}
		l.trim(0)
		wait = min(2*wait, 2*time.Second)
	}
}

// failed notes a failed commit and gives the active segment up.
func (l *lane) failed(err error) {
	l.mu.Lock()
	first := l.fault == ""
	l.fault = err.Error()
	l.mu.Unlock()
	if first {
		l.log.Error("cannot write the buffer; nothing is acknowledged until it works again", "dir", l.dir, "error", err)
	}
	l.abandon()
}

// mended forgets the fault: something was made durable. The caller holds the lock.
func (l *lane) mended() {
	if l.fault != "" {
		l.fault = ""
		l.log.Info("the buffer can be written again", "dir", l.dir)
	}
}

// abandon stops writing the active segment. An empty one is removed.
func (l *lane) abandon() {
	l.mu.Lock()
	s := l.active
	l.active = nil
	empty := s != nil && s.tally.events == 0
	if empty {
		l.segments = l.segments[:len(l.segments)-1]
	}
	l.mu.Unlock()
	if s == nil {
		return
	}
	end := s.close
	if empty {
		end = s.remove
	}
	if err := end(); err != nil {
		l.log.Warn("close a segment after a failed commit", "file", s.path, "error", err)
	}
}

// commit writes items as one transaction of the active segment.
func (l *lane) commit(items []item) error {
	if err := l.reserve(uint64(len(items))); err != nil {
		return err
	}
	s, err := l.writable()
	if err != nil {
		return err
	}
	batches, gaps := l.number(items)
	t := s.tally
	blocks := make([]stored, len(batches))
	for i, b := range batches {
		blocks[i] = stored{first: b.First, block: l.codec.encode(l.incarnation, b.First, b.Events)}
		if t.events == 0 {
			t.from = b.Events[0].Time
		}
		t.last, t.to = b.Last(), b.Events[len(b.Events)-1].Time
		t.events += uint64(len(b.Events))
	}
	cursors := l.ackedCursors()
	written, size, err := s.append(blocks, t, encodeCursors(cursors), gaps)
	if err != nil {
		return fmt.Errorf("commit to %s: %w", s.path, err)
	}
	l.publish(s, batches, gaps, t, size, written, cursors)
	return nil
}

// reserve makes sure that the numbers about to be used are set aside durably.
func (l *lane) reserve(n uint64) error {
	l.mu.Lock()
	enough := l.next+n <= l.reserved
	l.mu.Unlock()
	if enough {
		return nil
	}
	return l.saveState(false)
}

func (l *lane) ackedCursors() map[string]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := make(map[string]uint64, len(l.cursors))
	for name, c := range l.cursors {
		m[name] = c.acked
	}
	return m
}

// number gives items their sequence numbers and cuts them into batches.
func (l *lane) number(items []item) (batches []Batch, gaps []gapAt) {
	seq := l.next // only this goroutine changes it
	var size int64
	for i := range items {
		n := cost(&items[i].event)
		if k := len(batches) - 1; k < 0 || len(batches[k].Events) == blockEvents || size+n > blockBytes {
			room := min(len(items)-i, blockEvents)
			batches = append(batches, Batch{Class: l.class.Name, Incarnation: l.incarnation, First: seq, Events: make([]drivers.Event, 0, room)})
			size = 0
		}
		b := &batches[len(batches)-1]
		b.Events = append(b.Events, items[i].event)
		size += n
		if items[i].gap != nil {
			gaps = append(gaps, gapAt{seq: seq, gap: *items[i].gap})
		}
		seq++
	}
	return batches, gaps
}

// publish makes a durable commit visible to readers.
func (l *lane) publish(s *segment, batches []Batch, gaps []gapAt, t tally, size, written int64, cursors map[string]uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mended()
	l.committed += t.events - s.tally.events
	s.tally, s.bytes = t, size
	s.gaps = append(s.gaps, gaps...)
	l.next = t.last + 1
	l.written += written
	l.commits++
	l.cursorsSaved(cursors)
	for _, b := range batches {
		var bytes int64
		for i := range b.Events {
			bytes += cost(&b.Events[i])
		}
		l.tail, l.tailBytes, l.tailSum = append(l.tail, b), append(l.tailBytes, bytes), l.tailSum+bytes
	}
	l.shortenTail()
	for _, c := range l.waiting {
		signal(c)
	}
}

// shortenTail keeps the tail within its bound, and no longer than anyone needs.
func (l *lane) shortenTail() {
	l.forget(l.minAcked())
	for l.tailSum > l.memory {
		l.forget(l.tail[0].Last())
	}
}

// forget removes the batches up to seq from the tail.
func (l *lane) forget(seq uint64) {
	n := 0
	for n < len(l.tail) && l.tail[n].Last() <= seq {
		l.tailSum -= l.tailBytes[n]
		l.tail[n] = Batch{}
		n++
	}
	l.tail, l.tailBytes = l.tail[n:], l.tailBytes[n:]
}

// acknowledge tells the sources, in order, and makes room in the queue.
func (l *lane) acknowledge(items []item) {
	var bytes int64
	gaps := 0
	for i := range items {
		if items[i].done != nil {
			items[i].done(nil)
		}
		if items[i].gap != nil {
			gaps++
		}
		bytes += cost(&items[i].event)
	}
	l.mu.Lock()
	l.gapsQueued -= gaps
	clear(items) // the array may be part of the queue's
	l.pendBytes -= bytes
	close(l.space)
	l.space = make(chan struct{})
	l.mu.Unlock()
}

// writable returns the active segment, making a new one when there is none or
// the one is full.
func (l *lane) writable() (*segment, error) {
	if l.active != nil && l.active.bytes < l.segLimit {
		return l.active, nil
	}
	if err := l.roll(); err != nil {
		return nil, err
	}
	return l.active, nil
}

// roll begins a new segment; the one before is only read from now on.
func (l *lane) roll() error {
	gen := uint32(0)
	if n := len(l.segments); n > 0 && l.segments[n-1].about.First == l.next {
		gen = l.segments[n-1].gen + 1
	}
	s, err := createSegment(l.dir, about{Format: segmentFormat, Class: l.class.Name, Incarnation: l.incarnation, First: l.next}, gen, l.segLimit)
	if err != nil {
		return err
	}
	l.mu.Lock()
	old := l.active
	l.active = s
	l.segments = append(l.segments, s)
	l.mu.Unlock()
	// The state names the newest file, so that it is missed if it vanishes.
	if err := l.saveState(false); err != nil {
		return err
	}
	if old != nil {
		if err := old.close(); err != nil { // its commits are durable; readers open it again
			l.log.Warn("close a full segment", "file", old.path, "error", err)
		}
	}
	return nil
}
