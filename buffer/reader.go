package buffer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sluice/drivers"
)

// Reader reads all classes of one uplink, from its cursors on. No reader ever
// makes a writer wait.
type Reader struct {
	buf    *Buffer
	uplink string
	lanes  []place // highest priority first
	wake   chan struct{}
}

// place is where a reader stands in a lane.
type place struct {
	lane   *lane
	cursor *cursor
	next   uint64 // the first number that it has not returned yet
	doubt  uint64 // where the first damaged block of a segment was met; it is read twice before that is believed
	rest   *run   // what is left of a thinned block, accounted for; nil: nothing
	waits  bool   // Next passes this class over

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
	r := &Reader{buf: b, uplink: uplink, wake: make(chan struct{}, 1)}
	for _, l := range b.lanes {
		if l.cursors[uplink].isLive() {
			r.lanes = append(r.lanes, place{lane: l, cursor: l.cursors[uplink], next: l.join(uplink, r.wake)})
		}
	}
	slices.SortFunc(r.lanes, func(a, b place) int {
		return cmp.Or(cmp.Compare(b.lane.class.Priority, a.lane.class.Priority), cmp.Compare(a.lane.class.Name, b.lane.class.Name))
	})
	return r, nil
}

// Close gives the uplink's reader back, so that another may begin at its cursors.
func (r *Reader) Close() {
	for i := range r.lanes {
		r.lanes[i].lane.leave(r.wake)
	}
	r.buf.mu.Lock()
	defer r.buf.mu.Unlock()
	delete(r.buf.readers, r.uplink)
}

// Next returns the batch that follows the one it returned before (at first: the
// one at the cursor), of the class with the highest priority that has one. It
// blocks until there is one; it returns ctx's error when ctx ends and ErrClosed
// after Run has. What cannot be read because it is damaged is skipped once a
// gap record for it is durable. One goroutine at a time may call it.
func (r *Reader) Next(ctx context.Context) (Batch, error) {
	for {
		for i := range r.lanes {
			if r.lanes[i].waits {
				continue
			}
			b, err := r.lanes[i].read(ctx, r.wake)
			if err != nil {
				return Batch{}, err
			}
			if len(b.Events) > 0 {
				r.lanes[i].give(b)
				return b, nil
			}
		}
		select {
		case <-ctx.Done():
			return Batch{}, ctx.Err()
		case <-r.wake:
		}
	}
}

// Ack moves the class's cursor: everything up to and including seq has been
// delivered (or accounted for). It only moves forward and does not block on the
// disk: the cursor becomes durable with the next commit, after at most a few
// seconds, and when the buffer is closed. Any goroutine may call it.
func (r *Reader) Ack(class string, seq uint64) {
	if l := r.buf.lanes[class]; l != nil {
		l.ack(r.uplink, seq)
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

// join registers a reader's wake-up and returns where it begins.
func (l *lane) join(uplink string, wake chan struct{}) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = append(l.waiting, wake)
	return l.cursors[uplink].acked + 1
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
	p.cursor.read = b.Last()
}

// read returns the batch at p.next, or an empty one when there is none yet. Where
// the log cannot be read for now it says so, and is not asked again for a while:
// the other classes go on.
func (p *place) read(ctx context.Context, wake chan struct{}) (Batch, error) {
	for time.Now().After(p.notBefore) {
		if b := p.survivors(); len(b.Events) > 0 {
			return b, nil
		}
		b, s, end, err := p.lane.look(p.next)
		if err != nil {
			return Batch{}, err
		}
		if s != nil {
			b, err = p.fetch(ctx, s, end-1)
		}
		switch {
		case err != nil:
		case len(b.Events) > 0 && b.First > p.next:
			// b may be dropped meanwhile, and what it says told anew: look again after that.
			err = p.bridge(ctx, b.First-1, nil)
		case len(b.Events) > 0 || s == nil && end <= p.next:
			p.wait = 0
			return b, nil
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

// fetch reads from a segment; last is the last number that only it can hold. An
// empty batch means that p.next or p.rest has moved, or that the segment is gone;
// an error, that the machine is short of something or a gap record could not be
// written.
func (p *place) fetch(ctx context.Context, s *segment, last uint64) (Batch, error) {
	h, r, err := s.read(p.next, p.lane.codec)
	switch {
	case err == nil && r.seqs != nil:
		p.lane.used(s)
		return Batch{}, p.thinned(ctx, &r)
	case err == nil:
		p.lane.used(s)
		return cut(r.batch(p.lane.class.Name, r.first, r.events), p.next), nil
	case errors.Is(err, errGone): // trimmed meanwhile
		return Batch{}, nil
	case errors.Is(err, errNoMore):
		return Batch{}, p.bridge(ctx, last, nil)
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
