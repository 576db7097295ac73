package audit

import (
	"slices"
	"sync"
	"testing"
	"time"
)

// at is a time as records have it, n seconds after the origin.
func at(n uint64) int64 { return origin.Add(time.Duration(n) * time.Second).UnixMilli() }

// TestWhatACutExcuses: three partitions, and what is known of what they lost.
func TestWhatACutExcuses(t *testing.T) {
	type record struct {
		partition int32
		seq       uint64
	}
	for _, c := range []struct {
		name     string
		cut      []int32 // partitions that lost their beginning
		edge     uint64  // the time of what they lost, at most
		first    []record
		cutOff   uint64
		examples []Range
	}{
		{"nothing was cut", nil, 0, []record{{0, 3}, {1, 5}}, 0, []Range{{1, 2}, {4, 4}}},
		{"one was, and begins with number 6", []int32{1}, 100, []record{{0, 3}, {1, 6}, {0, 9}}, 4, []Range{{7, 8}}},
		{"of two one holds nothing of the lane: time tells", []int32{1, 2}, 7, []record{{0, 3}, {1, 6}, {0, 9}, {0, 12}}, 6, []Range{{10, 11}}},
		{"a hole that begins at the edge", []int32{2}, 6, []record{{0, 6}, {0, 9}}, 7, nil},
		{"a hole behind the edge", []int32{2}, 6, []record{{0, 6}, {0, 7}, {0, 9}}, 5, []Range{{8, 8}}},
		{"time narrows what order leaves open", []int32{1}, 3, []record{{0, 3}, {0, 5}, {1, 8}}, 3, []Range{{6, 7}}},
		{"nothing of the lane is as old as the cut", []int32{2}, 2, []record{{0, 6}, {0, 8}}, 5, []Range{{7, 7}}},
	} {
		s := newSource(MinMemory, 3)
		topic := s.parts[0].topic
		topic.cuts, topic.edge = len(c.cut), at(c.edge)
		for _, p := range s.parts {
			p.cut = slices.Contains(c.cut, p.num)
		}
		for _, r := range c.first {
			s.tally.take(s.parts[r.partition], event(r.seq))
		}
		if l := only(t, newResult(s.tally)); l.CutOff != c.cutOff || !slices.Equal(l.UnexplainedExamples, c.examples) {
			t.Errorf("%s: cut off %d, unexplained %v; want %d, %v", c.name, l.CutOff, l.UnexplainedExamples, c.cutOff, c.examples)
		}
	}
}

// TestARepetitionTellsNothingOfTheOrder: a cut partition that begins with a
// replayed record, and one that gets its first record after the audit's end.
func TestARepetitionTellsNothingOfTheOrder(t *testing.T) {
	s := newSource(MinMemory, 3)
	s.parts[1].cut, s.parts[2].cut = true, true
	s.parts[0].topic.cuts, s.parts[0].topic.edge = 2, at(1000)
	s.tally.take(s.parts[1], header(event(2), headerReplay, "r"))
	s.tally.take(s.parts[1], event(20))
	s.tally.take(s.parts[2], event(10))
	s.tally.take(s.parts[0], event(30))
	if l := only(t, newResult(s.tally)); l.CutOff != 17 || !slices.Equal(l.UnexplainedExamples, []Range{{21, 29}}) {
		t.Errorf("lane %+v", l)
	}
	s = newSource(MinMemory, 3)
	s.parts[1].cut, s.parts[2].cut = true, true
	s.parts[0].topic.cuts, s.parts[0].topic.edge = 2, at(5)
	s.tally.take(s.parts[1], event(3))
	s.tally.take(s.parts[0], event(30))
	s.tally.settling = true
	s.tally.take(s.parts[2], event(40))
	s.tally.take(s.parts[1], event(7))
	if l := only(t, newResult(s.tally)); l.CutOff != 2+3 || !slices.Equal(l.UnexplainedExamples, []Range{{8, 29}}) || l.Last != 30 {
		t.Errorf("lane %+v", l)
	}
}

// TestPartitionsAreReadInStep: the one that is furthest behind comes first, unless
// it is being read, is at its end or was given up.
func TestPartitionsAreReadInStep(t *testing.T) {
	q := &pool{all: []*partition{{num: 0, clock: 5, end: 1}, {num: 1, clock: 2, end: 1, next: 1}, {num: 2, clock: 4, end: 1}, {num: 3, clock: 3, end: 1, failed: errStuck},
		{num: 4, clock: 6, end: 1}}}
	q.wake = sync.NewCond(&q.mu)
	for _, want := range []int32{2, 0, 4} {
		if p := q.take(); p == nil || p.num != want {
			t.Fatalf("got %+v, want %d", p, want)
		}
	}
	for _, p := range q.all {
		if p.busy {
			p.next = p.end
			q.put(p)
		}
	}
	if p := q.take(); p != nil {
		t.Errorf("got %d, and nothing is left", p.num)
	}
}

// TestWhoTakesOver: a lane that begins with numbers that were set aside goes on
// after them, if nothing else is missing there and the older one had no more.
func TestWhoTakesOver(t *testing.T) {
	const before, after = "gw-1/process/00000001", "gw-1/process/00000002"
	for _, c := range []struct{ last, restart, first, want uint64 }{{2, 3, 4, 3}, {3, 3, 4, 3}, {2, 3, 5, 0}, {4, 3, 4, 0}} {
		s := newSource(MinMemory, 3)
		for n := uint64(1); n <= c.last; n++ {
			s.tally.take(s.parts[0], eventOf(before, n))
		}
		s.tally.take(s.parts[0], eventOf(after, c.first))
		s.tally.take(s.parts[0], gapOf(after, c.first+1, 1, c.restart, "restart"))
		for l := range newResult(s.tally).Lanes() {
			if l.Incarnation == "00000001" && (l.FollowedBy != "00000002" || l.FollowedAfter != c.want) {
				t.Errorf("%+v: followed by %s after %d", c, l.FollowedBy, l.FollowedAfter)
			}
		}
	}
}
