package mqtt

import (
	"context"
	"sync"
	"time"
)

// itemOverhead is what a waiting message costs beside its topic and payload, in
// bytes, about.
const itemOverhead = 256

// item is one message on its way from the connection to the sink.
type item struct {
	name     string // of the topic
	class    string
	payload  []byte
	at       time.Time
	conn     uint64 // number of the connection it came on
	server   string // the broker of that connection
	qos      byte
	ledger   *ledger   // that of this broker
	delivery *delivery // in ledger; nil with QoS 0
	size     int64     // what was reserved for it

	decoded         bool   // payload is the event's already
	device, content string // of the event, then
}

// queue holds messages between the connection and the sink. Room is reserved
// before a payload is read, so that the bounds hold for what is being read too.
// It has one producer (the connection) and one consumer (Source.move).
type queue struct {
	maxCount int
	maxBytes int64
	ready    chan struct{} // gets a token when there is something to take
	room     chan struct{} // gets a token when room was given back after a refusal

	mu      sync.Mutex
	items   []item
	count   int   // reserved, waiting, or in the consumer's hands
	bytes   int64 // of these
	refused bool  // the producer waits for room
}

func newQueue(maxCount int, maxBytes int64) *queue {
	return &queue{
		maxCount: maxCount,
		maxBytes: maxBytes,
		ready:    make(chan struct{}, 1),
		room:     make(chan struct{}, 1),
	}
}

// reserve takes room for one message of size bytes, or says that there is none;
// then a token comes on room when it is worth asking again. An empty queue has
// room for any message.
func (q *queue) reserve(size int64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.count > 0 && (q.count >= q.maxCount || q.bytes+size > q.maxBytes) {
		q.refused = true
		return false
	}
	q.count++
	q.bytes += size
	return true
}

// release gives room back: of a message that the sink took, or that was not
// queued after all.
func (q *queue) release(size int64) {
	q.mu.Lock()
	q.count--
	q.bytes -= size
	wake := q.refused
	q.refused = false
	q.mu.Unlock()
	if wake {
		signal(q.room)
	}
}

// push queues a message for which room was reserved.
func (q *queue) push(it item) {
	q.mu.Lock()
	q.items = append(q.items, it)
	q.mu.Unlock()
	signal(q.ready)
}

// take returns what waits, oldest first, and blocks until there is something or
// ctx ends. The room stays taken until the caller releases each message. spare
// is a slice whose memory may be used again.
func (q *queue) take(ctx context.Context, spare []item) ([]item, error) {
	for {
		q.mu.Lock()
		items := q.items
		if len(items) > 0 {
			q.items = spare[:0]
			q.mu.Unlock()
			return items, nil
		}
		q.mu.Unlock()
		select {
		case <-q.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// putBack queues messages again that were taken and not used, before all others.
func (q *queue) putBack(items []item) {
	q.mu.Lock()
	q.items = append(append([]item(nil), items...), q.items...)
	q.mu.Unlock()
	signal(q.ready)
}

// len is the number of messages that hold room.
func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.count
}

// full says whether the producer waits for room.
func (q *queue) full() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.refused
}

// signal leaves a token in a channel of capacity 1, if there is none.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
