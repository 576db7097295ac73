package buffer

import (
	"errors"
	"fmt"
	"os"
	"slices"
)

// A rewriter makes a segment anew, of the next generation: with larger blocks,
// with fewer events, or of what could be saved. The new file takes the place of
// the old one when it is whole and durable; a crash leaves the old one, or both,
// and then the newer generation counts.
type rewriter struct {
	seg   *segment
	codec *codec
	next  run   // the block being gathered
	bytes int64 // of next
	load  load
	size  int // of load
}

// Blocks are handed to the file in parts of about this size.
const rewritePart = 1 << 20

// newRewriter begins a file that replaces old. limit is about how large it gets.
func newRewriter(dir string, a about, gen uint32, limit int64) (*rewriter, error) {
	cod, err := newCodec()
	if err != nil {
		return nil, err
	}
	s, err := newSegment(dir, a, gen, limit)
	if err != nil {
		return nil, err
	}
	s.db.NoSync = true // finish syncs once
	return &rewriter{seg: s, codec: cod}, nil
}

// put adds a stretch of the log; it takes events over. Stretches come in order.
func (w *rewriter) put(r run) error {
	var bytes int64
	for i := range r.events {
		bytes += int64(len(r.events[i].Payload) + len(r.events[i].Subject)) // as number counts it
		if e := &r.events[i]; e.Type == TypeGap && e.Source == SourceBuffer {
			g, err := parseGap(e.Payload)
			if err != nil {
				return fmt.Errorf("event %d: %w", r.seq(i), err)
			}
			w.load.gaps = append(w.load.gaps, gapAt{seq: r.seq(i), gap: g})
		}
	}
	if w.next.span > 0 && (r.first != w.next.last()+1 || len(w.next.events)+len(r.events) > blockEvents || w.bytes+bytes > blockBytes) {
		if err := w.flush(); err != nil {
			return err
		}
	}
	w.bytes += bytes
	if w.next.span == 0 {
		w.next = r
		return nil
	}
	if w.next.seqs != nil || r.seqs != nil {
		w.next.seqs = append(w.next.numbers(), r.numbers()...)
	}
	w.next.events = append(w.next.events, r.events...)
	w.next.span += r.span
	return nil
}

// numbers lists the number of each event; never nil.
func (r *run) numbers() []uint64 {
	if r.seqs != nil {
		return r.seqs
	}
	seqs := make([]uint64, len(r.events))
	for i := range seqs {
		seqs[i] = r.seq(i)
	}
	return seqs
}

// flush makes a block of what is gathered, and commits when there is enough.
func (w *rewriter) flush() error {
	if w.next.span == 0 {
		return nil
	}
	block := w.codec.encode(w.seg.about.Incarnation, &w.next)
	w.load.blocks = append(w.load.blocks, stored{first: w.next.first, block: block})
	w.load.tally.add(&w.next)
	w.next, w.bytes = run{}, 0
	if w.size += len(block); w.size < rewritePart {
		return nil
	}
	return w.commit()
}

func (w *rewriter) commit() error {
	_, size, err := w.seg.append(w.load)
	w.seg.tally, w.seg.bytes = w.load.tally, size
	w.seg.gaps = append(w.seg.gaps, w.load.gaps...)
	w.load = load{tally: w.load.tally}
	w.size = 0
	return err
}

// finish makes the file durable and gives it its name. After an error nothing
// is left of it.
func (w *rewriter) finish(skips []span, cursors map[string]uint64) (*segment, error) {
	err := w.flush()
	for i := 0; i < len(skips) && err == nil; i++ {
		w.load.skip = &skips[i]
		err = w.commit()
	}
	if err == nil {
		w.load.cursors = cursors
		err = w.commit()
	}
	if err == nil { // the file grew ahead of what it holds
		err = shorten(w.seg.temporary(), w.seg.bytes)
	}
	if err == nil {
		err = w.seg.db.Sync()
	}
	if err == nil {
		err = w.seg.close()
	}
	if err == nil {
		err = w.seg.appear()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("rewrite %s: %w", w.seg.path, err), w.seg.discard())
	}
	w.seg.skips = skips
	return w.seg, nil
}

// shorten cuts a file off, through a descriptor as all that is done to a segment.
func shorten(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// pour hands the stretches of s to put, in order and without what a later file
// holds instead. A damaged block is left out.
func (s *segment) pour(c *codec, put func(run) error) error {
	return s.each(func(_ uint64, block []byte) error {
		_, r, err := c.decode(block, s.about.Class)
		if errors.Is(err, ErrNewer) {
			return err
		}
		if err != nil {
			s.damaged.Store(true)
			return nil
		}
		if r.clamp(s.tally.last); r.span == 0 {
			return nil
		}
		return put(r)
	})
}

// clamp leaves out the numbers after last.
func (r *run) clamp(last uint64) {
	switch {
	case r.last() <= last:
		return
	case r.first > last:
		*r = run{}
		return
	}
	r.span = int(last - r.first + 1)
	if r.seqs == nil {
		r.events = r.events[:r.span]
		return
	}
	n, found := slices.BinarySearch(r.seqs, last)
	if found {
		n++
	}
	r.seqs, r.events = r.seqs[:n], r.events[:n]
}

// replace puts fresh in the place of old; false when old was dropped meanwhile.
func (l *lane) replace(old, fresh *segment) bool {
	l.mu.Lock()
	i := slices.Index(l.segments, old)
	if i >= 0 {
		l.segments[i] = fresh
		l.opened = slices.DeleteFunc(l.opened, func(s *segment) bool { return s == old })
		l.written += fresh.bytes
	}
	l.mu.Unlock()
	if i < 0 {
		old = fresh
	}
	l.unlink(old)
	return i >= 0
}
