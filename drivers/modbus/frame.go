package modbus

import (
	"encoding/binary"
	"errors"
	"fmt"

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
// A request to read has the address and the count (2 bytes each) as its data;
// an answer has the number of bytes (1 byte) and the bytes; an exception has
// function | 0x80 and a code (1 byte).
const (
	headerSize = 7
	minLength  = 2              // unit and function
	maxLength  = 1 + 253        // unit and the largest PDU
	maxFrame   = 6 + maxLength  // bytes
	exception  = 0x80           // bit of the function code
	answerData = headerSize + 2 // where the bytes of an answer begin
	lengthEnds = headerSize - 1 // the length counts what stands behind it
	requestLen = headerSize + 5 // of a request to read
	codeAt     = headerSize + 1 // exception code
	exceptLen  = headerSize + 2 // of an exception
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

// checkAnswer says whether a whole frame is an answer to this request to read:
// transaction, unit and function are the request's and there are exactly the
// bytes that were asked for, or it is an exception to that function. Everything
// else is errInvalid.
func checkAnswer(request, frame []byte) error {
	if len(request) != requestLen {
		return invalidf("the request has %d bytes, not %d", len(request), requestLen)
	}
	if got, want := transaction(frame), transaction(request); got != want {
		return invalidf("it is for transaction %d, not %d", got, want)
	}
	if got, want := frame[6], request[6]; got != want {
		return invalidf("it is from unit %d, not %d", got, want)
	}
	asked, got := request[7], frame[7]
	if got == asked|exception {
		return checkException(frame)
	}
	if got != asked {
		return invalidf("it is for function %d, not %d", got, asked)
	}
	want := answerBytes(asked, int(binary.BigEndian.Uint16(request[10:])))
	if len(frame) < answerData || len(frame) != answerData+int(frame[8]) {
		return invalidf("its byte count doesn't match its length")
	}
	if int(frame[8]) != want {
		return invalidf("it has %d bytes of data, not %d", frame[8], want)
	}
	return nil
}

// checkException accepts an exception with a code and nothing else.
func checkException(frame []byte) error {
	if len(frame) != exceptLen {
		return invalidf("an exception of %d bytes, not %d", len(frame), exceptLen)
	}
	if frame[codeAt] == 0 {
		return invalidf("an exception without a code")
	}
	return nil
}

// answerBytes returns how many bytes an answer holds: a byte for each 8 bits
// begun, or two for each register (Modbus Application Protocol V1.1b3 §6.1–6.4).
func answerBytes(function byte, count int) int {
	if function == mb.FuncCodeReadCoils || function == mb.FuncCodeReadDiscreteInputs {
		return (count + 7) / 8
	}
	return 2 * count
}
