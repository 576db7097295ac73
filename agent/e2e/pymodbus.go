//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// registers are the values of a Modbus server that differ between two starts.
type registers struct {
	power   float64 // unit 3, holding 3059, float32
	energy  uint64  // unit 3, input 100, uint64
	running bool    // unit 3, coil 1
}

// words are the registers as the servers take them on the command line.
func (r registers) words() []string {
	running := "0"
	if r.running {
		running = "1"
	}
	return []string{strconv.FormatFloat(r.power, 'g', -1, 64), strconv.FormatUint(r.energy, 10), running}
}

// startPymodbus starts modbus_server.py on port and waits until it accepts
// connections. It can be stopped and started again on the same port.
func startPymodbus(t testing.TB, dir string, port int, r registers) *process {
	t.Helper()
	return startPymodbusAt(t, dir, fmt.Sprintf("tcp:%d", port), port, r)
}

// startPymodbusAt is startPymodbus on any line that the script knows. It waits
// for the port; 0: for none.
func startPymodbusAt(t testing.TB, dir, line string, port int, r registers) *process {
	t.Helper()
	args := append([]string{installed(t, "pymodbus-3.16.1/bin/python"), "modbus_server.py", line}, r.words()...)
	p := startProcess(t, command{name: "pymodbus", dir: dir, args: args})
	if port > 0 {
		waitFor(t, "pymodbus", func() bool { return accepts(loopback(port)) }, p)
	}
	return p
}

// cable is a serial line of two ports, each a link of a fixed name in a folder.
type cable struct {
	near, far string // the agent's end and the devices' end
	dir       string
	proc      *process
}

// startCable starts socat between two ptys.
func startCable(t testing.TB, dir string) *cable {
	t.Helper()
	c := &cable{near: filepath.Join(dir, "near"), far: filepath.Join(dir, "far"), dir: dir}
	c.plug(t)
	return c
}

// plug makes the ports; after unplug they are others, behind the same names.
func (c *cable) plug(t testing.TB) {
	t.Helper()
	end := func(link string) string { return "pty,raw,echo=0,link=" + link }
	c.proc = startProcess(t, command{name: "socat", dir: c.dir, args: []string{"socat", end(c.near), end(c.far)}})
	waitFor(t, "the ports of socat", func() bool { return exists(c.near) && exists(c.far) }, c.proc)
}

// unplug makes the ports vanish without a word, links and all.
func (c *cable) unplug() {
	c.proc.kill()
	_ = os.Remove(c.near)
	_ = os.Remove(c.far)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
