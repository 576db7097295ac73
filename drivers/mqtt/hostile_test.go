package mqtt

import (
	"bytes"
	"context"
	"fmt"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/drivers"
)

// maxHostileMemory is what the whole process of this test may take from the
// system while brokers misbehave, the brokers included.
const maxHostileMemory = 64 << 20

// softMemory is the Go runtime's soft limit in this test; an agent has one, too
// (agent.memory_limit). Without it the peak tells when the garbage collector ran.
const softMemory = 48 << 20

// lastSink commits at once and keeps one payload.
type lastSink struct {
	mu   sync.Mutex
	last string
	n    int
}

func (s *lastSink) Append(_ context.Context, e drivers.Event, done func(error)) error {
	s.mu.Lock()
	s.last = string(e.Payload)
	s.n++
	s.mu.Unlock()
	if done != nil {
		done(nil)
	}
	return nil
}

func (s *lastSink) holds(payload string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last == payload
}

// What becomes of the connection on which a broker misbehaved.
const (
	stays  = iota // a good message arrives on it
	leaves        // the source ends it
	cut           // the broker ends it
)

// hostile is one way in which a broker misbehaves.
type hostile struct {
	name string
	end  int
	bare bool // no CONNACK goes out before talk
	talk func(c *rawConn)
}

// bytesOf sends fixed bytes.
func bytesOf(frames ...[]byte) func(*rawConn) {
	return func(c *rawConn) { c.send(bytes.Join(frames, nil)) }
}

// many sends what frame gives for 0 to n-1, in writes of some size.
func many(n int, frame func(i int) []byte) func(*rawConn) {
	return func(c *rawConn) {
		var out []byte
		for i := range n {
			if out = append(out, frame(i)...); len(out) > 32<<10 || i == n-1 {
				c.send(out)
				out = out[:0]
			}
		}
	}
}

// stream sends a QoS 1 PUBLISH that claims size bytes, and n bytes of it.
func stream(size, n int) func(*rawConn) {
	return func(c *rawConn) {
		head := []byte{0x32, byte(0x80 | size&0x7f), byte(0x80 | size>>7&0x7f), byte(0x80 | size>>14&0x7f), byte(size >> 21)}
		body := publishFrame(qos1, 5, "plant/a", "")[2:]
		frames := [][]byte{head, body}
		chunk := bytes.Repeat([]byte("x"), 64<<10)
		for left := n - len(body); left > 0; left -= len(chunk) {
			frames = append(frames, chunk[:min(left, len(chunk))])
		}
		c.send(frames...) // in one go: no answer may come in between
	}
}

// refusable are messages that are refused, or taken, while the session stays.
func refusable() []hostile {
	long := strings.Repeat("x", 2<<20)
	q1 := func(topic string) func(*rawConn) { return bytesOf(publishFrame(qos1, 7, topic, "x")) }
	return []hostile{
		{"QoS 3", stays, false, bytesOf(publishFrame(qos1|qos2, 7, "plant/a", "x"))},
		{"empty topic", stays, false, q1("")},
		{"topic with +", stays, false, q1("plant/+")},
		{"topic with #", stays, false, q1("plant/#")},
		{"topic with NUL", stays, false, q1("plant/\x00")},
		{"topic not UTF-8", stays, false, q1("plant/\xff\xfe")},
		{"topic with a surrogate", stays, false, q1("plant/\xed\xa0\x80")},
		{"topic with an overlong code", stays, false, q1("plant/\xc0\xaf")},
		{"topic of 65,535 bytes", stays, false, q1("plant/" + strings.Repeat("a", 65529))},
		{"topic of 30,000 levels", stays, false, q1("plant" + strings.Repeat("/", 30000))},
		{"topic never subscribed", stays, false, q1("office/a")},
		{"topic of the broker", stays, false, q1("$SYS/a")},
		{"packet id 0", stays, false, bytesOf(publishFrame(qos1, 0, "plant/a", "x"))},
		{"no packet id", stays, false, bytesOf(frameOf(0x32, []byte{0, 1, 'a'}))},
		{"topic longer than the packet", stays, false, bytesOf(frameOf(0x32, []byte{0xff, 0xff, 'a'}))},
		{"half a topic length", stays, false, bytesOf(frameOf(0x32, []byte{0}))},
		{"PUBLISH of nothing", stays, false, bytesOf(frameOf(0x32, nil))},
		{"length in more bytes than needed", stays, false, bytesOf([]byte{0x30, 0x89, 0x80, 0x80, 0}, publishFrame(0, 0, "plant/a", "")[2:])},
		{"payload over max_payload", stays, false, bytesOf(publishFrame(qos1, 7, "plant/a", long))},
		{"payload over max_payload with QoS 2", stays, false, bytesOf(publishFrame(qos2, 7, "plant/a", long), []byte{0x62, 2, 0, 7})},
		{"payload of 256 MB, all of it", stays, false, stream(maxRemaining, maxRemaining)},
		{"QoS 0 with DUP and RETAIN", stays, false, bytesOf(publishFrame(dup|retain, 0, "plant/a", "x"))},
		{"1,000 times the same id", stays, false, many(1000, func(int) []byte { return publishFrame(qos1, 7, "plant/a", "x") })},
		{"1,000 messages with the same id", stays, false, many(1000, func(i int) []byte { return publishFrame(qos1|dup, 7, "plant/a", fmt.Sprint(i)) })},
		{"1,000 times the same id with QoS 2", stays, false, many(1000, func(int) []byte { return publishFrame(qos2, 7, "plant/a", "x") })},
		{"one id with QoS 1 and 2 in turn", stays, false, many(1000, func(i int) []byte { return publishFrame(byte(qos1<<(i%2)), 7, "plant/a", "x") })},
		{"65,535 messages never released", stays, false, many(65535, func(i int) []byte { return publishFrame(qos2, uint16(i+1), "plant/a", "x") })},
		{"400,000 topics", stays, false, many(400_000, func(i int) []byte { return publishFrame(0, 0, fmt.Sprintf("plant/%0200d", i), "x") })},
		{"200,000 messages of QoS 0", stays, false, many(200_000, func(int) []byte { return publishFrame(0, 0, "plant/a", "x") })},
		{"10,000 retained messages", stays, false, many(10_000, func(i int) []byte { return publishFrame(qos1|retain, uint16(i+1), "plant/a", "x") })},
		{"byte by byte", stays, false, func(c *rawConn) {
			var frames [][]byte
			for _, b := range publishFrame(qos1, 7, "plant/a", "slow") {
				frames = append(frames, []byte{b})
			}
			c.send(frames...)
		}},
		{"CONNACK byte by byte", stays, true, func(c *rawConn) {
			for _, b := range []byte{0x20, 2, 1, 0} {
				c.send([]byte{b})
				time.Sleep(20 * time.Millisecond)
			}
		}},
	}
}

