package modbus

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	mb "github.com/goburrow/modbus"
)

// requestLen is the length of a request to read.
const requestLen = headerSize + 5

// form is a framing and, apart from the code under test, its frames.
type form struct {
	framing
	wrap   func(request, body []byte) []byte               // unit and PDU to an answer
	unwrap func(request, frame []byte) (b []byte, ok bool) // and back; request and answer belong together
}

func forms() map[string]form {
	return map[string]form{
		schemeTCP: {framing: newTCPFraming(), wrap: wrapTCP, unwrap: func(request, frame []byte) ([]byte, bool) {
			return frame[min(6, len(frame)):], len(frame) > 7 && bytes.Equal(frame, wrapTCP(request, frame[6:]))
		}},
		schemeRTU: {framing: newRTUFraming(), wrap: func(_, body []byte) []byte { return rtuFrame(body) }, unwrap: func(_, frame []byte) ([]byte, bool) {
			body := frame[:max(0, len(frame)-2)]
			return body, len(body) > 1 && bytes.Equal(frame, rtuFrame(body))
		}},
		schemeASCII: {framing: newASCIIFraming(), wrap: func(_, body []byte) []byte { return asciiFrame(body) }, unwrap: func(_, frame []byte) ([]byte, bool) {
			if len(frame) < 9 {
				return nil, false
			}
			body, err := hex.DecodeString(string(frame[1 : len(frame)-4]))
			return body, err == nil && len(body) > 1 && bytes.Equal(bytes.ToUpper(frame), asciiFrame(body))
		}},
	}
}

// wrapTCP has the transaction of the request.
func wrapTCP(request, body []byte) []byte {
	f := append(bytes.Clone(request[:2]), 0, 0, byte(len(body)>>8), byte(len(body)))
	return append(f, body...)
}

// fits says, apart from the code under test, whether an answer's PDU may be
// believed.
func fits(req, ans []byte) bool {
	if ans[0] == req[0]+0x80 {
		return len(ans) == 2 && ans[1] > 0
	}
	switch req[0] {
	case 1, 2:
		want := (int(binary.BigEndian.Uint16(req[3:])) + 7) / 8
		return len(ans) == 2+want && ans[0] == req[0] && int(ans[1]) == want
	case 3, 4, 23:
		want := 2 * int(binary.BigEndian.Uint16(req[3:]))
		return len(ans) == 2+want && ans[0] == req[0] && int(ans[1]) == want
	case 5, 6, 15, 16:
		return bytes.Equal(ans, req[:5])
	case 22:
		return bytes.Equal(ans, req)
	case 17:
		return len(ans) > 1 && ans[0] == 17 && len(ans) == 2+int(ans[1])
	}
	if len(ans) < 7 || !bytes.Equal(ans[:3], req[:3]) || ans[4] != 0 && ans[4] != 255 || len(ans) > 253 {
		return false
	}
	rest := ans[7:]
	for range ans[6] {
		if len(rest) < 2 || len(rest) < 2+int(rest[1]) {
			return false
		}
		rest = rest[2+int(rest[1]):]
	}
	return len(rest) == 0 && (req[2] != 4 || ans[6] == 1 && ans[7] == req[3])
}

// judge reads bytes as the answer to a request, as link.Send does when they come
// at once, and checks what it makes of them.
func judge(t testing.TB, f form, request, buf []byte) (accepted bool) {
	kept := bytes.Clone(buf)
	frame, rest, err := f.cut(request, buf)
	if err == nil && frame != nil && len(rest) == 0 {
		err = f.check(request, frame)
		accepted = err == nil
	}
	if err != nil && !errors.Is(err, errInvalid) {
		t.Fatalf("request % x, answer % x: %v is not errInvalid", request, buf, err)
	}
	if frame != nil && !bytes.Equal(append(bytes.Clone(frame), rest...), kept) || !bytes.Equal(buf, kept) {
		t.Fatalf("% x was cut into % x and % x", kept, frame, rest)
	}
	body, ok := f.unwrap(request, kept)
	asked, sound := f.unwrap(request, request)
	if !sound {
		t.Fatalf("request % x", request)
	}
	if want := ok && body[0] == asked[0] && fits(asked[1:], body[1:]); accepted != want {
		t.Fatalf("request % x, answer % x: accepted is %v (%v)", request, kept, accepted, err)
	}
	return accepted
}

