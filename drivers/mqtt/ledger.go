package mqtt

import (
	"errors"
	"sync"
)

// Bounds of the ledger.
const (
	// maxUnacked is the number of packet ids, MQTT 3.1.1 §2.3.1. A broker should
	// never have more messages under way, but mosquitto 2.0 does when a session
	// with a long backlog is resumed.
	maxUnacked = 65535
	// maxSettled is how many acknowledged messages are remembered, at most (about
	// 4 MB). It has to be large because mosquitto 2.0 sends the whole backlog of
	// a resumed session at once, whatever its in-flight limit, and all of that
	// comes again when the connection breaks; and below maxUnacked, so that
	// a broker that counts its ids up has not come back to an id whose former
	// message is still remembered.
	maxSettled = 49152
)

// errNotStored ends a connection after the sink gave a message back.
var errNotStored = errors.New("the buffer did not store a message: connecting again, so that the broker sends it again")

// acker is a connection as the ledger sees it. Neither method blocks.
type acker interface {
	ack(qos byte, id uint16) // queues PUBACK (QoS 1) or PUBREC (QoS 2)
	fail(error)              // ends the connection
}

// delivery is one QoS 1 or 2 message from its arrival to its acknowledgement.
// The ledger's lock guards it.
type delivery struct {
	hash      uint64 // of topic and payload
	stamp     uint64 // pings that had been sent when it was settled
	id        uint16
	qos       byte
	committed bool   // the sink has it, or it was refused: it may be acknowledged
	acked     bool   // an acknowledgement was queued on some connection
	settled   bool   // the broker need not send it again: QoS 1 acked, QoS 2 released
	listed    bool   // it stands in order
	on        uint64 // the connection on which it came last
}

// ledger belongs to the session at one server, whose packet ids mean nothing at
// another one. It gives acknowledgements in the order of arrival (MQTT 3.1.1 §4.6),
// each after its message was committed, on the connection on which it came last,
// and tells messages that come again from new ones.
//
// A broker sends a message again, with the same packet id and DUP set, when the
// connection broke before it had our acknowledgement. Three cases:
//   - it is still on its way into the buffer: its place in order is taken on the
//     new connection, and the commit acknowledges it there;
//   - it was committed and its acknowledgement got lost, or the broker has forgotten
//     it: it is acknowledged again and not stored again. That is what settled is for;
//   - it is unknown, or its content is another: it is new.
//
// A broker that uses an id again at once, for a message equal to the first in
// topic and payload that got lost with the connection, looks exactly like the
// second case. So a message is forgotten as soon as a PINGRESP proves that the
// broker has its acknowledgement, and always when the broker says that it has no
// session for us; and from a broker that was ever seen to use a remembered id
// again, the second case is stored: a duplicate is better than a loss.
type ledger struct {
	mu      sync.Mutex
	conn    acker            // nil between connections
	conns   uint64           // connections so far
	byID    idTable          // the latest use of each packet id
	order   fifo[*delivery]  // arrived on conn and not acknowledged there
	settled fifo[settlement] // oldest first
	pings   uint64           // PINGREQs sent, over all connections
	pongs   uint64           // the PINGREQ that the last PINGRESP on conn answered
	proven  uint64           // what was acknowledged before this PINGREQ is known to the broker
	resent  bool             // nothing from earlier connections comes again on conn any more
	reuses  bool             // this broker gives an id out again soon: an id says little of what was acknowledged
	pending int              // new messages that are neither committed nor given back
	refused bool             // the connection waits for room in order

	room chan struct{} // gets a token when order was full and is not any more
}

// settlement is the end of one exchange; stamp as it was then.
type settlement struct {
	d     *delivery
	stamp uint64
}

func newLedger() *ledger {
	return &ledger{room: make(chan struct{}, 1)}
}

// attach starts a connection. Without a session at the broker no id from before
// means anything any more.
func (l *ledger) attach(c acker, sessionPresent bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unlist()
	l.conn = c
	l.conns++
	l.pongs = l.pings // what was asked on earlier connections is never answered
	l.resent = !sessionPresent
	if !sessionPresent {
		l.byID.clear()
		l.settled.clear()
	}
}

// detach ends the connection c.
func (l *ledger) detach(c acker) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == c {
		l.unlist()
		l.conn = nil
	}
}

func (l *ledger) unlist() {
	for ; l.order.len() > 0; l.order.pop() {
		(*l.order.front()).listed = false
	}
}

