package modbus

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	mb "github.com/goburrow/modbus"
)

// A PDU is a function code and its data (Modbus Application Protocol V1.1b3
// §4.1). An exception has function | 0x80 and a code of one byte.
//
//	function     request                                  answer
//	1 2 3 4      address, count                           bytes (1), data
//	5 6          address, value                           the request
//	15 16        address, count, bytes (1), data          address, count
//	22           address, and mask, or mask               the request
//	23           address, count (read), address, count,   bytes (1), data
//	             bytes (1), data (write)
//	17                                                    bytes (1), data
//	43           14, code, object                         14, code, conformity, more, next,
//	                                                      objects (1), each id, bytes (1), data
//
// Addresses, counts and values have 2 bytes, where nothing else is said.
const (
	maxPDU    = 253
	exception = 0x80 // bit of the function code

	funcReportServerID = 17
	funcEncapsulated   = 43
	meiDeviceID        = 14 // the kind of 43 that reads the device identification
	deviceIDHead       = 7  // bytes before the first object of its answer
	oneObject          = 4  // its code that asks for one object
)

// errRequest is what a request gets that can't be sent: its form is wrong, or
// nobody could tell whether an answer fits it.
var errRequest = fmt.Errorf("the request can't be sent")

// Most that one request may write (Modbus Application Protocol V1.1b3 §6.11,
// §6.12 and §6.17).
const (
	maxWriteBits      = 1968
	maxWriteRegisters = 123
	maxWriteRead      = 121
)

// writes says whether a function changes something and gets nothing back but its
// own words, so that it may be sent to all units of a bus (Modbus over Serial
// Line V1.02 §2.1).
func writes(function byte) bool {
	switch function {
	case mb.FuncCodeWriteSingleCoil, mb.FuncCodeWriteSingleRegister, mb.FuncCodeWriteMultipleCoils,
		mb.FuncCodeWriteMultipleRegisters, mb.FuncCodeMaskWriteRegister:
		return true
	}
	return false
}

