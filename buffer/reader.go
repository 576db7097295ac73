package buffer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"sluice/drivers"
)

// Reader reads all classes of one uplink, from its cursors on. No reader ever
// makes a writer wait.
type Reader struct {
	buf    *Buffer
	uplink string
	tiers  []tier // highest priority first
	share  float64
	wake   chan struct{}

	lateAfter, againAfter time.Duration
}

// place is where a reading stands in a lane.
type place struct {
	lane   *lane
	cursor *cursor
	id     uint32 // of the reading
	next   uint64 // the first number that it has not returned yet
	doubt  uint64 // where the first damaged block of a segment was met; it is read twice before that is believed
	rest   *run   // what is left of a thinned block, accounted for; nil: nothing
	kept   Batch  // a block from disk that was returned in part

	notBefore time.Time // the log could not be read: when to try again
	wait      time.Duration
}

// Reader returns the reader of an uplink that Config.Uplinks names. It begins
// at the uplink's cursors. An uplink has one reader at a time.
func (b *Buffer) Reader(uplink string) (*Reader, error) {
	if _, ok := b.cfg.Uplinks[uplink]; !ok {
		return nil, fmt.Errorf("uplink %q is not among Config.Uplinks", uplink)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.readers[uplink] {
		return nil, fmt.Errorf("uplink %q has a reader already", uplink)
	}
	b.readers[uplink] = true
	r := &Reader{buf: b, uplink: uplink, wake: make(chan struct{}, 1), lateAfter: lateAfter, againAfter: againAfter}
	var lanes []*lane
	for _, l := range b.lanes {
		if l.join(uplink, r.wake) {
			lanes = append(lanes, l)
		}
	}
	r.tiers = tiersOf(lanes, uplink)
	return r, nil
}

// Close gives the uplink's reader back, so that another may begin at its cursors.
func (r *Reader) Close() {
	for _, t := range r.tiers {
		for _, k := range t.tracks {
			k.lane.leave(r.wake)
		}
	}
	r.buf.mu.Lock()
	defer r.buf.mu.Unlock()
	delete(r.buf.readers, r.uplink)
}

// Next is NextUpTo without a bound.
func (r *Reader) Next(ctx context.Context) (Batch, error) {
	return r.NextUpTo(ctx, math.MaxInt, math.MaxInt64)
}

// NextUpTo returns the batch that follows the one it returned before (at first: the
// one at the cursor), of the class with the highest priority that has one; classes
// of the same priority take turns. The batch has at most events events and about
// bytes bytes, at least one event. NextUpTo
// blocks until there is one; it returns ctx's error when ctx ends and ErrClosed
// after Run has. What cannot be read because it is damaged is skipped once a
// gap record for it is durable. One goroutine at a time may call it.
func (r *Reader) NextUpTo(ctx context.Context, events int, bytes int64) (Batch, error) {
	for {
		for i := range r.tiers {
			b, err := r.tiers[i].next(ctx, r, events, bytes)
			if err != nil || len(b.Events) > 0 {
				return b, err
			}
		}
		select {
		case <-ctx.Done():
			return Batch{}, ctx.Err()
		case <-r.wake:
		}
	}
}

// Ack is AckRun for a reader without a live share: everything up to and including
// seq has been delivered, or accounted for.
func (r *Reader) Ack(class string, seq uint64) { r.AckRun(class, 0, seq) }

// AckRun moves the class's cursor: everything up to and including seq that was
// returned with this Run has been delivered, or accounted for. It only moves
// forward and does not block on the disk: the cursor becomes durable with the next
// commit, after at most a few seconds, and when the buffer is closed. What was read
// before a Rewind, ahead of a backlog, counts no more. Any goroutine may call it.
func (r *Reader) AckRun(class string, run uint32, seq uint64) {
	if l := r.buf.lanes[class]; l != nil {
		l.ack(r.uplink, run, seq)
	}
}

// Reject accounts for one event that the uplink can never take: it appends a
// gap record with the reason "rejected", after it has kept a copy, and returns
// when that is durable, so that the caller may then Ack past it. It returns ctx's error or ErrClosed
// when that could not be done. why is for the log.
func (r *Reader) Reject(ctx context.Context, class string, seq uint64, why string) error {
	l := r.buf.lanes[class]
	if l == nil {
		return fmt.Errorf("reject: class %q: %w", class, ErrClass)
	}
	l.log.Error("an event was refused for good; a gap record stands for it", "uplink", r.uplink, "seq", seq, "reason", why)
	r.buf.keepRejected(l, r.uplink, seq)
	now := time.Now()
	if err := l.account(ctx, newGap(seq, seq, reasonRejected, now, now)); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropped[reasonRejected]++
	return nil
}

// account queues a gap record and waits until it is durable.
func (l *lane) account(ctx context.Context, g gap) error {
	durable := make(chan error, 1)
	l.queueGap(g, func(err error) { durable <- err })
	select {
	case err := <-durable:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// join registers a reader's wake-up, and begins at the cursor; false: the uplink
// does not read this class.
func (l *lane) join(uplink string, wake chan struct{}) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.cursors[uplink]
	if !c.isLive() {
		return false
	}
	c.rewind()
	l.waiting = append(l.waiting, wake)
	return true
}

func (l *lane) leave(wake chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = slices.DeleteFunc(l.waiting, func(c chan struct{}) bool { return c == wake })
}

// give notes that the uplink has b in hand now.
func (p *place) give(b Batch) {
	p.next = b.Last() + 1
	p.lane.mu.Lock()
	defer p.lane.mu.Unlock()
	if p.id == p.cursor.id {
		p.cursor.read = b.Last()
	} else if a := p.cursor.run(p.id); a != nil {
		a.read = b.Last()
	}
}

// pass moves a reading in order over what was read ahead of it, and returns the
// last number that it may read.
func (p *place) pass() (stop uint64) {
	p.lane.mu.Lock()
	defer p.lane.mu.Unlock()
	if p.id == p.cursor.id {
		p.next = max(p.next, p.cursor.main+1) // a run that was passed is not among them any more
		stop = p.skip()
		if p.next-1 > p.cursor.past {
			p.cursor.past = p.next - 1
			p.cursor.settle()
		}
		return stop
	}
	return math.MaxUint64
}

// skip moves p over runs. The caller holds the lock.
func (p *place) skip() (stop uint64) {
	for _, a := range p.cursor.ahead {
		if p.next < a.first || a.open {
			return a.first - 1
		}
		p.next = max(p.next, a.read+1)
	}
	return math.MaxUint64
}

// read returns the batch at p.next, or an empty one when there is none yet. Where
// the log cannot be read for now it says so, and is not asked again for a while:
// the other classes go on.
func (p *place) read(ctx context.Context, wake chan struct{}) (Batch, error) {
	for time.Now().After(p.notBefore) {
		stop := p.pass()
		if p.next > stop {
			return Batch{}, nil
		}
		if b := p.left(); len(b.Events) > 0 {
			return upTo(b, stop), nil
		}
		b, s, end, err := p.lane.look(p.next)
		if err != nil {
			return Batch{}, err
		}
		if end > stop {
			end = stop + 1
		}
		if s != nil {
			b, err = p.fetch(ctx, s, end-1, stop)
		}
		switch {
		case err != nil:
		case len(b.Events) > 0 && b.First > p.next:
			// b may be dropped meanwhile, and what it says told anew: look again after that.
			err = p.bridge(ctx, min(b.First-1, stop), nil)
		case len(b.Events) > 0:
			p.wait, p.kept = 0, Batch{}
			if s != nil {
				p.kept = b
			}
			return upTo(b, stop), nil
		case s == nil && end <= p.next:
			p.wait = 0
			return Batch{}, nil
		case s == nil: // nothing is stored any more
			err = p.bridge(ctx, end-1, nil)
		}
		if ctx.Err() != nil || errors.Is(err, ErrClosed) {
			return Batch{}, errors.Join(ctx.Err(), err)
		}
		if err == nil { // moved on
			p.wait = 0
		} else {
			p.wait = min(max(2*p.wait, 50*time.Millisecond), 5*time.Second)
			p.notBefore = time.Now().Add(p.wait)
			time.AfterFunc(p.wait+time.Millisecond, func() { signal(wake) })
			p.lane.log.Warn("cannot read the log; trying again", "dir", p.lane.dir, "in", p.wait.String(), "error", err)
		}
	}
	return Batch{}, nil
}

// left is what p has in hand from p.next on.
func (p *place) left() Batch {
	if n := len(p.kept.Events); n > 0 && p.kept.First <= p.next && p.next <= p.kept.Last() {
		return cut(p.kept, p.next)
	}
	p.kept = Batch{}
	return p.survivors()
}

// upTo leaves out what comes after last.
func upTo(b Batch, last uint64) Batch {
	if len(b.Events) > 0 && b.Last() > last {
		b.Events = b.Events[:last-b.First+1]
	}
	return b
}

// fetch reads from a segment; last is the last number that only it can hold, and
// stop the last that p may read. An
// empty batch means that p.next or p.rest has moved, or that the segment is gone;
// an error, that the machine is short of something or a gap record could not be
// written.
func (p *place) fetch(ctx context.Context, s *segment, last, stop uint64) (Batch, error) {
	h, r, err := s.read(p.next, p.lane.codec)
	switch {
	case err == nil && r.seqs != nil:
		p.lane.used(s)
		r.clamp(stop)
		return Batch{}, p.thinned(ctx, &r)
	case err == nil:
		p.lane.used(s)
		return cut(r.batch(p.lane.class.Name, r.first, r.events), p.next), nil
	case errors.Is(err, errGone): // trimmed meanwhile
		return Batch{}, nil
	case errors.Is(err, errNoMore):
		return Batch{}, p.bridge(ctx, last, nil)
	case errors.Is(err, errDamaged) && p.lane.elsewhere() != nil: // away with its folder, which is no damage
		return Batch{}, fmt.Errorf("read %s: %w", s.path, err)
	case errors.Is(err, errDamaged) && !s.damaged.Load() && p.doubt != p.next: // the disk may have failed to read it this time
		p.doubt = p.next
		return Batch{}, fmt.Errorf("read %s: %w", s.path, err)
	case errors.Is(err, errDamaged):
		s.damaged.Store(true)
		if h.first > 0 && h.span > 0 && h.last() >= p.next {
			last = min(last, h.last())
		}
		return Batch{}, p.bridge(ctx, last, err)
	}
	return Batch{}, err
}

// survivors returns the next contiguous part of a thinned block, an empty one at
// its end.
func (p *place) survivors() Batch {
	if p.rest == nil {
		return Batch{}
	}
	i, _ := slices.BinarySearch(p.rest.seqs, p.next)
	if i == len(p.rest.seqs) {
		p.next = max(p.next, p.rest.last()+1)
		p.rest = nil
		return Batch{}
	}
	n := i + 1
	for n < len(p.rest.seqs) && p.rest.seqs[n] == p.rest.seqs[n-1]+1 {
		n++
	}
	p.next = p.rest.seqs[i]
	return p.rest.batch(p.lane.class.Name, p.next, p.rest.events[i:n])
}

func (r *run) batch(class string, first uint64, events []drivers.Event) Batch {
	return Batch{Class: class, Incarnation: r.incarnation, First: first, Events: events}
}

// look finds pos: a batch of the tail, or the segment to read it from and the
// first number that lies beyond what only that one can hold, or nothing when
// nothing is there yet.
func (l *lane) look(pos uint64) (b Batch, at *segment, end uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return Batch{}, nil, 0, ErrClosed
	}
	if pos >= l.next {
		return Batch{}, nil, 0, nil
	}
	if b, ok := l.find(pos); ok {
		return b, nil, 0, nil
	}
	end = l.next
	for _, s := range l.segments { // the last one that begins at or before pos, else the first after it
		if at != nil && s.about.First > pos {
			end = s.about.First
			break
		}
		if s.tally.events > 0 {
			at = s
		}
	}
	if len(l.tail) > 0 && l.tail[0].First > pos {
		end = min(end, l.tail[0].First)
	}
	return Batch{}, at, max(end, pos+1), nil
}

// used closes the sealed segment that was not read for the longest time when
// too many are open.
func (l *lane) used(s *segment) {
	l.mu.Lock()
	var idle *segment
	if s != l.active {
		l.opened = append(slices.DeleteFunc(l.opened, func(o *segment) bool { return o == s }), s)
		if len(l.opened) > openSegmentsMax {
			idle, l.opened = l.opened[0], slices.Delete(l.opened, 0, 1)
		}
	}
	l.mu.Unlock()
	if idle != nil && idle.close() != nil {
		l.log.Warn("close a segment", "file", idle.path)
	}
}
