package mqtt

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"sluice/drivers"
)

// patience only keeps a broken test from hanging.
const patience = 2 * time.Minute

// testSink is a buffer in memory. It commits at once, or when told to.
type testSink struct {
	mu     sync.Mutex
	events []drivers.Event
	dones  []func(error)
	hold   bool          // keep the dones
	gate   chan struct{} // Append waits until it is closed; nil: it doesn't
}

func (s *testSink) Append(ctx context.Context, e drivers.Event, done func(error)) error {
	s.mu.Lock()
	gate := s.gate
	s.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
	switch {
	case done == nil:
	case s.hold:
		s.dones = append(s.dones, done)
	default:
		done(nil)
	}
	return nil
}

func (s *testSink) taken() []drivers.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]drivers.Event(nil), s.events...)
}

func (s *testSink) payloads() []string {
	var got []string
	for _, e := range s.taken() {
		got = append(got, string(e.Payload))
	}
	return got
}

// commit settles the n oldest held events.
func (s *testSink) commit(n int, err error) {
	s.mu.Lock()
	dones := s.dones[:n]
	s.dones = s.dones[n:]
	s.mu.Unlock()
	for _, done := range dones {
		done(err)
	}
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

// word is a user name or password that stays the same.
func word(text string) func() (string, error) {
	return func() (string, error) { return text, nil }
}

func baseConfig(sink drivers.Sink, servers ...string) Config {
	return Config{
		Name:          "line-mqtt",
		Servers:       servers,
		ClientID:      "gw-1",
		Subscriptions: []Subscription{{Filter: "plant/#", QoS: 1, Class: "process"}},
		RetryMin:      time.Millisecond,
		RetryMax:      20 * time.Millisecond,
		Sink:          sink,
	}
}

// start runs a source until the test ends or stop is called, which waits for Run.
func start(t *testing.T, cfg Config) (src *Source, stop func()) {
	t.Helper()
	src, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return src, run(t, src)
}

func run(t *testing.T, src *Source) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- src.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run does not end")
		}
	})
	t.Cleanup(stop)
	return stop
}

func waitUp(t *testing.T, src *Source) {
	t.Helper()
	eventually(t, "up", func() bool { return src.Stats().Up })
}

// rawBroker is a broker by hand: it can send what no real one would.
type rawBroker struct {
	t  *testing.T
	ln net.Listener
}

func newRawBroker(t *testing.T) *rawBroker {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return &rawBroker{t, ln}
}

func (b *rawBroker) url() string { return "tcp://" + b.ln.Addr().String() }

// rawConn is one client. Its reader answers SUBSCRIBE and PINGREQ and collects
// the rest.
type rawConn struct {
	net.Conn
	t       *testing.T
	writeMu sync.Mutex
	behind  sync.WaitGroup // what a PINGRESP stands behind

	mu     sync.Mutex
	acks   []string // "PUBACK 7", "PUBREC 8", "PUBCOMP 8", "DISCONNECT", "PUBLISH flags 0 a/b"
	pings  int
	mute   bool // PINGREQ is not answered
	denies bool // a PUBLISH ends the connection
	suback func(filter string) byte
	unsubs []string // filters of UNSUBSCRIBEs
	deaf   bool     // UNSUBSCRIBE is not answered
	stuck  bool     // nothing is read any more
	ended  bool
	endErr error
}

// connection takes the next client without sending CONNACK.
func (b *rawBroker) connection() *rawConn {
	b.t.Helper()
	_ = b.ln.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
	nc, err := b.ln.Accept()
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = nc.Close() })
	c := &rawConn{Conn: nc, t: b.t}
	go c.read()
	return c
}

// accept takes the next client into a session.
func (b *rawBroker) accept(sessionPresent bool) *rawConn {
	b.t.Helper()
	c := b.connection()
	present := byte(0)
	if sessionPresent {
		present = 1
	}
	c.send([]byte{0x20, 2, present, 0})
	return c
}

func (c *rawConn) read() {
	r := bufio.NewReader(c.Conn)
	for {
		c.waitUnstuck()
		h, err := readHeader(r)
		body := make([]byte, h.length)
		if err == nil {
			_, err = io.ReadFull(r, body)
		}
		if err != nil {
			c.mu.Lock()
			c.ended, c.endErr = true, err
			c.mu.Unlock()
			_ = c.Close()
			return
		}
		c.handle(h, body)
	}
}

// waitUnstuck stops the reader for as long as the test wants.
func (c *rawConn) waitUnstuck() {
	for {
		c.mu.Lock()
		stuck := c.stuck
		c.mu.Unlock()
		if !stuck {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func (c *rawConn) handle(h header, body []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := map[byte]string{typePuback: "PUBACK", typePubrec: "PUBREC", 7: "PUBCOMP"}
	switch {
	case h.kind == 8:
		code := body[len(body)-1]
		if c.suback != nil {
			code = c.suback(string(body[4 : len(body)-1]))
		}
		if code == silent {
			return
		}
		go c.reply([]byte{0x90, 3, body[0], body[1], code})
	case h.kind == 10:
		c.unsubs = append(c.unsubs, string(body[4:]))
		if !c.deaf {
			go c.reply([]byte{0xb0, 2, body[0], body[1]})
		}
	case h.kind == typePingreq:
		c.pings++
		if !c.mute {
			go func() { // it waits behind what is being sent
				c.behind.Wait()
				c.reply([]byte{0xd0, 0})
			}()
		}
	case h.kind == 14:
		c.acks = append(c.acks, "DISCONNECT")
	case h.kind == typePublish:
		size := int(binary.BigEndian.Uint16(body))
		c.acks = append(c.acks, fmt.Sprintf("PUBLISH flags %d %s", h.flags, body[2:2+size]))
		if c.denies {
			_ = c.Close()
		}
	case names[h.kind] != "":
		c.acks = append(c.acks, fmt.Sprintf("%s %d", names[h.kind], binary.BigEndian.Uint16(body)))
	}
}

// reply sends without failing the test: the client may be gone.
func (c *rawConn) reply(frame []byte) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	_, _ = c.Write(frame)
}

func (c *rawConn) send(frames ...[]byte) {
	c.t.Helper()
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	for _, frame := range frames {
		_ = c.SetWriteDeadline(time.Now().Add(patience))
		if _, err := c.Write(frame); err != nil && !errors.Is(err, net.ErrClosed) {
			c.t.Logf("send: %v", err)
			return
		}
	}
}

func (c *rawConn) acked() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.acks...)
}

func (c *rawConn) unsubscribed() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.unsubs...)
}

func (c *rawConn) pinged() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pings
}

func (c *rawConn) gone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// frameOf builds any packet.
func frameOf(first byte, body []byte) []byte {
	frame := []byte{first}
	for n := len(body); ; {
		b := byte(n & 0x7f)
		if n >>= 7; n > 0 {
			frame = append(frame, b|0x80)
			continue
		}
		return append(append(frame, b), body...)
	}
}

// Flags of a PUBLISH.
const (
	qos1, qos2, retain, dup = 2, 4, 1, 8
)

// silent as a return code means no SUBACK at all.
const silent = 0xff

func publishFrame(flags byte, id uint16, topic, payload string) []byte {
	body := binary.BigEndian.AppendUint16(nil, uint16(len(topic)))
	body = append(body, topic...)
	if flags&6 != 0 {
		body = binary.BigEndian.AppendUint16(body, id)
	}
	return frameOf(typePublish<<4|flags, append(body, payload...))
}

// sinkFunc is a sink that only fails.
type sinkFunc func() error

func (f sinkFunc) Append(context.Context, drivers.Event, func(error)) error { return f() }
