package modbus

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// hostileTimeout is the request time-out of these tests: long enough that an
// honest answer never misses it on a busy machine.
const hostileTimeout = 400 * time.Millisecond

// hostile is one way to answer wrongly. The request asks for two registers,
// whose right values are 0x1234 and 0x5678.
type hostile struct {
	name   string
	warm   bool   // the request before is answered rightly
	reason string // of the bad reading; empty: the right value comes all the same
	answer func(c net.Conn, req []byte)
}

// good is the right answer.
func good(req []byte) []byte { return dataOf(req, 0x12, 0x34, 0x56, 0x78) }

// says sends what f makes of the request.
func says(f func(req []byte) []byte) func(net.Conn, []byte) {
	return func(c net.Conn, req []byte) { c.Write(f(req)) }
}

// patched is an answer with wrong values in which one byte is changed.
func patched(at int, to byte) func(net.Conn, []byte) {
	return says(func(req []byte) []byte {
		f := dataOf(req, 0xde, 0xad, 0xbe, 0xef)
		f[at] = to
		return f
	})
}

// moved is an answer with wrong values whose transaction id is off.
func moved(by int) func(net.Conn, []byte) {
	return says(func(req []byte) []byte { return withTransaction(dataOf(req, 0xde, 0xad, 0xbe, 0xef), by) })
}

func withTransaction(frame []byte, by int) []byte {
	frame = bytes.Clone(frame)
	binary.BigEndian.PutUint16(frame, uint16(int(binary.BigEndian.Uint16(frame))+by))
	return frame
}

// withLength is the right answer with another length in the header.
func withLength(length uint16) func(net.Conn, []byte) {
	return says(func(req []byte) []byte {
		f := good(req)
		binary.BigEndian.PutUint16(f[4:], length)
		return f
	})
}

// pdu answers with these bytes, wrapped rightly.
func pdu(b ...byte) func(net.Conn, []byte) {
	return says(func(req []byte) []byte { return frameOf(req, b...) })
}

// raw answers with bytes that are no frame.
func raw(s string) func(net.Conn, []byte) {
	return says(func([]byte) []byte { return []byte(s) })
}

