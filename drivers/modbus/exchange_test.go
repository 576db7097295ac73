package modbus

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	mb "github.com/goburrow/modbus"
)

// trade is a request, the answer that fits it, and some that don't.
type trade struct {
	request, answer []byte // PDUs
	wrong           [][]byte
}

func trades() map[string]trade {
	id := []byte{43, 14, 1, 0x81, 0, 0, 2, 0, 3, 'a', 'b', 'c', 1, 0}
	return map[string]trade{
		"read coils": {[]byte{1, 0, 0, 0, 9}, []byte{1, 2, 0xff, 1}, [][]byte{{1, 1, 0xff}, {1, 3, 1, 2, 3}, {1, 2, 0xff}, {2, 2, 0xff, 1}}},
		"write a coil": {[]byte{5, 0, 7, 0xff, 0}, []byte{5, 0, 7, 0xff, 0}, [][]byte{
			{5, 0, 7, 0, 0}, {5, 0, 8, 0xff, 0}, {5, 1, 7, 0xff, 0}, {5, 0, 7, 0xff}, {5, 0, 7, 0xff, 0, 0}, {6, 0, 7, 0xff, 0}, {5},
		}},
		"write a register": {[]byte{6, 0, 7, 1, 2}, []byte{6, 0, 7, 1, 2}, [][]byte{{6, 0, 7, 1, 3}, {6, 0, 6, 1, 2}, {6, 0, 7, 1}, {3, 2, 1, 2}}},
		"write coils": {[]byte{15, 0, 3, 0, 10, 2, 0xcd, 1}, []byte{15, 0, 3, 0, 10}, [][]byte{
			{15, 0, 3, 0, 9}, {15, 0, 4, 0, 10}, {15, 0, 3, 0, 10, 2, 0xcd, 1}, {15, 0, 3},
		}},
		"write registers": {[]byte{16, 0, 1, 0, 2, 4, 0, 10, 1, 2}, []byte{16, 0, 1, 0, 2}, [][]byte{
			{16, 0, 1, 0, 1}, {16, 0, 2, 0, 2}, {16, 0, 1, 0, 2, 4, 0, 10, 1, 2}, {16},
		}},
		"mask a register": {[]byte{22, 0, 4, 0, 0xf2, 0, 0x25}, []byte{22, 0, 4, 0, 0xf2, 0, 0x25}, [][]byte{
			{22, 0, 4, 0, 0xf2, 0, 0x26}, {22, 0, 5, 0, 0xf2, 0, 0x25}, {22, 0, 4, 0, 0xf2},
		}},
		"write and read registers": {[]byte{23, 0, 3, 0, 2, 0, 14, 0, 1, 2, 0, 0xff}, []byte{23, 4, 0, 0xfe, 10, 0xcd}, [][]byte{
			{23, 2, 0, 0xfe}, {23, 6, 0, 0xfe, 10, 0xcd, 0, 0}, {23, 4, 0, 0xfe, 10}, {3, 4, 0, 0xfe, 10, 0xcd},
		}},
		"report the server's id": {[]byte{17}, []byte{17, 4, 'i', 'd', 0, 0xff}, [][]byte{{17, 5, 'i', 'd', 0, 0xff}, {17, 3, 'i', 'd', 0, 0xff}, {17}}},
		"read the device's identification": {[]byte{43, 14, 1, 0}, id, [][]byte{
			id[:len(id)-1], append(bytes.Clone(id), 0), patch(id, 1, 13), patch(id, 2, 2), patch(id, 4, 1), patch(id, 6, 3), patch(id, 6, 1),
			patch(id, 8, 4), patch(id, 8, 255), {43, 14, 1}, {43},
		}},
		"read one object of it": {[]byte{43, 14, 4, 2}, []byte{43, 14, 4, 0x82, 0, 0, 1, 2, 1, 'v'}, [][]byte{
			{43, 14, 4, 0x82, 0, 0, 1, 1, 1, 'v'}, {43, 14, 4, 0x82, 0, 0, 0}, {43, 14, 4, 0x82, 0, 0, 2, 2, 1, 'v', 3, 0},
		}},
	}
}

func patch(b []byte, at int, to byte) []byte {
	b = bytes.Clone(b)
	b[at] = to
	return b
}

