//go:build torture

package powercut

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
)

// judge holds what was read after a cut against what was promised until then,
// and tells the first promise that is broken; empty: none.
func judge(s *scenario, marks []mark, a answer, early bool) string {
	if a.Err != "" {
		return a.Err
	}
	for _, c := range s.classes {
		l := ledgerOf(marks, c.Name, early)
		v := verdict{scenario: s, ledger: l, answer: a, class: c.Name}
		if p := v.judge(); p != "" {
			return "class " + c.Name + ": " + p
		}
	}
	return ""
}

// verdict is the judgement of one class.
type verdict struct {
	scenario *scenario
	ledger   *ledger
	answer   answer
	class    string
	known    map[uint64]int // from before and after the cut
	seqs     map[int]uint64
	top      uint64 // the highest number that anybody was told of
}

func (v *verdict) judge() string {
	l, first := v.ledger, v.answer.First[v.class]
	if l.problem != "" {
		return l.problem
	}
	if len(l.acked) > 0 && l.incarnation != v.answer.Incarnation {
		return fmt.Sprintf("the incarnation was %s and is %s", l.incarnation, v.answer.Incarnation)
	}
	if p := v.learnAll(); p != "" {
		return p
	}
	for _, uplink := range v.readers() {
		r, ok := first[uplink]
		if !ok {
			return "uplink " + uplink + " is not known any more"
		}
		for _, p := range []func(string, read) string{v.delivery, v.explained, v.promised, v.fresh, v.again} {
			if p := p(uplink, r); p != "" {
				return "uplink " + uplink + ": " + p
			}
		}
	}
	return ""
}

func (v *verdict) readers() (names []string) {
	for uplink, classes := range v.scenario.uplinks {
		if classes == nil || slices.Contains(classes, v.class) {
			names = append(names, uplink)
		}
	}
	slices.Sort(names)
	return names
}

// learnAll gathers which event has which number, from all that was ever told: a
// number means one event, an event has one number.
func (v *verdict) learnAll() string {
	v.known = maps.Clone(v.ledger.known)
	note := func(seq uint64, g *gap) {
		v.top = max(v.top, seq)
		if g != nil {
			v.top = max(v.top, g.Last)
		}
	}
	for _, a := range v.ledger.uplinks {
		for _, x := range a.got {
			note(x.last, nil)
		}
		for _, g := range a.gaps {
			note(0, &g)
		}
	}
	for _, r := range v.answer.First[v.class] {
		for _, it := range r.Items {
			if p := learn(v.known, it); p != "" {
				return p
			}
			note(it.last(), it.Gap)
		}
	}
	var p string
	v.seqs, p = seqOf(v.known)
	return p
}

// delivery checks what was delivered by itself: in order, nothing invented.
func (v *verdict) delivery(uplink string, r read) string {
	if a := v.ledger.uplinks[uplink]; r.Cursor > 0 && (a == nil || r.Cursor > a.ackedTo) {
		return fmt.Sprintf("the cursor is at %d, beyond all that the uplink acknowledged", r.Cursor)
	}
	pos, id := r.Cursor, 0
	for _, it := range r.Items {
		if it.Seq <= pos {
			return fmt.Sprintf("number %d comes after %d", it.Seq, pos)
		}
		pos = it.last()
		if it.Bad != "" {
			return fmt.Sprintf("number %d is nothing that was appended: %s", it.Seq, it.Bad)
		}
		for k := range int(it.N) {
			if !v.ledger.appended[it.ID+k] {
				return fmt.Sprintf("number %d is event %d, which was never appended", it.Seq+uint64(k), it.ID+k)
			}
		}
		if it.N > 0 && it.ID <= id {
			return fmt.Sprintf("event %d comes after %d", it.ID, id)
		}
		if it.N > 0 {
			id = it.ID + int(it.N) - 1
		}
	}
	return ""
}

// gaps lists the gap records that an uplink knows of.
func (v *verdict) gaps(uplink string, r read) (list []gap) {
	if a := v.ledger.uplinks[uplink]; a != nil {
		list = slices.Clone(a.gaps)
	}
	for _, it := range r.Items {
		if it.Gap != nil {
			list = append(list, *it.Gap)
		}
	}
	return list
}

// explained checks that every number was delivered or is in a gap record, and
// that no gap record is over what is known to be an event, unless it was dropped.
func (v *verdict) explained(uplink string, r read) string {
	var have spans
	if a := v.ledger.uplinks[uplink]; a != nil {
		for _, x := range a.got {
			if x.first <= r.Cursor {
				have = append(have, span{x.first, min(x.last, r.Cursor)})
			}
		}
	}
	for _, it := range r.Items {
		have = append(have, span{it.Seq, it.last()})
	}
	for _, g := range v.gaps(uplink, r) {
		missing := g.spans()
		have = append(have, missing...)
		if slices.Contains(v.scenario.reasons, g.Reason) {
			continue
		}
		for seq, id := range v.known {
			if missing.holds(seq) && !(slices.Contains(v.scenario.unwritten, g.Reason) && (!v.acked(id) || v.delivered(seq))) {
				return fmt.Sprintf("a gap record (%d to %d, %s) stands over number %d, which is event %d", g.First, g.Last, g.Reason, seq, id)
			}
		}
	}
	if r.Next < 2 {
		return ""
	}
	if rest := have.merged().without(span{1, r.Next - 1}); len(rest) > 0 {
		return fmt.Sprintf("numbers %d to %d were neither delivered nor explained", rest[0].first, rest[0].last)
	}
	return ""
}

