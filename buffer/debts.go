package buffer

import (
	"fmt"
	"slices"
	"strconv"
	"time"
)

// A debt is a statement that is owed to whoever reads past it: numbers that were
// dropped, or a gap record that was dropped with them. Debts are durable in the
// state file before anything is dropped, and take no room in the log. A reader
// that comes to numbers that are not there turns the debts for them into gap
// records first: so a record says exactly what that uplink has not got, and
// an outage that drops for days ends in one record.
type debt struct {
	gap
	At uint64 `json:"at,omitempty"` // for a dropped gap record: the number it had
}

// place is the run of numbers at which the debt is due.
func (d debt) place() (first, last uint64) {
	if d.At > 0 {
		return d.At, d.At
	}
	return d.First, d.Last
}

// More debts than this, or more than a class has room for in the state file, are
// written into the log as gap records.
const maxDebts = 200

// size is about how many bytes the debt takes in the state file, and not fewer.
func (d debt) size() int {
	digits := len(strconv.FormatUint(max(d.Last, d.At), 10))
	return 170 + len(d.Reason) + 4*digits + len(d.Kept)*(digits+1)
}

func sizeOf(debts []debt) (n int) {
	for _, d := range debts {
		n += d.size()
	}
	return n
}

// owe adds debts. The caller holds the lock.
func (l *lane) owe(debts ...debt) {
	var carried []debt
	var dropped []gap
	for _, d := range append(l.debts, debts...) {
		switch {
		case d.At == 0:
			dropped = append(dropped, d.gap)
		case !slices.ContainsFunc(carried, func(c debt) bool { return c.At == d.At }):
			carried = append(carried, d)
		}
	}
	l.debts = carried
	for _, g := range mergeGaps(dropped) {
		l.debts = append(l.debts, debt{gap: g})
	}
}

// forgive forgets the debts that every uplink is durably past, those for numbers that
// a durable gap record stands for, and those of dropped records that said what others
// say or nobody will miss. That a gap record stands for the dropped one itself is not
// enough: an uplink may have refused it. The caller holds the lock.
func (l *lane) forgive() {
	low := l.minSaved()
	var owed []span
	for _, d := range l.debts {
		if d.At == 0 {
			owed = append(owed, span{d.First, d.Last})
		}
	}
	sortSpans(owed)
	l.debts = slices.DeleteFunc(l.debts, func(d debt) bool {
		_, last := d.place()
		return last <= low || l.said(d) ||
			d.At > 0 && len(subtract([]span{{d.First, d.Last}}, owed)) == 0 && !l.straddled(d)
	})
}

// said reports whether durable gap records say all that is owed. The caller holds
// the lock.
func (l *lane) said(d debt) bool {
	return len(subtract(d.spans(), l.recordedSpans(d.First, d.Last))) == 0
}

// straddled reports whether an uplink may be past numbers that a dropped record
// stood for, and not past that record. One that has yet to come to those numbers
// is told of them there. The caller holds the lock.
func (l *lane) straddled(d debt) bool {
	for _, c := range l.cursors {
		if (c.live || c.saved < c.until) && c.saved < d.At && c.reach() >= d.First {
			return true
		}
	}
	return false
}

// reasons splits a run of numbers that are not there by what is owed for them.
// What is owed for nothing has the reason otherwise. The caller holds the lock.
func (l *lane) reasons(first, last uint64, otherwise string) (parts []gap, unowed uint64) {
	var owed []gap // what a dropped record said counts, too: after a crash its numbers may be met again
	for _, d := range l.debts {
		if d.Last < first || d.First > last {
			continue
		}
		for _, m := range d.spans() {
			if m.first <= last && m.last >= first {
				owed = append(owed, newGap(m.first, m.last, d.Reason, d.From, d.To))
			}
		}
	}
	now := time.Now()
	for _, d := range mergeGaps(owed) {
		if d.First > first {
			parts = append(parts, newGap(first, d.First-1, otherwise, now, now))
			unowed += d.First - first
			first = d.First
		}
		end := min(d.Last, last)
		if first <= end {
			parts = append(parts, newGap(first, end, d.Reason, d.From, d.To))
			first = end + 1
		}
	}
	if first <= last {
		parts = append(parts, newGap(first, last, otherwise, now, now))
		unowed += last - first + 1
	}
	return parts, unowed
}

