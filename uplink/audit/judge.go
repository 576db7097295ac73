package audit

import (
	"cmp"
	"iter"
	"slices"
	"time"
)

// Place is where a record lies.
type Place struct {
	Seq       uint64 `json:"seq,omitempty"` // its number in its lane
	Cluster   int    `json:"cluster"`       // from 1, in the order of Config.Clusters
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
}

// placeBytes is about what a Place takes.
const placeBytes = 64

// Malformed is a record of an agent that cannot be counted.
type Malformed struct {
	Place
	ID      string `json:"id"`
	Problem string `json:"problem"`
}

// Range is a run of numbers, both ends included.
type Range struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

// ExplainedRange is a run of numbers that gap records of one reason explain.
type ExplainedRange struct {
	Range
	Reason string `json:"reason"`
}

// How a lane begins.
const (
	FromStart  = "start"  // with number 1, or what explains it
	FromCut    = "cut"    // the topics lost their beginning (retention, deleted records); what was before is unknown
	FromWindow = "window" // with the first number in the range of time that was asked for
	FromHole   = "hole"   // number 1 is missing, and the topics have lost nothing
)

// Lane is the account of one agent's class since its buffer was created.
type Lane struct {
	Agent       string `json:"agent"`
	Class       string `json:"class"`
	Incarnation string `json:"incarnation"`

	Begins string `json:"begins"` // FromStart …
	First  uint64 `json:"first"`  // the lowest number that is there or explained
	Last   uint64 `json:"last"`   // the highest that is there; nothing tells what comes after

	Records    uint64 `json:"records"`     // that were judged, repetitions included
	GapRecords uint64 `json:"gap_records"` // of these

	Delivered   uint64            `json:"delivered"`   // different numbers up to Last that are there
	Explained   map[string]uint64 `json:"explained"`   // numbers that are not there, by the reason that a gap record gives
	CutOff      uint64            `json:"cut_off"`     // numbers that may be among what the topics lost at their beginning
	Unexplained uint64            `json:"unexplained"` // numbers that are neither; with Coarse at least so many

	// The first ten runs of numbers that are there, and of those that are not and that
	// gap records explain, and how many runs there are. None if Coarse.
	DeliveredRanges     []Range          `json:"delivered_ranges"`
	DeliveredRangeCount uint64           `json:"delivered_range_count"`
	ExplainedRanges     []ExplainedRange `json:"explained_ranges"`
	ExplainedRangeCount uint64           `json:"explained_range_count"`

	UnexplainedRanges   uint64  `json:"unexplained_ranges"` // runs of them
	UnexplainedExamples []Range `json:"unexplained_examples,omitempty"`

	Duplicates        uint64  `json:"duplicates"`                   // records whose number was there before
	DuplicateExamples []Place `json:"duplicate_examples,omitempty"` // the later ones

	Replayed   uint64 `json:"replayed"`     // records that were sent again on request
	OutOfOrder uint64 `json:"out_of_order"` // records behind one of the same key with a higher number

	Newest time.Time `json:"newest"` // time of the latest record

	// A newer incarnation of the same agent and class, if there is one. Nothing in
	// the topics says how far this one went. If the follower took over its log, it
	// ended with FollowedAfter; 0: the follower began anew.
	FollowedBy    string `json:"followed_by,omitempty"`
	FollowedAfter uint64 `json:"followed_after,omitempty"`

	Coarse bool `json:"coarse,omitempty"` // too many holes for the memory: only counted
}

// Totals are the sums over all lanes, and what belongs to none.
type Totals struct {
	Lanes           int               `json:"lanes"`
	LanesIncomplete int               `json:"lanes_with_unexplained"`
	Records         uint64            `json:"records"` // that were read, all kinds
	Delivered       uint64            `json:"delivered"`
	Explained       map[string]uint64 `json:"explained"`
	CutOff          uint64            `json:"cut_off"`
	Unexplained     uint64            `json:"unexplained"`
	Duplicates      uint64            `json:"duplicates"`
	Replayed        uint64            `json:"replayed"`
	OutOfOrder      uint64            `json:"out_of_order"`
	OrderUnchecked  uint64            `json:"order_unchecked"` // records, for want of memory
	Foreign         uint64            `json:"foreign"`         // records of other producers
	Filtered        uint64            `json:"filtered"`        // records of agents and classes that were not asked for
	Malformed       uint64            `json:"malformed"`
}

