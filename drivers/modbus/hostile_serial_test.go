package modbus

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// busTimeout is the request time-out of these tests: all cases run at once, and
// none of the pauses in an answer may end on the wrong side of it.
const busTimeout = time.Second

// misuse is one way to answer wrongly on a bus. The request asks unit 1 for two
// registers, whose right values are 0x1234 and 0x5678.
type misuse struct {
	name       string
	rtu, ascii string        // reason of the bad reading; empty: the right value comes all the same
	gap        time.Duration // frame_gap
	maybe      string        // reason that a busy machine may come to instead
	answer     func(s *slave, req []byte)
}

var (
	rightData = []byte{1, 3, 4, 0x12, 0x34, 0x56, 0x78}
	wrongData = []byte{1, 3, 4, 0xde, 0xad, 0xbe, 0xef}
)

// body answers with a whole frame of unit and PDU.
func body(b ...byte) func(*slave, []byte) {
	return func(s *slave, _ []byte) { s.say(b...) }
}

// bare answers with bytes as they are.
func bare(b []byte) func(*slave, []byte) {
	return func(s *slave, _ []byte) { s.Write(b) }
}

// partOf answers with the first bytes of a frame.
func partOf(n int) func(*slave, []byte) {
	return func(s *slave, _ []byte) { s.Write(s.frame(wrongData)[:n]) }
}

// pieces answers with a frame in pieces of a size.
func pieces(size int, pause time.Duration, body []byte) func(*slave, []byte) {
	return func(s *slave, _ []byte) {
		for piece := range slices.Chunk(s.frame(body), size) {
			s.Write(piece)
			time.Sleep(pause)
		}
	}
}

// with answers with the right frame in which f changes something.
func with(f func(frame []byte) []byte) func(*slave, []byte) {
	return func(s *slave, _ []byte) { s.Write(f(s.frame(rightData))) }
}

// onAnyBus are faults that RTU and ASCII have in common.
func onAnyBus() []misuse {
	all := []misuse{
		{name: "another unit", answer: body(7, 3, 4, 0xde, 0xad, 0xbe, 0xef)},
		{name: "unit 0", answer: body(0, 3, 4, 0xde, 0xad, 0xbe, 0xef)},
		{name: "unit 255", answer: body(255, 3, 4, 0xde, 0xad, 0xbe, 0xef)},
		{name: "another function", answer: body(1, 4, 4, 0xde, 0xad, 0xbe, 0xef)},
		{name: "function 0", answer: body(1, 0, 4, 0xde, 0xad, 0xbe, 0xef)},
		{name: "exception of another function", answer: body(1, 0x84, 2)},
		{name: "exception of another unit", answer: body(7, 0x83, 2)},
		{name: "exception with code 0", answer: body(1, 0x83, 0)},
		{name: "exception with data", answer: body(1, 0x83, 2, 0)},
		{name: "fewer registers", answer: body(1, 3, 2, 0xde, 0xad)},
		{name: "more registers", answer: body(1, 3, 6, 0xde, 0xad, 0xbe, 0xef, 0, 0)},
		{name: "no registers", answer: body(1, 3, 0)},
		{name: "odd byte count", answer: body(1, 3, 3, 0xde, 0xad, 0xbe)},
		{name: "byte count too small for the data", answer: body(1, 3, 2, 0xde, 0xad, 0xbe, 0xef)},
		{name: "byte count too large for the data", answer: body(1, 3, 6, 0xde, 0xad, 0xbe, 0xef)},
		{name: "byte count right, data long", answer: body(1, 3, 4, 0xde, 0xad, 0xbe, 0xef, 0)},
		{name: "function code only", answer: body(1, 3)},
		{name: "unit only", answer: body(1)},
		{name: "nothing in the frame", answer: body()},
		{name: "echo of the request", answer: func(s *slave, req []byte) { s.say(req...) }},
		{name: "the request's echo before the answer", answer: func(s *slave, req []byte) {
			s.Write(append(s.frame(req), s.frame(rightData)...))
		}},
		{name: "noise before the answer", answer: with(func(f []byte) []byte { return append([]byte{0}, f...) })},
		{name: "noise behind the answer", answer: with(func(f []byte) []byte { return append(f, 0) })},
		{name: "the answer twice", answer: with(func(f []byte) []byte { return append(f, f...) })},
		{name: "the answer and another one", answer: func(s *slave, _ []byte) {
			s.Write(append(s.frame(rightData), s.frame(wrongData)...))
		}},
		{name: "a dialogue of another master", answer: func(s *slave, _ []byte) {
			s.say(7, 3, 0, 10, 0, 2)
			s.say(7, 3, 4, 0xde, 0xad, 0xbe, 0xef)
			s.say(rightData...)
		}},
		{name: "2 KiB of 0xff", answer: bare(bytes.Repeat([]byte{0xff}, 2048))},
		{name: "2 KiB of zeros", answer: bare(make([]byte, 2048))},
		{name: "HTTP", answer: bare([]byte("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"))},
		{name: "Modbus TCP", answer: bare([]byte{0, 1, 0, 0, 0, 7, 1, 3, 4, 0xde, 0xad, 0xbe, 0xef})},
	}
	for i := range all {
		all[i].rtu, all[i].ascii = badInvalid, badInvalid
	}
	return slices.Concat(all, exceptionsOnABus(), lateOnABus())
}

