package mqtt

import (
	"bufio"
	"errors"
	"hash/maphash"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
)

// Sizes of one connection.
const (
	readBuffer   = 32 << 10
	bodyStep     = 32 << 10  // bytes of a payload between two looks at the pings
	maxAckBytes  = 512 << 10 // acknowledgements that wait for the socket; 65,535 of them are half of it
	writeTimeout = 10 * time.Second
)

// intake is what connections put messages into; it outlives them.
type intake struct {
	maxPayload int64
	topics     *topics
	queue      *queue
	ledgers    map[string]*ledger // by server: a session and its packet ids are one broker's
	stats      *counters
	refusals   *refusals
	seed       maphash.Seed
	conns      atomic.Uint64 // connections so far; numbers them
}

// conn stands between the socket and paho. It hands control packets to paho and
// takes every PUBLISH out of the stream: that is what bounds memory, skips
// what is too large as it comes off the wire, and allows stopping to read while
// the session stays up. Acknowledgements go out by it too, coalesced.
//
// Paho's keep-alive wants a PINGRESP. While a payload is coming in or while
// reading is stopped none can come, so conn answers in the broker's place: the
// broker has just been heard, or is not being listened to. The PINGREQ itself
// always goes out, so that the broker keeps the session.
//
// Read is called by one goroutine (paho's); the other methods by any.
type conn struct {
	net.Conn
	*intake
	server string
	ledger *ledger // the server's
	number uint64
	in     *bufio.Reader

	// State of Read, guarded by readMu, which Read holds all the time.
	readMu  sync.Mutex
	out     []byte // what paho gets next
	scratch []byte
	current *arrival    // the PUBLISH that is being read, nil between packets
	greeted bool        // CONNACK was seen
	check   *time.Timer // in hold: time to look whether the broker is there
	asked   int         // PINGREQs of ask since the last PINGRESP
	looks   int         // looks since the last of them

	resumed atomic.Bool   // the broker had a session for us
	held    atomic.Bool   // Read waits for room in the queue
	active  atomic.Bool   // something came in since somebody looked
	pinging atomic.Bool   // paho waits for a PINGRESP
	wake    chan struct{} // gets a token with each PINGREQ

	pauseOnce sync.Once
	pause     chan struct{} // closed: no message is taken any more

	farewell  atomic.Int64 // ns that the broker has to read all after DISCONNECT
	leaveOnce sync.Once
	leaving   chan struct{} // closed, under writeMu: DISCONNECT went out, and nothing goes out after it

	failOnce sync.Once
	closed   chan struct{} // closed with the socket
	cause    error         // why; valid after closed

	writeMu sync.Mutex // held for one write to the socket
	spare   []byte     // the other half of the double buffer, under writeMu
	outMu   sync.Mutex
	pending []byte        // bytes for the socket
	dirty   chan struct{} // gets a token when acknowledgements were queued
	flusher sync.WaitGroup
}

// arrival is a PUBLISH between its header and its end.
type arrival struct {
	publish
	topic    *topic
	name     []byte // the topic as it came; valid until the next header is read
	reason   string // why it is refused; empty if it is not
	admitted bool
	skip     bool   // its payload is thrown away
	reserved int64  // room taken in the queue
	payload  []byte // full length; filled says how much of it is there
	filled   int
}

func newConn(nc net.Conn, server string, in *intake) *conn {
	c := &conn{
		Conn:    nc,
		intake:  in,
		server:  server,
		ledger:  in.ledgers[server],
		number:  in.conns.Add(1),
		in:      bufio.NewReaderSize(nc, readBuffer),
		wake:    make(chan struct{}, 1),
		pause:   make(chan struct{}),
		leaving: make(chan struct{}),
		closed:  make(chan struct{}),
		dirty:   make(chan struct{}, 1),
		check:   time.NewTimer(holdCheck),
	}
	boundSilence(nc)
	c.flusher.Add(1)
	go c.flushAcks()
	return c
}

// Read gives paho the next bytes of control packets. It returns when there are
// some or the connection ended.
func (c *conn) Read(p []byte) (int, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	for len(c.out) == 0 {
		if err := c.next(); err != nil {
			c.fail(err)
			return 0, c.cause // not err: paho takes "use of closed network connection" for its own doing and stays
		}
		c.active.Store(true)
		if len(c.out) == 0 && c.pinging.Swap(false) {
			c.out = []byte{typePingresp << 4, 0}
		}
	}
	n := copy(p, c.out)
	c.out = c.out[n:]
	return n, nil
}

// next does a step, or waits for the broker to leave too.
func (c *conn) next() error {
	select {
	case <-c.leaving:
		return c.waitForEnd()
	default:
		return c.step()
	}
}

