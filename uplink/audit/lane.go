package audit

import "slices"

// maxExamples bounds each list of examples in a report.
const maxExamples = 10

// laneBytes is about what an empty lane takes, with its place in the maps.
const laneBytes = 640

// lane is what was found of one agent's class since its buffer was created.
type lane struct {
	no                        uint64 // counted from 1
	id                        string // <agent>/<class>/<incarnation>; the three share its bytes
	agent, class, incarnation string

	delivered set
	replayed  set
	explained []explanation // by gap records, in the order of the first of each reason

	first, last uint64 // of the numbers that are judged; 0: there is none

	records, gaps, replays, duplicates, disorder uint64

	examples []Place // of duplicates
	newest   int64   // the latest record's time, ms

	topics    []*topic // that it was found in
	cuts      []int32  // partitions of those that lost their beginning and that it was found in, ascending
	cutBefore uint64   // the highest of its first numbers in these
	edge      uint64   // its highest number from before the end of what the log lost

	coarse *coarse
}

// explanation is what gap records of one reason say.
type explanation struct {
	reason  string
	numbers set
}

// coarse is what is left of a lane whose sets took too much memory: counts.
type coarse struct {
	have      uint64 // different numbers at that moment, and all records since
	explained uint64 // at most
}

// setBytes is the memory of the lane's sets.
func (l *lane) setBytes() int64 {
	n := l.delivered.bytes + l.replayed.bytes
	for i := range l.explained {
		n += l.explained[i].numbers.bytes
	}
	return n
}

// meet notes where and when the lane has a record with number seq, before it is
// added.
func (l *lane) meet(p *partition, seq uint64, ms int64) {
	if !slices.Contains(l.topics, p.topic) {
		l.topics = append(l.topics, p.topic)
	}
	if ms <= p.topic.edge {
		l.edge = max(l.edge, seq)
	}
	if p.cut {
		if i, found := slices.BinarySearch(l.cuts, p.no); !found {
			l.cuts = slices.Insert(l.cuts, i, p.no)
			l.cutBefore = max(l.cutBefore, seq)
		}
	}
}

// deliver adds a number and reports whether it is a new one. What a coarse lane
// had before is not known any more: there everything is new.
func (l *lane) deliver(seq uint64) bool {
	if l.coarse != nil {
		l.coarse.have++
		return true
	}
	return l.delivered.add(seq)
}

// replay adds a number that was sent again on request.
func (l *lane) replay(seq uint64) {
	if l.coarse != nil {
		l.coarse.have++
		return
	}
	l.replayed.add(seq)
}

// explain adds what a gap record says.
func (l *lane) explain(g gapRecord) {
	if l.coarse != nil {
		g.spans(func(s span) { l.coarse.explained += s.last - s.first + 1 })
		return
	}
	i := slices.IndexFunc(l.explained, func(e explanation) bool { return e.reason == g.Reason })
	if i < 0 && len(l.explained) >= maxReasons {
		g.Reason = otherReason
		i = slices.IndexFunc(l.explained, func(e explanation) bool { return e.reason == otherReason })
	}
	if i < 0 {
		l.explained = append(l.explained, explanation{reason: g.Reason})
		i = len(l.explained) - 1
	}
	g.spans(l.explained[i].numbers.addSpan)
}

// judged widens the range of numbers that are judged to seq.
func (l *lane) judged(seq uint64) {
	if l.first == 0 || seq < l.first {
		l.first = seq
	}
	l.last = max(l.last, seq)
}

// coarsen gives the memory of the sets back and keeps counts.
func (l *lane) coarsen() {
	c := &coarse{have: l.delivered.size() + l.replayed.size()}
	for i := range l.explained {
		c.explained += l.explained[i].numbers.size()
	}
	l.coarse, l.delivered, l.replayed, l.explained = c, set{}, set{}, nil
}

// cutUpTo is the number up to which a hole may begin and be what the logs lost at
// their beginnings. 0: they lost nothing that could be of this lane.
//
// Time tells: what is gone was taken before the edge, so a number that follows
// one from after the edge is not among it. And order does, where something of
// the lane is left in each partition that lost something: a partition holds a
// lane's numbers in ascending order, so what it lost was below the first left.
func (l *lane) cutUpTo() uint64 {
	lost := 0
	for _, t := range l.topics {
		lost += t.cuts
	}
	switch {
	case lost == 0:
		return 0
	case lost > len(l.cuts):
		return l.edge + 1
	}
	return min(l.edge+1, l.cutBefore)
}
