package modbus

import (
	"bytes"
	"encoding/hex"

	mb "github.com/goburrow/modbus"
)

// A frame of Modbus RTU (Modbus over Serial Line V1.02 §2.5.1) is the unit, the
// PDU, and a CRC of 2 bytes, the low one first. Where it ends is told by its
// length: the silence that ends it by the specification can't be measured
// through an operating system and a USB adapter.
const (
	rtuExtra = 3 // bytes of a frame beside its PDU
	rtuHead  = 1 // where the PDU begins
	rtuCRC   = 2
)

// rtuFraming is the framing of Modbus RTU, on a serial line or through a gateway.
type rtuFraming struct {
	*mb.RTUClientHandler // for its Encode, Verify and Decode only
}

func newRTUFraming() *rtuFraming { return &rtuFraming{mb.NewRTUClientHandler("")} }

func (f *rtuFraming) to(unit byte)     { f.SlaveId = unit }
func (f *rtuFraming) fresh()           {}
func (f *rtuFraming) stamp([]byte)     {}
func (f *rtuFraming) size(pdu int) int { return pdu + rtuExtra }

// pduOf returns the PDU of a frame.
func (f *rtuFraming) pduOf(frame []byte) []byte { return frame[rtuHead : len(frame)-rtuCRC] }

func (f *rtuFraming) cut(request, buf []byte) (frame, rest []byte, err error) {
	if len(buf) == 0 {
		return nil, buf, nil
	}
	if err := checkUnit(request[0], buf[0]); err != nil {
		return nil, buf, err
	}
	n, err := answerLength(f.pduOf(request), buf[rtuHead:])
	if err != nil {
		return nil, buf, err
	}
	if n += rtuExtra; n == rtuExtra || len(buf) < n {
		return nil, buf, nil
	}
	return buf[:n], buf[n:], nil
}

func (f *rtuFraming) check(request, frame []byte) error {
	if len(frame) <= rtuExtra {
		return invalidf("it has %d bytes", len(frame))
	}
	if _, err := f.Decode(frame); err != nil {
		return invalidf("%v", err)
	}
	if err := checkUnit(request[0], frame[0]); err != nil {
		return err
	}
	return checkPDU(f.pduOf(request), f.pduOf(frame))
}

// A frame of Modbus ASCII (Modbus over Serial Line V1.02 §2.5.2) is a colon,
// then unit, PDU and an LRC of 1 byte in hex, then CR LF.
const (
	asciiEnd   = "\r\n"
	asciiExtra = 7                     // characters of a frame beside its PDU
	asciiMax   = 2*maxPDU + asciiExtra // characters of a frame
)

// asciiFraming is the framing of Modbus ASCII.
type asciiFraming struct {
	*mb.ASCIIClientHandler // for its Encode, Verify and Decode only
}

func newASCIIFraming() *asciiFraming { return &asciiFraming{mb.NewASCIIClientHandler("")} }

func (f *asciiFraming) to(unit byte)     { f.SlaveId = unit }
func (f *asciiFraming) fresh()           {}
func (f *asciiFraming) stamp([]byte)     {}
func (f *asciiFraming) size(pdu int) int { return 2*pdu + asciiExtra }

func (f *asciiFraming) cut(_, buf []byte) (frame, rest []byte, err error) {
	if len(buf) > 0 && buf[0] != ':' {
		return nil, buf, invalidf("it begins with %#x, not with a colon: the peer doesn't speak Modbus ASCII, or the line's parity or data bits differ", buf[0])
	}
	end := bytes.Index(buf, []byte(asciiEnd))
	switch {
	case end < 0 && len(buf) >= asciiMax:
		return nil, buf, invalidf("it has no end after %d characters", len(buf))
	case end < 0:
		return nil, buf, nil
	}
	end += len(asciiEnd)
	return buf[:end], buf[end:], nil
}

func (f *asciiFraming) check(request, frame []byte) error {
	want, err := f.bytesOf(request)
	if err != nil {
		return err
	}
	got, err := f.bytesOf(frame)
	if err != nil {
		return err
	}
	if err := f.Verify(request, frame); err != nil {
		return invalidf("%v", err)
	}
	if _, err := f.Decode(frame); err != nil {
		return invalidf("%v", err)
	}
	if err := checkUnit(want[0], got[0]); err != nil {
		return err
	}
	return checkPDU(want[1:len(want)-1], got[1:len(got)-1])
}

// bytesOf returns unit, PDU and LRC of a frame.
func (f *asciiFraming) bytesOf(frame []byte) ([]byte, error) {
	if len(frame) < f.size(1) {
		return nil, invalidf("it has %d characters", len(frame))
	}
	b := make([]byte, 0, maxFrame)
	b, err := hex.AppendDecode(b, frame[1:len(frame)-len(asciiEnd)])
	if err != nil {
		return nil, invalidf("%v", err)
	}
	return b, nil
}
