package buffer

import (
	"fmt"
	"slices"
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

// More debts than this are written into the log as gap records: the state file
// is small.
const maxDebts = 200

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

// forgive forgets the debts that every uplink is durably past, and those that
// a durable gap record stands for. The caller holds the lock.
func (l *lane) forgive() {
	low := l.minSaved()
	l.debts = slices.DeleteFunc(l.debts, func(d debt) bool {
		first, last := d.place()
		return last <= low || l.recorded(first, last) || d.At > 0 && l.recorded(d.First, d.Last)
	})
}

// recorded reports whether durable gap records stand for all of first to last.
// The caller holds the lock.
func (l *lane) recorded(first, last uint64) bool {
	return len(subtract([]span{{first, last}}, l.recordedSpans(first, last))) == 0
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
			owed = append(owed, newGap(m.first, m.last, d.Reason, d.From, d.To))
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
	var gaps []gap
	if len(l.debts) > maxDebts {
		for _, d := range l.debts {
			gaps = append(gaps, d.gap)
		}
	}
	l.mu.Unlock()
	if len(gaps) == 0 {
		return
	}
	if err := l.writeGaps(gaps); err != nil {
		l.failed(err)
		return
	}
	l.mu.Lock()
	l.debts = nil // only this goroutine adds to them
	l.mu.Unlock()
}

// writeGaps commits gap records now, past all limits.
func (l *lane) writeGaps(gaps []gap) error {
	items := make([]item, len(gaps))
	for i := range gaps {
		items[i] = item{event: gaps[i].event(l.class.Name), gap: &gaps[i]}
	}
	if err := l.commit(items); err != nil {
		return fmt.Errorf("write gap records: %w", err)
	}
	return nil
}
