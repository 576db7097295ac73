package buffer

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"sluice/drivers"
)

// run is the lane's writer: it gathers, commits, acknowledges and keeps the
// limits, until ctx ends and what is queued then is committed.
func (l *lane) run(ctx context.Context) {
	debug.SetPanicOnFault(true) // a fault in a mapped file is an error of that file, not the end
	every := time.Second
	if l.spillAfter > 0 {
		every = min(every, max(l.spillAfter/4, 10*time.Millisecond))
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-l.acked:
		case <-tick.C:
		case <-l.wake:
			l.gather(ctx)
		}
		l.tidy(ctx)
		for ctx.Err() == nil && l.commitNext(ctx) {
			l.tidy(ctx) // under load this loop may never end
			if l.waits() {
				l.gather(ctx)
			}
		}
	}
	l.endMerge(true)
	l.finish()
}

// tidy removes what is delivered, and once a second what has expired.
func (l *lane) tidy(ctx context.Context) {
	if time.Since(l.expired) >= time.Second {
		l.expired = time.Now()
		l.expire()
	}
	if l.disk.starving() {
		l.yield()
	}
	l.trim(l.class.Retain)
	l.settle()
	l.endMerge(false)
	l.mergeSmall(ctx)
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
	if l.commitDelay == 0 || l.enough() || l.holding() {
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

// holding reports whether what comes next need not be written: it gains nothing
// by company.
func (l *lane) holding() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.spillAfter > 0 && l.keepsUp()
}

func (l *lane) enough() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pending) >= enoughEvents || l.pendBytes >= min(enoughBytes, l.memory/2)
}