// delivered reports whether every uplink had acknowledged seq before the cut.
func (v *verdict) delivered(seq uint64) bool {
	return !slices.ContainsFunc(v.readers(), func(uplink string) bool {
		a := v.ledger.uplinks[uplink]
		return a == nil || a.ackedTo < seq
	})
}

// acked reports whether the event's source was told that it is safe.
func (v *verdict) acked(id int) bool {
	_, ok := slices.BinarySearch(v.ledger.acked, id)
	return ok
}

// promised checks that every acknowledged event that the uplink has not
// acknowledged is delivered, or dropped as the scenario allows.
func (v *verdict) promised(uplink string, r read) string {
	done, a := map[int]bool{}, v.ledger.uplinks[uplink]
	if a != nil {
		for id, seq := range a.ids {
			done[id] = seq <= a.ackedTo
		}
	}
	for _, it := range r.Items {
		for k := range int(it.N) {
			done[it.ID+k] = true
		}
	}
	var missing []int
	for _, id := range v.ledger.acked {
		if !done[id] {
			missing = append(missing, id)
		}
	}
	if len(missing) == 0 {
		return ""
	}
	var dropped spans
	for _, g := range v.gaps(uplink, r) {
		if slices.Contains(v.scenario.reasons, g.Reason) {
			dropped = append(dropped, g.spans()...)
		}
	}
	return v.wereDropped(missing, dropped.merged(), r)
}

// wereDropped checks that the missing events can be those that dropped stands
// for. Where nobody was told an event's number it lies between those of its
// neighbours: there must be as many dropped numbers as events are missing.
func (v *verdict) wereDropped(missing []int, dropped spans, r read) string {
	ids := slices.Sorted(maps.Keys(v.seqs))
	free := func(from, to uint64) (n int) {
		for seq := from; seq < to; seq++ {
			if _, taken := v.known[seq]; !taken && dropped.holds(seq) && !v.record(seq) {
				n++
			}
		}
		return n
	}
	for len(missing) > 0 {
		id := missing[0]
		if seq, ok := v.seqs[id]; ok {
			if !dropped.holds(seq) {
				return fmt.Sprintf("event %d, number %d, was acknowledged and is LOST", id, seq)
			}
			missing = missing[1:]
			continue
		}
		at, _ := slices.BinarySearch(ids, id)
		from, to, next := uint64(1), r.Next, 1<<60
		if at > 0 {
			from = v.seqs[ids[at-1]] + 1
		}
		if at < len(ids) {
			to, next = v.seqs[ids[at]], ids[at]
		}
		n := 0
		for n < len(missing) && missing[n] < next {
			n++
		}
		if f := free(from, to); f < n {
			return fmt.Sprintf("events %d to %d (%d) were acknowledged and are LOST: %d numbers are said to be dropped there",
				id, missing[n-1], n, f)
		}
		missing = missing[n:]
	}
	return ""
}

// record reports whether a gap record has the number seq.
func (v *verdict) record(seq uint64) bool {
	for _, r := range v.answer.First[v.class] {
		for _, it := range r.Items {
			if it.Gap != nil && it.Seq == seq {
				return true
			}
		}
	}
	return false
}

// fresh checks the number of the event that was appended after the cut.
func (v *verdict) fresh(_ string, r read) string {
	switch {
	case r.New == 0:
		return "an event that was appended after the cut and acknowledged did not come"
	case r.New <= v.top, r.New < r.Next:
		return fmt.Sprintf("the new event has the number %d; %d was told before", r.New, max(v.top, r.Next-1))
	}
	for uplink, other := range v.answer.First[v.class] {
		if other.New != r.New {
			return fmt.Sprintf("the new event has the number %d, for uplink %s %d", r.New, uplink, other.New)
		}
	}
	return ""
}

// again checks what came after a clean close.
func (v *verdict) again(uplink string, first read) string {
	r, ok := v.answer.Second[v.class][uplink]
	if !ok {
		return "is not known any more after a clean close"
	}
	if r.Cursor != first.New {
		return fmt.Sprintf("after a clean close the cursor is at %d; %d was acknowledged", r.Cursor, first.New)
	}
	var have spans
	found := false
	for _, it := range r.Items {
		have = append(have, span{it.Seq, it.last()})
		switch {
		case it.Gap != nil:
			have = append(have, it.Gap.spans()...)
		case it.ID == lastID && it.N == 1:
			found = true
		default:
			return fmt.Sprintf("after a clean close number %d is %+v", it.Seq, it)
		}
	}
	if !found {
		return "after a clean close an event that was not acknowledged did not come"
	}
	if rest := have.merged().without(span{r.Cursor + 1, r.Next - 1}); len(rest) > 0 {
		return fmt.Sprintf("after a clean close numbers %d to %d were neither delivered nor explained", rest[0].first, rest[0].last)
	}
	return ""
}

var (
	incarnations = regexp.MustCompile(`\b[0-9a-f]{8}\b`)
	numbers      = regexp.MustCompile(`[0-9]+`)
)

// kindOf is a failure without what differs from case to case.
func kindOf(failure string) string {
	return numbers.ReplaceAllString(incarnations.ReplaceAllString(failure[:min(len(failure), 300)], "H"), "N")
}