// step does one piece of work: a header, waiting for room, or a part of
// a payload.
func (c *conn) step() error {
	switch {
	case c.current == nil:
		return c.readPacket()
	case !c.current.admitted:
		return c.admit()
	case c.current.skip:
		return c.skipBody()
	default:
		return c.readBody()
	}
}

func (c *conn) readPacket() error {
	h, err := readHeader(c.in)
	if err != nil {
		return err
	}
	if !c.greeted && h.kind != typeConnack {
		return errNotGreeted
	}
	if h.kind == typePublish {
		return c.readMessage(h)
	}
	frame, err := readControl(c.in, h)
	if err != nil {
		return err
	}
	c.out = frame
	return c.noteControl(h.kind, frame[2:])
}

// noteControl takes from a control packet what conn needs itself.
func (c *conn) noteControl(kind byte, body []byte) error {
	switch kind {
	case typeConnack:
		if c.greeted || body[1] > 5 { // codes above 5 are reserved, MQTT 3.1.1 §3.2.2.3; paho takes them for success
			return &protocolError{"an impossible CONNACK"}
		}
		c.greeted = true
		if body[1] == 0 {
			c.resumed.Store(body[0]&1 != 0)
			c.ledger.attach(c, c.resumed.Load())
		}
	case typePubrel:
		c.ledger.release(uint16(body[0])<<8 | uint16(body[1]))
	case typePingresp:
		c.asked = 0
		c.pinging.Store(false)
		c.ledger.ponged()
	}
	return nil
}

// readMessage reads a PUBLISH up to its payload and decides what becomes of it.
func (c *conn) readMessage(h header) error {
	p, name, scratch, err := readPublish(c.in, h, c.scratch)
	c.scratch = scratch
	if err != nil {
		return err
	}
	a := &arrival{publish: p, name: name, reason: reasonMalformed}
	if !p.malformed {
		a.topic, a.reason = c.topics.resolve(name)
	}
	if a.reason == "" && int64(p.left) > c.maxPayload {
		a.reason = reasonTooLarge
	}
	c.current = a
	return nil
}

// admit waits until the message may be taken or refused. Without room in the queue
// a QoS 0 message is dropped, as the protocol allows; for QoS 1 and 2 the socket is
// not read any more. Disconnecting would be no better: the broker would send all
// that is not acknowledged again, each time. TCP holds the broker up instead,
// and the pings keep the session.
func (c *conn) admit() error {
	a := c.current
	size := int64(a.left) + int64(len(a.name)) + itemOverhead
	switch {
	case c.isPaused():
		return c.hold(nil)
	case a.acknowledged() && c.ledger.full():
		return c.hold(c.ledger.room)
	case a.reason != "":
		c.refuse(a)
	case c.queue.reserve(size):
		a.admitted, a.reserved = true, size
		a.payload = make([]byte, a.left)
	case a.qos == 0:
		a.reason = reasonQueueFull
		c.refuse(a)
	default:
		return c.hold(c.queue.room)
	}
	return nil
}

// acknowledged says whether the message has an acknowledgement. What is malformed
// has no id that could be acknowledged.
func (a *arrival) acknowledged() bool { return a.qos > 0 && !a.malformed }

// refuse counts a message, has it acknowledged so that it does not come again
// for ever, and lets its payload be skipped.
func (c *conn) refuse(a *arrival) {
	a.admitted, a.skip = true, true
	c.stats.reject(a.reason, a.name)
	if a.reason != reasonQueueFull {
		c.refusals.note(Refusal{Reason: a.reason, Server: c.server, Bytes: int64(a.left), QoS: a.qos}, a.name)
	}
	if a.acknowledged() {
		c.ledger.refuse(a.id, a.qos)
	}
}

// hold waits for room, or for something else that Read has to see to. The end of
// the connection would stand behind what is not read, so it looks for it.
func (c *conn) hold(room <-chan struct{}) error {
	pause := c.pause
	if room == nil {
		pause = nil // it is why we wait
	}
	c.held.Store(true)
	defer c.held.Store(false)
	c.check.Reset(holdCheck)
	select {
	case <-room:
	case <-c.wake:
		return peerLeft(c.Conn)
	case <-c.check.C:
		return c.look()
	case <-pause:
	case <-c.leaving:
	case <-c.closed:
		return net.ErrClosed
	}
	return nil
}

