package modbus

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"strings"
	"syscall"
	"time"

	mb "github.com/goburrow/modbus"
)

// Bus is a connection for commissioning: it finds units and reads and writes
// what it is told to, once, without retries. One goroutine uses it.
type Bus struct {
	link       *link
	connection string
	timeout    time.Duration
}

// OpenBus checks the connection string and returns a Bus; it connects with the
// first request. connection and tls are those of Config, timeout bounds one
// request (10ms to 1m; 0: 500ms), gap is the extra silence between requests (0
// to 10s).
func OpenBus(connection string, tls func() (*tls.Config, error), timeout, gap time.Duration) (*Bus, error) {
	var p problems
	timeout = or(timeout, defaultTimeout)
	between(&p, "timeout", timeout, 10*time.Millisecond, time.Minute)
	between(&p, "frame_gap", gap, 0, 10*time.Second)
	if len(p) > 0 {
		return nil, errors.Join(p...)
	}
	l, err := openLink(connection, tls, timeout, gap)
	if err != nil {
		return nil, err
	}
	return &Bus{link: l, connection: connection, timeout: timeout}, nil
}

// Close closes the connection.
func (b *Bus) Close() { b.link.close() }

// TCP says whether the units stand behind an IP address without a serial line
// that this program sees: there 0 and 255 are unit numbers, too (Modbus
// Messaging on TCP/IP Implementation Guide V1.0b §4.4.2.1).
func (b *Bus) TCP() bool {
	return strings.HasPrefix(b.connection, "tcp://") || strings.HasPrefix(b.connection, "tcp+tls://")
}

// Tables are the tables of a device in the order of their functions.
func Tables() []string { return []string{"coil", "discrete", "holding", "input"} }

// Read reads count registers or bits of a table at a wire address (from 0) and
// returns their bytes: two for each register, high byte first, or a bit each,
// the first one lowest. It blocks for one connect and one time-out at most.
// Explain puts its errors into words.
func (b *Bus) Read(ctx context.Context, unit int, table string, at, count int) ([]byte, error) {
	area, err := place(unit, table, at, count)
	if err != nil {
		return nil, err
	}
	data, err := b.link.read(ctx, byte(unit), area, at, count)
	if err != nil {
		return nil, err
	}
	return append([]byte(nil), data...), nil
}

// place checks what a request is about.
func place(unit int, table string, at, count int) (table, error) {
	area, known := tables[table]
	var p problems
	if !known {
		p.addf("the table is %q (allowed: %s)", table, strings.Join(Tables(), ", "))
	}
	between(&p, "unit", unit, 0, 255)
	between(&p, "address", at, 0, math.MaxUint16)
	longest := maxRegisters
	if area.bits() {
		longest = maxBits
	}
	between(&p, "count", count, 1, min(longest, math.MaxUint16+1-at))
	return area, errors.Join(p...)
}

// WriteCoils sets coils from a wire address on: one with function 5, several,
// or one if multiple is set, with function 15. It is sent once; after a time-out
// nobody knows whether it was done.
func (b *Bus) WriteCoils(ctx context.Context, unit, at int, on []bool, multiple bool) error {
	if err := placeWrite(unit, at, len(on), maxWriteBits); err != nil {
		return err
	}
	request := &mb.ProtocolDataUnit{FunctionCode: mb.FuncCodeWriteSingleCoil, Data: binary.BigEndian.AppendUint16(nil, uint16(at))}
	if len(on) == 1 && !multiple {
		word := uint16(0)
		if on[0] {
			word = 0xff00
		}
		request.Data = binary.BigEndian.AppendUint16(request.Data, word)
	} else {
		bits := make([]byte, (len(on)+7)/8)
		for i, set := range on {
			if set {
				bits[i/8] |= 1 << (i % 8)
			}
		}
		request.FunctionCode = mb.FuncCodeWriteMultipleCoils
		request.Data = binary.BigEndian.AppendUint16(request.Data, uint16(len(on)))
		request.Data = append(append(request.Data, byte(len(bits))), bits...)
	}
	_, err := b.ask(ctx, byte(unit), request)
	return err
}

