package mqtt

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// modelMessage is a message as the model broker knows it.
type modelMessage struct {
	n    uint64 // unique; stands for the content
	id   uint16
	qos  byte
	sent bool // at least once, so that DUP is set from then on
}

// modelBroker sends messages with a window, and drops the connection and
// acknowledgements at random. What was acknowledged must have been committed, in
// order; nothing may be taken twice or lost.
type modelBroker struct {
	t         *testing.T
	rng       *rand.Rand
	ledger    *ledger
	nextN     uint64
	nextID    uint16
	unacked   []*modelMessage // sent or to be sent again, oldest first
	resend    int             // the first n of unacked are to be sent again
	wire      []uint16        // acknowledgements on their way
	rels      []uint16        // PUBRELs to be sent, again after a reconnect
	stored    map[uint64]int  // by n: how often the sink took it
	committed map[uint64]bool
	held      []heldDelivery
	failed    bool
}

type heldDelivery struct {
	n uint64
	d *delivery
}

func (b *modelBroker) ack(_ byte, id uint16) { b.wire = append(b.wire, id) }
func (b *modelBroker) fail(error)            { b.failed = true }

func (b *modelBroker) deliver(m *modelMessage) {
	d := b.ledger.arrive(m.id, m.qos, m.sent, m.n)
	m.sent = true
	if d != nil {
		b.stored[m.n]++
		b.held = append(b.held, heldDelivery{m.n, d})
	}
}

func (b *modelBroker) step() {
	switch action := b.rng.IntN(100); {
	case action < 40: // send
		if b.resend < len(b.unacked) && !b.unacked[b.resend].sent || b.resend < len(b.unacked) && b.rng.IntN(2) == 0 {
			b.deliver(b.unacked[b.resend])
			b.resend++
		} else if b.resend == len(b.unacked) && len(b.unacked) < 20 {
			b.nextN++
			b.nextID = b.nextID%65535 + 1 // counts up, as most brokers do
			m := &modelMessage{n: b.nextN, id: b.nextID, qos: byte(1 + b.rng.IntN(2))}
			b.unacked = append(b.unacked, m)
			b.resend++
			if b.rng.IntN(10) == 0 {
				m.sent = true // lost on the wire
				b.reconnect()
				return
			}
			b.deliver(m)
		}
	case action < 70 && len(b.held) > 0: // commit, in any order
		i := b.rng.IntN(min(3, len(b.held)))
		h := b.held[i]
		b.held = append(b.held[:i], b.held[i+1:]...)
		if b.rng.IntN(50) == 0 {
			b.stored[h.n]--
			b.ledger.done(h.d, errors.New("not stored"))
		} else {
			b.committed[h.n] = true
			b.ledger.done(h.d, nil)
		}
	case action < 95 && len(b.wire) > 0:
		b.receiveAck()
	case action < 96 && len(b.rels) > 0:
		b.ledger.release(b.rels[0])
		if b.rng.IntN(3) > 0 { // else PUBCOMP is lost, and PUBREL comes again
			b.rels = b.rels[1:]
		}
	case action < 97:
		b.ledger.pinged()
		for len(b.wire) > 0 {
			b.receiveAck()
		}
		b.ledger.ponged()
	case action == 99:
		b.reconnect()
	}
	if b.failed {
		b.reconnect()
	}
}

func (b *modelBroker) receiveAck() {
	id := b.wire[0]
	b.wire = b.wire[1:]
	if len(b.unacked) == 0 || b.unacked[0].id != id {
		b.t.Fatalf("PUBACK %d out of order", id)
	}
	m := b.unacked[0]
	if !b.committed[m.n] {
		b.t.Fatalf("message %d acknowledged before the commit", m.n)
	}
	b.unacked = b.unacked[1:]
	if m.qos == 2 {
		b.rels = append(b.rels, id)
	}
	b.resend--
	if b.resend < 0 {
		b.t.Fatalf("message %d acknowledged before it was sent", m.n)
	}
}

func (b *modelBroker) reconnect() {
	b.failed, b.wire, b.resend = false, nil, 0
	b.ledger.detach(b)
	b.ledger.attach(b, true)
}