// Topic is a topic that was read.
type Topic struct {
	Cluster       int    `json:"cluster"` // from 1
	Name          string `json:"name"`
	Partitions    int    `json:"partitions"`
	CutPartitions int    `json:"cut_partitions"` // whose log begins behind offset 0
}

// Result is what an audit found. It is read-only.
type Result struct {
	Began, Ended time.Time
	Topics       []Topic
	Totals       Totals
	Malformed    []Malformed // examples
	Warnings     []string    // what weakens the proof
	Incomplete   []string    // why not everything was read or judged; empty: it was
	Unread       bool        // something was not read: what is unexplained may lie there

	lanes    []*lane // by agent, class, age
	followed map[*lane]*lane
	window   bool
}

// Lanes yields the lanes by agent, class and age. Each is worked out when its turn
// comes, so that they are never in memory together.
func (r *Result) Lanes() iter.Seq[Lane] {
	return func(yield func(Lane) bool) {
		for _, l := range r.lanes {
			if !yield(r.judge(l)) {
				return
			}
		}
	}
}

// newResult orders the lanes and adds them up.
func newResult(t *tally) *Result {
	r := &Result{Malformed: t.examples, followed: map[*lane]*lane{}, window: !t.cfg.From.IsZero() || !t.cfg.To.IsZero()}
	for _, l := range t.lanes {
		if l.first > 0 {
			r.lanes = append(r.lanes, l)
		}
	}
	slices.SortFunc(r.lanes, func(a, b *lane) int {
		return cmp.Or(cmp.Compare(a.agent, b.agent), cmp.Compare(a.class, b.class), cmp.Compare(a.newest, b.newest), cmp.Compare(a.id, b.id))
	})
	for i := 1; i < len(r.lanes); i++ {
		if a, b := r.lanes[i-1], r.lanes[i]; a.agent == b.agent && a.class == b.class {
			r.followed[a] = b
		}
	}
	sum := &r.Totals
	*sum = Totals{Lanes: len(r.lanes), Records: t.read, Explained: map[string]uint64{}, OrderUnchecked: t.unordered, Foreign: t.foreign,
		Filtered: t.filtered, Malformed: t.malformed}
	for l := range r.Lanes() {
		sum.add(&l)
	}
	r.Incomplete = t.limitations()
	return r
}

func (t *Totals) add(l *Lane) {
	if l.Unexplained > 0 {
		t.LanesIncomplete++
	}
	for reason, n := range l.Explained {
		t.Explained[reason] += n
	}
	t.Delivered += l.Delivered
	t.CutOff += l.CutOff
	t.Unexplained += l.Unexplained
	t.Duplicates += l.Duplicates
	t.Replayed += l.Replayed
	t.OutOfOrder += l.OutOfOrder
}

