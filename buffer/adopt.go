package buffer

import (
	"cmp"
	"slices"
)

// adopt takes over the segments found on disk, finds the number to go on with,
// and returns the ranges that are lost. No number that may have been used is
// used again: where the newest file cannot be trusted all that were set aside
// count as used. What the name of a damaged or foreign file claims never hides
// what lies whole in another one.
func (l *lane) adopt(segs []*segment, saved savedClass, clean, drawn bool) (lost []gap) {
	l.next = 1
	missed, doubt := saved.Newest > 0, false // the newest file is not there; or not all of it may be
	var whole []span
	for i, s := range segs {
		if s.bad {
			// The state may be of before this file was made.
			doubt = doubt || s.about.First <= saved.Reserved+1 && nextGood(segs, i) == nil
			continue
		}
		newest, end := nextGood(segs, i) == nil, nextFirst(segs, i)
		s.clamp(end)
		if s.superseded = end == s.about.First; s.superseded {
			continue
		}
		if saved.Volatile && newest && s.tally.events == 0 && s.about.First > l.next {
			lost = append(lost, gap{First: l.next, Last: s.about.First - 1, Reason: reasonRestart}) // held until then
		}
		if s.tally.events > 0 && s.rescued == nil {
			whole = append(whole, span{s.about.First, s.tally.last})
		}
		whole = append(whole, s.rescued...)
		if s.about.First == saved.Newest && s.rescued == nil {
			missed = false
		}
		doubt = doubt || newest && (s.rescued != nil || s.doubtful)
		l.next = max(l.next, s.about.First, s.tally.last+1)
		l.segments = append(l.segments, s)
	}
	doubt = doubt || missed
	lost = append(lost, l.lostWith(segs, whole, saved)...)
	// Numbers that were refused are used without being stored.
	slices.SortFunc(saved.Debts, func(a, b debt) int { return cmp.Compare(a.First, b.First) })
	for _, d := range saved.Debts {
		if d.At == 0 && d.First <= l.next {
			l.next = max(l.next, d.Last+1)
		}
	}
	if drawn { // all numbers of the new incarnation are new
		return nil
	}
	used, reason := saved.Next, reasonCorrupt
	// Without a segment nothing was committed since: the state names each before that.
	if !clean && (doubt || saved.Volatile || saved.Next > l.next && saved.Newest > 0) {
		used = saved.Reserved + 1
	}
	if saved.Volatile && !doubt { // what was not written was not acknowledged, unless it was delivered
		reason = reasonRestart
	}
	if used > l.next {
		lost = append(lost, gap{First: l.next, Last: used - 1, Reason: reason})
		l.next = used
	}
	return without(lost, saved.Debts)
}

// lostWith lists the numbers that damaged files stood for and that no whole one
// holds.
func (l *lane) lostWith(segs []*segment, whole []span, saved savedClass) (lost []gap) {
	whole = sortSpans(whole)
	for i, s := range segs {
		if !s.bad || s.about.First > saved.Reserved+1 { // a number that was never set aside: the file is nobody's
			continue
		}
		last := l.next - 1
		if g := nextGood(segs, i); g != nil && g.about.First > s.about.First {
			last = g.about.First - 1
		}
		if s.about.First > last {
			continue
		}
		for _, m := range subtract([]span{{s.about.First, last}}, whole) {
			lost = append(lost, gap{First: m.first, Last: m.last, Reason: reasonCorrupt})
		}
	}
	slices.SortStableFunc(lost, func(a, b gap) int { return cmp.Compare(a.First, b.First) })
	return mergeGaps(lost)
}

// nextGood is the segment after segs[i] that is not damaged.
func nextGood(segs []*segment, i int) *segment {
	for _, s := range segs[i+1:] {
		if !s.bad {
			return s
		}
	}
	return nil
}

// nextFirst is the number from which on a later file holds what segs[i] might.
func nextFirst(segs []*segment, i int) uint64 {
	if s := nextGood(segs, i); s != nil {
		return s.about.First
	}
	return ^uint64(0)
}

// without takes the numbers that something is owed for already out of lost.
// debts are in order.
func without(lost []gap, debts []debt) (left []gap) {
	for _, g := range lost {
		for _, d := range debts {
			if d.At > 0 || d.Last < g.First || d.First > g.Last {
				continue
			}
			if d.First > g.First {
				left = append(left, gap{First: g.First, Last: d.First - 1, Reason: g.Reason})
			}
			g.First = d.Last + 1
		}
		if g.First <= g.Last {
			left = append(left, g)
		}
	}
	return left
}

// clamp leaves out what a later file, which begins with end, holds instead: it
// took over after a commit whose outcome was unknown.
func (s *segment) clamp(end uint64) {
	if s.tally.last < end {
		return
	}
	s.tally.events -= min(s.tally.events, s.tally.last-end+1)
	s.tally.last = end - 1
	s.gaps = slices.DeleteFunc(s.gaps, func(g gapAt) bool { return g.seq >= end })
}
