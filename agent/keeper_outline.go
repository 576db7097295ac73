package agent

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// When it is told that a source or an uplink went up or down.
const (
	outlineLook  = time.Second      // how often it is looked at
	outlineDelay = 2 * time.Second  // at most, by chance: a fleet that loses its cluster in one moment does not say so in one
	outlineEvery = 10 * time.Second // at most one record
)

// outline is which sources and uplinks there are, and which are up, as the last status
// record has it. One that goes up and down makes a record in outlineEvery; how it is in
// the end is told in any case.
type outline struct {
	told string    // by the last record; empty: it is to be told anew
	seen bool      // that it is another one now
	look time.Time // before that it is left alone
	next time.Time // before that no other one is told
}

// news reports whether another outline is to be told now. The record that tells it
// sets told.
func (o *outline) news(now time.Time, up func() string) bool {
	if now.Before(o.look) {
		return false
	}
	o.look = now.Add(outlineLook)
	switch {
	case up() == o.told:
		o.seen = false
	case !o.seen:
		o.seen = true
		if o.look = now.Add(rand.N(outlineDelay)); o.look.Before(o.next) {
			o.look = o.next
		}
	default:
		o.seen, o.next = false, now.Add(outlineEvery)
		return true
	}
	return false
}

// tellOutline tells that sources or uplinks went up or down. What waits for the link
// goes first: records of an outage are not heaped up.
func (k *keeper) tellOutline(now time.Time) {
	if k.link != nil && len(k.link.out) == 0 && k.told.outline.news(now, k.agent.parts().outline) {
		k.publish(false)
	}
}

// outline names sources and uplinks, and which of them are up, as the status does.
func (p *parts) outline() string {
	var b strings.Builder
	for _, s := range p.sources {
		fmt.Fprintf(&b, "source %s %t\n", s.name, s.stats().Up)
	}
	for _, name := range p.names() {
		fmt.Fprintf(&b, "uplink %s %t\n", name, together(p.legsOf(name)).Up)
	}
	return b.String()
}

// unsaid is told that a record was cut off with its link, and may not have been written.
func (k *keeper) unsaid(number uint64) {
	if number == k.told.number {
		k.told.outline.told = ""
	}
}
