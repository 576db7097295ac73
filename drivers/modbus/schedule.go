package modbus

import (
	"slices"
	"time"
)

// group is what is polled together: the tags of a device with one interval.
type group struct {
	device   *device
	every    time.Duration
	tags     []*tag     // in the order of the config
	classes  [][]*tag   // the same tags, those of each class together
	requests []*request // reads all of them
	stale    bool       // the requests are to be planned anew
	answered bool       // the last time

	slot time.Time // its next regular poll
	due  time.Time // its next poll: slot, or earlier
}

// schedule says what is to be done next. Each group has slots `every` apart;
// groups of one interval are spread over it. A slot that has passed before its
// turn came is skipped and counted: polls never pile up. Overdue groups take
// turns by the age of their slots, so none starves. One goroutine uses it.
type schedule struct {
	groups  []*group
	devices []*device
}

// Slots are bundled: a processor that wakes up 40 times a second for five polls
// each needs half of what it takes to wake up 200 times for one.
const bundle = 25 * time.Millisecond

// start makes every group due at once, so that all values are there soon after
// the start however long the intervals are, and sets their slots.
func (s *schedule) start(now time.Time) {
	same := map[time.Duration][]*group{}
	for _, g := range s.groups {
		same[g.every] = append(same[g.every], g)
	}
	for every, groups := range same {
		for i, g := range groups {
			phase := every / time.Duration(len(groups)) * time.Duration(i)
			phase = phase.Truncate(min(bundle, every/10))
			g.slot, g.due = now.Add(phase), now
		}
	}
	slices.SortStableFunc(s.groups, func(a, b *group) int { return a.slot.Compare(b.slot) })
}

// next returns the group that is due first, or the device that has to report
// first that it doesn't answer; the other one is nil.
func (s *schedule) next() (at time.Time, g *group, d *device) {
	for _, x := range s.groups {
		if g == nil || x.due.Before(at) {
			at, g = x.due, x
		}
	}
	for _, x := range s.devices {
		if x.down() && x.beat.Before(at) {
			at, g, d = x.beat, nil, x
		}
	}
	return at, g, d
}

// advance moves a group that was polled to its next slot after now, and returns
// how many slots it missed.
func (g *group) advance(now time.Time) (missed int) {
	if !now.Before(g.slot) {
		g.slot = g.slot.Add(g.every) // the slot that this poll has served
	}
	if late := now.Sub(g.slot); late >= 0 {
		missed = int(late/g.every) + 1
		g.slot = g.slot.Add(time.Duration(missed) * g.every)
	}
	g.due = g.slot
	return missed
}

// hurry makes a group due at once.
func (g *group) hurry(now time.Time) {
	if now.Before(g.due) {
		g.due = now
	}
}
