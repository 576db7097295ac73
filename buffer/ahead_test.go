package buffer

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestACursorWithRunsMatchesASet reads, acknowledges, splits, rewinds and saves at
// random, with a set of numbers as the model: what is delivered is never read
// again, what is not is never passed over, and what is saved is delivered.
func TestACursorWithRunsMatchesASet(t *testing.T) {
	for round := range 300 {
		seed := uint64(time.Now().UnixNano()) + uint64(round)
		rnd := rand.New(rand.NewPCG(seed, 1))
		w := &cursorWalk{t: t, rnd: rnd, seed: seed, c: &cursor{}, done: map[uint64]bool{}, gone: map[uint64]bool{}}
		w.begin()
		for range 400 {
			w.step()
		}
		w.drain()
	}
}

// cursorWalk is a cursor, and a reader that does with it what tracks do.
type cursorWalk struct {
	t      *testing.T
	rnd    *rand.Rand
	seed   uint64
	c      *cursor
	newest uint64
	done   map[uint64]bool // delivered, or not there
	gone   map[uint64]bool // not there: a reading moves past it
	main   uint64          // next number in order
	fresh  uint64          // next number ahead
	id     uint32          // of the reading ahead; 0: none
	queues map[uint32][]uint64
}

// begin is what a reader does at a start and after a Rewind.
func (w *cursorWalk) begin() {
	w.c.rewind()
	w.main, w.id, w.queues = w.c.acked+1, 0, map[uint32][]uint64{}
}

func (w *cursorWalk) step() {
	if w.id > 0 && w.c.id == w.id {
		w.main, w.id = w.fresh, 0
	}
	switch w.rnd.IntN(10) {
	case 0, 1:
		for range w.rnd.IntN(20) {
			if w.newest++; w.rnd.IntN(8) == 0 {
				w.gone[w.newest] = true
			}
		}
	case 2, 3:
		w.readInOrder()
	case 4:
		w.readAhead()
	case 5, 6, 7:
		w.ack()
	case 8:
		if w.id == 0 {
			if id, first := w.c.split(w.main-1, w.newest); id > 0 {
				w.id, w.fresh = id, first
			}
		} else if id, first := w.c.resplit(w.id, w.fresh-1, w.newest); id > 0 {
			w.id, w.fresh = id, first
		}
	case 9:
		switch w.rnd.IntN(8) {
		case 0:
			w.begin()
		case 1:
			w.crash()
		}
	}
	w.check()
}

// readInOrder is place.pass and give.
func (w *cursorWalk) readInOrder() {
	for range 1 + w.rnd.IntN(10) {
		p := place{lane: &lane{}, cursor: w.c, id: w.c.id, next: w.main}
		stop := p.pass()
		if w.main = p.next; w.main > min(stop, w.newest) {
			return
		}
		if w.gone[w.main] {
			w.main++
			continue
		}
		w.read(w.c.id, w.main)
		w.c.read = w.main
		w.main++
	}
}

func (w *cursorWalk) readAhead() {
	for n := w.rnd.IntN(10); w.id > 0 && n > 0 && w.fresh <= w.newest; n-- {
		if !w.gone[w.fresh] {
			w.read(w.id, w.fresh)
			w.c.run(w.id).read = w.fresh
		}
		w.fresh++
	}
}

func (w *cursorWalk) read(id uint32, n uint64) {
	if w.done[n] {
		w.t.Fatalf("seed %d: %d is read and was delivered: %s", w.seed, n, w)
	}
	w.queues[id] = append(w.queues[id], n)
}

// ack delivers some of what one of the readings has in flight, from the front.
func (w *cursorWalk) ack() {
	ids := slices.Sorted(maps.Keys(w.queues))
	if len(ids) == 0 {
		return
	}
	id := ids[w.rnd.IntN(len(ids))]
	q := w.queues[id]
	if n := w.rnd.IntN(len(q) + 1); n > 0 {
		for _, seq := range q[:n] {
			w.done[seq] = true
		}
		w.c.take(id, q[n-1])
		if w.queues[id] = q[n:]; len(q) == n {
			delete(w.queues, id)
		}
	}
}

// crash goes on with what was saved, some of which is older than what was
// delivered.
func (w *cursorWalk) crash() {
	saved := w.c.saveAhead()
	acked := w.c.acked
	w.c = &cursor{acked: acked, main: acked}
	w.c.restoreAhead(saved, w.newest)
	w.done = map[uint64]bool{}
	for n := uint64(1); n <= acked; n++ {
		w.done[n] = true
	}
	for _, s := range saved {
		for n := s[0]; n <= s[1]; n++ {
			w.done[n] = true
		}
	}
	w.begin()
}

// drain reads and delivers all there is: then nothing may be left ahead.
func (w *cursorWalk) drain() {
	for range 10_000 {
		if w.id > 0 && w.c.id == w.id {
			w.main, w.id = w.fresh, 0
		}
		w.readInOrder()
		w.readAhead()
		w.ack()
		w.check()
		p := place{lane: &lane{}, cursor: w.c, id: w.c.id, next: w.main}
		p.pass()
		if w.c.acked >= w.last() && len(w.c.ahead) == 0 && len(w.queues) == 0 {
			return
		}
	}
	w.t.Fatalf("seed %d: it never ends: %s", w.seed, w)
}

// last is the last number that is there. In a log a gap record for those behind it
// follows them.
func (w *cursorWalk) last() uint64 {
	n := w.newest
	for n > 0 && w.gone[n] {
		n--
	}
	return n
}

// check holds the cursor against the set.
func (w *cursorWalk) check() {
	inFlight := map[uint64]bool{}
	for _, q := range w.queues {
		for _, n := range q {
			inFlight[n] = true
		}
	}
	counts := func(list []span, n uint64) bool {
		return slices.ContainsFunc(list, func(s span) bool { return s.first <= n && n <= s.last })
	}
	delivered, given := w.c.delivered(), w.c.given()
	for n := uint64(1); n <= w.newest; n++ {
		if w.gone[n] {
			continue
		}
		if got := n <= w.c.acked || counts(delivered, n); got && !w.done[n] {
			w.t.Fatalf("seed %d: %d counts as delivered and is not: %s", w.seed, n, w)
		} else if !got && w.done[n] {
			w.t.Fatalf("seed %d: %d is delivered and does not count: %s", w.seed, n, w)
		}
		if got := n <= w.c.acked || counts(given, n); got != (w.done[n] || inFlight[n]) {
			w.t.Fatalf("seed %d: %d given: %v, delivered %v, in flight %v: %s", w.seed, n, got, w.done[n], inFlight[n], w)
		}
	}
}

func (w *cursorWalk) String() string {
	return fmt.Sprintf("acked %d main %d id %d read %d ahead %+v, newest %d, next %d and %d", w.c.acked, w.c.main, w.c.id, w.c.read, w.c.ahead, w.newest, w.main, w.fresh)
}
