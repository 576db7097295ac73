//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// ledger compares the records of a topic with what a publisher sent. It is
// filled by add, in the order of each partition, and read by report.
type ledger struct {
	agent, source, class string
	sent                 int // messages of the publisher, in turn by machine
	messages             int // records that hold one of them
	repeatedIDs          int // records whose sequence number was there before
	keys                 map[string]*keyAccount
	lanes                map[string]*lane // by "agent/class/incarnation"
	faults               map[string]int   // by kind
	example              map[string]string
}

// keyAccount is what arrived under one key.
type keyAccount struct {
	partition int32
	seen      map[int]bool // numbers of its messages
	last      int          // highest number so far
	lane      *lane        // that lastSeq is of
	lastSeq   uint64       // highest sequence number so far
}

// lane is what arrived of one sequence.
type lane struct {
	seen      map[uint64]uint32 // sequence number to checksum of key, time and value
	explained map[uint64]bool   // by gap records
	highest   uint64
}

// envelope is a record's CloudEvents attributes.
type envelope struct {
	agent, class, incarnation string
	seq                       uint64
	source, kind, subject     string
	contentType               string
	time                      time.Time
}

// Kinds of faults that a ledger counts.
const (
	faultHeader    = "header"    // an attribute is missing, double or wrong
	faultForeign   = "foreign"   // nobody sent it
	faultAltered   = "altered"   // key or payload is not what was sent
	faultReordered = "reordered" // it came after a later one of its key, or in another partition
	faultConflict  = "conflict"  // one sequence number, two events
	faultSequence  = "sequence"  // a number is missing and no gap record says why
)

func newLedger(agent, source, class string, sent int) *ledger {
	return &ledger{agent: agent, source: source, class: class, sent: sent, keys: map[string]*keyAccount{},
		lanes: map[string]*lane{}, faults: map[string]int{}, example: map[string]string{}}
}

func (l *ledger) fault(kind, format string, args ...any) {
	l.faults[kind]++
	if l.example[kind] == "" {
		l.example[kind] = fmt.Sprintf(format, args...)
	}
}

// add takes the next record of its partition into account.
func (l *ledger) add(r *kgo.Record) {
	where := fmt.Sprintf("partition %d offset %d", r.Partition, r.Offset)
	e, err := readEnvelope(r)
	if err != nil {
		l.fault(faultHeader, "%s: %v", where, err)
		return
	}
	if e.agent != l.agent || e.class != l.class {
		l.fault(faultForeign, "%s: of agent %q, class %q", where, e.agent, e.class)
		return
	}
	repeated := l.addSeq(e, r, where)
	switch e.kind {
	case "sluice.mqtt.message.v1":
		l.addMessage(e, r, repeated, where)
	case "sluice.gap.v1":
		l.addGap(e, r, where)
	default:
		l.fault(faultForeign, "%s: type %q", where, e.kind)
	}
}

// addSeq notes the sequence number and tells whether it was there before.
func (l *ledger) addSeq(e envelope, r *kgo.Record, where string) bool {
	in := l.lane(e)
	sum := crc32.ChecksumIEEE(fmt.Appendf(nil, "%q %d %q", r.Key, e.time.UnixNano(), r.Value))
	before, repeated := in.seen[e.seq]
	if repeated && before != sum {
		l.fault(faultConflict, "%s: sequence number %d again, another event", where, e.seq)
	}
	if repeated {
		l.repeatedIDs++
	}
	in.seen[e.seq] = sum
	in.highest = max(in.highest, e.seq)
	return repeated
}

func (l *ledger) lane(e envelope) *lane {
	name := e.agent + "/" + e.class + "/" + e.incarnation
	if l.lanes[name] == nil {
		l.lanes[name] = &lane{seen: map[uint64]uint32{}, explained: map[uint64]bool{}}
	}
	return l.lanes[name]
}

func (l *ledger) addMessage(e envelope, r *kgo.Record, repeated bool, where string) {
	var body struct{ Machine, N int }
	if err := json.Unmarshal(r.Value, &body); err != nil {
		l.fault(faultAltered, "%s: %v", where, err)
		return
	}
	if body.Machine < 0 || body.Machine >= machines || body.N < 1 || body.N > share(body.Machine, l.sent) {
		l.fault(faultForeign, "%s: message %d of machine %d", where, body.N, body.Machine)
		return
	}
	topic := topicOf(body.Machine)
	if string(r.Key) != topic || !bytes.Equal(r.Value, payloadOf(body.Machine, body.N)) {
		l.fault(faultAltered, "%s: key %q, value %.60q", where, r.Key, r.Value)
	}
	if e.subject != topic || e.source != "/"+l.agent+"/"+l.source || e.contentType != "application/json" {
		l.fault(faultHeader, "%s: subject %q, source %q, content type %q", where, e.subject, e.source, e.contentType)
	}
	l.addToKey(topic, body.N, e, repeated, r)
}

// addToKey checks the order. What was there before is a duplicate and says
// nothing about it, wherever it stands.
func (l *ledger) addToKey(key string, n int, e envelope, repeated bool, r *kgo.Record) {
	k := l.keys[key]
	if k == nil {
		k = &keyAccount{partition: r.Partition, seen: map[int]bool{}}
		l.keys[key] = k
	}
	if k.lane != l.lane(e) { // sequence numbers start again with a new buffer
		k.lane, k.lastSeq = l.lane(e), 0
	}
	late := !k.seen[n] && n < k.last || !repeated && e.seq < k.lastSeq
	if late || r.Partition != k.partition {
		l.fault(faultReordered, "partition %d offset %d: message %d of %s (sequence number %d) after %d (%d)",
			r.Partition, r.Offset, n, key, e.seq, k.last, k.lastSeq)
	}
	l.messages++
	k.seen[n] = true
	k.last, k.lastSeq = max(k.last, n), max(k.lastSeq, e.seq)
}

