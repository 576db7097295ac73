package modbus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
)

// ask is the request for count registers or bits.
func ask(tid uint16, unit, function byte, at, count uint16) []byte {
	req := make([]byte, requestLen)
	binary.BigEndian.PutUint16(req, tid)
	req[5], req[6], req[7] = 6, unit, function
	binary.BigEndian.PutUint16(req[8:], at)
	binary.BigEndian.PutUint16(req[10:], count)
	return req
}

// fits says, apart from the code under test, whether a frame may be believed.
func fits(req, frame []byte) bool {
	count := int(binary.BigEndian.Uint16(req[10:]))
	want := 2 * count
	if req[7] <= 2 {
		want = (count + 7) / 8
	}
	if frame[7] == req[7]+0x80 {
		return bytes.Equal(frame[:7], []byte{req[0], req[1], 0, 0, 0, 3, req[6]}) && len(frame) == 9 && frame[8] > 0
	}
	head := append(bytes.Clone(req[:2]), 0, 0, byte((3+want)>>8), byte(3+want), req[6], req[7], byte(want))
	return len(frame) == 9+want && bytes.Equal(frame[:9], head)
}

// checkBytes cuts all frames out of buf and checks each against the request.
func checkBytes(t testing.TB, req, buf []byte) (accepted int) {
	for rest := buf; ; {
		frame, after, err := cutFrame(rest)
		if err != nil && !errors.Is(err, errInvalid) {
			t.Fatalf("cut % x: %v is not errInvalid", rest, err)
		}
		if err != nil || frame == nil {
			return accepted
		}
		if len(frame)+len(after) != len(rest) || !bytes.Equal(append(bytes.Clone(frame), after...), rest) {
			t.Fatalf("% x was cut into % x and % x", rest, frame, after)
		}
		err = checkAnswer(req, frame)
		if (err == nil) != fits(req, frame) {
			t.Fatalf("request % x, answer % x: %v", req, frame, err)
		}
		if err == nil {
			accepted++
		}
		rest = after
	}
}

// FuzzAnswer reads any bytes as answers to a request.
func FuzzAnswer(f *testing.F) {
	req := ask(7, 1, 3, 100, 2)
	f.Add(uint16(7), byte(1), byte(3), uint16(2), dataOf(req, 1, 2, 3, 4))
	f.Add(uint16(7), byte(1), byte(3), uint16(2), frameOf(req, 0x83, 2))
	f.Add(uint16(7), byte(1), byte(1), uint16(9), dataOf(ask(7, 1, 1, 0, 9), 1, 2))
	f.Add(uint16(7), byte(1), byte(4), uint16(125), []byte("HTTP/1.1 400 Bad Request"))
	f.Fuzz(func(t *testing.T, tid uint16, unit, function byte, count uint16, buf []byte) {
		checkBytes(t, ask(tid, unit, 1+function%4, 100, 1+count%125), buf)
	})
}

func TestDamagedAnswersAreRefused(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	accepted := 0
	for range 100_000 {
		req := ask(uint16(r.Uint32()), byte(r.IntN(4)), byte(1+r.IntN(4)), 0, uint16(1+r.IntN(20)))
		data := make([]byte, answerBytes(req[7], int(req[11])))
		accepted += checkBytes(t, req, damage(r, dataOf(req, data...)))
	}
	if accepted == 0 || accepted > 70_000 {
		t.Errorf("%d of 100000 accepted: the test doesn't damage as it should", accepted)
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
			frame = append(frame[:at:at], frame[min(at+1, len(frame)-1):]...)
		}
	}
	return frame
}
