package uplink

import "time"

const (
	// budgetTime is how long what is in flight should take to be acknowledged, and
	// twice that at most. A window full of backlog on a slow link would else hold up
	// an alarm for minutes: what was handed to the client can't be overtaken.
	budgetTime  = time.Second
	budgetStart = 256 << 10
	budgetLeast = 32 << 10
)

// budget is how many bytes may be in flight by the time that they take: it doubles
// while they take less than budgetTime and more wait, and halves when they take
// more than twice that. It never goes beyond the window.
type budget struct {
	size, most int
	short      bool      // something had to wait for it
	changed    time.Time // what came in before says nothing of size
}

func newBudget(most int) budget { return budget{size: min(most, budgetStart), most: most} }

// look learns from a chunk that came in at some time and is acknowledged now.
func (b *budget) look(came, now time.Time) {
	if came.Before(b.changed) {
		return
	}
	switch took := now.Sub(came); {
	case took > 2*budgetTime && b.size > budgetLeast:
		b.size, b.changed = max(b.size/2, min(b.most, budgetLeast)), now
	case took < budgetTime && b.short && b.size < b.most:
		b.size, b.changed, b.short = min(2*b.size, b.most), now, false
	}
}