// settle writes debts into the log as gap records when there are many.
func (l *lane) settle() {
	l.mu.Lock()
	l.forgive()
	many := len(l.debts) > maxDebts || sizeOf(l.debts) > l.debtRoom/2
	l.mu.Unlock()
	if !many {
		return
	}
	if err := l.writeDebts(nil); err != nil {
		l.failed(err)
	}
}

// fits reports whether the state file has room for more debts beside those there
// are. The caller holds the lock.
func (l *lane) fits(more []debt) bool {
	return sizeOf(l.debts)+sizeOf(more) <= l.debtRoom
}

// writeDebts writes the debts, and more, into the log as gap records, past all
// limits. Only the writer may call it: nobody else adds to the debts.
func (l *lane) writeDebts(more []debt) error {
	l.mu.Lock()
	gaps := statements(slices.Concat(l.debts, more))
	l.mu.Unlock()
	items := make([]item, len(gaps))
	for i := range gaps {
		items[i] = item{event: gaps[i].event(l.class.Name), gap: &gaps[i]}
	}
	if err := l.commit(items); err != nil {
		return fmt.Errorf("write gap records: %w", err)
	}
	l.mu.Lock()
	l.debts = nil
	l.mu.Unlock()
	return nil
}

// statements is what debts say. A dropped record that only stood for what was
// dropped as well says nothing more.
func statements(debts []debt) []gap {
	var dropped []gap
	for _, d := range debts {
		if d.At == 0 {
			dropped = append(dropped, d.gap)
		}
	}
	dropped = mergeGaps(dropped)
	owed := make([]span, len(dropped))
	for i, g := range dropped {
		owed[i] = span{g.First, g.Last}
	}
	var carried []gap
	for _, d := range debts {
		if d.At > 0 && len(subtract([]span{{d.First, d.Last}}, owed)) > 0 {
			carried = append(carried, d.gap)
		}
	}
	return inFew(dropped, carried)
}

// maxInHand bounds the runs of inHand.
const maxInHand = 8

// keepInHand notes the numbers of a segment, of which some are to go, that every uplink was
// given, and some uplink has not acknowledged: what goes is dropped only if it never does.
// want are those that some uplink was not given. The caller holds the lock.
func (l *lane) keepInHand(s *segment, want []span) {
	given := subtract([]span{{s.about.First, s.tally.last}}, want)
	var out []span
	for _, m := range sortSpans(append(subtract(l.inHand, given), given...)) {
		if m.first = max(m.first, l.minSaved()+1); m.first > m.last { // all have got it
			continue
		}
		if n := len(out); n > 0 && out[n-1].last+1 == m.first {
			out[n-1].last = m.last
		} else {
			out = append(out, m)
		}
	}
	l.inHand = out[max(0, len(out)-maxInHand):]
}

// countInHand counts as dropped what gap records, which are durable now, stand for and
// was in an uplink's hands when its segment was dropped. The caller holds the lock.
func (l *lane) countInHand(gaps []gapAt) {
	for _, g := range gaps {
		if len(l.inHand) == 0 {
			return
		}
		for _, m := range g.gap.spans() {
			l.dropped[g.gap.Reason] += overlap(m, l.inHand)
			l.inHand = subtract(l.inHand, []span{m})
		}
	}
}

// inHandOf is what the state file has of inHand.
func inHandOf(saved savedClass) (out []span) {
	for _, m := range saved.InHand[:min(len(saved.InHand), maxInHand)] {
		if at := len(out); m[0] <= m[1] && (at == 0 || out[at-1].last < m[0]) {
			out = append(out, span{m[0], m[1]})
		}
	}
	return out
}