// strayControl are control packets that answer nothing.
func strayControl() []hostile {
	return []hostile{
		{"1,000 PUBRELs for nothing", stays, false, many(1000, func(i int) []byte { return []byte{0x62, 2, byte(i >> 8), byte(i)} })},
		{"1,000 PINGRESPs for nothing", stays, false, many(1000, func(int) []byte { return []byte{0xd0, 0} })},
		{"SUBACK for nothing", stays, false, bytesOf([]byte{0x90, 3, 0xff, 0xff, 1})},
		{"SUBACK for nothing with a reserved code", stays, false, bytesOf([]byte{0x90, 3, 0xff, 0xfe, 0x7f})},
		{"UNSUBACK for nothing", stays, false, bytesOf([]byte{0xb0, 2, 0xff, 0xff})},
		{"SUBACK with two codes", leaves, false, bytesOf([]byte{0x90, 4, 0, 1, 0, 0})},
		{"SUBACK without a code", leaves, false, bytesOf([]byte{0x90, 2, 0, 1})},
		{"SUBACK of 256 MB", leaves, false, bytesOf([]byte{0x90, 0xff, 0xff, 0xff, 0x7f})},
		{"UNSUBACK with a body", leaves, false, bytesOf([]byte{0xb0, 3, 0, 1, 0})},
		{"PINGRESP of 256 MB", leaves, false, bytesOf([]byte{0xd0, 0xff, 0xff, 0xff, 0x7f})},
		{"second CONNACK", leaves, false, bytesOf([]byte{0x20, 2, 0, 0})},
		{"CONNECT", leaves, false, bytesOf([]byte{0x10, 0})},
		{"SUBSCRIBE", leaves, false, bytesOf([]byte{0x82, 6, 0, 1, 0, 1, 'a', 0})},
		{"UNSUBSCRIBE", leaves, false, bytesOf([]byte{0xa2, 5, 0, 1, 0, 1, 'a'})},
		{"PUBACK", leaves, false, bytesOf([]byte{0x40, 2, 0, 1})},
		{"PUBREC", leaves, false, bytesOf([]byte{0x50, 2, 0, 1})},
		{"PUBCOMP", leaves, false, bytesOf([]byte{0x70, 2, 0, 1})},
		{"PINGREQ", leaves, false, bytesOf([]byte{0xc0, 0})},
		{"DISCONNECT", leaves, false, bytesOf([]byte{0xe0, 0})},
		{"packet type 0", leaves, false, bytesOf([]byte{0, 0})},
		{"packet type 15", leaves, false, bytesOf([]byte{0xf0, 0})},
		{"length of five bytes", leaves, false, bytesOf([]byte{0x30, 0xff, 0xff, 0xff, 0xff, 1})},
	}
}

