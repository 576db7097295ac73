//go:build torture

package torture

import (
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"sync"
)

// ledger is what a directory was seen to do over all lives of its children:
// which events were acknowledged, and what each uplink was given. It has one
// goroutine at a time but for the counters.
type ledger struct {
	classes map[string]*classLedger
	wrong   []string // what must not be, in the order in which it was seen
	damaged bool     // cursors may have gone back since
}

// number is a sequence number with its incarnation.
type number struct {
	incarnation string
	seq         uint64
}

type classLedger struct {
	acked   []id              // in the order of acknowledgement, which is that of the numbers
	content map[number]uint64 // what a number was seen to hold: one thing for ever
	uplinks map[string]*received
	next    uint64 // as of the last stop in order
}

// received is what one uplink was given of a class.
type received struct {
	at     map[id]uint64
	got    spans
	gaps   []gapRecord
	last   uint64 // in this life
	final  uint64 // acknowledged before a stop in order: never again
	events int
	twice  int // given again, after a kill
}

func newLedger(classes, uplinks []string) *ledger {
	l := &ledger{classes: map[string]*classLedger{}}
	for _, c := range classes {
		l.classes[c] = &classLedger{content: map[number]uint64{}, uplinks: map[string]*received{}}
		for _, u := range uplinks {
			l.classes[c].uplinks[u] = &received{at: map[id]uint64{}}
		}
	}
	return l
}

func (l *ledger) fault(format string, args ...any) {
	if len(l.wrong) < 50 {
		l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
	}
}

// begin starts a new life. After damage cursors may be older than they were.
func (l *ledger) begin(damaged bool) {
	l.damaged = l.damaged || damaged
	for _, c := range l.classes {
		for _, r := range c.uplinks {
			r.last = 0
			if damaged {
				r.final = 0
			}
		}
	}
}

// stopped notes a stop in order.
func (l *ledger) stopped(class string, next uint64) { l.classes[class].next = next }

// final notes where an uplink stood when its child stopped in order.
func (l *ledger) final(uplink, class string, seq uint64) {
	r := l.classes[class].uplinks[uplink]
	r.final = max(r.final, seq)
}

// given is one event of a batch as the child printed it.
type given struct {
	event id
	gap   *gapRecord // set for gap records
	raw   string     // of gap records
}

// delivered notes a batch. It must go on where this life's last one ended, or
// later, and hold what its numbers held before.
func (l *ledger) delivered(uplink, class, incarnation string, first uint64, batch []given) {
	c := l.classes[class]
	r := c.uplinks[uplink]
	if first <= r.last {
		l.fault("%s, class %s: number %d after %d in one life", uplink, class, first, r.last)
	}
	if first <= r.final {
		l.fault("%s, class %s: number %d again, though %d was acknowledged before a stop in order", uplink, class, first, r.final)
	}
	for i, g := range batch {
		seq := first + uint64(i)
		content := uint64(g.event)
		if g.gap != nil {
			h := fnv.New64a()
			h.Write([]byte(g.raw))
			content = h.Sum64() | 1<<63
		}
		n := number{incarnation, seq}
		if before, seen := c.content[n]; seen && before != content {
			l.fault("class %s: number %s/%d holds two different events: %x and %x", class, incarnation, seq, before, content)
		}
		c.content[n] = content
		if g.gap != nil {
			r.gaps = append(r.gaps, *g.gap)
			continue
		}
		r.events++
		if before, seen := r.at[g.event]; seen {
			r.twice++
			if before != seq {
				l.fault("class %s: event %s has the numbers %d and %d", class, g.event, before, seq)
			}
		}
		r.at[g.event] = seq
	}
	r.last = first + uint64(len(batch)) - 1
	r.got.add(first, r.last)
}

// account holds what was acknowledged against what came, once the last child
// has drained everything. lossy says that numbers may be missing if a gap
// record says so: something was damaged, or the class drops.
func (l *ledger) account(class string, lossy bool) (missing int) {
	c := l.classes[class]
	for _, uplink := range slices.Sorted(maps.Keys(c.uplinks)) {
		r := c.uplinks[uplink]
		got, told := r.got.sorted(), explained(r.gaps)
		if c.next > 1 {
			if holes := (spans{{1, c.next - 1}}).without(got).without(told); len(holes) > 0 {
				l.fault("%s, class %s: of %d numbers %s neither came nor does a gap record stand for them", uplink, class, c.next-1, holes)
			}
		}
		for _, g := range r.gaps {
			if !lossy && g.Reason != "restart" { // numbers that were set aside and never used
				l.fault("%s, class %s: a gap record says that %d to %d are missing (%s), and nothing was damaged or dropped", uplink, class, g.First, g.Last, g.Reason)
			}
		}
		n := l.inOrder(c, r, told.without(got), fmt.Sprintf("%s, class %s", uplink, class))
		if n > 0 && !lossy {
			l.fault("%s, class %s: %d of %d acknowledged events never came, and nothing was damaged or dropped", uplink, class, n, len(c.acked))
		}
		missing += n
	}
	return missing
}

// inOrder walks the acknowledged events, whose numbers rise. Those that never
// came must fit into the numbers that are said to be missing in their place.
func (l *ledger) inOrder(c *classLedger, r *received, lacking spans, who string) (all int) {
	prev, missing := uint64(0), uint64(0)
	settle := func(seq uint64, next string) {
		if missing == 0 {
			return
		}
		var room uint64
		if seq > prev+1 {
			room = lacking.count(prev+1, seq-1)
		}
		if room < missing {
			l.fault("%s: %d acknowledged events before %s never came; gap records stand for %d of the numbers between %d and %d", who, missing, next, room, prev, seq)
		}
		all += int(missing)
		missing = 0
	}
	for _, i := range c.acked {
		seq, came := r.at[i]
		switch {
		case !came:
			missing++
			continue
		case seq <= prev:
			l.fault("%s: event %s has number %d, and one acknowledged before it %d", who, i, seq, prev)
		}
		settle(seq, i.String())
		prev = seq
	}
	settle(max(c.next, prev+1), "the end")
	return all
}

// counts sums up a ledger for people.
type counts struct{ acked, delivered, twice, gaps int }

func (l *ledger) counts() (n counts) {
	for _, c := range l.classes {
		n.acked += len(c.acked)
		for _, r := range c.uplinks {
			n.delivered += r.events
			n.twice += r.twice
			n.gaps += len(r.gaps)
		}
	}
	return n
}

func (n counts) String() string {
	return fmt.Sprintf("%d acknowledged, %d delivered, %d of them again, %d gap records", n.acked, n.delivered, n.twice, n.gaps)
}

// total adds up over tests that run at the same time.
type total struct {
	mu sync.Mutex
	n  map[string]int
}

func (t *total) add(what string, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == nil {
		t.n = map[string]int{}
	}
	t.n[what] += n
}

func (t *total) highest(what string, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == nil {
		t.n = map[string]int{}
	}
	t.n[what] = max(t.n[what], n)
}

func (t *total) get(what string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.n[what]
}
