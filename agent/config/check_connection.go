package config

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// serialOption is a key of a serial connection: rtu:///dev/ttyUSB0?key=value.
type serialOption struct {
	key       string
	words     []string // that it may be
	low, high int      // or a number between these
	unit      string   // that stands behind the number
	rs485     bool     // needs rs485=true
}

var flagWords = []string{"true", "false"}

// serialOptions are all of them. The driver knows them, too; a test holds both
// against each other.
var serialOptions = []serialOption{
	{key: "baud", low: 50, high: 4_000_000},
	{key: "parity", words: []string{"E", "O", "N"}},
	{key: "data", low: 7, high: 8},
	{key: "stop", low: 1, high: 2},
	{key: "rs485", words: flagWords},
	{key: "rts_high_during_send", words: flagWords, rs485: true},
	{key: "rts_high_after_send", words: flagWords, rs485: true},
	{key: "rts_delay_before", high: 100, unit: "ms", rs485: true},
	{key: "rts_delay_after", high: 100, unit: "ms", rs485: true},
	{key: "rx_during_tx", words: flagWords, rs485: true},
	{key: "terminate_bus", words: flagWords, rs485: true},
}

// allowed says what the value may be.
func (o serialOption) allowed() string {
	if o.words != nil {
		return strings.Join(o.words, ", ")
	}
	return fmt.Sprintf("%d%s to %d%s", o.low, o.unit, o.high, o.unit)
}

func (o serialOption) takes(value string) bool {
	if o.words != nil {
		return slices.Contains(o.words, value)
	}
	digits, ok := strings.CutSuffix(value, o.unit)
	n, err := strconv.Atoi(digits)
	return ok && err == nil && n >= o.low && n <= o.high
}

// checkConnection checks where a Modbus source reads, and what depends on that.
func (d *decoder) checkConnection(m *Modbus, path string) {
	at := path + ".connection"
	if m.Connection == "" || d.bad[at] {
		return // said by the decoder
	}
	scheme, rest, _ := strings.Cut(m.Connection, "://")
	if scheme == "rtu" || scheme == "ascii" {
		d.checkSerial(scheme, rest, m.Connection, at)
	} else {
		tcp := []string{"tcp", "tcp+tls", "rtu+tcp"}
		d.checkURL(at, m.Connection, slices.Concat(tcp, []string{"rtu", "ascii"}), tcp)
	}
	if m.TLS != nil && scheme != "tcp+tls" {
		d.wrong(path+".tls", "is not for "+scheme+"://", "leave it out, or a connection tcp+tls://host:port")
	}
	d.checkTLS(m.TLS, path+".tls")
	for i := range m.Devices {
		unit := join(path+".devices", m.Devices[i].Name) + ".unit"
		if m.Devices[i].Unit == 0 && slices.Contains([]string{"rtu", "ascii", "rtu+tcp"}, scheme) && !d.bad[unit] {
			d.wrong(unit, "0 is all units of a line: nobody answers", "1 to 255")
		}
	}
}

// checkSerial checks a serial port and its keys.
func (d *decoder) checkSerial(scheme, rest, connection, path string) {
	port, query, _ := strings.Cut(rest, "?")
	if !strings.HasPrefix(port, "/") {
		d.wrong(path, d.show(path, connection)+" has no device file", scheme+":///dev/…")
		return
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		d.wrong(path, "what follows the ? in "+d.show(path, connection)+" cannot be read", "key=value&key=value")
		return
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		d.checkSerialOption(scheme, key, values, path)
	}
	if during := values.Get("rts_high_during_send"); during != "" && during == values.Get("rts_high_after_send") {
		d.wrong(path, "rts_high_during_send and rts_high_after_send are both "+d.show(path, during)+": RTS would switch nothing", "one of them true")
	}
}

func (d *decoder) checkSerialOption(scheme, key string, values url.Values, path string) {
	o := find(serialOptions, func(o *serialOption) bool { return o.key == key })
	if o == nil {
		keys := make([]string, len(serialOptions))
		for i, known := range serialOptions {
			keys[i] = known.key
		}
		allowed := "known here: " + strings.Join(keys, ", ")
		if best, ok := nearest(key, keys); ok {
			allowed = `did you mean "` + best + `"? ` + allowed
		}
		d.wrong(path, "has an unknown key "+d.show(path, key), allowed)
		return
	}
	switch value := values.Get(key); {
	case len(values[key]) > 1:
		d.wrong(path, key+" is there twice", "each key once")
	case !o.takes(value):
		d.wrong(path, key+" is "+d.show(path, value), o.allowed())
	case key == "data" && scheme == "rtu" && value != "8":
		d.wrong(path, key+" is "+d.show(path, value)+", and RTU needs whole bytes", "8")
	case o.rs485 && values.Get("rs485") != "true":
		d.wrong(path, key+" needs rs485=true", "both, or neither")
	}
}

// checkPorts refuses two sources on one serial port: each would disturb what the
// other one asks.
func (d *decoder) checkPorts() {
	first := map[string]string{}
	for _, s := range d.cfg.Sources {
		if s.Modbus == nil {
			continue
		}
		scheme, rest, _ := strings.Cut(s.Modbus.Connection, "://")
		port, _, _ := strings.Cut(rest, "?")
		if scheme != "rtu" && scheme != "ascii" || port == "" {
			continue
		}
		if other := first[port]; other != "" {
			path := join("sources", s.Name) + ".modbus.connection"
			d.wrong(path, d.show(path, port)+" is the port of the source "+other, "all devices of a port in one source")
			continue
		}
		first[port] = s.Name
	}
}
