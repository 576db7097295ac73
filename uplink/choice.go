package uplink

import "time"

const (
	// maxCaution bounds how often the time is doubled that a cluster must be
	// reachable before it gets its place back.
	maxCaution = 4
	// soon is the part of its time in which one that got its place back must not
	// fail again: then it has to wait twice as long the next time.
	soon = 10
	// steady is how long one must have been reachable before it is preferred to one
	// that is not.
	steady = 2 * time.Second
	// heldMost bounds how long one must have been up that is held. The three turns of a
	// Spread take 158 s at most; a broker that stays away may have them begin anew.
	heldMost = 3 * time.Minute
)

// sight is what is seen of one cluster.
type sight struct {
	up      bool
	held    bool // its connections are spread, so that records may have to wait for one
	lastAck time.Time
}

// choice decides which of several clusters gets the events. It only knows what
// decide is told, and belongs to one goroutine.
type choice struct {
	after, back time.Duration
	active      int
	begun       time.Time // when active was chosen
	returned    bool      // active got its place back, rather than take over
	left        int       // the one that worked when it did; -1: there is none, or active has proved itself
	legs        []standing
}

// standing is how a cluster has been so far.
type standing struct {
	up      bool
	since   time.Time // of up
	caution int       // how often the time for a return is doubled
}

func newChoice(legs int, after, back time.Duration, now time.Time) choice {
	c := choice{after: after, back: back, begun: now, left: -1, legs: make([]standing, legs)}
	for i := range c.legs {
		c.legs[i].since = now
	}
	return c
}

// decide returns which one gets the events from now on.
//
// One that is down for long enough gives way to the first that is up; without one
// it goes on trying. One that comes before the active one and has been up for long
// enough gets its place back; while the active one works, not before records go there without
// waiting for a connection. A cluster that answers and takes nothing looks up
// until it is sent to: so one that got its place back and acknowledges nothing
// loses it again at once, and each failure soon after a return doubles the time
// until the next: a flapping link is not followed.
func (c *choice) decide(now time.Time, seen []sight) int {
	for i, s := range seen {
		if l := &c.legs[i]; l.up != s.up {
			l.up, l.since = s.up, now
		}
	}
	a := &c.legs[c.active]
	if seen[c.active].lastAck.After(c.begun) {
		c.left = -1
	}
	if a.up && now.Sub(c.begun) > soon*c.back {
		a.caution = 0
	}
	for i := range c.active {
		if l := &c.legs[i]; l.up && now.Sub(l.since) >= c.wait(l, a.up) && !(a.up && seen[i].held && now.Sub(l.since) < heldMost) {
			left := -1
			if a.up {
				left = c.active
			}
			return c.choose(i, left, now)
		}
	}
	if a.up {
		return c.active
	}
	if down := now.Sub(a.since); down < c.after && (c.left < 0 || !c.legs[c.left].up) {
		return c.active
	}
	for i := range c.legs {
		if i != c.active && c.legs[i].up {
			if c.returned && now.Sub(c.begun) < soon*c.back {
				a.caution = min(a.caution+1, maxCaution)
			}
			return c.choose(i, -1, now)
		}
	}
	return c.active
}

// wait is how long l must have been up to get its place back.
func (c *choice) wait(l *standing, works bool) time.Duration {
	if !works {
		return min(steady, c.back)
	}
	return c.back << l.caution
}

func (c *choice) choose(i, left int, now time.Time) int {
	c.active, c.begun, c.left, c.returned = i, now, left, i < c.active
	return i
}