// checkRequest refuses a request whose form is not that of its function, and
// functions whose answers nobody could judge. The error is errRequest.
func checkRequest(pdu *mb.ProtocolDataUnit) error {
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%w: function %d: %s", errRequest, pdu.FunctionCode, fmt.Sprintf(format, args...))
	}
	data := pdu.Data
	length := map[byte]int{1: 4, 2: 4, 3: 4, 4: 4, 5: 4, 6: 4, 15: 5, 16: 5, 22: 6, 23: 9, funcReportServerID: 0, funcEncapsulated: 3}
	least, known := length[pdu.FunctionCode]
	switch {
	case !known:
		return wrong("not supported (supported: 1 to 6, 15, 16, 17, 22, 23, 43)")
	case len(data) < least || len(data) > least && !slices.Contains([]byte{15, 16, 23}, pdu.FunctionCode):
		return wrong("it has %d bytes of data, not %d", len(data), least)
	}
	count := func(at, most int) error {
		if n := word(data, at); n < 1 || n > most {
			return wrong("its count is %d (allowed: 1 to %d)", n, most)
		}
		return nil
	}
	written := func(at, want int) error {
		if int(data[at]) != want || len(data) != at+1+want {
			return wrong("it has %d bytes to write and says %d, where its count needs %d", len(data)-at-1, data[at], want)
		}
		return nil
	}
	var errs [3]error
	switch pdu.FunctionCode {
	case mb.FuncCodeReadCoils, mb.FuncCodeReadDiscreteInputs:
		errs[0] = count(2, maxBits)
	case mb.FuncCodeReadHoldingRegisters, mb.FuncCodeReadInputRegisters:
		errs[0] = count(2, maxRegisters)
	case mb.FuncCodeWriteSingleCoil:
		if v := word(data, 2); v != 0 && v != 0xff00 {
			errs[0] = wrong("its value is %#x (allowed: 0, 0xff00)", v)
		}
	case mb.FuncCodeWriteMultipleCoils:
		errs[0], errs[1] = count(2, maxWriteBits), written(4, (word(data, 2)+7)/8)
	case mb.FuncCodeWriteMultipleRegisters:
		errs[0], errs[1] = count(2, maxWriteRegisters), written(4, 2*word(data, 2))
	case mb.FuncCodeReadWriteMultipleRegisters:
		errs[0], errs[1], errs[2] = count(2, maxRegisters), count(6, maxWriteRead), written(8, 2*word(data, 6))
	case funcEncapsulated:
		if data[0] != meiDeviceID || data[1] < 1 || data[1] > oneObject {
			errs[0] = wrong("kind %d, code %d (supported: kind %d, codes 1 to %d)", data[0], data[1], meiDeviceID, oneObject)
		}
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func word(data []byte, at int) int { return int(binary.BigEndian.Uint16(data[at:])) }

// answerLength returns how many bytes the answer has that begins with head, or 0
// while that can't be told. What can't become an answer to this request is
// errInvalid. The request passed checkRequest.
func answerLength(request, head []byte) (int, error) {
	if len(head) == 0 {
		return 0, nil
	}
	function := request[0]
	switch {
	case head[0] == function|exception:
		return 2, nil
	case head[0] != function:
		return 0, invalidf("it is for function %d, not %d", head[0], function)
	}
	switch function {
	case mb.FuncCodeReadCoils, mb.FuncCodeReadDiscreteInputs, mb.FuncCodeReadHoldingRegisters,
		mb.FuncCodeReadInputRegisters, mb.FuncCodeReadWriteMultipleRegisters:
		want := answerBytes(function, word(request, 3))
		if len(head) > 1 && int(head[1]) != want {
			return 0, invalidf("it has %d bytes of data, not %d", head[1], want)
		}
		return 2 + want, nil
	case mb.FuncCodeMaskWriteRegister:
		return 7, nil
	case funcReportServerID:
		if len(head) < 2 {
			return 0, nil
		}
		return 2 + int(head[1]), nil
	case funcEncapsulated:
		return deviceIDLength(head)
	default:
		return 5, nil
	}
}

// deviceIDLength is answerLength for the device identification (Modbus
// Application Protocol V1.1b3 §6.21).
func deviceIDLength(head []byte) (int, error) {
	if len(head) < deviceIDHead {
		return 0, nil
	}
	n := deviceIDHead
	for range head[deviceIDHead-1] {
		if len(head) < n+2 {
			n += 2 // of an object that isn't there yet
			break
		}
		n += 2 + int(head[n+1])
	}
	switch {
	case n > maxPDU:
		return 0, invalidf("its objects have more than %d bytes", maxPDU)
	case n > len(head):
		return 0, nil // there may be further objects
	}
	return n, nil
}

// checkPDU says whether an answer fits its request: the function is the
// request's and there are exactly the bytes that were asked for, or it is an
// exception to that function; a write is answered with its own address and
// value, or count. Everything else is errInvalid.
func checkPDU(request, answer []byte) error {
	n, err := answerLength(request, answer)
	switch {
	case err != nil:
		return err
	case n == 0 || n != len(answer):
		return invalidf("it has %d bytes from the function on, which is too short or too long", len(answer))
	case answer[0]&exception != 0:
		if answer[1] == 0 {
			return invalidf("an exception without a code")
		}
		return nil
	}
	switch request[0] {
	case mb.FuncCodeWriteSingleCoil, mb.FuncCodeWriteSingleRegister, mb.FuncCodeMaskWriteRegister,
		mb.FuncCodeWriteMultipleCoils, mb.FuncCodeWriteMultipleRegisters:
		if !bytes.Equal(answer, request[:n]) {
			return invalidf("it is for another write: % x, not % x", answer[1:], request[1:n])
		}
	case funcEncapsulated:
		return checkDeviceID(request, answer)
	}
	return nil
}

// checkDeviceID checks what deviceIDLength leaves open.
func checkDeviceID(request, answer []byte) error {
	more, objects := answer[4], answer[6]
	switch {
	case answer[1] != meiDeviceID || answer[2] != request[2]:
		return invalidf("it is for kind %d, code %d, not %d, %d", answer[1], answer[2], meiDeviceID, request[2])
	case more != 0 && more != 0xff:
		return invalidf("whether more follows is %#x (possible: 0, 0xff)", more)
	case request[2] == oneObject && (objects != 1 || answer[deviceIDHead] != request[3]):
		return invalidf("it has %d objects, the first one not object %d", objects, request[3])
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

// longestAnswer returns how many bytes the answer to a request may have, for the
// time that it takes on a serial line.
func longestAnswer(request *mb.ProtocolDataUnit) int {
	switch request.FunctionCode {
	case funcReportServerID, funcEncapsulated:
		return maxPDU
	}
	n, err := answerLength(append([]byte{request.FunctionCode}, request.Data...), []byte{request.FunctionCode})
	if err != nil {
		return maxPDU
	}
	return n
}