// commitNext commits the next part of the queue; false when there is nothing
// left to do for now.
func (l *lane) commitNext(ctx context.Context) bool {
	l.release()
	items := l.take()
	if len(items) == 0 && !l.spillDue() {
		return false
	}
	if l.mayHold(items) && l.hold(items) {
		return true
	}
	if !l.makeRoom(items) {
		if l.class.WhenFull == DropNewest {
			if l.stopping || !l.rest(ctx) { // a stop is no reason to drop: the sources still have it
				items = l.putBack(items)
				return len(items) > 0 && l.keep(ctx, items)
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
	return l.keep(ctx, items)
}

// keep stores items; false when ctx ended first, and what is left is in the queue
// again.
func (l *lane) keep(ctx context.Context, items []item) bool {
	left := l.store(ctx, items)
	if len(left) > 0 {
		l.putBackAll(left)
	}
	return len(left) == 0
}

// store commits items, again and again while the disk refuses, and acknowledges
// them. It returns those that are left when ctx ends first. After a failed commit
// the file is left as it is and a new one takes over: what a failed sync left in
// the page cache and what is on the disk may differ, and only a file never written
// again is what its last good commit says.
func (l *lane) store(ctx context.Context, items []item) (left []item) {
	wait, freed := 50*time.Millisecond, int64(0)
	for len(items) > 0 || l.spillDue() {
		l.release()
		begin := time.Now()
		err := l.commit(items)
		if err == nil {
			if l.observe != nil {
				l.observe(time.Since(begin))
			}
			l.acknowledge(items)
			return nil
		}
		l.failed(err)
		if noSpace(err) {
			freed += l.giveWay(items, freed)
			items = l.gapsFirst(items)
		}
		select {
		case <-ctx.Done():
			return items
		case <-l.acked: // a segment that is delivered may be the room that is missing
		case <-time.After(wait):
		}
		l.trim(0)
		l.endMerge(false) // until then there are two of a segment
		wait = min(2*wait, 2*time.Second)
	}
	return nil
}

// gapsFirst commits the gap records of items and of the queue by themselves,
// after there was no space for more: readers wait for them, and what those deliver
// then is the space that is missing. It returns what is left of items.
func (l *lane) gapsFirst(items []item) (left []item) {
	gaps, left := split(items)
	l.mu.Lock()
	queued, rest := split(l.pending)
	l.pending = rest
	l.mu.Unlock()
	if gaps = append(gaps, queued...); len(gaps) == 0 {
		return left
	}
	if err := l.commit(gaps); err != nil {
		l.failed(err)
		return append(gaps, left...)
	}
	l.acknowledge(gaps)
	return left
}

// failed notes a failed commit and gives the active segment up, but for one that was not
// touched and could not be read again (named.go).
func (l *lane) failed(err error) {
	l.mu.Lock()
	first := l.fault == ""
	l.fault = err.Error()
	l.mu.Unlock()
	if noSpace(err) {
		l.disk.starve()
	}
	if first {
		l.log.Error("cannot write the buffer; nothing is acknowledged until it works again", "dir", l.dir, "error", err)
	}
	if !errors.Is(err, errAway) || l.spent() {
		l.abandon()
	}
}

func noSpace(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// mended forgets the fault: something was made durable. The caller holds the lock.
func (l *lane) mended() {
	if l.fault != "" {
		l.fault = ""
		l.log.Info("the buffer can be written again", "dir", l.dir)
	}
}

// abandon stops writing the active segment. An empty one is removed, once the
// state no longer names it: a start that misses the newest file takes the numbers
// that were set aside for lost.
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
	if empty && l.saveState(false) == nil && l.elsewhere() == nil {
		end = s.remove
	}
	if err := end(); err != nil {
		l.log.Warn("close a segment after a failed commit", "file", s.path, "error", err)
	}
}

// commit writes what is held and items as one transaction of the active segment.
func (l *lane) commit(items []item) error {
	if err := l.findable(); err != nil {
		return err
	}
	if err := l.reserve(uint64(len(items))); err != nil {
		return err
	}
	s, err := l.writable()
	if err != nil {
		return err
	}
	batches := l.unstored()
	behind := len(batches)
	fresh, gaps := l.number(items)
	if batches = append(batches, fresh...); len(batches) == 0 {
		return nil
	}
	t := s.tally
	w := load{gaps: gaps, cursors: l.ackedCursors()}
	for _, b := range batches {
		r := run{first: b.First, span: len(b.Events), events: b.Events}
		w.blocks = append(w.blocks, stored{first: b.First, block: l.codec.encode(l.incarnation, &r)})
		t.add(&r)
	}
	if first := batches[0].First; first > l.stored+1 {
		w.skip = &span{l.stored + 1, first - 1}
	}
	w.tally = t
	written, size, err := s.append(w)
	if err != nil {
		return fmt.Errorf("commit to %s: %w", s.path, err)
	}
	if err := l.findable(); err != nil {
		return errors.New("commit: " + err.Error()) // not errAway: the file has what counts as not stored, and must not be written again
	}
	tell(l.publish(s, &w, batches, behind, size, written))
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

// number gives items their sequence numbers and cuts them into batches.
func (l *lane) number(items []item) (batches []Batch, gaps []gapAt) {
	seq := l.next // only this goroutine changes it
	var size int64
	for i := range items {
		n := int64(len(items[i].event.Payload) + len(items[i].event.Subject))
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

// publish makes a durable commit visible to readers, the first behind batches of
// which they have already. It returns what tells the sources of those.
func (l *lane) publish(s *segment, w *load, batches []Batch, behind int, size, written int64) (done []func(error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mended()
	l.committed += w.tally.events - s.tally.events
	s.tally, s.bytes = w.tally, size
	s.gaps = append(s.gaps, w.gaps...)
	l.countInHand(w.gaps)
	if w.skip != nil {
		s.skips = append(s.skips, *w.skip)
	}
	s.blocks += uint64(len(batches))
	l.stored = w.tally.last
	l.next = max(l.next, w.tally.last+1)
	l.written += written
	l.commits++
	l.cursorsSaved(w.cursors)
	done = l.spilled()
	now := time.Now()
	for _, b := range batches[behind:] {
		l.push(b, now)
	}
	l.shortenTail()
	l.tellReaders()
	return done
}

// tellReaders wakes all readers. The caller holds the lock.
func (l *lane) tellReaders() {
	for _, c := range l.waiting {
		signal(c)
	}
}

// acknowledge tells the sources, in order, and makes room in the queue.
func (l *lane) acknowledge(items []item) {
	for i := range items {
		if items[i].done != nil {
			items[i].done(nil)
		}
	}
	l.drained(items)
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
	if err := l.elsewhere(); err != nil {
		return err
	}
	gen, first := uint32(0), l.front()
	if n := len(l.segments); n > 0 && l.segments[n-1].about.First == first {
		gen = l.segments[n-1].gen + 1
	}
	s, err := createSegment(l.dir, about{Format: segmentFormat, Class: l.class.Name, Incarnation: l.incarnation, First: first}, gen, l.segLimit)
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
		l.closing.Go(func() { // that waits for who reads it just now
			if err := old.close(); err != nil { // its commits are durable; readers open it again
				l.log.Warn("close a full segment", "file", old.path, "error", err)
			}
		})
	}
	return nil
}
