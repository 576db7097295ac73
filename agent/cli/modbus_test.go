package cli

import (
	"encoding/binary"
	"io"
	"log"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	sim "github.com/simonvetter/modbus"

	"sluice/drivers/loopback"
)

// rack is a Modbus TCP server with units of several minds. It knows nothing of
// the driver.
//
//	1   a meter that says who it is, in parts
//	3   refuses everything
//	5   takes writes and does what it likes with them
//	7   identification that is cut off; its vendor is an escape sequence
//	8   identification without end
//	9   answers with too few bytes
//	10  identification that goes in circles
//	11  writes and doesn't confirm
//	20… a gateway says that nobody is there
//
// The others keep silent.
type rack struct {
	mu       sync.Mutex
	requests int
	holding  map[uint16]uint16
	coils    map[uint16]bool
}

func newRack() *rack {
	return &rack{
		holding: map[uint16]uint16{0: 7, 100: 0x4366, 101: 0x8000, 102: 0x8000, 103: 0x4366, 104: 250, 105: 0xffff, 106: 0x4142, 107: 0x4300, 200: 50, 201: 1, 202: 5},
		coils:   map[uint16]bool{0: false, 10: true, 11: false, 12: false},
	}
}

// served returns the number of requests so far.
func (r *rack) served() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests
}

// answer returns the PDU that answers one, nil for silence.
func (r *rack) answer(unit byte, pdu []byte) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests++
	switch {
	case unit >= 20 && unit < 40:
		return []byte{pdu[0] | 0x80, 11}
	case unit == 3:
		return []byte{pdu[0] | 0x80, 1}
	case unit == 9:
		return []byte{pdu[0], 1, 0}
	case !slices.Contains([]byte{1, 5, 7, 8, 10, 11}, unit):
		return nil
	}
	switch pdu[0] {
	case 43:
		return identification(unit, pdu)
	case 17:
		if unit == 1 {
			return append([]byte{17, 5, 0x2a, 0xff}, "M1\x07"...)
		}
		return []byte{0x91, 1}
	case 1, 2, 3, 4:
		return r.read(pdu)
	case 5, 6, 15, 16:
		return r.write(unit, pdu)
	}
	return []byte{pdu[0] | 0x80, 1}
}

// identification answers 43/14.
func identification(unit byte, pdu []byte) []byte {
	head := func(more, next byte, objects byte) []byte { return []byte{43, 14, pdu[2], 0x82, more, next, objects} }
	object := func(b []byte, id byte, text string) []byte { return append(append(b, id, byte(len(text))), text...) }
	switch {
	case unit == 7:
		return object(head(0, 0, 1), 0, "\x1b[2JEvil\x07")
	case unit == 10:
		return object(head(0xff, 0, 1), 0, "Round")
	case unit == 8:
		return object(head(0xff, pdu[3]+1, 1), 0, "Endless")
	case unit != 1:
		return []byte{0xab, 1}
	case pdu[2] == 1 && pdu[3] == 0:
		return object(object(head(0xff, 2, 2), 0, "Acme"), 1, "EM-9")
	case pdu[2] == 1:
		return object(head(0, 0, 1), 2, "1.04")
	}
	return object(object(head(0, 0, 2), 3, "http://acme.example"), 4, "Energy meter")
}

// read serves functions 1 to 4; coils and discrete inputs are the same, and so
// are the registers but for input 0.
func (r *rack) read(pdu []byte) []byte {
	at, n := binary.BigEndian.Uint16(pdu[1:]), binary.BigEndian.Uint16(pdu[3:])
	if pdu[0] <= 2 {
		bits := make([]byte, (n+7)/8)
		for i := range n {
			on, ok := r.coils[at+i]
			if !ok {
				return []byte{pdu[0] | 0x80, 2}
			}
			if on {
				bits[i/8] |= 1 << (i % 8)
			}
		}
		return append([]byte{pdu[0], byte(len(bits))}, bits...)
	}
	out := []byte{pdu[0], byte(2 * n)}
	for i := range n {
		v, ok := r.holding[at+i]
		if !ok || pdu[0] == 4 && at == 0 {
			return []byte{pdu[0] | 0x80, 2}
		}
		out = binary.BigEndian.AppendUint16(out, v)
	}
	return out
}

// write serves functions 5, 6, 15 and 16.
func (r *rack) write(unit byte, pdu []byte) []byte {
	at := binary.BigEndian.Uint16(pdu[1:])
	switch pdu[0] {
	case 5:
		r.coils[at] = pdu[3] == 0xff
	case 15:
		for i := range binary.BigEndian.Uint16(pdu[3:]) {
			r.coils[at+i] = pdu[6+i/8]>>(i%8)&1 == 1
		}
	case 6:
		r.set(unit, at, binary.BigEndian.Uint16(pdu[3:]))
	case 16:
		for i := range binary.BigEndian.Uint16(pdu[3:]) {
			r.set(unit, at+i, binary.BigEndian.Uint16(pdu[6+2*i:]))
		}
	}
	if unit == 11 {
		return nil
	}
	return slices.Clone(pdu[:5])
}

