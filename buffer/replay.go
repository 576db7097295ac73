package buffer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// RangeReader reads again what is stored of a class within a range of time. It
// holds nothing back: what is trimmed before the reader comes to it is Missing.
// Its methods are for one goroutine.
type RangeReader struct {
	lane     *lane
	from, to time.Time
	next     uint64 // the first number that was not looked at
	end      uint64 // the last that was there at the beginning
	rest     run    // what is left of the block at hand
	missing  []span
	doubt    uint64 // where a damaged block was met; it is read twice before that is believed
}

// Missing is a run of sequence numbers that a RangeReader met and that are not
// there: dropped, thinned, damaged or never written. Gap records in the log say
// which.
type Missing struct{ First, Last uint64 }

// Range returns a reader of the stored events of class whose time is from or
// later, and before to. It returns ErrClass for a class the buffer does not have.
func (b *Buffer) Range(class string, from, to time.Time) (*RangeReader, error) {
	l := b.lanes[class]
	if l == nil {
		return nil, fmt.Errorf("class %q: %w", class, ErrClass)
	}
	if !from.Before(to) {
		return nil, fmt.Errorf("the range from %s to %s is empty", from, to)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &RangeReader{lane: l, from: from, to: to, next: 1, end: l.stored}
	if len(l.segments) > 0 {
		r.next = l.segments[0].about.First
	}
	return r, nil
}

// Next returns the next events in the range, in the order of their numbers; io.EOF
// at the end, ctx's error, or ErrClosed after Run has ended. It does not block but
// on the disk.
func (r *RangeReader) Next(ctx context.Context) (Batch, error) {
	for {
		if b := r.cutRun(); len(b.Events) > 0 {
			return b, nil
		}
		if err := ctx.Err(); err != nil {
			return Batch{}, err
		}
		s, last, err := r.segment()
		if err != nil {
			return Batch{}, err
		}
		if s == nil {
			r.pass(last + 1)
			continue
		}
		h, block, err := s.read(r.next, r.lane.codec)
		switch {
		case err == nil:
			r.lane.used(s)
			block.clamp(last)
			r.take(block)
		case errors.Is(err, errGone): // it is not in the lane any more
		case errors.Is(err, errNoMore):
			r.pass(last + 1)
		case errors.Is(err, errDamaged) && !s.damaged.Load() && r.doubt != r.next:
			r.doubt = r.next
		case errors.Is(err, errDamaged) && r.lane.elsewhere() == nil:
			s.damaged.Store(true)
			if h.span > 0 && h.last() >= r.next {
				last = min(last, h.last())
			}
			r.pass(last + 1)
		default:
			return Batch{}, fmt.Errorf("read %s: %w", s.path, err)
		}
	}
}

// Missing lists, so far, the numbers that are not there.
func (r *RangeReader) Missing() (out []Missing) {
	for _, m := range r.missing {
		out = append(out, Missing{m.first, m.last})
	}
	return out
}

// segment finds what holds r.next; last is the last number that only it can hold.
// Segments that have nothing in the range are skipped. Without a segment nothing
// is stored up to last.
func (r *RangeReader) segment() (s *segment, last uint64, err error) {
	l := r.lane
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, 0, ErrClosed
	}
	for i, s := range l.segments {
		if s.tally.events == 0 || s.tally.last < r.next {
			continue
		}
		if s.about.First > r.next {
			return nil, min(r.end, s.about.First-1), r.over()
		}
		last := s.tally.last
		if i+1 == len(l.segments) {
			last = r.end
		}
		if s.tally.to.Before(r.from) || !s.tally.from.Before(r.to) {
			r.next = last + 1 // not in the range
			continue
		}
		return s, min(last, r.end), r.over()
	}
	return nil, r.end, r.over()
}

// over is io.EOF when all was looked at.
func (r *RangeReader) over() error {
	if r.next > r.end {
		return io.EOF
	}
	return nil
}

// pass notes that the numbers before next are not there.
func (r *RangeReader) pass(next uint64) {
	if next > r.next {
		r.missing = append(r.missing, span{r.next, next - 1})
		r.next = next
	}
}

// take makes b the block at hand.
func (r *RangeReader) take(b run) {
	if b.span == 0 {
		return
	}
	r.pass(b.first)
	r.missing = append(r.missing, holes(r.next, b.last(), b.numbers())...)
	r.rest = run{incarnation: b.incarnation, seqs: []uint64{}}
	for i := range b.events {
		if t := b.events[i].Time; b.seq(i) >= r.next && !t.Before(r.from) && t.Before(r.to) {
			r.rest.seqs = append(r.rest.seqs, b.seq(i))
			r.rest.events = append(r.rest.events, b.events[i])
		}
	}
	r.next = b.last() + 1
}

// cutRun takes the next contiguous events of the block at hand.
func (r *RangeReader) cutRun() Batch {
	n := 0
	for n < len(r.rest.seqs) && r.rest.seqs[n] == r.rest.seqs[0]+uint64(n) {
		n++
	}
	if n == 0 {
		return Batch{}
	}
	b := r.rest.batch(r.lane.class.Name, r.rest.seqs[0], slices.Clip(r.rest.events[:n]))
	r.rest.seqs, r.rest.events = r.rest.seqs[n:], r.rest.events[n:]
	return b
}