// look returns an error when the broker has ended the connection. Where its kernel has
// more to send than fits in here, the end of a broker that closed it stands behind that
// and never arrives. Then the broker is asked, and a later look finds the answer. The PINGRESPs
// of a broker that is there stand behind its messages, and it has to keep them: so it is asked
// more and more rarely, 650 times in the first hour and 3,200 times in the first day.
func (c *conn) look() error {
	if err := peerLeft(c.Conn); err != nil || !windowShut(c.Conn) {
		return err
	}
	if c.looks++; c.looks > c.asked/askSlower {
		c.looks = 0
		c.asked++
		c.ask()
	}
	return nil
}

func (c *conn) isPaused() bool {
	select {
	case <-c.pause:
		return true
	default:
		return false
	}
}

func (c *conn) skipBody() error {
	n, err := c.in.Discard(min(c.current.left, bodyStep))
	c.current.left -= n
	if err != nil {
		return unexpected(err)
	}
	if c.current.left == 0 {
		c.current = nil
	}
	return nil
}

func (c *conn) readBody() error {
	a := c.current
	if a.left > 0 {
		n, err := c.in.Read(a.payload[a.filled:])
		a.filled += n
		a.left -= n
		if err != nil {
			return unexpected(err)
		}
	}
	if a.left > 0 {
		return nil
	}
	c.current = nil
	c.deliver(a)
	return nil
}

// deliver queues a complete message, unless it came before.
func (c *conn) deliver(a *arrival) {
	hash := c.hash(a)
	again := a.retain && a.topic.retainedAgain(hash, c.number)
	it := item{name: a.topic.name, class: a.topic.class, payload: a.payload, at: time.Now().UTC(), conn: c.number, server: c.server, ledger: c.ledger, qos: a.qos, size: a.reserved}
	switch {
	case a.qos > 0 && again:
		c.ledger.refuse(a.id, a.qos)
	case a.qos > 0:
		it.delivery = c.ledger.arrive(a.id, a.qos, a.dup, hash)
		again = it.delivery == nil
	}
	if again {
		c.queue.release(a.reserved)
		return
	}
	a.topic.taken, a.topic.hash = true, hash
	c.queue.push(it)
}

func (c *conn) hash(a *arrival) uint64 {
	var h maphash.Hash
	h.SetSeed(c.seed)
	_, _ = h.WriteString(a.topic.name)
	_ = h.WriteByte(0) // no topic holds it
	_, _ = h.Write(a.payload)
	return h.Sum64()
}

// busy says whether an answer of the broker may still stand behind messages:
// some came in since the last call, or reading is held up.
func (c *conn) busy() bool { return c.active.Swap(false) || c.held.Load() }

// stopTaking makes Read take no more messages; the session stays.
func (c *conn) stopTaking() { c.pauseOnce.Do(func() { close(c.pause) }) }

// fail ends the connection for a reason; the first one counts.
func (c *conn) fail(err error) {
	c.failOnce.Do(func() {
		c.cause = err
		close(c.closed)
		_ = c.Conn.Close()
	})
}

// endedByBroker says whether the broker closed or reset the connection.
func (c *conn) endedByBroker() bool {
	var over *websocket.CloseError
	select {
	case <-c.closed:
		return errors.As(c.cause, &over) || errors.Is(c.cause, io.EOF) || errors.Is(c.cause, io.ErrUnexpectedEOF) || errors.Is(c.cause, syscall.ECONNRESET) || errors.Is(c.cause, syscall.EPIPE)
	default:
		return false
	}
}

// Close ends the connection; after leave only the sending half of it, and Read
// ends the other.
func (c *conn) Close() error {
	select {
	case <-c.leaving:
	default:
		c.fail(net.ErrClosed)
	}
	return nil
}

// leave is called when DISCONNECT has gone out. The socket is not closed at once:
// with messages of the broker unread in it the kernel would send a reset, on which
// a broker drops the acknowledgements that it has not read yet, and sends those
// messages again to the next process.
func (c *conn) leave() {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	c.leaveOnce.Do(func() {
		_ = c.Conn.SetReadDeadline(time.Now().Add(time.Duration(c.farewell.Load())))
		if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
		close(c.leaving)
	})
}

// waitForEnd reads what still comes and throws it away: none of it is
// acknowledged, so the broker keeps it.
func (c *conn) waitForEnd() error {
	_, _ = io.Copy(io.Discard, c.in)
	return net.ErrClosed
}

// finish waits for the connection's goroutine and gives back what it holds. It
// is called once, after paho has ended.
func (c *conn) finish() {
	c.fail(net.ErrClosed)
	c.flusher.Wait()
	c.ledger.detach(c)
	c.readMu.Lock() // a Read that still runs ends, since the socket is closed
	defer c.readMu.Unlock()
	c.check.Stop()
	if c.current != nil && c.current.reserved > 0 {
		c.queue.release(c.current.reserved)
	}
	c.current = nil
}