// exceptionsOnABus are answers, though without a value.
func exceptionsOnABus() (all []misuse) {
	for _, code := range []byte{1, 4, 6, 10, 11, 255} {
		reason := fmt.Sprintf("exception-%d", code)
		all = append(all, misuse{name: reason, rtu: reason, ascii: reason, answer: body(1, 0x83, code)})
	}
	all = append(all,
		misuse{name: "exception 2", rtu: "exception-2", ascii: "exception-2"}, // no answer: see busCase
		misuse{name: "exception in pieces", rtu: "exception-4", ascii: "exception-4", answer: pieces(4, 20*time.Millisecond, []byte{1, 0x83, 4})},
		misuse{name: "exception without a code", rtu: badTimeout, ascii: badInvalid, answer: body(1, 0x83)})
	return all
}

// lateOnABus come late, in part, or not at all.
func lateOnABus() []misuse {
	return []misuse{
		{name: "silence", rtu: badTimeout, ascii: badTimeout, answer: func(*slave, []byte) {}},
		{name: "1 byte", rtu: badTimeout, ascii: badTimeout, answer: partOf(1)},
		{name: "3 bytes", rtu: badTimeout, ascii: badTimeout, answer: partOf(3)},
		{name: "all but the last byte", rtu: badTimeout, ascii: badTimeout, answer: func(s *slave, _ []byte) {
			s.Write(s.frame(wrongData)[:len(s.frame(wrongData))-1])
		}},
		{name: "byte count right, data short", rtu: badTimeout, ascii: badInvalid, answer: body(1, 3, 4, 0xde, 0xad)},
		{name: "byte after byte, in time", answer: pieces(1, time.Millisecond, rightData)},
		{name: "in two parts", answer: pieces(5, 20*time.Millisecond, rightData)},
		{name: "in parts, too slowly", rtu: badTimeout, ascii: badTimeout, answer: func(s *slave, req []byte) {
			pieces((len(s.frame(wrongData))+4)/5, 350*time.Millisecond, wrongData)(s, req)
		}},
		{name: "late, after the time-out", rtu: badTimeout, ascii: badTimeout, answer: func(s *slave, _ []byte) {
			time.Sleep(busTimeout + 100*time.Millisecond)
			s.say(wrongData...)
		}},
		{name: "late, and twice", rtu: badTimeout, ascii: badTimeout, answer: func(s *slave, _ []byte) {
			time.Sleep(busTimeout + 100*time.Millisecond)
			s.say(wrongData...)
			time.Sleep(20 * time.Millisecond)
			s.say(wrongData...)
		}},
		{name: "half in time, half late", rtu: badTimeout, ascii: badTimeout, answer: func(s *slave, _ []byte) {
			frame := s.frame(wrongData)
			s.Write(frame[:6])
			time.Sleep(busTimeout + 100*time.Millisecond)
			s.Write(frame[6:])
		}},
		{name: "the answer, and another one before the next request", gap: 600 * time.Millisecond, maybe: badInvalid, answer: func(s *slave, _ []byte) {
			start := time.Now()
			s.say(rightData...)
			time.Sleep(20 * time.Millisecond)
			if time.Since(start) < 200*time.Millisecond { // else the machine is too busy for this
				s.say(wrongData...)
			}
		}},
	}
}

