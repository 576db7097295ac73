//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// maxAgentMemory is what a hostile broker may make of an agent with the default
// memory_limit, program text and mapped files included.
const maxAgentMemory = 64 << 20

// firstFlood is the lowest packet id of messages that come in masses.
const firstFlood = 1000

// badBroker is a broker by hand, for one client at a time.
type badBroker struct {
	listener net.Listener
	next     uint16 // packet id
}

// badSession is one connection of it. A reader answers SUBSCRIBE and PINGREQ
// and collects PUBACKs.
type badSession struct {
	t       *testing.T
	conn    net.Conn
	broker  *badBroker
	acks    chan uint16
	mute    atomic.Bool   // pings get no answer
	deaf    atomic.Bool   // nothing is read any more
	ready   chan struct{} // closed when the first SUBSCRIBE is answered
	ended   chan struct{} // the reader has ended
	writing sync.Mutex    // held for a packet
}

func startBadBroker(t *testing.T) *badBroker {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return &badBroker{listener: listener}
}

// session takes the agent's next connection.
func (b *badBroker) session(t *testing.T) *badSession {
	t.Helper()
	_ = b.listener.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
	conn, err := b.listener.Accept()
	if err != nil {
		t.Fatalf("the agent does not connect: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	s := &badSession{t: t, conn: conn, broker: b, acks: make(chan uint16, 1000), ready: make(chan struct{}), ended: make(chan struct{})}
	go s.read()
	select {
	case <-s.ready:
	case <-time.After(patience):
		t.Fatal("the agent does not subscribe")
	}
	return s
}

func (s *badSession) read() {
	defer close(s.ended)
	subscribed := sync.OnceFunc(func() { close(s.ready) })
	for !s.deaf.Load() {
		packet, err := packets.ReadPacket(s.conn)
		if err != nil {
			return
		}
		switch p := packet.(type) {
		case *packets.ConnectPacket:
			s.answer(0x20, 2, 1, 0)
		case *packets.SubscribePacket:
			s.answer(0x90, 3, byte(p.MessageID>>8), byte(p.MessageID), 1)
			subscribed()
		case *packets.PingreqPacket:
			if !s.mute.Load() {
				s.answer(0xd0, 0)
			}
		case *packets.PubackPacket:
			if p.MessageID < firstFlood { // those of a flood nobody counts
				s.acks <- p.MessageID
			}
		}
	}
}

func (s *badSession) answer(frame ...byte) {
	s.writing.Lock()
	defer s.writing.Unlock()
	_, _ = s.conn.Write(frame) // a client that has gone is seen by the reader
}

// publish sends a PUBLISH and returns its packet id.
func (s *badSession) publish(topic string, payload []byte, id uint16, dup bool) error {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Payload, p.MessageID, p.Qos, p.Dup = topic, payload, id, 1, dup
	s.writing.Lock()
	defer s.writing.Unlock()
	_ = s.conn.SetWriteDeadline(time.Now().Add(patience))
	return p.Write(s.conn)
}

// good sends message i of the plant, some times with one packet id, and waits
// for its PUBACK.
func (s *badSession) good(i, times int) {
	s.t.Helper()
	s.broker.next++
	id := s.broker.next
	for n := range times {
		if err := s.publish(topicOf(i%machines), payloadOf(i%machines, i/machines+1), id, n > 0); err != nil {
			s.t.Fatalf("message %d: %v", i, err)
		}
	}
	for deadline := time.After(patience); ; {
		select {
		case got := <-s.acks:
			if got == id {
				return
			}
		case <-deadline:
			s.t.Fatalf("no PUBACK for message %d", i)
		}
	}
}

// claim sends a PUBLISH that claims to be of 256 MB, and n bytes of that.
func (s *badSession) claim(n int) {
	s.t.Helper()
	body := "\x00\x09factory/x\xff\xff"
	chunk := bytes.Repeat([]byte("x"), 1<<20)
	s.writing.Lock() // so that no answer stands within it
	defer s.writing.Unlock()
	_, err := s.conn.Write(append([]byte{0x32, 0xff, 0xff, 0xff, 0x7f}, body...))
	for left := n - len(body); left > 0 && err == nil; left -= len(chunk) {
		_ = s.conn.SetWriteDeadline(time.Now().Add(patience))
		_, err = s.conn.Write(chunk[:min(left, len(chunk))])
	}
	if err != nil {
		s.t.Fatalf("256 MB: %v", err)
	}
}

// gone waits until the agent has ended the connection.
func (s *badSession) gone(why string) {
	s.t.Helper()
	start := time.Now()
	select {
	case <-s.ended:
		s.t.Logf("%s: the agent left after %s", why, time.Since(start).Round(100*time.Millisecond))
	case <-time.After(patience):
		s.t.Fatalf("%s: the agent stays", why)
	}
}

// mqttHostileBroker gives the agent a broker that misbehaves in all ways that
// cost memory or time. After each a good message arrives.
func mqttHostileBroker(t *testing.T, k *kafka) {
	bad := startBadBroker(t)
	p := newMQTTPlant(t, k, nil, mqttSource{server: "tcp://" + bad.listener.Addr().String(), extra: "keep_alive: 1s\n"})
	p.agent.start(t)

	s := bad.session(t)
	s.good(0, 1)
	s.claim(268_435_455)
	s.good(1, 1)
	s.good(2, 500) // the same id
	flood(t, s, 150_000)
	s.good(3, 1)
	s.claim(100)
	s.mute.Store(true)
	s.gone("256 MB claimed and not sent")

	s = bad.session(t)
	s.good(4, 1)
	s.mute.Store(true)
	s.gone("no answer to pings")

	s = bad.session(t)
	s.good(5, 1)
	s.deaf.Store(true)
	start := time.Now()
	for s.publish("elsewhere", []byte("refused, and acknowledged"), firstFlood, false) == nil {
		if time.Since(start) > patience {
			t.Fatal("nothing is read: the agent stays")
		}
	}
	t.Logf("nothing is read: the agent left after %s", time.Since(start).Round(100*time.Millisecond))
	_ = s.conn.Close()

	bad.session(t).good(6, 1)
	peak := peakMemory(t, p.agent.proc)
	r := p.settle(t, 7)
	fmt.Printf("E2E mqtt-hostile-broker peak_rss_MiB=%.1f\n", float64(peak)/(1<<20))
	if peak > maxAgentMemory {
		t.Errorf("the agent took %d bytes, %d at most", peak, maxAgentMemory)
	}
	wantOnce(t, r)
}

// flood sends messages that have no route, each on a topic of its own.
func flood(t *testing.T, s *badSession, n int) {
	t.Helper()
	for i := range n {
		if err := s.publish(fmt.Sprintf("elsewhere/%d", i), nil, uint16(firstFlood+i%60000), false); err != nil {
			t.Fatalf("flood: %v", err)
		}
	}
}

// peakMemory is the most that a process has had resident.
func peakMemory(t *testing.T, p *process) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^VmHWM:\s+(\d+) kB$`).FindSubmatch(text)
	if found == nil {
		t.Fatalf("no VmHWM in %s", text)
	}
	kB, err := strconv.ParseInt(string(found[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kB << 10
}
