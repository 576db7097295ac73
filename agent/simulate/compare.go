package simulate

import (
	"encoding/json"
	"fmt"
	"sort"

	"github.com/twmb/franz-go/pkg/kgo"
)

// maxNotes bounds how many findings of each kind a Report describes in words.
const maxNotes = 5

// Report is what a comparison of the plant's ledger with the records in Kafka
// found. All numbers but the first two have to be 0.
type Report struct {
	Taken     uint64 // events that the plant knows to be taken
	Delivered uint64 // of these, the ones that Kafka holds

	Lost       uint64 // taken and not there
	Duplicated uint64 // records beyond the first of an event
	Reordered  uint64 // events that stand behind a later one of their stream
	Altered    uint64 // events whose content isn't what the plant sent
	Foreign    uint64 // records that the plant knows nothing of
	Headers    uint64 // records whose key or headers aren't what they must be
	Gaps       uint64 // sequence numbers that are missing within a class

	Bad   uint64 // readings with a tag that couldn't be read; they aren't an error by themselves
	Notes []string
	noted map[string]int
}

// OK says whether everything arrived once, in order and unchanged.
func (r *Report) OK() bool {
	return r.Lost|r.Duplicated|r.Reordered|r.Altered|r.Foreign|r.Headers|r.Gaps == 0 && r.Delivered == r.Taken
}

// Line is the result in one line.
func (r *Report) Line() string {
	return fmt.Sprintf("taken=%d delivered=%d lost=%d duplicated=%d", r.Taken, r.Delivered, r.Lost, r.Duplicated)
}

// note describes one finding, as long as there aren't too many of its kind.
func (r *Report) note(kind, format string, args ...any) {
	if r.noted == nil {
		r.noted = make(map[string]int)
	}
	r.noted[kind]++
	switch n := r.noted[kind]; {
	case n <= maxNotes:
		r.Notes = append(r.Notes, kind+": "+fmt.Sprintf(format, args...))
	case n == maxNotes+1:
		r.Notes = append(r.Notes, kind+": and more")
	}
}

// expectation is what the records of a run must look like.
type expectation struct {
	agent  string            // the agent's id
	run    string            // the run that the machines publish in
	meters map[string]string // by the Modbus device's name: the source that polls it
	mqtt   string            // the name of the MQTT source
}

// comparison is a Report in the making.
type comparison struct {
	Report
	expectation
	ledger  map[string][]entry
	seen    map[string][]bool    // by stream: which events were found
	newest  map[string]*position // by stream: the last event found
	ids     map[string]bool      // the ce_id of each record
	numbers map[string]*numbers  // by class and incarnation
}

// position is where in the topics an event was found.
type position struct {
	n         uint64
	topic     string
	partition int32
}

// numbers are the sequence numbers of one class.
type numbers struct{ count, highest uint64 }

// compare checks records, which stand in order of partition and offset, against
// the ledger.
func compare(ledger *Ledger, want expectation, records []*kgo.Record) *Report {
	c := &comparison{
		expectation: want, ledger: ledger.snapshot(),
		seen: make(map[string][]bool), newest: make(map[string]*position),
		ids: make(map[string]bool), numbers: make(map[string]*numbers),
	}
	for name, s := range c.ledger {
		c.seen[name] = make([]bool, len(s))
	}
	for _, r := range records {
		c.record(r)
	}
	c.streams()
	c.sequences()
	return &c.Report
}

// record checks one record.
func (c *comparison) record(r *kgo.Record) {
	h := headersOf(r)
	where := fmt.Sprintf("%s/%d@%d", r.Topic, r.Partition, r.Offset)
	stream, n, problem := c.event(r, h)
	if problem != "" {
		c.Foreign++
		c.note("foreign record", "%s: %s", where, problem)
		return
	}
	if problem := c.headerProblem(r, h, stream); problem != "" {
		c.Headers++
		c.note("wrong record", "%s: %s", where, problem)
	}
	if id := h["ce_id"]; c.ids[id] {
		c.Duplicated++
		c.note("duplicate", "%s: ce_id %s is there twice", where, id)
		return
	} else {
		c.ids[id] = true
		c.number(id)
	}
	if n > 0 {
		c.found(r, stream, n, where)
	}
}