// exchangeWith sends a PDU over a link whose peer answers it by next.
func exchangeWith(t *testing.T, scheme string, next *atomic.Pointer[[]byte]) *link {
	t.Helper()
	reply := func(s *slave, _ int, req []byte) { s.say(append([]byte{req[0]}, *next.Load()...)...) }
	var url string
	switch scheme {
	case schemeTCP:
		url = answering(t, next)
	case schemeRTUOnTCP:
		url = behindGateway(t, reply)
	default:
		_, url = onPort(t, scheme, reply)
	}
	return linkTo(t, url, patience)
}

// linkTo makes a link whose first request need not wait for what others left.
func linkTo(t *testing.T, url string, timeout time.Duration) *link {
	t.Helper()
	peer, err := parseConnection(url)
	if err != nil {
		t.Fatal(err)
	}
	l := newLink(peer, timeout, 0, time.Second)
	l.opened = true
	t.Cleanup(l.close)
	return l
}

// answering is a Modbus TCP server whose answers are the bytes of next.
func answering(t *testing.T, next *atomic.Pointer[[]byte]) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for {
					head := make([]byte, headerSize)
					if _, err := io.ReadFull(c, head); err != nil {
						return
					}
					if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint16(head[4:]))-1); err != nil {
						return
					}
					c.Write(frameOf(head, *next.Load()...))
				}
			}()
		}
	}()
	return "tcp://" + listener.Addr().String()
}

func TestAnswersMustFitTheirRequests(t *testing.T) {
	for _, scheme := range []string{schemeTCP, schemeRTU, schemeASCII, schemeRTUOnTCP} {
		for name, trade := range trades() {
			t.Run(scheme+"/"+name, func(t *testing.T) {
				var next atomic.Pointer[[]byte]
				l := exchangeWith(t, scheme, &next)
				ask := func(answer []byte) (*mb.ProtocolDataUnit, error) {
					next.Store(&answer)
					// The wait after a wrong answer has tests of its own.
					l.doubt = time.Time{}
					return l.exchange(t.Context(), 9, &mb.ProtocolDataUnit{FunctionCode: trade.request[0], Data: trade.request[1:]}, time.Time{})
				}
				right := func() {
					t.Helper()
					got, err := ask(trade.answer)
					if err != nil || got.FunctionCode != trade.answer[0] || !bytes.Equal(got.Data, trade.answer[1:]) {
						t.Fatalf("answer % x: got %+v, %v", trade.answer, got, err)
					}
				}
				right()
				_, err := ask([]byte{trade.request[0] | 0x80, 4})
				var exception *mb.ModbusError
				if !errors.As(err, &exception) || exception.ExceptionCode != 4 || exception.FunctionCode != trade.request[0]|0x80 {
					t.Errorf("exception: %v", err)
				}
				right()
				if scheme != schemeTCP && scheme != schemeASCII {
					return // a short frame of RTU is a time-out; checkPDU has seen them all by then
				}
				for _, wrong := range trade.wrong {
					if got, err := ask(wrong); !errors.Is(err, errInvalid) || got != nil {
						t.Errorf("answer % x: %+v, %v", wrong, got, err)
					}
				}
				right()
			})
		}
	}
}

func TestWrongAnswersOnRTUAreNone(t *testing.T) {
	for name, trade := range trades() {
		for _, wrong := range trade.wrong {
			f := newRTUFraming()
			request := rtuFrame(append([]byte{9}, trade.request...))
			frame, rest, err := f.cut(request, rtuFrame(append([]byte{9}, wrong...)))
			if err == nil && frame != nil && len(rest) == 0 {
				err = f.check(request, frame)
			}
			if err == nil && frame != nil && len(rest) == 0 {
				t.Errorf("%s: % x was taken", name, wrong)
			}
		}
	}
}

