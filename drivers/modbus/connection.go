package modbus

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Schemes of a connection.
const (
	schemeTCP      = "tcp"
	schemeTLS      = "tcp+tls"
	schemeRTU      = "rtu"
	schemeASCII    = "ascii"
	schemeRTUOnTCP = "rtu+tcp"
)

// securePort is the port of Modbus/TCP Security (MODBUS/TCP Security Protocol
// Specification V2.1 §8).
const securePort = "802"

// connectionForms names every form that a connection may have.
const connectionForms = "tcp://host:port, tcp+tls://host:port, rtu+tcp://host:port, rtu:///dev/…, ascii:///dev/…"

// connection is what a connection's URL says.
type connection struct {
	scheme  string
	address string     // host:port, or the path of a serial port
	serial  serialMode // of rtu and ascii

	tls func() (*tls.Config, error) // of tcp+tls, called at each connect; nil: the authorities of the system
}

// bus says that frames have no transaction number, so that what belongs to
// which request can only be told by time: on a serial line, and where a gateway
// passes its bytes through. Unit 0 is everybody there.
func (c connection) bus() bool { return c.scheme != schemeTCP && c.scheme != schemeTLS }

// onSerialPort says that the line is a port of this machine.
func (c connection) onSerialPort() bool { return c.scheme == schemeRTU || c.scheme == schemeASCII }

// serialMode is how a serial port is set.
type serialMode struct {
	baud   int  // 50 to 4,000,000
	parity byte // E, O or N
	data   int  // bits of a character, 7 or 8
	stop   int  // bits, 1 or 2

	rs485 *rs485Mode // nil: left to the adapter
}

// rs485Mode is what the kernel's driver is told of a transceiver that RTS
// switches (Linux, Documentation/driver-api/serial/serial-rs485.rst).
type rs485Mode struct {
	highDuring, highAfter bool // level of RTS while sending, and after it
	delayBefore           int  // ms between switching to sending and the first bit
	delayAfter            int  // ms between the last bit and switching back
	rxDuringTx            bool // what is sent is received, too
	terminate             bool // the terminating resistor is switched on
}

// character returns how long one character takes: a start bit, the data bits,
// the parity bit if there is one, and the stop bits.
func (m serialMode) character() time.Duration {
	bits := 1 + m.data + m.stop
	if m.parity != 'N' {
		bits++
	}
	return time.Duration(bits) * time.Second / time.Duration(m.baud)
}

// silence returns how long the line must be silent between two frames: 3.5
// characters, or 1.75 ms where the line is faster than 19200 baud (Modbus over
// Serial Line V1.02 §2.5.1.1).
func (m serialMode) silence() time.Duration {
	if m.baud > 19200 {
		return 1750 * time.Microsecond
	}
	return m.character() * 7 / 2
}

// parseConnection reads a connection's URL.
func parseConnection(text string) (connection, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return connection{}, fmt.Errorf("connection needs a scheme (allowed: %s)", connectionForms)
	}
	c := connection{scheme: scheme}
	var err error
	switch scheme {
	case schemeTCP, schemeRTUOnTCP:
		c.address, err = hostPort(rest, defaultPort)
	case schemeTLS:
		c.address, err = hostPort(rest, securePort)
	case schemeRTU, schemeASCII:
		c.address, c.serial, err = parseSerial(scheme, rest)
	default:
		err = fmt.Errorf("unknown scheme %q (allowed: %s)", scheme, connectionForms)
	}
	if err != nil {
		return connection{}, fmt.Errorf("connection: %w", err)
	}
	return c, nil
}

