package modbus

import (
	"strings"
	"testing"
)

func TestConnections(t *testing.T) {
	for in, want := range map[string]connection{
		"tcp://10.0.0.1":       {scheme: "tcp", address: "10.0.0.1:502"},
		"tcp://plc:1502/":      {scheme: "tcp", address: "plc:1502"},
		"tcp://[fe80::1]":      {scheme: "tcp", address: "[fe80::1]:502"},
		"tcp://[::1]:1502":     {scheme: "tcp", address: "[::1]:1502"},
		"tcp://plc-1.lan:01":   {scheme: "tcp", address: "plc-1.lan:01"},
		"tcp+tls://plc":        {scheme: "tcp+tls", address: "plc:802"},
		"tcp+tls://plc:8802":   {scheme: "tcp+tls", address: "plc:8802"},
		"rtu+tcp://gw":         {scheme: "rtu+tcp", address: "gw:502"},
		"rtu:///dev/ttyUSB0":   {scheme: "rtu", address: "/dev/ttyUSB0", serial: serialMode{19200, 'E', 8, 1, nil}},
		"rtu:///dev/ttyUSB0?":  {scheme: "rtu", address: "/dev/ttyUSB0", serial: serialMode{19200, 'E', 8, 1, nil}},
		"ascii:///dev/ttyUSB0": {scheme: "ascii", address: "/dev/ttyUSB0", serial: serialMode{19200, 'E', 7, 1, nil}},
		"rtu:///dev/serial/by-path/pci-0000:00:14.0-usb-0:1:1.0-port0?baud=9600&parity=N": {scheme: "rtu",
			address: "/dev/serial/by-path/pci-0000:00:14.0-usb-0:1:1.0-port0", serial: serialMode{9600, 'N', 8, 2, nil}},
		"ascii:///dev/a%20b?data=8&stop=2&parity=O&baud=300": {scheme: "ascii", address: "/dev/a%20b", serial: serialMode{300, 'O', 8, 2, nil}},
	} {
		got, err := parseConnection(in)
		if err != nil || got.scheme != want.scheme || got.address != want.address || got.serial != want.serial {
			t.Errorf("%s: %+v %v, want %+v", in, got, err, want)
		}
	}
}

func TestConnectionsThatAreRefused(t *testing.T) {
	for in, want := range map[string]string{
		"":                                          "connection needs a scheme (allowed: tcp://host:port, tcp+tls://host:port, rtu+tcp://host:port, rtu:///dev/…, ascii:///dev/…)",
		"/dev/ttyUSB0":                              "connection needs a scheme",
		"modbus://h":                                `unknown scheme "modbus"`,
		"tcp://h?baud=9600":                         "not an address",
		"tcp+tls://h:0":                             "port is 0 (allowed: 1 to 65535)",
		"rtu://ttyUSB0":                             "no device file (allowed: rtu:///dev/…)",
		"ascii://":                                  "no device file (allowed: ascii:///dev/…)",
		"rtu:///p?speed=9600":                       `unknown key "speed" (known: baud, parity, data, stop, rs485, rts_high_during_send, rts_high_after_send, rts_delay_before, rts_delay_after, rx_during_tx, terminate_bus)`,
		"rtu:///p?baud=9600&baud=9600":              "baud is there twice",
		"rtu:///p?baud=%zz":                         "what follows the ? is not key=value",
		"rtu:///p?baud=49":                          `baud is "49" (allowed: 50 to 4000000)`,
		"rtu:///p?baud=fast":                        `baud is "fast" (allowed: 50 to 4000000)`,
		"rtu:///p?parity=even":                      `parity is "even" (allowed: E, O, N)`,
		"rtu:///p?data=7":                           `data is "7" (allowed: 8)`,
		"ascii:///p?data=6":                         `data is "6" (allowed: 7 to 8)`,
		"rtu:///p?stop=0":                           `stop is "0" (allowed: 1 to 2)`,
		"rtu:///p?rs485=yes":                        `rs485 is "yes" (allowed: true, false)`,
		"rtu:///p?rts_delay_before=1ms":             "rts_delay_before needs rs485=true",
		"rtu:///p?rs485=false&rx_during_tx=true":    "rx_during_tx needs rs485=true",
		"rtu:///p?rs485=true&rts_delay_before=1":    `rts_delay_before is "1" (allowed: 0ms to 100ms)`,
		"rtu:///p?rs485=true&rts_delay_after=101ms": `rts_delay_after is "101ms" (allowed: 0ms to 100ms)`,
		"rtu:///p?rs485=true&terminate_bus=1":       `terminate_bus is "1" (allowed: true, false)`,
		"rtu:///p?rs485=true&rts_high_during_send=false&rts_high_after_send=false": "RTS would switch nothing",
	} {
		if c, err := parseConnection(in); err == nil || !strings.Contains(err.Error(), want) || c.scheme != "" {
			t.Errorf("%s: %+v, error %v, want %q", in, c, err, want)
		}
	}
}