func TestRequestsThatAreNone(t *testing.T) {
	for name, pdu := range map[string][]byte{
		"function 0": {0}, "function 8, whose answer nobody could judge": {8, 0, 0, 0, 0}, "function 24": {24, 0, 0}, "an exception": {0x83, 1},
		"no data": {3}, "short": {3, 0, 0, 1}, "long": {3, 0, 0, 0, 1, 0}, "no registers": {3, 0, 0, 0, 0}, "126 registers": {4, 0, 0, 0, 126},
		"2001 coils": {1, 0, 0, 7, 0xd1}, "a coil that is half on": {5, 0, 0, 0xff, 1}, "1969 coils to write": append([]byte{15, 0, 0, 7, 0xb1, 247}, make([]byte, 247)...),
		"bytes that are fewer than the count": {16, 0, 0, 0, 2, 4, 0, 1, 2}, "bytes that are more": {16, 0, 0, 0, 1, 2, 0, 1, 2}, "a wrong byte count": {16, 0, 0, 0, 1, 3, 0, 1},
		"122 registers to write and read": append([]byte{23, 0, 0, 0, 1, 0, 0, 0, 122, 244}, make([]byte, 244)...), "no bytes to write": {15, 0, 0, 0, 1},
		"function 43, kind 13": {43, 13, 0, 0}, "code 0": {43, 14, 0, 0}, "code 5": {43, 14, 5, 0}, "a half mask": {22, 0, 0, 0, 0},
	} {
		var next atomic.Pointer[[]byte]
		l := linkTo(t, answering(t, &next), time.Second)
		if _, err := l.exchange(t.Context(), 1, &mb.ProtocolDataUnit{FunctionCode: pdu[0], Data: pdu[1:]}, time.Time{}); !errors.Is(err, errRequest) {
			t.Errorf("%s: %v", name, err)
		}
		if l.line != nil {
			t.Errorf("%s: something was sent", name)
		}
	}
}

func TestUnit0OfABusIsAllUnits(t *testing.T) {
	for _, scheme := range []string{schemeRTU, schemeASCII} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			var got [][]byte
			var at time.Time // of the latest one
			_, url := onPort(t, scheme, func(s *slave, n int, req []byte) {
				got, at = append(got, bytes.Clone(req)), time.Now()
				if n == 1 {
					s.say(rightData...)
				}
			})
			l := linkTo(t, url, 20*time.Millisecond)
			begun := time.Now()
			write := &mb.ProtocolDataUnit{FunctionCode: 6, Data: []byte{0, 1, 2, 3}}
			if answer, err := l.exchange(t.Context(), 0, write, time.Time{}); answer != nil || err != nil {
				t.Fatalf("%v, %v", answer, err)
			}
			l.timeout = patience
			if data, err := l.read(t.Context(), 1, tables["holding"], 10, 2); err != nil || !bytes.Equal(data, rightData[3:]) {
				t.Fatalf("% x, %v", data, err)
			}
			if !bytes.Equal(got[0], []byte{0, 6, 0, 1, 2, 3}) {
				t.Errorf("sent % x", got[0])
			}
			// Not since the first one arrived, which a busy machine may notice late.
			if gap := at.Sub(begun); gap < turnaround {
				t.Errorf("the next request came after %v, want %v", gap, turnaround)
			}
			if _, err := l.read(t.Context(), 0, tables["holding"], 10, 2); !errors.Is(err, errRequest) {
				t.Errorf("read from unit 0: %v", err)
			}
			for _, pdu := range []*mb.ProtocolDataUnit{{FunctionCode: 3, Data: []byte{0, 0, 0, 1}}, {FunctionCode: 17}} {
				if _, err := l.exchange(t.Context(), 0, pdu, time.Time{}); !errors.Is(err, errRequest) {
					t.Errorf("function %d to unit 0: %v", pdu.FunctionCode, err)
				}
			}
			if _, err := New(Config{Name: "b", Connection: url, Sink: newMemory(), Devices: []Device{{Name: "d", Tags: []Tag{{Name: "v", Read: "coil"}}}}}); err == nil || !strings.Contains(err.Error(), "unit is 0") {
				t.Errorf("New: %v", err)
			}
		})
	}
}

func TestExchangeEndsWithItsContext(t *testing.T) {
	asked := make(chan struct{}, 10)
	_, url := onPort(t, schemeRTU, func(*slave, int, []byte) { asked <- struct{}{} })
	for _, opened := range []bool{true, false} { // waiting for an answer, and for the end of the doubt
		l := linkTo(t, url, time.Hour)
		l.opened = opened
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			_, err := l.read(ctx, 1, tables["holding"], 0, 1)
			ended <- err
		}()
		if opened {
			<-asked
		}
		cancel()
		if err := <-ended; err == nil {
			t.Error("a value without an answer")
		}
		l.close()
	}
}