// found notes that event n of the stream is there.
func (c *comparison) found(r *kgo.Record, stream string, n uint64, where string) {
	if c.seen[stream][n-1] {
		c.Duplicated++
		c.note("duplicate", "%s: %s number %d is there twice, with different ids", where, stream, n)
		return
	}
	c.seen[stream][n-1] = true
	if c.ledger[stream][n-1].confirmed {
		c.Delivered++
	}
	last := c.newest[stream]
	if last == nil {
		last = &position{n: n, topic: r.Topic, partition: r.Partition}
		c.newest[stream] = last
	}
	if n < last.n || r.Topic != last.topic || r.Partition != last.partition {
		c.Reordered++
		c.note("out of order", "%s: %s number %d comes after number %d of %s/%d", where, stream, n, last.n, last.topic, last.partition)
		return
	}
	last.n = n
}

// event says which event of which stream a record is. n is 0 for a record that
// needs no counting: a reading of a frozen meter, or one without its number.
func (c *comparison) event(r *kgo.Record, h map[string]string) (stream string, n uint64, problem string) {
	switch h["ce_type"] {
	case "sluice.mqtt.message.v1":
		stream, n, problem = c.message(r)
	case "sluice.modbus.reading.v1":
		stream, n, problem = c.reading(r)
	default:
		return "", 0, fmt.Sprintf("ce_type is %q: %.200s", h["ce_type"], r.Value)
	}
	if problem == "" && n > uint64(len(c.ledger[stream])) {
		problem = fmt.Sprintf("the plant never sent number %d of %s", n, stream)
	}
	return stream, n, problem
}

func (c *comparison) message(r *kgo.Record) (stream string, n uint64, problem string) {
	var m struct {
		Run, Topic string
		N          uint64
	}
	if err := json.Unmarshal(r.Value, &m); err != nil {
		return "", 0, fmt.Sprintf("the payload is no JSON of a machine: %v", err)
	}
	if m.Run != c.run || m.N == 0 {
		return "", 0, fmt.Sprintf("the payload is from run %q, number %d, not from this run, %q", m.Run, m.N, c.run)
	}
	if s := c.ledger[m.Topic]; m.N <= uint64(len(s)) && s[m.N-1].sum != checksum(r.Value) {
		c.Altered++
		c.note("altered", "%s number %d isn't what the machine sent", m.Topic, m.N)
	}
	return m.Topic, m.N, ""
}

func (c *comparison) reading(r *kgo.Record) (stream string, n uint64, problem string) {
	var m struct {
		Device string
		Values map[string]json.RawMessage
		Bad    map[string]string
	}
	if err := json.Unmarshal(r.Value, &m); err != nil {
		return "", 0, fmt.Sprintf("the value is no reading: %v", err)
	}
	if _, ok := c.meters[m.Device]; !ok {
		return "", 0, fmt.Sprintf("there is no meter %q", m.Device)
	}
	if len(m.Bad) > 0 {
		c.Bad++
		c.note("bad reading", "%s: %v", m.Device, m.Bad)
	}
	answer, ok := m.Values["answer"]
	if !ok {
		return m.Device, 0, ""
	}
	if err := json.Unmarshal(answer, &n); err != nil {
		return "", 0, fmt.Sprintf("the number of the answer is %s", answer)
	}
	var power float32
	if err := json.Unmarshal(m.Values["power"], &power); n > 0 && (err != nil || power != powerAt(m.Device, uint32(n))) {
		c.Altered++
		c.note("altered", "%s answer %d: power is %s, not %v", m.Device, n, m.Values["power"], powerAt(m.Device, uint32(n)))
	}
	return m.Device, n, ""
}

// streams looks for what is missing.
func (c *comparison) streams() {
	for _, name := range sortedKeys(c.ledger) {
		for i, e := range c.ledger[name] {
			if !e.confirmed {
				continue
			}
			c.Taken++
			if !c.seen[name][i] {
				c.Lost++
				c.note("lost", "%s number %d", name, i+1)
			}
		}
	}
}

// number notes the sequence number in an id that headerProblem has checked.
func (c *comparison) number(id string) {
	class, incarnation, seq, ok := parseID(c.agent, id)
	if !ok {
		return
	}
	key := class + "/" + incarnation
	if c.numbers[key] == nil {
		c.numbers[key] = &numbers{}
	}
	c.numbers[key].count++
	c.numbers[key].highest = max(c.numbers[key].highest, seq)
}

// sequences checks that each class is numbered 1, 2, 3 … without a hole: ids
// are unique, so that holds exactly if there are as many as the highest says.
func (c *comparison) sequences() {
	for _, key := range sortedKeys(c.numbers) {
		if n := c.numbers[key]; n.count != n.highest {
			c.Gaps += n.highest - n.count
			c.note("gap", "class %s has %d records, but the highest sequence number is %d", key, n.count, n.highest)
		}
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