// random makes a request and an answer that fits it.
func random(r *rand.Rand) (request *mb.ProtocolDataUnit, answer []byte) {
	trade := make([]byte, 4)
	for i := range trade {
		trade[i] = byte(r.Uint32())
	}
	count := 1 + r.IntN(20)
	data := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	head := []byte{trade[0], trade[1], 0, byte(count)}
	function := []byte{1, 2, 3, 4, 5, 6, 15, 16, 17, 22, 23, 43}[r.IntN(12)]
	request = &mb.ProtocolDataUnit{FunctionCode: function, Data: head}
	switch function {
	case 1, 2:
		answer = append([]byte{function, byte((count + 7) / 8)}, data((count+7)/8)...)
	case 3, 4:
		answer = append([]byte{function, byte(2 * count)}, data(2*count)...)
	case 5:
		request.Data = []byte{trade[0], trade[1], 0xff * (trade[2] & 1), 0}
		answer = append([]byte{function}, request.Data...)
	case 6:
		request.Data = trade
		answer = append([]byte{function}, trade...)
	case 15, 16:
		n := 2 * count
		if function == 15 {
			n = (count + 7) / 8
		}
		request.Data = append(append(bytes.Clone(head), byte(n)), data(n)...)
		answer = append([]byte{function}, head...)
	case 17:
		request.Data = nil
		answer = append([]byte{function, byte(count)}, data(count)...)
	case 22:
		request.Data = data(6)
		answer = append([]byte{function}, request.Data...)
	case 23:
		request.Data = append(bytes.Clone(head), 0, 1, 0, 1, 2, 3, 4)
		answer = append([]byte{function, byte(2 * count)}, data(2*count)...)
	default:
		request.Data = []byte{14, 1 + trade[0]%4, trade[1]}
		answer = []byte{43, 14, request.Data[1], 0x81, 0, 0, 1, trade[1], byte(count)}
		answer = append(answer, data(count)...)
		if request.Data[1] != 4 && trade[2]&1 == 0 {
			answer[6] = 2
			answer = append(answer, 5, 0)
		}
	}
	return request, answer
}

func TestDamagedAnswersAreRefused(t *testing.T) {
	const rounds = 350_000 // of each form: more than a million in all
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for name, f := range forms() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 0))
			accepted := 0
			for range rounds {
				pdu, answer := random(r)
				if err := checkRequest(pdu); err != nil {
					t.Fatal(err)
				}
				f.to(byte(r.IntN(4)))
				request, err := f.Encode(pdu)
				if err != nil {
					t.Fatal(err)
				}
				unit := request[0]
				if body, _ := f.unwrap(request, request); len(body) > 0 {
					unit = body[0]
				}
				f.fresh()
				whole := f.wrap(request, append([]byte{unit}, answer...))
				if r.IntN(4) == 0 { // damaged before the check sum was made
					whole = f.wrap(request, damage(r, append([]byte{unit}, answer...)))
				} else if r.IntN(8) > 0 {
					whole = damage(r, whole)
				}
				if judge(t, f, request, whole) {
					accepted++
				}
			}
			if accepted < rounds/50 || accepted > rounds/2 {
				t.Errorf("%d of %d accepted: the test doesn't damage as it should", accepted, rounds)
			}
		})
	}
}

// damage changes, cuts, doubles or lengthens a frame.
func damage(r *rand.Rand, frame []byte) []byte {
	for range 1 + r.IntN(2) {
		switch at := r.IntN(len(frame)); r.IntN(6) {
		case 0:
			frame[at] ^= 1 << r.IntN(8)
		case 1:
			frame[at%min(9, len(frame))] = byte(r.Uint32())
		case 2:
			frame = frame[:at+1]
		case 3:
			frame = append(frame, byte(r.Uint32()))
		case 4:
			frame = append(frame, frame[at:]...)
		default:
			frame = slices.Delete(frame, at, min(at+1, len(frame)-1))
		}
	}
	return frame
}

// FuzzAnswer reads any bytes as answers to any request, in each form.
func FuzzAnswer(f *testing.F) {
	for _, trade := range trades() {
		f.Add(byte(9), trade.request, rtuFrame(append([]byte{9}, trade.answer...)))
		f.Add(byte(9), trade.request, asciiFrame(append([]byte{9}, trade.answer...)))
		f.Add(byte(9), trade.request, append([]byte{0, 1, 0, 0, 0, byte(1 + len(trade.answer)), 9}, trade.answer...))
	}
	f.Add(byte(1), []byte{4, 0, 0, 0, 125}, []byte("HTTP/1.1 400 Bad Request"))
	f.Fuzz(func(t *testing.T, unit byte, request, buf []byte) {
		if len(request) == 0 {
			return
		}
		pdu := &mb.ProtocolDataUnit{FunctionCode: request[0], Data: request[1:]}
		if checkRequest(pdu) != nil {
			return
		}
		for _, f := range forms() {
			f.to(unit)
			f.fresh()
			frame, err := f.Encode(pdu)
			if err != nil {
				t.Fatal(err)
			}
			judge(t, f, frame, buf)
			// And with what a check sum would hide.
			judge(t, f, frame, f.wrap(frame, append([]byte{unit}, buf[:min(len(buf), maxPDU)]...)))
		}
	})
}
