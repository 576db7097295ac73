package uplink

import (
	"context"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// chunkRecords is how many records a chunk holds at most: small enough to fill
// a window in many steps, large enough to make the cost of a chunk vanish.
const chunkRecords = 256

// chunk is a run of records of one class with contiguous sequence numbers, and
// the memory that they live in. It is filled by the pump and then guarded by the
// window's lock; when all of it is delivered it is filled again.
type chunk struct {
	lane    *lane
	at      time.Time // when it came into the window
	first   uint64    // sequence number of records[0]
	before  int       // events of the transaction before it
	records []kgo.Record
	slots   []slot // one for each record that could be
	sizes   []int  // bytes of each record in the window
	bytes   int    // sum of sizes
	headers []kgo.RecordHeader
	arena   []byte // keys and values of headers

	settled [chunkRecords / 64]uint64 // bit i: records[i] was delivered or rejected
	prefix  int                       // records from the front that are settled
	left    int                       // records that are not settled
	errs    []error                   // nil, or by record why the client gave it back
}

// slot lets a promise find its record's place: it travels as Record.Context,
// which the client hands through. The client may look at the context even after
// the promise, so that never changes.
type slot struct {
	context.Context //nolint:containedctx // it is how a record carries a value through the client
	chunk           *chunk
	index           int

	// Of whoever has the record: the pump until it hands it over, then the client
	// until its promise.
	route  *route
	placed bool // counted in route
}

// newChunk returns an empty chunk for up to n records.
func newChunk(n int) *chunk {
	c := &chunk{
		records: make([]kgo.Record, 0, n),
		slots:   make([]slot, n),
		sizes:   make([]int, 0, n),
		headers: make([]kgo.RecordHeader, 0, n*headersPerRecord),
	}
	for i := range c.slots {
		c.slots[i] = slot{Context: context.Background(), chunk: c, index: i}
	}
	return c
}

// reset empties c for a run that starts at first.
func (c *chunk) reset(first uint64) {
	clear(c.records[:cap(c.records)]) // let go of the payloads
	*c = chunk{
		first:   first,
		records: c.records[:0], slots: c.slots, sizes: c.sizes[:0],
		headers: c.headers[:0], arena: c.arena[:0],
	}
}

// carve runs fill on the end of the arena and returns what it appended. When the
// arena has to grow, what was carved before stays in the old one.
func (c *chunk) carve(fill func([]byte) []byte) []byte {
	start := len(c.arena)
	c.arena = fill(c.arena)
	return c.arena[start:len(c.arena):len(c.arena)]
}

// add appends r; there must be room.
func (c *chunk) add(r kgo.Record) {
	r.Context = &c.slots[len(c.records)]
	size := len(r.Key) + len(r.Value)
	for i := range r.Headers {
		size += len(r.Headers[i].Key) + len(r.Headers[i].Value)
	}
	c.records = append(c.records, r)
	c.sizes = append(c.sizes, size)
	c.bytes += size
	c.left++
}

// small cuts c off before the first record that is too large to go with others,
// and returns how many are left.
func (c *chunk) small() int {
	i := slices.IndexFunc(c.sizes, func(size int) bool { return size > largeRecord })
	if i < 0 {
		return len(c.records)
	}
	for _, size := range c.sizes[i:] {
		c.bytes -= size
	}
	c.left -= len(c.records) - i
	c.records, c.sizes = c.records[:i], c.sizes[:i]
	return i
}

// seq returns the sequence number of record i.
func (c *chunk) seq(i int) uint64 { return c.first + uint64(i) }

func (c *chunk) isSettled(i int) bool { return c.settled[i/64]&(1<<(i%64)) != 0 }

// settle marks record i; it must not be marked yet.
func (c *chunk) settle(i int) {
	c.settled[i/64] |= 1 << (i % 64)
	c.left--
	for c.prefix < len(c.records) && c.isSettled(c.prefix) {
		c.prefix++
	}
}

// fail remembers why record i came back.
func (c *chunk) fail(i int, err error) {
	if c.errs == nil {
		c.errs = make([]error, len(c.records))
	}
	c.errs[i] = err
}
