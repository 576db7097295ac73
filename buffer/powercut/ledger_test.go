//go:build torture

package powercut

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// What the recorded process reports, by one write each.
const (
	markOpen   = "open"   // the buffer is open
	markAppend = "append" // an event is about to be handed in
	markAcked  = "acked"  // it was acknowledged
	markGot    = "got"    // an uplink has read a batch
	markAck    = "ack"    // an uplink is about to acknowledge
)

type mark struct {
	Kind        string `json:"k"`
	Class       string `json:"c,omitempty"`
	Uplink      string `json:"u,omitempty"`
	ID          int    `json:"i,omitempty"`
	N           int    `json:"m,omitempty"` // of ids that follow; 0 is one
	Seq         uint64 `json:"s,omitempty"`
	Incarnation string `json:"n,omitempty"`
	Items       []item `json:"x,omitempty"`
}

func parseMarks(b []byte) (list []mark, err error) {
	for line := range bytes.Lines(b) {
		var m mark
		if err := json.Unmarshal(line, &m); err != nil {
			return nil, fmt.Errorf("mark %.80q: %w", line, err)
		}
		list = append(list, m)
	}
	return list, nil
}

// ledger is what was promised of a class until a certain instant.
type ledger struct {
	incarnation string
	appended    map[int]bool
	acked       []int          // in the order in which they were handed in
	known       map[uint64]int // which event has a number, from what any uplink got
	uplinks     map[string]*account
	problem     string // the marks contradict each other, without any cut
}

// account is an uplink in a ledger.
type account struct {
	ackedTo uint64
	got     spans // numbers of all that it was given
	ids     map[int]uint64
	gaps    []gap // that it was told of
}

// ledgerOf sums up marks. With early an event counts as acknowledged when it was
// handed in.
func ledgerOf(marks []mark, class string, early bool) *ledger {
	l := &ledger{appended: map[int]bool{}, known: map[uint64]int{}, uplinks: map[string]*account{}}
	for _, m := range marks {
		if m.Kind == markOpen {
			l.incarnation = m.Incarnation
		}
		if m.Class != class {
			continue
		}
		switch m.Kind {
		case markAppend, markAcked:
			for id := m.ID; id < m.ID+max(m.N, 1); id++ {
				l.appended[id] = true
				if early == (m.Kind == markAppend) {
					l.acked = append(l.acked, id)
				}
			}
		case markGot:
			l.got(l.account(m.Uplink), m)
		case markAck:
			a := l.account(m.Uplink)
			a.ackedTo = max(a.ackedTo, m.Seq)
		}
	}
	slices.Sort(l.acked)
	return l
}

func (l *ledger) account(uplink string) *account {
	a := l.uplinks[uplink]
	if a == nil {
		a = &account{ids: map[int]uint64{}}
		l.uplinks[uplink] = a
	}
	return a
}

func (l *ledger) got(a *account, m mark) {
	for _, it := range m.Items {
		a.got = append(a.got, span{it.Seq, it.last()})
		switch {
		case it.Gap != nil:
			a.gaps = append(a.gaps, *it.Gap)
		case it.Bad != "":
			l.problem = "before the cut an uplink got what nobody appended: " + it.Bad
		}
		for k := range it.N {
			a.ids[it.ID+int(k)] = it.Seq + k
		}
		if p := learn(l.known, it); p != "" {
			l.problem = "before the cut " + p
		}
	}
}

// learn adds the numbers of a run to known; what contradicts is told.
func learn(known map[uint64]int, it item) string {
	for k := range it.N {
		seq, id := it.Seq+k, it.ID+int(k)
		if before, ok := known[seq]; ok && before != id {
			return fmt.Sprintf("number %d was event %d and is event %d", seq, before, id)
		}
		known[seq] = id
	}
	return ""
}

// span is a run of numbers.
type span struct{ first, last uint64 }

type spans []span

// merged is s in order, without overlaps.
func (s spans) merged() (out spans) {
	slices.SortFunc(s, func(a, b span) int {
		if a.first < b.first {
			return -1
		}
		return 1
	})
	for _, x := range s {
		if n := len(out) - 1; n >= 0 && x.first <= out[n].last+1 {
			out[n].last = max(out[n].last, x.last)
			continue
		}
		out = append(out, x)
	}
	return out
}

// without is what of x lies in no span of s, which is merged.
func (s spans) without(x span) (rest spans) {
	for _, y := range s {
		if y.last < x.first || y.first > x.last {
			continue
		}
		if y.first > x.first {
			rest = append(rest, span{x.first, y.first - 1})
		}
		if y.last >= x.last {
			return rest
		}
		x.first = y.last + 1
	}
	return append(rest, x)
}

func (s spans) holds(n uint64) bool {
	return slices.ContainsFunc(s, func(x span) bool { return x.first <= n && n <= x.last })
}

// seqOf turns known around; an event with two numbers is told.
func seqOf(known map[uint64]int) (map[int]uint64, string) {
	out := make(map[int]uint64, len(known))
	for _, seq := range slices.Sorted(maps.Keys(known)) {
		id := known[seq]
		if before, twice := out[id]; twice {
			return nil, fmt.Sprintf("event %d has the numbers %d and %d", id, before, seq)
		}
		out[id] = seq
	}
	return out, ""
}