// hostPort reads host or host:port.
func hostPort(text, otherwise string) (string, error) {
	u, err := url.Parse("tcp://" + text)
	if err != nil || u.Hostname() == "" || u.User != nil || strings.TrimSuffix(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", fmt.Errorf("not an address (allowed: %s)", connectionForms)
	}
	port := or(u.Port(), otherwise)
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > math.MaxUint16 {
		return "", fmt.Errorf("port is %s (allowed: 1 to %d)", port, math.MaxUint16)
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// Keys of a serial connection, in the order in which they are explained.
var (
	serialKeys = []string{"baud", "parity", "data", "stop", "rs485"}
	rs485Keys  = []string{"rts_high_during_send", "rts_high_after_send", "rts_delay_before", "rts_delay_after", "rx_during_tx", "terminate_bus"}
)

// parseSerial reads /dev/…?key=value&…. The path is taken as it stands: names
// below /dev/serial hold colons and percent signs.
func parseSerial(scheme, text string) (path string, m serialMode, err error) {
	path, query, _ := strings.Cut(text, "?")
	if !strings.HasPrefix(path, "/") || strings.ContainsRune(path, 0) {
		return "", m, fmt.Errorf("no device file (allowed: %s:///dev/…)", scheme)
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return "", m, errors.New("what follows the ? is not key=value&key=value")
	}
	known := slices.Concat(serialKeys, rs485Keys)
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if !slices.Contains(known, key) {
			return "", m, fmt.Errorf("unknown key %q (known: %s)", key, strings.Join(known, ", "))
		}
		if len(values[key]) != 1 {
			return "", m, fmt.Errorf("%s is there twice", key)
		}
	}
	m, err = options{values}.mode(scheme)
	return path, m, err
}

// options are the keys of a serial connection.
type options struct{ url.Values }

// mode is what the keys say, with the defaults of the specification: 19200 baud
// and even parity, 8 data bits for RTU and 7 for ASCII, 1 stop bit or, without
// parity, 2 (Modbus over Serial Line V1.02 §2.5.1 and §2.5.2).
func (o options) mode(scheme string) (serialMode, error) {
	data, least := 8, 8
	if scheme == schemeASCII {
		data, least = 7, 7
	}
	m := serialMode{parity: 'E', stop: 1}
	switch parity := o.Get("parity"); {
	case parity == "E", parity == "O", parity == "N":
		m.parity = parity[0]
	case o.Has("parity"):
		return m, fmt.Errorf("parity is %q (allowed: E, O, N)", parity)
	}
	if m.parity == 'N' {
		m.stop = 2
	}
	var errs [5]error
	m.baud, errs[0] = o.number("baud", 19200, 50, 4_000_000)
	m.data, errs[1] = o.number("data", data, least, 8)
	m.stop, errs[2] = o.number("stop", m.stop, 1, 2)
	m.rs485, errs[3] = o.rs485()
	return m, errors.Join(errs[:]...)
}

// rs485 is what the keys say of RS-485; nil without rs485=true.
func (o options) rs485() (*rs485Mode, error) {
	on, err := o.flag("rs485", false)
	if err != nil {
		return nil, err
	}
	for _, key := range rs485Keys {
		if !on && o.Has(key) {
			return nil, fmt.Errorf("%s needs rs485=true", key)
		}
	}
	if !on {
		return nil, nil
	}
	var r rs485Mode
	var errs [6]error
	// Left out, one level is the opposite of the other.
	r.highDuring, errs[0] = o.flag("rts_high_during_send", true)
	r.highAfter, errs[1] = o.flag("rts_high_after_send", !r.highDuring)
	if !o.Has("rts_high_during_send") && o.Has("rts_high_after_send") {
		r.highDuring = !r.highAfter
	}
	r.delayBefore, errs[2] = o.milliseconds("rts_delay_before")
	r.delayAfter, errs[3] = o.milliseconds("rts_delay_after")
	r.rxDuringTx, errs[4] = o.flag("rx_during_tx", false)
	r.terminate, errs[5] = o.flag("terminate_bus", false)
	err = errors.Join(errs[:]...)
	if err == nil && r.highDuring == r.highAfter {
		err = errors.New("rts_high_during_send and rts_high_after_send are the same: RTS would switch nothing")
	}
	return &r, err
}

// flag reads true or false.
func (o options) flag(key string, otherwise bool) (bool, error) {
	switch v := o.Get(key); {
	case !o.Has(key):
		return otherwise, nil
	case v == "true" || v == "false":
		return v == "true", nil
	default:
		return false, fmt.Errorf("%s is %q (allowed: true, false)", key, v)
	}
}

// number reads a whole number.
func (o options) number(key string, otherwise, low, high int) (int, error) {
	if !o.Has(key) {
		return otherwise, nil
	}
	n, err := strconv.Atoi(o.Get(key))
	if err != nil || n < low || n > high {
		if low == high {
			return 0, fmt.Errorf("%s is %q (allowed: %d)", key, o.Get(key), low)
		}
		return 0, fmt.Errorf("%s is %q (allowed: %d to %d)", key, o.Get(key), low, high)
	}
	return n, nil
}

// maxRTSDelay is the longest delay that the kernel takes, in ms.
const maxRTSDelay = 100

// milliseconds reads a delay such as 2ms; the kernel counts in whole ms.
func (o options) milliseconds(key string) (int, error) {
	if !o.Has(key) {
		return 0, nil
	}
	digits, ok := strings.CutSuffix(o.Get(key), "ms")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || n < 0 || n > maxRTSDelay {
		return 0, fmt.Errorf("%s is %q (allowed: 0ms to %dms)", key, o.Get(key), maxRTSDelay)
	}
	return n, nil
}

// checkUnits refuses to poll unit 0 where that is a broadcast, which nobody
// answers.
func checkUnits(p *problems, c connection, devices []Device) {
	for _, d := range devices {
		if c.bus() && d.Unit == 0 {
			p.addf("device %q: unit is 0, to which nobody answers on %s (allowed: 1 to 255)", d.Name, c.scheme)
		}
	}
}