// onRTU are faults of RTU frames alone.
func onRTU() []misuse {
	all := []misuse{
		{name: "a bit of the data flipped", answer: with(func(f []byte) []byte { f[4] ^= 1; return f })},
		{name: "a bit of the CRC flipped", answer: with(func(f []byte) []byte { f[8] ^= 0x80; return f })},
		{name: "CRC swapped", answer: with(func(f []byte) []byte { f[7], f[8] = f[8], f[7]; return f })},
		{name: "CRC zero", answer: with(func(f []byte) []byte { f[7], f[8] = 0, 0; return f })},
		{name: "exception with a wrong CRC", answer: bare([]byte{1, 0x83, 2, 0, 0})},
		{name: "a byte lost, another one behind", answer: with(func(f []byte) []byte { return append(f[:4], f[5], f[6], f[7], f[8], 0) })},
		{name: "two bytes swapped", answer: with(func(f []byte) []byte { f[3], f[4] = f[4], f[3]; return f })},
		{name: "ASCII", answer: func(s *slave, _ []byte) { s.Write(asciiFrame(wrongData)) }},
	}
	for i := range all {
		all[i].rtu = badInvalid
	}
	return all
}

// onASCII are faults of ASCII frames alone.
func onASCII() []misuse {
	all := []misuse{
		{name: "a digit changed", answer: with(func(f []byte) []byte { f[8] = '9'; return f })},
		{name: "LRC changed", answer: with(func(f []byte) []byte { f[15] ^= 1; return f })},
		{name: "a letter that is no digit", answer: with(func(f []byte) []byte { f[8] = 'G'; return f })},
		{name: "a digit lost", answer: with(func(f []byte) []byte { return slices.Delete(f, 8, 9) })},
		{name: "two digits lost", answer: with(func(f []byte) []byte { return slices.Delete(f, 7, 9) })},
		{name: "no colon", answer: with(func(f []byte) []byte { return f[1:] })},
		{name: "two colons", answer: with(func(f []byte) []byte { return append([]byte{':'}, f...) })},
		{name: "a frame begins within a frame", answer: with(func(f []byte) []byte { return append(f[:7:7], f...) })},
		{name: "parity bits", answer: with(func(f []byte) []byte {
			for i := range f {
				f[i] |= 0x80
			}
			return f
		})},
		{name: "no end", answer: bare([]byte(":" + strings.Repeat("A", 600)))},
		{name: "colon and end", answer: bare([]byte(":\r\n"))},
		{name: "RTU", answer: func(s *slave, _ []byte) { s.Write(rtuFrame(wrongData)) }},
	}
	for i := range all {
		all[i].ascii = badInvalid
	}
	return append(all,
		misuse{name: "small letters", answer: with(bytes.ToLower)},
		misuse{name: "no LF", ascii: badTimeout, answer: with(func(f []byte) []byte { return f[:len(f)-1] })},
		misuse{name: "no CR", ascii: badTimeout, answer: with(func(f []byte) []byte { return append(f[:len(f)-2], '\n') })})
}

// onGateway are faults of the connection to a gateway.
func onGateway() []misuse {
	return []misuse{
		{name: "connection closed", rtu: badConnection, answer: func(s *slave, _ []byte) { s.Close() }},
		{name: "half a frame, then closed", rtu: badConnection, answer: func(s *slave, req []byte) { partOf(5)(s, req); s.Close() }},
		{name: "the answer, then closed", answer: func(s *slave, _ []byte) { s.say(rightData...); s.Close() }},
		{name: "1 MiB of 0xff", rtu: badInvalid, answer: bare(bytes.Repeat([]byte{0xff}, 1<<20))},
	}
}