func (l *ledger) addGap(e envelope, r *kgo.Record, where string) {
	var gap struct {
		First, Last, Count uint64
		Reason             string
	}
	err := json.Unmarshal(r.Value, &gap)
	if err != nil || gap.Reason == "" || gap.First == 0 || gap.Last < gap.First || gap.Count != gap.Last-gap.First+1 {
		l.fault(faultHeader, "%s: bad gap record %.120q (%v)", where, r.Value, err)
		return
	}
	in := l.lane(e)
	in.highest = max(in.highest, gap.Last)
	for seq := gap.First; seq <= gap.Last; seq++ {
		in.explained[seq] = true
	}
}

// missing is how many of the messages that were sent have not arrived.
func (l *ledger) missing() int { return l.sent - l.delivered() }

// delivered is how many different messages have arrived.
func (l *ledger) delivered() int {
	n := 0
	for _, k := range l.keys {
		n += len(k.seen)
	}
	return n
}

// report is the outcome of a scenario.
type report struct {
	sent, delivered, missing, duplicates int
	repeatedIDs                          int // duplicates under the same id; the others were taken twice
	explained                            int // sequence numbers that gap records account for
	incarnations                         int
	faults                               map[string]int
	example                              map[string]string
}

// report counts up what add has seen so far.
func (l *ledger) report() report {
	out := report{sent: l.sent, delivered: l.delivered(), missing: l.missing(), incarnations: len(l.lanes),
		faults: maps.Clone(l.faults), example: maps.Clone(l.example)}
	out.duplicates, out.repeatedIDs = l.messages-out.delivered, l.repeatedIDs
	for name, in := range l.lanes {
		out.explained += len(in.explained)
		for seq := uint64(1); seq <= in.highest; seq++ {
			if _, ok := in.seen[seq]; !ok && !in.explained[seq] {
				out.faults[faultSequence]++
				out.example[faultSequence] = fmt.Sprintf("%s has no %d of %d", name, seq, in.highest)
			}
		}
	}
	return out
}

// String is the line that a scenario prints.
func (r report) String() string {
	s := fmt.Sprintf("sent=%d delivered=%d missing=%d duplicates=%d reordered=%d repeated_ids=%d gap_explained=%d",
		r.sent, r.delivered, r.missing, r.duplicates, r.faults[faultReordered], r.repeatedIDs, r.explained)
	for _, kind := range slices.Sorted(maps.Keys(r.faults)) {
		if kind != faultReordered {
			s += fmt.Sprintf(" %s=%d", kind, r.faults[kind])
		}
	}
	return s
}

// readEnvelope reads and checks the attributes that every record must have.
func readEnvelope(r *kgo.Record) (envelope, error) {
	h, err := headersOf(r)
	if err != nil {
		return envelope{}, err
	}
	for _, name := range []string{"ce_specversion", "ce_id", "ce_source", "ce_type", "ce_subject", "ce_time", "content-type"} {
		if h[name] == "" {
			return envelope{}, fmt.Errorf("no header %s", name)
		}
	}
	if h["ce_specversion"] != "1.0" {
		return envelope{}, fmt.Errorf("ce_specversion %q", h["ce_specversion"])
	}
	e := envelope{source: h["ce_source"], kind: h["ce_type"], subject: h["ce_subject"], contentType: h["content-type"]}
	if err := e.readID(h["ce_id"]); err != nil {
		return envelope{}, err
	}
	if e.time, err = time.Parse("2006-01-02T15:04:05.999999999Z", h["ce_time"]); err != nil {
		return envelope{}, fmt.Errorf("ce_time %q is not RFC 3339 in UTC", h["ce_time"])
	}
	if r.Timestamp.UnixMilli() != e.time.UnixMilli() {
		return envelope{}, fmt.Errorf("ce_time %q, but the record's timestamp is %s", h["ce_time"], r.Timestamp.UTC())
	}
	return e, nil
}

func headersOf(r *kgo.Record) (map[string]string, error) {
	h := map[string]string{}
	for _, header := range r.Headers {
		if _, twice := h[header.Key]; twice {
			return nil, fmt.Errorf("header %s twice", header.Key)
		}
		h[header.Key] = string(header.Value)
	}
	return h, nil
}

// readID takes "agent/class/incarnation/seq" apart.
func (e *envelope) readID(id string) error {
	parts := strings.Split(id, "/")
	if len(parts) != 4 || len(parts[2]) != 8 || strings.Trim(parts[2], "0123456789abcdef") != "" {
		return fmt.Errorf("ce_id %q is not agent/class/8 hex digits/number", id)
	}
	seq, err := strconv.ParseUint(parts[3], 10, 64)
	if err != nil || seq == 0 || parts[3] != strconv.FormatUint(seq, 10) {
		return fmt.Errorf("ce_id %q does not end with a number from 1", id)
	}
	e.agent, e.class, e.incarnation, e.seq = parts[0], parts[1], parts[2], seq
	return nil
}