func TestLedgerAgainstAModelBroker(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for round := range uint64(50) {
		b := &modelBroker{
			t: t, rng: rand.New(rand.NewPCG(seed, round)), ledger: newLedger(),
			stored: make(map[uint64]int), committed: make(map[uint64]bool),
		}
		b.ledger.attach(b, false)
		for range 3000 {
			b.step()
		}
		for len(b.unacked) > 0 || len(b.held) > 0 {
			b.step()
		}
		for n := uint64(1); n <= b.nextN; n++ {
			if b.stored[n] != 1 {
				t.Fatalf("round %d: message %d of %d was stored %d times", round, n, b.nextN, b.stored[n])
			}
		}
		if n := b.ledger.unsettled(); n != 0 {
			t.Fatalf("round %d: %d messages pending at the end", round, n)
		}
	}
}

// TestABrokerThatGoesBackBehindPubrel is one that is stopped after it wrote its
// sessions down and before it ended the connection.
func TestABrokerThatGoesBackBehindPubrel(t *testing.T) {
	l, b := newLedger(), &modelBroker{t: t}
	l.attach(b, false)
	exchange := func(id uint16, hash uint64) {
		l.done(l.arrive(id, 2, false, hash), nil)
		l.release(id)
	}
	exchange(1, 100)
	exchange(2, 200)
	l.detach(b)
	b.wire = nil
	l.attach(b, true)
	if d := l.arrive(1, 2, true, 100); d != nil {
		t.Error("a message that comes again was taken as a new one")
	}
	if d := l.arrive(2, 2, true, 201); d == nil {
		t.Error("another message with the id of a released one was not taken")
	} else {
		l.done(d, nil)
	}
	if want := []uint16{1, 2}; !slices.Equal(b.wire, want) {
		t.Errorf("acknowledged %v, want %v", b.wire, want)
	}
	l.release(1)
	if d := l.arrive(1, 2, false, 100); d == nil {
		t.Error("a message without DUP after PUBREL is a new one")
	}
}

func TestLedgerForgetsWhatTheBrokerKnows(t *testing.T) {
	l := newLedger()
	b := &modelBroker{t: t}
	l.attach(b, false)
	settle := func(id uint16) {
		d := l.arrive(id, 1, false, uint64(id))
		if d == nil {
			t.Fatalf("id %d is not new", id)
		}
		l.done(d, nil)
	}
	settle(1)
	l.pinged()
	settle(2)
	l.ponged()
	if l.byID.len() != 1 || l.byID.get(2) == nil {
		t.Errorf("after the PINGRESP %d are remembered, want only id 2", l.byID.len())
	}
	l.pinged() // never answered
	l.detach(b)
	l.attach(b, true)
	settle(3)
	if l.byID.len() != 2 {
		t.Errorf("forgotten without a proof: %d are left", l.byID.len())
	}
	for i := range 2 * maxUnacked {
		settle(uint16(i%maxUnacked + 1))
	}
	if l.byID.len() != maxSettled || l.settled.len() != maxSettled {
		t.Errorf("remembers %d and %d messages, want %d", l.byID.len(), l.settled.len(), maxSettled)
	}
}

func TestLedgerBoundsABrokerWithoutLimits(t *testing.T) {
	l := newLedger()
	l.attach(&modelBroker{t: t}, false)
	d := l.arrive(1, 1, false, 1)
	for range maxUnacked - 1 {
		if l.full() {
			t.Fatal("full too early")
		}
		l.refuse(2, 1)
	}
	if !l.full() {
		t.Fatal("never full")
	}
	l.done(d, nil)
	select {
	case <-l.room:
	default:
		t.Error("nobody is told of the room")
	}
	if l.full() {
		t.Error("still full")
	}
}

func TestFifoAgainstASlice(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var f fifo[int]
	var model []int
	for i := range 200_000 {
		grow := i/20_000%2 == 0
		if len(model) == 0 || rng.IntN(10) < 7 == grow {
			f.push(i)
			model = append(model, i)
		} else {
			if got := *f.front(); got != model[0] {
				t.Fatalf("step %d: front %d, want %d", i, got, model[0])
			}
			f.pop()
			model = model[1:]
		}
		if f.len() != len(model) {
			t.Fatalf("step %d: length %d, want %d", i, f.len(), len(model))
		}
	}
}