func TestHostileAnswersOnABusNeverBecomeValues(t *testing.T) {
	worst := watchClock()
	var running []func() string
	var check []func(late time.Duration)
	add := func(scheme string, cases []misuse) {
		for _, m := range cases {
			if scheme == schemeASCII {
				m.rtu = m.ascii
			}
			wrong := startMisuse(t, scheme, m)
			running = append(running, wrong)
			check = append(check, func(late time.Duration) {
				t.Run(scheme+"/"+m.name, func(t *testing.T) { checkMisuse(t, scheme, m, wrong(), late) })
			})
		}
	}
	// All of them run from here on, so that their time-outs pass together.
	add(schemeRTU, slices.Concat(onAnyBus(), onRTU()))
	add(schemeASCII, slices.Concat(onAnyBus(), onASCII()))
	add(schemeRTUOnTCP, slices.Concat(onAnyBus(), onRTU(), onGateway()))
	t.Logf("%d cases", len(running))
	for _, wrong := range running {
		wrong()
	}
	late := worst()
	for _, check := range check {
		check(late)
	}
}

// checkMisuse judges what came of a case that ran beside all others; on a machine that was busy meanwhile it gets another
// chance, alone.
func checkMisuse(t *testing.T, scheme string, m misuse, wrong string, late time.Duration) {
	switch {
	case wrong == "":
	case late <= busy:
		t.Error(wrong)
	default:
		t.Logf("once more, alone, since the clock was looked at %v late: %s", late, wrong)
		calmly(t, func() string { return startMisuse(t, scheme, m)() })
	}
}

// startMisuse answers the first request by m, all others rightly, and wants nothing
// but the right values and, for that one poll, the reason. It returns a function that
// waits for what is wrong with that.
func startMisuse(t *testing.T, scheme string, m misuse) (wait func() (wrong string)) {
	var unplanned atomic.Pointer[string]
	answer := func(s *slave, n int, req []byte) {
		switch {
		case m.answer == nil && n < 3: // the merged request and both its halves
			s.say(1, 0x83, 2)
		case m.answer != nil && n == 0:
			m.answer(s, req)
		case binary.BigEndian.Uint16(req[4:]) == 2:
			s.say(rightData...)
		case n > 0 && m.answer != nil && binary.BigEndian.Uint16(req[4:]) == 1: // which settles what the first one left
			s.say(1, 3, 2, 0x12, 0x34)
		default:
			unplanned.Store(new(fmt.Sprintf("a request that nobody planned: % x", req)))
		}
	}
	var url string
	if scheme == schemeRTUOnTCP {
		url = behindGateway(t, answer)
	} else {
		_, url = onPort(t, scheme, answer)
	}
	sink := newMemory()
	source := start(t, Config{
		Name: "bus", Connection: url, Timeout: busTimeout, FrameGap: m.gap, Retries: None, Sink: sink,
		Devices: []Device{{Name: "d", Unit: 1, Every: 50 * time.Millisecond, Tags: []Tag{
			{Name: "a", Read: "holding", At: 10, Type: "uint16"}, {Name: "b", Read: "holding", At: 11, Type: "uint16"},
		}}},
	})
	return endMisuse(t, m, sink, source, &unplanned)
}

// endMisuse stops the source after four readings, so that it takes no time from the others, and judges them.
func endMisuse(t *testing.T, m misuse, sink *memory, source *running, unplanned *atomic.Pointer[string]) (wait func() (wrong string)) {
	four := make(chan struct{})
	go func() {
		defer close(four)
		for end := time.Now().Add(patience); len(sink.events) < 4 && time.Now().Before(end); {
			time.Sleep(busTimeout / 20)
		}
		source.stop()
	}()
	return sync.OnceValue(func() (wrong string) {
		<-four
		reason := m.rtu
		if n := len(sink.events); n < 4 {
			wrong = fmt.Sprintf("%d readings in %v", n, patience)
		}
		for i := range len(sink.events) {
			r := sink.next(t)
			if i == 0 && m.maybe != "" && r.Bad["a"] == m.maybe {
				reason = m.maybe
			}
			want := ""
			if i == 0 {
				want = reason
			}
			wrong = cmp.Or(wrong, judgePair(t, i, r, want))
		}
		if text := unplanned.Load(); text != nil {
			wrong = cmp.Or(wrong, *text)
		}
		return cmp.Or(wrong, judgeHealed(source, reason))
	})
}