// judge works out the account of l.
func (r *Result) judge(l *lane) Lane {
	out := Lane{Agent: l.agent, Class: l.class, Incarnation: l.incarnation, Last: l.last, Records: l.records, GapRecords: l.gaps,
		Explained: map[string]uint64{}, DeliveredRanges: []Range{}, ExplainedRanges: []ExplainedRange{}, Duplicates: l.duplicates, DuplicateExamples: l.examples, Replayed: l.replays,
		OutOfOrder: l.disorder, Newest: time.UnixMilli(l.newest).UTC()}
	out.First = l.first
	if !r.window {
		out.First = l.lowest()
	}
	if next := r.followed[l]; next != nil {
		out.FollowedBy = next.incarnation
		if n := next.takesOverAfter(); n >= l.last {
			out.FollowedAfter = n
		}
	}
	cut := l.cutUpTo()
	switch {
	case r.window:
		out.Begins = FromWindow
	case out.First == 1:
		out.Begins = FromStart
	case cut > 0:
		out.Begins = FromCut
	default:
		out.Begins = FromHole
	}
	if l.coarse != nil {
		r.judgeCoarse(l, &out, cut)
		return out
	}
	from := uint64(1)
	if r.window {
		from = l.first
	}
	for s := range l.missing(span{from, l.last}, &out) {
		n := s.last - s.first + 1
		if s.first <= cut {
			out.CutOff += n
			continue
		}
		out.Unexplained += n
		if out.UnexplainedRanges++; len(out.UnexplainedExamples) < maxExamples {
			out.UnexplainedExamples = append(out.UnexplainedExamples, Range{s.first, s.last})
		}
	}
	return out
}

// missing yields the numbers of all that are neither there nor explained, and
// counts in out those that are, and their runs. That is complete when it was used up.
func (l *lane) missing(all span, out *Lane) iter.Seq[span] {
	return func(yield func(span) bool) {
		if all.first > all.last {
			return
		}
		there := runs{first: out.DeliveredRanges}
		left := between(all, l.replayed.without(l.delivered.without(one(all), nil), nil), there.add)
		explained := make([]runs, len(l.explained))
		for i := range l.explained {
			left = l.explained[i].numbers.without(left, explained[i].add)
		}
		for s := range left {
			if !yield(s) {
				return
			}
		}
		out.Delivered, out.DeliveredRanges, out.DeliveredRangeCount = there.numbers, there.first, there.spans
		for i := range explained {
			out.addExplained(l.explained[i].reason, &explained[i])
		}
	}
}

// addExplained adds what gap records of one reason explain. The first runs of all are
// among the first of each reason.
func (out *Lane) addExplained(reason string, r *runs) {
	if r.spans == 0 {
		return
	}
	out.Explained[reason] += r.numbers
	out.ExplainedRangeCount += r.spans
	for _, k := range r.first {
		out.ExplainedRanges = append(out.ExplainedRanges, ExplainedRange{k, reason})
	}
	slices.SortFunc(out.ExplainedRanges, func(a, b ExplainedRange) int { return cmp.Compare(a.First, b.First) })
	out.ExplainedRanges = out.ExplainedRanges[:min(len(out.ExplainedRanges), maxExamples)]
}

// judgeCoarse finds what is surely missing: there cannot be more different
// numbers than records.
func (r *Result) judgeCoarse(l *lane, out *Lane, cut uint64) {
	from := max(1, cut)
	if r.window {
		from = max(from, l.first)
	}
	out.Coarse = true
	out.Delivered = min(l.coarse.have, l.last-min(from, l.last)+1)
	if l.coarse.explained > 0 {
		out.Explained[otherReason] = l.coarse.explained
	}
	if all := l.last - min(from, l.last) + 1; all > l.coarse.have+l.coarse.explained {
		out.Unexplained = all - l.coarse.have - l.coarse.explained
	}
}

// lowest is the lowest number that is there or explained.
func (l *lane) lowest() uint64 {
	lowest := l.first
	if n := l.delivered.first(); n > 0 {
		lowest = min(lowest, n)
	}
	for i := range l.explained {
		if n := l.explained[i].numbers.first(); n > 0 {
			lowest = min(lowest, n)
		}
	}
	return lowest
}

// takesOverAfter is the number that l goes on after, if it follows another
// incarnation whose log it took over: then it declares all numbers before its
// first as set aside. (So does a new buffer that was killed before anything was
// delivered.) 0: it began with something else.
func (l *lane) takesOverAfter() uint64 {
	for i := range l.explained {
		if e := &l.explained[i]; e.reason == "restart" {
			for s := range e.numbers.from(1) {
				if s.first == 1 && !l.delivered.has(1) && l.delivered.first() == s.last+1 {
					return s.last
				}
				break
			}
		}
	}
	return 0
}