// WriteRegisters sets holding registers from a wire address on; data has two
// bytes for each. One register goes with function 6, several, or one if multiple
// is set, with function 16. It is sent once, as WriteCoils is.
func (b *Bus) WriteRegisters(ctx context.Context, unit, at int, data []byte, multiple bool) error {
	count := len(data) / 2
	if len(data)%2 != 0 {
		return errors.New("half a register can't be written")
	}
	if err := placeWrite(unit, at, count, maxWriteRegisters); err != nil {
		return err
	}
	request := &mb.ProtocolDataUnit{FunctionCode: mb.FuncCodeWriteSingleRegister, Data: binary.BigEndian.AppendUint16(nil, uint16(at))}
	if count > 1 || multiple {
		request.FunctionCode = mb.FuncCodeWriteMultipleRegisters
		request.Data = binary.BigEndian.AppendUint16(request.Data, uint16(count))
		request.Data = append(request.Data, byte(len(data)))
	}
	request.Data = append(request.Data, data...)
	_, err := b.ask(ctx, byte(unit), request)
	return err
}

// placeWrite checks what a write is about. Unit 0 is a broadcast on a serial
// line, which nothing confirms.
func placeWrite(unit, at, count, longest int) error {
	var p problems
	between(&p, "unit", unit, 0, 255)
	between(&p, "address", at, 0, math.MaxUint16)
	between(&p, "count", count, 1, min(longest, math.MaxUint16+1-at))
	return errors.Join(p...)
}

// exceptions are the meanings of the codes (Modbus Application Protocol V1.1b3 §7).
var exceptions = map[byte]string{
	1:  "illegal function: the unit doesn't do this",
	2:  "illegal address: the unit doesn't have it (is the manual's base 0 or 1?)",
	3:  "illegal value, or an address or count that the unit doesn't take",
	4:  "the unit failed at it",
	5:  "accepted, and it takes a while",
	6:  "the unit is busy",
	8:  "memory parity error",
	10: "the gateway has no path to the unit",
	11: "no unit answers the gateway",
}

// Explain puts an error of a request into words for somebody who stands at the
// device: what happened and what to look at.
func Explain(err error) error {
	var e *mb.ModbusError
	var network net.Error
	switch {
	case err == nil || errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &e):
		return fmt.Errorf("exception %d, %s", e.ExceptionCode, or(exceptions[e.ExceptionCode], "which the specification doesn't know"))
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: nobody listens there, or the device takes one connection only and another program, such as a running agent, has it (stop that one first)", err)
	case errors.Is(err, syscall.EBUSY), errors.Is(err, syscall.EWOULDBLOCK):
		return fmt.Errorf("%w: another program, such as a running agent, has the port (stop that one first)", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: not allowed for this user (is it in the group of the port, often dialout?)", err)
	case errors.Is(err, errDial):
		return fmt.Errorf("%w: check address and cable", err)
	case errors.Is(err, errInvalid):
		return fmt.Errorf("%w: is it Modbus with these line settings, and is there one unit only with this number?", err)
	case errors.As(err, &network) && network.Timeout():
		return errors.New("no answer in time: check unit number and wiring, or allow a longer timeout (behind a gateway longer than its own)")
	default:
		return fmt.Errorf("%w (a device that takes one connection only closes the others: does another program, such as a running agent, have it?)", err)
	}
}

// requestError is a request of a source that failed. Its text is that of Explain,
// which says what to look at.
type requestError struct {
	request string // such as "read holding 0 to 9 of unit 3"
	cause   error
}

func (e *requestError) Error() string { return e.request + ": " + Explain(e.cause).Error() }
func (e *requestError) Unwrap() error { return e.cause }

// Reason puts an error of a request into the word that readings use for it:
// timeout, connection, invalid or exception-N.
func Reason(err error) string { return reasonOf(err) }

// SentForNothing says of an error of a write that the unit didn't take it, by its
// word: it refused, or there was no connection. After other errors nobody knows.
func SentForNothing(err error) bool {
	return isException(err) && !perhapsDone(err) || errors.Is(err, errDial)
}
