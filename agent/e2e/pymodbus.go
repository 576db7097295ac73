//go:build e2e

package e2e

import (
	"strconv"
	"testing"
)

// registers are the values of modbus_server.py that differ between two starts.
type registers struct {
	power   float64 // unit 3, holding 3059, float32
	energy  uint64  // unit 3, input 100, uint64
	running bool    // unit 3, coil 1
}

// startPymodbus starts modbus_server.py on port and waits until it accepts
// connections. It can be stopped and started again on the same port.
func startPymodbus(t testing.TB, dir string, port int, r registers) *process {
	t.Helper()
	running := "0"
	if r.running {
		running = "1"
	}
	p := startProcess(t, command{name: "pymodbus", dir: dir, args: []string{
		installed(t, "pymodbus-3.16.1/bin/python"), "modbus_server.py", strconv.Itoa(port),
		strconv.FormatFloat(r.power, 'g', -1, 64), strconv.FormatUint(r.energy, 10), running,
	}})
	waitFor(t, "pymodbus", func() bool { return accepts(loopback(port)) }, p)
	return p
}
