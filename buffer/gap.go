package buffer

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"sluice/drivers"
)

// TypeGap is the CloudEvents type of a gap record: it says which sequence
// numbers of its class are missing and why. Its value is
//
//	{"first":100,"last":199,"count":100,"reason":"drop_oldest","from":T,"to":T}
//
// with from and to the times of the first and the last missing event, as far as
// they are known (else the time at which the loss was found). "kept", if it is
// there, lists the numbers between first and last that are not missing.
const TypeGap = "sluice.gap.v1"

// SourceBuffer is the source of events that the buffer itself makes.
const SourceBuffer = "buffer"

// Reasons of a gap record.
const (
	reasonDropOldest = "drop_oldest"
	reasonDropNewest = "drop_newest"
	reasonExpired    = "expired"
	reasonCorrupt    = "corrupt"
	reasonRejected   = "rejected"
	reasonThinned    = "thinned"
	reasonRestart    = "restart"  // set aside and, as far as they were not delivered, not used
	reasonNotKept    = "not_kept" // removed before this uplink was (again) configured
)

// gap is a run of missing sequence numbers.
type gap struct {
	First  uint64    `json:"first"`
	Last   uint64    `json:"last"`
	Count  uint64    `json:"count"`
	Reason string    `json:"reason"`
	From   time.Time `json:"from"`
	To     time.Time `json:"to"`
	Kept   []uint64  `json:"kept,omitempty"` // ascending
}

// gapAt is a gap record and its own place in the log.
type gapAt struct {
	seq uint64
	gap gap
}

func newGap(first, last uint64, reason string, from, to time.Time) gap {
	return gap{First: first, Last: last, Count: last - first + 1, Reason: reason, From: from.UTC(), To: to.UTC()}
}

// gapsOf are gaps that stand for spans, which are ascending: as few as may be
// without listing more than maxKept numbers each.
func gapsOf(spans []span, reason string, from, to time.Time) (gaps []gap) {
	const maxKept = 1024
	for _, s := range spans {
		n := len(gaps) - 1
		if n < 0 || s.first-gaps[n].Last-1 > maxKept-uint64(len(gaps[n].Kept)) {
			gaps = append(gaps, newGap(s.first, s.last, reason, from, to))
			continue
		}
		g := &gaps[n]
		for seq := g.Last + 1; seq < s.first; seq++ {
			g.Kept = append(g.Kept, seq)
		}
		g.Last, g.Count = s.last, g.Count+s.last-s.first+1
	}
	return gaps
}

// spans lists the missing numbers.
func (g gap) spans() (missing []span) {
	return holes(g.First, g.Last, g.Kept)
}

// holes lists the numbers of first to last that are not among seqs, which are
// ascending.
func holes(first, last uint64, seqs []uint64) (missing []span) {
	for _, seq := range seqs {
		if seq < first {
			continue
		}
		if seq > last {
			break
		}
		if seq > first {
			missing = append(missing, span{first, seq - 1})
		}
		first = seq + 1
	}
	if first <= last {
		missing = append(missing, span{first, last})
	}
	return missing
}

// sortSpans sorts spans by their first numbers.
func sortSpans(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.first, b.first) })
	return spans
}

// subtract takes what is known out of spans; both are ascending.
func subtract(spans, known []span) (left []span) {
	for _, s := range spans {
		for _, k := range known {
			if k.last < s.first || k.first > s.last {
				continue
			}
			if k.first > s.first {
				left = append(left, span{s.first, k.first - 1})
			}
			s.first = k.last + 1
		}
		if s.first <= s.last {
			left = append(left, s)
		}
	}
	return left
}

func (g gap) value() []byte {
	b, err := json.Marshal(g)
	if err != nil { // only a time beyond the year 9999 can do that
		g.From, g.To = time.Unix(0, 0).UTC(), time.Unix(0, 0).UTC()
		b, _ = json.Marshal(g)
	}
	return b
}

func parseGap(b []byte) (gap, error) {
	var g gap
	if err := json.Unmarshal(b, &g); err != nil {
		return g, fmt.Errorf("gap record: %w", err)
	}
	if g.First == 0 || g.Last < g.First {
		return g, fmt.Errorf("gap record: first %d, last %d", g.First, g.Last)
	}
	return g, nil
}

// event is the gap as an event of class.
func (g gap) event(class string) drivers.Event {
	return drivers.Event{Class: class, Source: SourceBuffer, Subject: class, Type: TypeGap,
		ContentType: drivers.ContentJSON, Time: time.Now().UTC(), Payload: g.value()}
}

// inFew makes as few records as may be of what is missing and of what records that
// are not there any more had said. What one of those had said comes before what
// stands for its own number: a crash between the two must not hide it.
func inFew(missing, again []gap) []gap {
	var listed []gap
	for _, g := range again {
		if len(g.Kept) > 0 {
			listed = append(listed, g)
		} else {
			missing = append(missing, g)
		}
	}
	return append(listed, mergeGaps(missing)...)
}

// mergeGaps sorts gaps and joins those of one reason that touch or overlap. Where
// two reasons overlap the first stands.
func mergeGaps(gaps []gap) []gap {
	slices.SortStableFunc(gaps, func(a, b gap) int { return cmp.Compare(a.First, b.First) })
	var out []gap
	for _, g := range gaps {
		n := len(out) - 1
		if n < 0 || g.First > out[n].Last+1 || g.First == out[n].Last+1 && g.Reason != out[n].Reason {
			out = append(out, g)
			continue
		}
		switch {
		case g.Last <= out[n].Last:
		case g.Reason == out[n].Reason:
			out[n].Last, out[n].Count, out[n].To = g.Last, g.Last-out[n].First+1, g.To
		default:
			g.First = out[n].Last + 1
			g.Count = g.Last - g.First + 1
			out = append(out, g)
		}
	}
	return out
}