// arrive records a message. It returns its delivery, which the caller must bring
// to done, or nil when it is one that the ledger has already.
func (l *ledger) arrive(id uint16, qos byte, dup bool, hash uint64) *delivery {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.resent = l.resent || !dup // what comes again comes before what is new, MQTT 3.1.1 §4.6
	old := l.byID.get(id)
	l.reuses = l.reuses || old != nil && old.settled && !dup
	if old != nil && old.qos == qos && old.hash == hash && l.again(old, dup) {
		old.on, old.settled = l.conns, false
		if !old.listed {
			l.list(old)
		}
		return nil
	}
	d := &delivery{id: id, qos: qos, hash: hash, on: l.conns}
	l.byID.put(id, d)
	l.pending++
	l.list(d)
	return d
}

// again says whether a message equal to old, with its id, is old. On one
// connection an id is in use until its PUBACK or PUBREL (MQTT 3.1.1 §2.3.1), so
// it is, whatever DUP says. Over a new connection it comes with DUP (§3.3.1.1):
// without it the broker gave the id to another message, as one does that was
// killed and went back to an older state of the session.
func (l *ledger) again(old *delivery, dup bool) bool {
	if old.settled {
		return dup && !l.reuses
	}
	return dup || old.on == l.conns
}

// refuse records a message that is acknowledged without being stored.
func (l *ledger) refuse(id uint16, qos byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.byID.put(id, nil) // the id is used for another message now
	l.list(&delivery{id: id, qos: qos, committed: true})
}

func (l *ledger) list(d *delivery) {
	d.listed = true
	l.order.push(d)
	l.flush()
}

// done settles a delivery: with nil it may be acknowledged, with an error it was
// not stored and the broker has to send it again. It does not block.
func (l *ledger) done(d *delivery, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending--
	if err == nil {
		d.committed = true
		l.flush()
		return
	}
	if l.byID.get(d.id) == d {
		l.byID.put(d.id, nil)
	}
	if l.conn != nil {
		l.conn.fail(errNotStored)
	}
}

// flush acknowledges from the oldest message on until one is not committed.
func (l *ledger) flush() {
	for l.conn != nil && l.order.len() > 0 && (*l.order.front()).committed {
		d := *l.order.front()
		l.order.pop()
		d.listed = false
		d.acked = true
		l.conn.ack(d.qos, d.id)
		if d.qos == 1 && l.byID.get(d.id) == d {
			l.settle(d)
		}
	}
	if l.refused && l.order.len() < maxUnacked {
		l.refused = false
		signal(l.room)
	}
}

// settle remembers a message whose exchange is over, as far as we know.
func (l *ledger) settle(d *delivery) {
	d.settled, d.stamp = true, l.pings
	l.settled.push(settlement{d, d.stamp})
	l.forget()
}

// full says whether so many messages wait for their acknowledgement that no more
// may come in; then a token comes on room when it is worth asking again.
func (l *ledger) full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refused = l.order.len() >= maxUnacked
	return l.refused
}

// forget drops settled messages that nobody needs to know any more.
func (l *ledger) forget() {
	for l.settled.len() > 0 {
		s := l.settled.front()
		if l.settled.len() <= maxSettled && s.stamp >= l.proven {
			return
		}
		// The same id may stand there again, for another message or for
		// a later acknowledgement of this one.
		if l.byID.get(s.d.id) == s.d && s.d.settled && s.d.stamp == s.stamp {
			l.byID.put(s.d.id, nil)
		}
		l.settled.pop()
	}
}

// release ends a QoS 2 exchange: the broker sent PUBREL, so the id is free. It may
// still send the message again: mosquitto 2.0 writes its sessions down, when it is
// stopped, before it ends what goes on over websockets.
func (l *ledger) release(id uint16) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.byID.get(id)
	switch {
	case d == nil || d.qos != 2 || !d.acked || d.settled:
	case d.listed: // it came again, and the broker did not wait for PUBREC
		l.byID.put(id, nil)
	default:
		l.settle(d)
	}
}

// pinged is called before a PINGREQ is sent. What was acknowledged before it
// reaches the broker before it.
func (l *ledger) pinged() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pings++
}

// ponged is called for each PINGRESP of the broker. It proves nothing of earlier
// connections while the broker may still be sending their messages again.
func (l *ledger) ponged() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pongs < l.pings {
		l.pongs++
	}
	if l.resent {
		l.proven = l.pongs
	}
	l.forget()
}

// unsettled is the number of new messages on their way into the buffer.
func (l *ledger) unsettled() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pending
}
