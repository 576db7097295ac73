package modbus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"

	mb "github.com/goburrow/modbus"
)

// A frame of Modbus TCP (Modbus Messaging on TCP/IP Implementation Guide V1.0b
// §3.1.3): a header of 7 bytes and the PDU.
//
//	 0      2      4      6      7          8
//	+------+------+------+------+----------+----------------------------+
//	| tid  | 0    | len  | unit | function | data                       |
//	+------+------+------+------+----------+----------------------------+
//	                     |<----------------- len bytes ---------------->|
//
// pdu.go says what a PDU is.
const (
	headerSize = 7
	lengthEnds = headerSize - 1         // the length counts what stands behind it
	minLength  = 2                      // unit and function
	maxLength  = 1 + maxPDU             // unit and the largest PDU
	maxFrame   = lengthEnds + maxLength // bytes
)

// errInvalid is what an answer gets that doesn't fit its request. The
// connection is in doubt then: nothing that follows on it can be believed.
var errInvalid = errors.New("invalid answer")

func invalidf(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errInvalid, fmt.Sprintf(format, args...))
}

// cutFrame returns the first frame of buf and what follows it. The frame is nil
// while bytes of it are missing. What can't become a frame, however many bytes
// follow, is errInvalid.
func cutFrame(buf []byte) (frame, rest []byte, err error) {
	if len(buf) >= 4 && binary.BigEndian.Uint16(buf[2:]) != 0 {
		return nil, buf, invalidf("protocol id is %d, not 0: the peer doesn't speak Modbus TCP", binary.BigEndian.Uint16(buf[2:]))
	}
	if len(buf) < lengthEnds {
		return nil, buf, nil
	}
	length := int(binary.BigEndian.Uint16(buf[4:]))
	if length < minLength || length > maxLength {
		return nil, buf, invalidf("its length is %d (possible: %d to %d)", length, minLength, maxLength)
	}
	if len(buf) < lengthEnds+length {
		return nil, buf, nil
	}
	return buf[:lengthEnds+length], buf[lengthEnds+length:], nil
}

// transaction returns the transaction id of a frame.
func transaction(frame []byte) uint16 { return binary.BigEndian.Uint16(frame) }

// checkAnswer says whether a whole frame is an answer to this request:
// transaction and unit are the request's, and the PDU fits. Everything else is
// errInvalid.
func checkAnswer(request, frame []byte) error {
	if got, want := transaction(frame), transaction(request); got != want {
		return invalidf("it is for transaction %d, not %d", got, want)
	}
	if err := checkUnit(request[headerSize-1], frame[headerSize-1]); err != nil {
		return err
	}
	return checkPDU(request[headerSize:], frame[headerSize:])
}

// checkUnit wants the answer to come from the unit that was asked.
func checkUnit(want, got byte) error {
	if got != want {
		return invalidf("it is from unit %d, not %d", got, want)
	}
	return nil
}

// framing makes frames of requests and finds answers in what comes back. The
// embedded library encodes and decodes them.
type framing interface {
	mb.Packager
	// to sets the unit that Encode makes requests for.
	to(unit byte)
	// fresh is called when a connection is new.
	fresh()
	// stamp makes the request one of its own, where the form has a number for that.
	stamp(request []byte)
	// size returns the bytes of a frame, by those of its PDU.
	size(pdu int) int
	// cut returns the frame that answers the request and what follows it. While
	// bytes of it are missing the frame is nil, and rest is what is still needed
	// of buf. What can't become a frame is errInvalid.
	cut(request, buf []byte) (frame, rest []byte, err error)
	// check says whether a frame that was cut answers the request; if not it is
	// errInvalid.
	check(request, frame []byte) error
}

// tcpFraming is the framing of Modbus TCP.
type tcpFraming struct {
	*mb.TCPClientHandler        // for its Encode, Verify and Decode only
	last                 uint16 // transaction of the last request
	sent                 bool   // on this connection
	span                 int    // from its first transaction to the last one
}

func newTCPFraming() *tcpFraming { return &tcpFraming{TCPClientHandler: mb.NewTCPClientHandler("")} }

func (f *tcpFraming) to(unit byte) { f.SlaveId = unit }

// fresh doesn't count from 1 on, as every program does: what a gateway still
// has for somebody else must not fit by chance.
func (f *tcpFraming) fresh() { f.last, f.sent, f.span = uint16(rand.Uint32()), false, 0 }

// Transactions are counted in steps that nobody can foretell, so that an answer
// which comes before its request doesn't fit it. What lies further back than
// maxSpan could be one of either side, since the numbers wrap around.
const (
	maxStep = 1024
	maxSpan = 1 << 15
)

// stamp works in place, since the library compares the answer with these bytes.
func (f *tcpFraming) stamp(request []byte) {
	step := 1 + rand.IntN(maxStep)
	f.last += uint16(step)
	if f.sent {
		f.span = min(f.span+step, maxSpan)
	}
	f.sent = true
	binary.BigEndian.PutUint16(request, f.last)
}

func (f *tcpFraming) size(pdu int) int { return headerSize + pdu }

func (f *tcpFraming) cut(_, buf []byte) (frame, rest []byte, err error) {
	for {
		frame, rest, err = cutFrame(buf)
		if err != nil || frame == nil || !f.older(frame) {
			return frame, rest, err
		}
		buf = rest
	}
}

// older says that a frame answers an earlier request of this connection: a
// doubled answer, which is no reason for doubt in what follows.
func (f *tcpFraming) older(frame []byte) bool {
	age := int(f.last - transaction(frame))
	return age > 0 && age <= f.span
}

func (f *tcpFraming) check(request, frame []byte) error { return checkAnswer(request, frame) }
