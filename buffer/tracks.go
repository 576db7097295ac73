package buffer

import (
	"cmp"
	"context"
	"slices"
)

const (
	shareMemory = 512 << 10 // over so many bytes the live share is kept
	shareStep   = 32 << 10  // of one kind at a time, while there is a choice
)

// track is what a reader does in one class: it reads in order, and with a live
// share ahead of a backlog, too.
type track struct {
	lane   *lane
	cursor *cursor
	main   place
	fresh  *place // reads ahead; nil: main keeps up
	waits  bool   // NextUpTo passes this class over
}

// tier is the classes of one priority, which take turns.
type tier struct {
	tracks     []track
	turn       int    // the track that is asked first
	live, late uint64 // bytes that were returned lately while there was a choice
}

// LiveShare has the reader return new events beside a backlog while one drains,
// with this share of the bytes (0 to 1), and mark the backlog as Late. 0, as from
// the start: strictly in order. It must not be called while NextUpTo runs.
func (r *Reader) LiveShare(share float64) { r.share = share }

func tiersOf(lanes []*lane, uplink string) (tiers []tier) {
	slices.SortFunc(lanes, func(a, b *lane) int {
		return cmp.Or(cmp.Compare(b.class.Priority, a.class.Priority), cmp.Compare(a.class.Name, b.class.Name))
	})
	for i, l := range lanes {
		if i == 0 || lanes[i-1].class.Priority != l.class.Priority {
			tiers = append(tiers, tier{})
		}
		t := &tiers[len(tiers)-1]
		k := track{lane: l, cursor: l.cursors[uplink]}
		k.rewind()
		t.tracks = append(t.tracks, k)
	}
	return tiers
}

// next returns a batch of one of the tracks, an empty one if none has any.
func (t *tier) next(ctx context.Context, r *Reader, events int, bytes int64) (Batch, error) {
	kinds := [2]bool{false, true} // late ones last
	if float64(t.live)*(1-r.share) > float64(t.late)*r.share {
		kinds = [2]bool{true, false}
	}
	choice := false
	for i := range t.tracks {
		t.tracks[i].join()
		choice = choice || t.tracks[i].fresh != nil
	}
	if choice {
		bytes = min(bytes, shareStep)
	}
	for turn, late := range kinds {
		for i := range t.tracks {
			k := &t.tracks[(t.turn+i)%len(t.tracks)]
			p := k.reading(late)
			if p == nil || k.waits {
				continue
			}
			b, err := k.take(ctx, r, p, events, bytes)
			if err != nil {
				return Batch{}, err
			}
			if len(b.Events) > 0 {
				t.turn = (t.turn + i + 1) % len(t.tracks)
				if choice && turn == 0 { // what only takes what the other leaves has no debts by it
					t.count(b)
				}
				return b, nil
			}
		}
	}
	return Batch{}, nil
}

// count remembers of which kind b is.
func (t *tier) count(b Batch) {
	n := &t.live
	if b.Late {
		n = &t.late
	}
	for i := range b.Events {
		*n += uint64(cost(&b.Events[i]))
	}
	for t.live+t.late > shareMemory {
		t.live, t.late = t.live/2, t.late/2
	}
}

// reading is the place that returns events of a kind; nil: none does.
func (k *track) reading(late bool) *place {
	switch {
	case late && k.fresh == nil:
		return nil
	case late:
		return &k.main
	case k.fresh != nil:
		return k.fresh
	}
	return &k.main
}

// join makes what was read ahead the reading in order once all before it is
// delivered.
func (k *track) join() {
	if k.fresh == nil {
		return
	}
	k.lane.mu.Lock()
	defer k.lane.mu.Unlock()
	if k.cursor.id == k.fresh.id {
		k.main, k.fresh = *k.fresh, nil
	}
}

// take returns the next batch of a reading, and notes that it was given.
func (k *track) take(ctx context.Context, r *Reader, p *place, events int, bytes int64) (Batch, error) {
	b, err := p.read(ctx, r.wake)
	if err != nil || len(b.Events) == 0 {
		return Batch{}, err
	}
	if r.share > 0 && k.divide(r, p, b) {
		return Batch{}, nil
	}
	n := 0
	for n < len(b.Events) && n < max(1, events) {
		if bytes -= cost(&b.Events[n]); bytes < 0 && n > 0 {
			break
		}
		n++
	}
	b.Events, b.Run, b.Late = b.Events[:n], p.id, k.fresh != nil && p == &k.main
	p.give(b)
	return b, nil
}

// divide begins to read ahead when b, which is next, is too old to let newer
// events wait for it. true: b is not this reading's any more.
func (k *track) divide(r *Reader, p *place, b Batch) bool {
	switch {
	case k.fresh == nil && isBehind(b, r.lateAfter):
		k.lane.mu.Lock()
		id, first := k.cursor.split(b.Last(), k.lane.next-1)
		k.lane.mu.Unlock()
		if id > 0 {
			k.fresh = &place{lane: k.lane, cursor: k.cursor, id: id, next: first}
			signal(r.wake)
		}
	case p == k.fresh && isBehind(b, r.againAfter):
		k.lane.mu.Lock()
		id, first := k.cursor.resplit(p.id, p.next-1, k.lane.next-1)
		k.lane.mu.Unlock()
		if id > 0 {
			k.fresh = &place{lane: k.lane, cursor: k.cursor, id: id, next: first}
			signal(r.wake)
			return true
		}
	}
	return false
}

// rewind has the track begin again right behind what is acknowledged.
func (k *track) rewind() {
	k.lane.mu.Lock()
	defer k.lane.mu.Unlock()
	k.cursor.rewind()
	k.main, k.fresh = place{lane: k.lane, cursor: k.cursor, id: k.cursor.id, next: k.cursor.acked + 1}, nil
}
