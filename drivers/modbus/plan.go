package modbus

import (
	"cmp"
	"slices"
	"time"

	mb "github.com/goburrow/modbus"
)

// table is one of the four tables of a Modbus device; its value is the function
// code that reads it (Modbus Application Protocol V1.1b3 §5.1).
type table byte

// tables by their names in the config.
var tables = map[string]table{
	"coil":     mb.FuncCodeReadCoils,
	"discrete": mb.FuncCodeReadDiscreteInputs,
	"holding":  mb.FuncCodeReadHoldingRegisters,
	"input":    mb.FuncCodeReadInputRegisters,
}

func (t table) bits() bool {
	return t == mb.FuncCodeReadCoils || t == mb.FuncCodeReadDiscreteInputs
}

func (t table) String() string {
	for name, known := range tables {
		if t == known {
			return name
		}
	}
	return "unknown"
}

// ask sends the request of this table.
func (t table) ask(client mb.Client, at, count uint16) ([]byte, error) {
	switch t {
	case mb.FuncCodeReadCoils:
		return client.ReadCoils(at, count)
	case mb.FuncCodeReadDiscreteInputs:
		return client.ReadDiscreteInputs(at, count)
	case mb.FuncCodeReadInputRegisters:
		return client.ReadInputRegisters(at, count)
	default:
		return client.ReadHoldingRegisters(at, count)
	}
}

// request is one read that the planner made.
type request struct {
	table table
	at    int    // first address on the wire
	count int    // registers or bits
	tags  []*tag // by address; all of them lie within the request

	last  fate
	rest  breaker   // opens when the unit keeps silent to it and answers others
	whole time.Time // it isn't split before
}

// fate is what became of a request the last time, in the order in which the
// requests of a poll are sent: a device must not seem dead because those come
// first to which it keeps silent.
type fate uint8

const (
	answered fate = iota // with data or an exception
	untried              // given up before it was sent, or new
	silent
)

// plan merges tags into the fewest requests that keep the limits and what was
// learned of the device. Tags that it refuses are left out.
//
// Taking tags by their first address, each as far as the request reaches, is
// the best that can be done: what doesn't fit begins a request that reaches
// further, and what begins later and would still have fitted lies within that.
func plan(tags []*tag, limits Grouping, known *lessons) []*request {
	var sorted []*tag
	for _, t := range tags {
		if known.refusal(t) == nil {
			sorted = append(sorted, t)
		}
	}
	slices.SortStableFunc(sorted, func(a, b *tag) int {
		return cmp.Or(cmp.Compare(a.table, b.table), cmp.Compare(a.at, b.at), cmp.Compare(a.count, b.count))
	})
	var out []*request
	for _, t := range sorted {
		if n := len(out); n == 0 || !out[n-1].take(t, limits, known) {
			out = append(out, cover([]*tag{t}))
		}
	}
	return out
}

// take adds t, whose address is not below the others', if the limits and the
// device allow it.
func (r *request) take(t *tag, limits Grouping, known *lessons) bool {
	end := max(r.at+r.count, t.at+t.count)
	longest := limits.MaxRegisters
	if r.table.bits() {
		longest = limits.MaxBits
	}
	if t.table != r.table || t.at-(r.at+r.count) > limits.MaxGap || end-r.at > longest || known.parts(r, t) {
		return false
	}
	r.count = end - r.at
	r.tags = append(r.tags, t)
	return true
}

// cover returns the request that reads exactly these tags of one table.
func cover(tags []*tag) *request {
	r := &request{table: tags[0].table, at: tags[0].at, tags: tags, last: untried}
	for _, t := range tags {
		r.count = max(r.count, t.at+t.count-r.at)
	}
	return r
}

// halves returns the two requests that read the lower and the upper half of the
// tags. There must be at least two.
func (r *request) halves() [2]*request {
	middle := len(r.tags) / 2
	return [2]*request{cover(slices.Clone(r.tags[:middle])), cover(slices.Clone(r.tags[middle:]))}
}

// decode gives each tag its value; data is the answer to the request.
func (r *request) decode(data []byte) {
	for _, t := range r.tags {
		at := t.at - r.at
		if r.table.bits() {
			t.now.set(t.bit(&t.now.value, data[at/8]>>(at%8)&1 == 1))
			continue
		}
		t.now.set(t.registers(&t.now.value, data[2*at:2*(at+t.count)]))
	}
}

// bad gives each tag the reason why it has no value.
func (r *request) bad(reason string) {
	for _, t := range r.tags {
		t.now.set(reason)
	}
}
