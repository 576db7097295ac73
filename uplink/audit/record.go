package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Headers of a record (docs/records.md).
const (
	headerID     = "ce_id"
	headerType   = "ce_type"
	headerTime   = "ce_time"
	headerReplay = "sluice_replay"
	headerLate   = "sluice_late"

	typePrefix = "sluice."
	typeGap    = "sluice.gap.v1"
)

const (
	// maxSeq is the highest number that is believed: at a million a second it is
	// reached after 292,000 years.
	maxSeq = 1<<63 - 1

	maxName    = 64
	maxReasons = 16 // of one lane; what is beyond counts as otherReason
	maxReason  = 32

	otherReason = "other"
)

// envelope is what the headers of a record of ours say.
type envelope struct {
	lane    []byte // <agent>/<class>/<incarnation>; not yet checked
	seq     uint64
	gap     bool
	replay  bool
	late    bool
	time    []byte // ce_time
	problem string // why the id is none
}

// readHeaders reads the headers of a record; ours: it is one of an agent.
func readHeaders(headers []kgo.RecordHeader) (e envelope, ours bool) {
	var id []byte
	for i := range headers {
		h := &headers[i]
		switch h.Key {
		case headerID:
			id = h.Value
		case headerType:
			ours = bytes.HasPrefix(h.Value, []byte(typePrefix))
			e.gap = string(h.Value) == typeGap
		case headerTime:
			e.time = h.Value
		case headerReplay:
			e.replay = true
		case headerLate:
			e.late = string(h.Value) == "true"
		}
	}
	if !ours {
		return e, false
	}
	e.lane, e.seq, e.problem = splitID(id)
	return e, true
}

// splitID takes the number off an id.
func splitID(id []byte) (lane []byte, seq uint64, problem string) {
	if len(id) == 0 {
		return nil, 0, "no ce_id"
	}
	i := bytes.LastIndexByte(id, '/')
	digits := id[i+1:]
	if i < 0 || len(digits) == 0 || len(digits) > 19 || digits[0] == '0' {
		return nil, 0, "the end is not a number from 1"
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return nil, 0, "the end is not a number from 1"
		}
		seq = seq*10 + uint64(c-'0')
	}
	if seq > maxSeq {
		return nil, 0, "the number is too large"
	}
	return id[:i], seq, ""
}

// splitLane takes a lane's name apart and checks its parts.
func splitLane(lane string) (agent, class, incarnation string, problem string) {
	parts := bytes.Split([]byte(lane), []byte("/"))
	if len(parts) != 3 {
		return "", "", "", "it has not the form agent/class/incarnation/number"
	}
	for _, p := range parts[:2] {
		if len(p) == 0 || len(p) > maxName || bytes.ContainsFunc(p, func(r rune) bool { return r != '.' && !isNameRune(r) }) {
			return "", "", "", "agent or class is not a name (1 to 64 of A-Z a-z 0-9 . _ -)"
		}
	}
	if len(parts[2]) != 8 || bytes.ContainsFunc(parts[2], func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') }) {
		return "", "", "", "the incarnation is not 8 hex digits"
	}
	a, c := len(parts[0]), len(parts[0])+1+len(parts[1])
	return lane[:a], lane[a+1 : c], lane[c+1:], "" // of one string
}

func isNameRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-'
}

// gapRecord is the value of a gap record.
type gapRecord struct {
	First  uint64   `json:"first"`
	Last   uint64   `json:"last"`
	Reason string   `json:"reason"`
	Kept   []uint64 `json:"kept"`
}

// parseGap reads the gap record with the number own. A record explains only what
// is before itself: one that says more is not believed, or it would explain
// everything to come.
func parseGap(value []byte, own uint64) (g gapRecord, err error) {
	if err := json.Unmarshal(value, &g); err != nil {
		return g, fmt.Errorf("gap record: %w", err)
	}
	switch {
	case g.First == 0 || g.Last < g.First:
		return g, fmt.Errorf("gap record: first %d, last %d", g.First, g.Last)
	case g.Last >= own:
		return g, fmt.Errorf("gap record %d says that %d to %d are missing, which is not before itself", own, g.First, g.Last)
	case g.Reason == "":
		return g, errors.New("gap record without a reason")
	}
	for i, k := range g.Kept {
		if k < g.First || k > g.Last || i > 0 && k <= g.Kept[i-1] {
			return g, fmt.Errorf("gap record: kept is not an ascending list within %d to %d", g.First, g.Last)
		}
	}
	if len(g.Reason) > maxReason || bytes.ContainsFunc([]byte(g.Reason), func(r rune) bool { return !isNameRune(r) }) {
		g.Reason = otherReason
	}
	return g, nil
}

// spans calls visit for each run of missing numbers.
func (g gapRecord) spans(visit func(span)) {
	first := g.First
	for _, k := range g.Kept {
		if k > first {
			visit(span{first, k - 1})
		}
		first = k + 1
	}
	if first <= g.Last {
		visit(span{first, g.Last})
	}
}