func TestQueueBounds(t *testing.T) {
	cases := []struct {
		name  string
		sizes []int64
		want  []bool
	}{
		{"by count", []int64{1, 1, 1, 1}, []bool{true, true, true, false}},
		{"by bytes", []int64{60, 40, 1}, []bool{true, true, false}},
		{"anything into an empty queue", []int64{1000, 1}, []bool{true, false}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			q := newQueue(3, 100)
			for i, size := range tc.sizes {
				if got := q.reserve(size); got != tc.want[i] {
					t.Errorf("reserve %d: %v", size, got)
				}
			}
			q.release(tc.sizes[0])
			select {
			case <-q.room:
			default:
				t.Error("nobody is told of the room")
			}
		})
	}
}

func TestQueueGivesBackWhatWasNotUsedInOrder(t *testing.T) {
	q := newQueue(10, 1000)
	for i := range 4 {
		q.reserve(1)
		q.push(item{name: fmt.Sprint(i), size: 1})
	}
	items, err := q.take(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	q.release(1)
	q.reserve(1)
	q.push(item{name: "4", size: 1})
	q.putBack(items[1:])
	items, err = q.take(t.Context(), nil)
	if err != nil || len(items) != 4 || q.len() != 4 {
		t.Fatalf("%d items, %d hold room: %v", len(items), q.len(), err)
	}
	for i, it := range items {
		if it.name != fmt.Sprint(i+1) {
			t.Errorf("item %d is %s", i, it.name)
		}
	}
}

// TestABrokerThatReusesIdsAtOnceLosesNothing: a broker that takes the lowest free
// id sends equal messages, and the second copy of one gets lost with the
// connection. When it comes again it looks like the one before.
func TestABrokerThatReusesIdsAtOnceLosesNothing(t *testing.T) {
	l, c := newLedger(), &modelBroker{}
	l.attach(c, true)
	take := func(dup bool) *delivery {
		d := l.arrive(1, 1, dup, 42)
		if d != nil {
			l.done(d, nil)
		}
		return d
	}
	first, second := take(false), take(false)
	if first == nil || second == nil {
		t.Fatal("two messages with one id, each acknowledged before the next, are two messages")
	}
	l.detach(c)
	l.attach(c, true)
	if take(true) == nil {
		t.Fatal("a third one, sent again after a loss on the wire, was taken for the second and never stored")
	}
}

// TestABrokerThatForgotLosesNothing: a broker is killed and starts again from
// an older state of the session, in which ids are free that were in use. Equal
// messages are normal in a plant, so content alone tells nothing.
func TestABrokerThatForgotLosesNothing(t *testing.T) {
	for _, c := range []struct {
		name      string
		qos       byte
		committed bool // before the broker is killed
		dup       bool
		isNew     bool
	}{
		{"QoS 1 on its way, comes again", 1, false, true, false},
		{"QoS 1 on its way, the id is given to an equal message", 1, false, false, true},
		{"QoS 1 stored, comes again", 1, true, true, false},
		{"QoS 1 stored, the id is given to an equal message", 1, true, false, true},
		{"QoS 2 on its way, comes again", 2, false, true, false},
		{"QoS 2 on its way, the id is given to an equal message", 2, false, false, true},
		{"QoS 2 stored and not released, comes again", 2, true, true, false},
		{"QoS 2 stored and not released, the id is given to an equal message", 2, true, false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, b := newLedger(), &modelBroker{t: t}
			l.attach(b, true)
			first := l.arrive(7, c.qos, false, 42)
			if c.committed {
				l.done(first, nil)
			}
			l.detach(b)
			l.attach(b, true)
			if d := l.arrive(7, c.qos, c.dup, 42); (d != nil) != c.isNew {
				t.Errorf("taken as new: %t, want %t", d != nil, c.isNew)
			}
			if d := l.arrive(7, c.qos, true, 42); d != nil {
				t.Error("the same again on the same connection is taken as new")
			}
		})
	}
}

func TestIDTableAgainstAMap(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var table idTable
	model := map[uint16]*delivery{}
	for i := range 200_000 {
		id := uint16(rng.Uint32N(1 << 16))
		switch n := rng.IntN(1000); {
		case n == 0 && i%10 == 0:
			table.clear()
			clear(model)
		case n < 400:
			table.put(id, nil)
			delete(model, id)
		case n < 800:
			model[id] = &delivery{id: id}
			table.put(id, model[id])
		}
		if table.get(id) != model[id] || table.len() != len(model) {
			t.Fatalf("step %d, id %d: %v of %d, want %v of %d", i, id, table.get(id), table.len(), model[id], len(model))
		}
	}
}