// reset closes the connection so that the other side gets a RST.
func reset(c net.Conn) {
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

// drip sends the answer in pieces.
func drip(size int, pause time.Duration, answer func([]byte) []byte) func(net.Conn, []byte) {
	return func(c net.Conn, req []byte) {
		for piece := range slices.Chunk(answer(req), size) {
			if _, err := c.Write(piece); err != nil {
				return
			}
			time.Sleep(pause)
		}
	}
}

func hostileAnswers() []hostile {
	return slices.Concat(foreignAnswers(), misshapenAnswers(), surplusAnswers(), brokenAnswers())
}

// bad has the form of the right answer and wrong values.
func bad(req []byte) []byte { return dataOf(req, 0xde, 0xad, 0xbe, 0xef) }

// foreignAnswers are for another transaction, protocol, unit or function.
func foreignAnswers() []hostile {
	return []hostile{
		{"transaction id of a later request", false, badInvalid, moved(1)},
		{"transaction id far away", false, badInvalid, moved(0x4000)},
		{"transaction id of a request before the connection", false, badInvalid, moved(-1)},
		{"transaction id 0xffff", false, badInvalid, moved(-2)},
		{"older transaction and silence", true, badTimeout, moved(-1)},
		{"older transaction, then the right answer", true, "", func(c net.Conn, req []byte) {
			c.Write(append(withTransaction(bad(req), -1), good(req)...))
		}},
		{"older transaction, then the right answer later", true, "", func(c net.Conn, req []byte) {
			c.Write(withTransaction(bad(req), -1))
			time.Sleep(5 * time.Millisecond)
			c.Write(good(req))
		}},
		{"older transaction without end", true, badTimeout, func(c net.Conn, req []byte) {
			for range 1000 {
				if _, err := c.Write(withTransaction(bad(req), -1)); err != nil {
					return
				}
				time.Sleep(time.Millisecond)
			}
		}},
		{"protocol id 1", false, badInvalid, patched(3, 1)},
		{"protocol id 0x0100", false, badInvalid, patched(2, 1)},
		{"another unit", false, badInvalid, patched(6, 2)},
		{"unit 0", false, badInvalid, patched(6, 0)},
		{"unit 255", false, badInvalid, patched(6, 255)},
		{"another function", false, badInvalid, patched(7, 4)},
		{"function 0", false, badInvalid, patched(7, 0)},
		{"exception of another function", false, badInvalid, pdu(0x84, 2)},
	}
}

// misshapenAnswers have the wrong length, or too much or too little in them; some are exceptions.
func misshapenAnswers() []hostile {
	return []hostile{
		{"exception without a code", false, badInvalid, pdu(0x83)},
		{"exception with code 0", false, badInvalid, pdu(0x83, 0)},
		{"exception with data", false, badInvalid, pdu(0x83, 2, 0)},
		{"answer that looks like an exception", false, badInvalid, pdu(0x83, 4, 0xde, 0xad, 0xbe, 0xef)},
		{"exception 1", false, "exception-1", pdu(0x83, 1)},
		{"exception 2", false, "exception-2", nil}, // see below: both halves are refused too
		{"exception 4", false, "exception-4", pdu(0x83, 4)},
		{"exception 6", false, "exception-6", pdu(0x83, 6)},
		{"exception 10 of the gateway", false, "exception-10", pdu(0x83, 10)},
		{"exception 11 of the gateway", false, "exception-11", pdu(0x83, 11)},
		{"exception 255", false, "exception-255", pdu(0x83, 255)},
		{"fewer registers", false, badInvalid, pdu(3, 2, 0xde, 0xad)},
		{"more registers", false, badInvalid, pdu(3, 6, 0xde, 0xad, 0xbe, 0xef, 0, 0)},
		{"no registers", false, badInvalid, pdu(3, 0)},
		{"odd byte count", false, badInvalid, pdu(3, 3, 0xde, 0xad, 0xbe)},
		{"byte count too small for the data", false, badInvalid, pdu(3, 2, 0xde, 0xad, 0xbe, 0xef)},
		{"byte count too large for the data", false, badInvalid, pdu(3, 6, 0xde, 0xad, 0xbe, 0xef)},
		{"byte count right, data short", false, badInvalid, pdu(3, 4, 0xde, 0xad)},
		{"byte count right, data long", false, badInvalid, pdu(3, 4, 0xde, 0xad, 0xbe, 0xef, 0)},
		{"function code only", false, badInvalid, pdu(3)},
		{"echo of the request", false, badInvalid, says(func(req []byte) []byte { return req })},
		{"length 0", false, badInvalid, withLength(0)},
		{"length 1", false, badInvalid, withLength(1)},
		{"length 255", false, badInvalid, withLength(255)},
		{"length 65535", false, badInvalid, withLength(65535)},
		{"length too short by 2", false, badInvalid, withLength(5)},
		{"length too long by 3", false, badTimeout, withLength(10)},
	}
}

// surplusAnswers have something before or behind them, or are no Modbus TCP at all.
func surplusAnswers() []hostile {
	return []hostile{
		{"the right answer and one byte more", false, badInvalid, says(func(req []byte) []byte { return append(good(req), 0) })},
		{"the answer twice", false, badInvalid, says(func(req []byte) []byte { return append(good(req), bad(req)...) })},
		{"the answer and the next one", false, badInvalid, says(func(req []byte) []byte {
			return append(good(req), withTransaction(bad(req), 1)...)
		})},
		{"the answer, and again before the next request", false, "", func(c net.Conn, req []byte) {
			c.Write(good(req))
			time.Sleep(5 * time.Millisecond)
			c.Write(bad(req))
		}},
		{"the next answer before its request", false, "", func(c net.Conn, req []byte) {
			c.Write(good(req))
			time.Sleep(5 * time.Millisecond)
			c.Write(withTransaction(bad(req), 1))
		}},
		{"1 MiB of 0xff", false, badInvalid, raw(strings.Repeat("\xff", 1<<20))},
		{"1 MiB of zeros", false, badInvalid, raw(strings.Repeat("\x00", 1<<20))},
		{"HTTP", false, badInvalid, raw("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")},
		{"SSH", false, badInvalid, raw("SSH-2.0-OpenSSH_9.9\r\n")},
		{"TLS alert", false, badInvalid, raw("\x15\x03\x01\x00\x02\x02\x28")},
		{"RTU frame over TCP", false, badInvalid, raw("\x01\x03\x04\xde\xad\xbe\xef\x00\x00")},
	}
}

// brokenAnswers come late, in part, or not at all.
func brokenAnswers() []hostile {
	return []hostile{
		{"silence", false, badTimeout, func(net.Conn, []byte) {}},
		{"3 bytes of a header", false, badTimeout, says(func(req []byte) []byte { return good(req)[:3] })},
		{"a header only", false, badTimeout, says(func(req []byte) []byte { return good(req)[:7] })},
		{"half a frame", false, badTimeout, says(func(req []byte) []byte { return good(req)[:11] })},
		{"byte after byte, in time", false, "", drip(1, time.Millisecond, good)},
		{"byte after byte, too slowly", false, badTimeout, drip(1, 60*time.Millisecond, bad)},
		{"late, after the time-out", false, badTimeout, func(c net.Conn, req []byte) {
			time.Sleep(hostileTimeout + 50*time.Millisecond)
			c.Write(bad(req))
		}},
		{"half a frame, and its rest before the next answer", false, badTimeout, func(c net.Conn, req []byte) {
			c.Write(bad(req)[:11])
			next := make([]byte, requestLen)
			if _, err := io.ReadFull(c, next); err == nil {
				c.Write(append(bad(req)[11:], good(next)...))
			}
		}},
		{"connection closed", false, badConnection, func(c net.Conn, _ []byte) { c.Close() }},
		{"connection reset", false, badConnection, func(c net.Conn, _ []byte) { reset(c) }},
		{"half a frame, then closed", false, badConnection, func(c net.Conn, req []byte) { c.Write(bad(req)[:11]); c.Close() }},
		{"half a frame, then reset", false, badConnection, func(c net.Conn, req []byte) { c.Write(bad(req)[:11]); reset(c) }},
		{"the answer, then closed", false, "", func(c net.Conn, req []byte) { c.Write(good(req)); c.Close() }},
		{"an answer with wrong length, then closed", false, badConnection, func(c net.Conn, req []byte) { withLength(9)(c, req); c.Close() }},
	}
}

func TestHostileAnswersNeverBecomeValues(t *testing.T) {
	for _, h := range hostileAnswers() {
		t.Run(h.name, func(t *testing.T) {
			t.Parallel()
			calmly(t, func() string { return playHostile(t, h, nil) })
		})
	}
	t.Run("a frame before the first request", func(t *testing.T) {
		t.Parallel()
		h := hostile{reason: badInvalid, answer: func(c net.Conn, req []byte) {
			time.Sleep(5 * time.Millisecond) // so that the frame is read alone
			c.Write(good(req))
		}}
		calmly(t, func() string {
			var once sync.Once
			return playHostile(t, h, func(c net.Conn) {
				once.Do(func() { c.Write([]byte{0, 1, 0, 0, 0, 7, 1, 3, 4, 0xde, 0xad, 0xbe, 0xef}) })
			})
		})
	})
}

// playHostile answers one request by h, all others rightly, and wants nothing
// but the right values and, for that one poll, the reason.
func playHostile(t *testing.T, h hostile, accepted func(net.Conn)) (wrong string) {
	attack := 0
	if h.warm {
		attack = 1
	}
	var unplanned atomic.Pointer[string]
	p := newPeer(t, func(c net.Conn, n int, req []byte) {
		switch {
		case h.answer == nil && n < 3: // the merged request and both its halves
			c.Write(frameOf(req, 0x83, 2))
		case h.answer != nil && n == attack:
			h.answer(c, req)
		case binary.BigEndian.Uint16(req[10:]) == 2:
			c.Write(good(req))
		default:
			unplanned.Store(new(fmt.Sprintf("a request that nobody planned: % x", req)))
		}
	}, accepted)
	sink := newMemory()
	s := start(t, Config{
		Name: "bus", Connection: p.url(), Timeout: hostileTimeout, Retries: None, Sink: sink,
		Devices: []Device{{Name: "d", Unit: 1, Every: 60 * time.Millisecond, Tags: []Tag{
			{Name: "a", Read: "holding", At: 10, Type: "uint16"}, {Name: "b", Read: "holding", At: 11, Type: "uint16"},
		}}},
	})
	want := []string{h.reason, "", "", ""}
	if h.warm {
		want = append([]string{""}, want...)
	}
	var readings []reading
	for range want {
		readings = append(readings, sink.next(t))
	}
	s.stop()
	for len(sink.events) > 0 {
		readings, want = append(readings, sink.next(t)), append(want, "")
	}
	for i, r := range readings {
		wrong = cmp.Or(wrong, judgePair(t, i, r, want[i]))
	}
	if text := unplanned.Load(); text != nil {
		wrong = cmp.Or(wrong, *text)
	}
	return cmp.Or(wrong, judgeHealed(s, h.reason))
}

// judgeHealed wants one poll with that result and all others to be right: a
// silent device makes no reading of a second poll that failed.
func judgeHealed(s *running, reason string) (wrong string) {
	polls := s.Stats().Devices[0].Polls
	for result, n := range polls {
		want := uint64(0)
		if result == reason {
			want = 1
		}
		if result != resultOK && result != resultMissed && n != want {
			return fmt.Sprintf("polls %v, want one %q and all others right", polls, reason)
		}
	}
	return ""
}

// checkPair wants both tags right, or bad for this reason.
func checkPair(t *testing.T, i int, r reading, reason string) {
	t.Helper()
	if wrong := judgePair(t, i, r, reason); wrong != "" {
		t.Fatal(wrong)
	}
}

// judgePair is checkPair on a machine that may be busy; a wrong value is one on any.
func judgePair(t *testing.T, i int, r reading, reason string) (wrong string) {
	t.Helper()
	right := map[string]string{"a": "4660", "b": "22136"}
	for name, v := range r.Values {
		if string(v) != right[name] {
			t.Errorf("reading %d is %s: a wrong value", i, r.event.Payload)
		}
	}
	switch {
	case reason == "" && (len(r.Bad) > 0 || len(r.Values) != 2):
		return fmt.Sprintf("reading %d is %s, want the right values", i, r.event.Payload)
	case reason != "" && (len(r.Values) > 0 || len(r.Bad) != 2 || r.Bad["a"] != reason || r.Bad["b"] != reason):
		return fmt.Sprintf("reading %d is %s, want both bad: %s", i, r.event.Payload, reason)
	}
	return ""
}

func TestHostileAnswersToBitsNeverBecomeValues(t *testing.T) {
	cases := map[string]func(net.Conn, []byte){
		"one byte of two": pdu(1, 1, 0xff),
		"three bytes":     pdu(1, 3, 0xff, 0xff, 0xff),
		"no bytes":        pdu(1, 0),
		"count only":      pdu(1, 2),
		"registers":       pdu(3, 2, 0xff, 0xff),
		"other table":     pdu(2, 2, 0xff, 0xff),
	}
	for name, answer := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPeer(t, func(c net.Conn, n int, req []byte) {
				if n == 0 {
					answer(c, req)
					return
				}
				c.Write(dataOf(req, 0, 0))
			}, nil)
			sink := newMemory()
			s := start(t, Config{
				Name: "bus", Connection: p.url(), Timeout: patience, Retries: None, Sink: sink,
				Devices: []Device{{Name: "d", Unit: 1, Every: 10 * time.Millisecond, Tags: []Tag{
					{Name: "a", Read: "coil", At: 0}, {Name: "b", Read: "coil", At: 8},
				}}},
			})
			if r := sink.next(t); r.Bad["a"] != badInvalid || r.Bad["b"] != badInvalid || len(r.Values) > 0 {
				t.Fatalf("got %s, want both bad", r.event.Payload)
			}
			if r := sink.next(t); string(r.Values["a"]) != "false" || string(r.Values["b"]) != "false" || len(r.Bad) > 0 {
				t.Fatalf("got %s, want both false", r.event.Payload)
			}
			if wrong := judgeHealed(s, badInvalid); wrong != "" {
				t.Error(wrong)
			}
		})
	}
}