// brokenSessions are brokers that get the session itself wrong.
func brokenSessions() []hostile {
	cases := []hostile{
		{"CONNACK with a reserved code", leaves, true, bytesOf([]byte{0x20, 2, 0, 77})},
		{"CONNACK of one byte", leaves, true, bytesOf([]byte{0x20, 1, 0})},
		{"CONNACK of 256 MB", leaves, true, bytesOf([]byte{0x20, 0xff, 0xff, 0xff, 0x7f})},
		{"PUBLISH before CONNACK", leaves, true, bytesOf(publishFrame(qos1, 1, "plant/a", "x"))},
		{"HTTP", leaves, true, bytesOf([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))},
		{"a TLS alert", leaves, true, bytesOf([]byte{0x15, 3, 3, 0, 2, 2, 40})},
		{"1 MiB of zeros", leaves, true, bytesOf(make([]byte, 1<<20))},
		{"1 MiB of 0xff", leaves, true, bytesOf(bytes.Repeat([]byte{0xff}, 1<<20))},
		{"end before CONNACK", cut, true, bytesOf()},
		{"end within a header", cut, false, bytesOf([]byte{0x30, 0x80})},
		{"end within a topic", cut, false, bytesOf([]byte{0x32, 9, 0, 5, 'p'})},
		{"end within a payload", cut, false, stream(1<<20, 1000)},
		{"256 MB claimed, 40 MB sent", cut, false, stream(maxRemaining, 40<<20)},
		{"256 MB claimed, then silence", leaves, false, func(c *rawConn) {
			c.silence()
			stream(maxRemaining, 20)(c)
		}},
		{"a message of max_payload claimed, then silence", leaves, false, func(c *rawConn) {
			c.silence()
			stream(1<<20, 20)(c)
		}},
		{"half a header, then silence", leaves, false, func(c *rawConn) {
			c.silence()
			c.send([]byte{0x32})
		}},
		{"pings are not answered", leaves, false, func(c *rawConn) { c.silence() }},
		{"nothing is read any more, and all is sent", leaves, false, neverReads},
	}
	for code := byte(1); code <= 5; code++ {
		cases = append(cases, hostile{fmt.Sprintf("CONNACK refuses with %d", code), leaves, true, bytesOf([]byte{0x20, 2, 0, code})})
	}
	return cases
}

func (c *rawConn) silence() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mute = true
}

// neverReads floods a client without looking at its acknowledgements.
func neverReads(c *rawConn) {
	c.mu.Lock()
	c.stuck = true
	c.mu.Unlock()
	for id := uint16(1); !c.gone(); id++ {
		c.writeMu.Lock()
		_, err := c.Write(publishFrame(qos1, max(id, 1), "plant/a", "x"))
		c.writeMu.Unlock()
		if err != nil {
			c.mu.Lock()
			c.stuck = false
			c.mu.Unlock()
			return
		}
	}
}

// TestHostileBrokers gives one source one bad broker after the other. After each
// a good message arrives, and all of it stays within little memory.
func TestHostileBrokers(t *testing.T) {
	sink := &lastSink{}
	broker := newRawBroker(t)
	cfg := baseConfig(sink, broker.url())
	cfg.KeepAlive = time.Second
	start(t, cfg)
	cases := append(append(refusable(), strayControl()...), brokenSessions()...)
	before := debug.SetMemoryLimit(softMemory)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	peak := watchMemory(t)
	for i, h := range cases {
		t.Run(h.name, func(t *testing.T) {
			good := fmt.Sprint("good ", i)
			c := suffer(t, broker, h)
			for !sendGood(t, c, sink, good) { // connections that the source has given up may stand in line
				c = broker.accept(true)
				c.t = t
			}
			_ = c.Close()
		})
	}
	t.Logf("%d cases, peak memory %.1f MiB, %d messages taken", len(cases), float64(peak())/(1<<20), sink.n)
	if got := peak(); got > maxHostileMemory {
		t.Errorf("peak memory %d bytes, %d at most", got, maxHostileMemory)
	}
}

// suffer lets a broker misbehave and returns a connection for a good message.
func suffer(t *testing.T, broker *rawBroker, h hostile) *rawConn {
	t.Helper()
	var c *rawConn
	if h.bare {
		c = broker.connection()
	} else {
		c = broker.accept(true)
	}
	c.t = t
	h.talk(c)
	switch h.end {
	case stays:
		return c
	case leaves:
		eventually(t, "the end of the connection", c.gone)
	}
	_ = c.Close()
	return broker.accept(true)
}

// sendGood sends a message and waits until it is taken, or the connection ends.
func sendGood(t *testing.T, c *rawConn, sink *lastSink, good string) bool {
	t.Helper()
	c.send(publishFrame(qos1, 60000, "plant/good", good))
	eventually(t, "the good message, or the end", func() bool { return sink.holds(good) || c.gone() })
	return sink.holds(good)
}

// watchMemory starts to look at what the Go runtime has from the system, often,
// and returns what gives the highest value so far.
func watchMemory(t *testing.T) func() uint64 {
	debug.FreeOSMemory()
	var peak atomic.Uint64
	stop := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		sample := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
		for {
			metrics.Read(sample)
			peak.Store(max(peak.Load(), sample[0].Value.Uint64()-sample[1].Value.Uint64()))
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-ended })
	return peak.Load
}