func (r *rack) set(unit byte, at, v uint16) {
	if unit == 5 {
		v = min(v, 100)
	}
	r.holding[at] = v
}

// listen serves connections until the script ends.
func listen(env *testscript.Env, talk func(net.Conn)) (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	var mu sync.Mutex
	var open []net.Conn
	env.Defer(func() {
		ln.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range open {
			c.Close()
		}
	})
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			go talk(c)
		}
	}()
	return "tcp://" + ln.Addr().String(), nil
}

// talk answers requests on one connection.
func (r *rack) talk(c net.Conn) { converse(c, r.answer) }

// failing is talk for a server that has units 5 and 100 and says exception 4 of the
// others.
func (r *rack) failing(c net.Conn) {
	converse(c, func(unit byte, pdu []byte) []byte {
		if unit != 5 && unit != 100 {
			return []byte{pdu[0] | 0x80, 4}
		}
		return r.answer(5, pdu)
	})
}

func converse(c net.Conn, answers func(unit byte, pdu []byte) []byte) {
	defer c.Close()
	head := make([]byte, 7)
	for {
		if _, err := io.ReadFull(c, head); err != nil {
			return
		}
		pdu := make([]byte, binary.BigEndian.Uint16(head[4:])-1)
		if _, err := io.ReadFull(c, pdu); err != nil {
			return
		}
		if answer := answers(head[6], pdu); answer != nil {
			out := slices.Clone(head)
			binary.BigEndian.PutUint16(out[4:], uint16(1+len(answer)))
			if _, err := c.Write(append(out, answer...)); err != nil {
				return
			}
		}
	}
}

// plc is a device behind the server of another library: it takes every unit.
type plc struct {
	mu      sync.Mutex
	holding [64]uint16
	coils   [64]bool
}

func (p *plc) HandleCoils(r *sim.CoilsRequest) ([]bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if int(r.Addr)+int(r.Quantity) > len(p.coils) {
		return nil, sim.ErrIllegalDataAddress
	}
	if r.IsWrite {
		copy(p.coils[r.Addr:], r.Args)
	}
	return slices.Clone(p.coils[r.Addr:][:r.Quantity]), nil
}

func (p *plc) HandleDiscreteInputs(*sim.DiscreteInputsRequest) ([]bool, error) {
	return nil, sim.ErrIllegalFunction
}

func (p *plc) HandleHoldingRegisters(r *sim.HoldingRegistersRequest) ([]uint16, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if int(r.Addr)+int(r.Quantity) > len(p.holding) {
		return nil, sim.ErrIllegalDataAddress
	}
	if r.IsWrite {
		copy(p.holding[r.Addr:], r.Args)
	}
	return slices.Clone(p.holding[r.Addr:][:r.Quantity]), nil
}

func (p *plc) HandleInputRegisters(*sim.InputRegistersRequest) ([]uint16, error) {
	return nil, sim.ErrIllegalFunction
}

// startPLC starts the other library's server, which insists on listening itself.
func startPLC(env *testscript.Env) (url string, err error) {
	addr, release, err := loopback.Reserve()
	if err != nil {
		return "", err
	}
	env.Defer(release)
	url = "tcp://" + addr
	server, err := sim.NewServer(&sim.ServerConfiguration{URL: url, MaxClients: 16, Logger: log.New(io.Discard, "", 0)}, &plc{})
	if err == nil {
		err = server.Start()
	}
	if err != nil {
		return "", err
	}
	env.Defer(func() { server.Stop() })
	return url, nil
}

// The scripts in testdata/modbus, one subject each. $RACK and $PLC are devices,
// $SHUT closes each connection, $FREE is nobody's address, $FAILING has units 5 and
// 100 and says of the others that they fail.
func TestModbusCommands(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/modbus",
		Setup: func(env *testscript.Env) error {
			r := newRack()
			env.Values["rack"] = r
			rackURL, err := listen(env, r.talk)
			if err != nil {
				return err
			}
			shut, err := listen(env, func(c net.Conn) { c.Close() })
			if err != nil {
				return err
			}
			plcURL, err := startPLC(env)
			if err != nil {
				return err
			}
			free, release, err := loopback.Reserve()
			if err != nil {
				return err
			}
			env.Defer(release)
			env.Setenv("RACK", rackURL)
			env.Setenv("SHUT", shut)
			env.Setenv("PLC", plcURL)
			failing, err := listen(env, newRack().failing)
			if err != nil {
				return err
			}
			env.Setenv("FAILING", failing)
			env.Setenv("FREE", "tcp://"+free)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"send": send, "status": exitStatus, "served": served,
		},
	})
}

// served is "served N": waits until the rack has had N requests, or, with !, says
// that it had fewer.
func served(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] served N")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	r := ts.Value("rack").(*rack)
	if neg {
		if r.served() >= want {
			ts.Fatalf("%d requests, not fewer than %d", r.served(), want)
		}
		return
	}
	for end := time.Now().Add(30 * time.Second); r.served() < want; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			ts.Fatalf("%d requests, not %d", r.served(), want)
		}
	}
}
