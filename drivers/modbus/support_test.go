package modbus

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/drivers"

	sim "github.com/simonvetter/modbus"
)

// patience only stops a test that hangs.
const patience = 20 * time.Second

// memory is a sink that keeps events and, while it is full, has no room.
type memory struct {
	events chan drivers.Event
	full   atomic.Bool
	turned atomic.Int64 // Appends that found it full
}

func newMemory() *memory { return &memory{events: make(chan drivers.Event, 10_000)} }

func (m *memory) Append(ctx context.Context, e drivers.Event, done func(error)) error {
	if m.full.Load() {
		m.turned.Add(1)
		for m.full.Load() {
			if err := sleep(ctx, time.Millisecond); err != nil {
				return err
			}
		}
	}
	m.events <- e
	if done != nil {
		done(nil)
	}
	return nil
}

// reading is the JSON of an event.
type reading struct {
	Device string                     `json:"device"`
	Time   time.Time                  `json:"time"`
	Values map[string]json.RawMessage `json:"values"`
	Bad    map[string]string          `json:"bad"`
	event  drivers.Event
}

func parse(t *testing.T, e drivers.Event) reading {
	t.Helper()
	r := reading{event: e}
	if err := json.Unmarshal(e.Payload, &r); err != nil {
		t.Fatalf("payload %s: %v", e.Payload, err)
	}
	return r
}

// next returns the next reading.
func (m *memory) next(t *testing.T) reading {
	t.Helper()
	select {
	case e := <-m.events:
		return parse(t, e)
	case <-time.After(patience):
		t.Fatal("no reading came")
		return reading{}
	}
}

// running is a source whose Run has been called.
type running struct {
	*Source
	cancel context.CancelFunc
	ended  chan struct{}
	err    error
}

// stop ends Run and returns its error.
func (r *running) stop() error {
	r.cancel()
	<-r.ended
	return r.err
}

// start runs a source. Without a time-out of its own it has one that no honest answer
// misses on a busy machine.
func start(t *testing.T, c Config) *running {
	t.Helper()
	if c.Timeout == 0 {
		c.Timeout = patience / 4
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Source: s, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		r.err = s.Run(ctx)
	}()
	t.Cleanup(func() { r.stop() })
	return r
}

// until waits for something that has to come about.
func until(t *testing.T, what string, yes func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !yes(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: it didn't come about", what)
		}
	}
}

// peer is a TCP server that answers each request by a function of the test.
type peer struct {
	listener net.Listener
	accepted func(c net.Conn)
	answer   func(c net.Conn, n int, req []byte)
	requests atomic.Int64
	wg       sync.WaitGroup
	mu       sync.Mutex
	conns    []net.Conn
}

// newPeer starts a peer. answer gets the number of the request, from 0, and its
// 12 bytes; accepted, which may be nil, gets each new connection.
func newPeer(t *testing.T, answer func(c net.Conn, n int, req []byte), accepted func(c net.Conn)) *peer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return newPeerOn(t, listener, answer, accepted)
}

// newPeerOn is newPeer with a listener of the test's.
func newPeerOn(t *testing.T, listener net.Listener, answer func(c net.Conn, n int, req []byte), accepted func(c net.Conn)) *peer {
	t.Helper()
	p := &peer{listener: listener, answer: answer, accepted: accepted}
	p.wg.Add(1)
	go p.serve()
	t.Cleanup(p.close)
	return p
}

func (p *peer) url() string { return "tcp://" + p.listener.Addr().String() }

func (p *peer) serve() {
	defer p.wg.Done()
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		p.conns = append(p.conns, c)
		p.mu.Unlock()
		p.wg.Add(1)
		go p.talk(c)
	}
}

func (p *peer) talk(c net.Conn) {
	defer p.wg.Done()
	defer c.Close()
	if p.accepted != nil {
		p.accepted(c)
	}
	for {
		req := make([]byte, 12)
		if _, err := io.ReadFull(c, req); err != nil {
			return
		}
		p.answer(c, int(p.requests.Add(1))-1, req)
	}
}

func (p *peer) close() {
	p.listener.Close()
	p.mu.Lock()
	for _, c := range p.conns {
		c.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

// frameOf wraps a PDU as the answer to a request.
func frameOf(req []byte, pdu ...byte) []byte {
	f := append([]byte{}, req[:7]...)
	binary.BigEndian.PutUint16(f[4:], uint16(1+len(pdu)))
	return append(f, pdu...)
}

// dataOf is the right answer to a request with these bytes of data.
func dataOf(req []byte, data ...byte) []byte {
	return frameOf(req, append([]byte{req[7], byte(len(data))}, data...)...)
}

// plant is the memory of a simulated device, by unit 1 only, behind the server
// of another library. Registers and bits that aren't in it are illegal.
type plant struct {
	mu        sync.Mutex
	holding   map[uint16]uint16
	input     map[uint16]uint16
	coils     map[uint16]bool
	discretes map[uint16]bool
	refuse    bool // everything is illegal
	requests  int
}

// pick returns count values from at on; a missing one is illegal.
func pick[T any](p *plant, unit uint8, from map[uint16]T, at, count uint16) ([]T, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests++
	if unit != 1 {
		return nil, sim.ErrGWTargetFailedToRespond
	}
	var out []T
	for i := range count {
		v, ok := from[at+i]
		if !ok || p.refuse {
			return nil, sim.ErrIllegalDataAddress
		}
		out = append(out, v)
	}
	return out, nil
}

func (p *plant) HandleCoils(r *sim.CoilsRequest) ([]bool, error) {
	return pick(p, r.UnitId, p.coils, r.Addr, r.Quantity)
}

func (p *plant) HandleDiscreteInputs(r *sim.DiscreteInputsRequest) ([]bool, error) {
	return pick(p, r.UnitId, p.discretes, r.Addr, r.Quantity)
}

func (p *plant) HandleHoldingRegisters(r *sim.HoldingRegistersRequest) ([]uint16, error) {
	return pick(p, r.UnitId, p.holding, r.Addr, r.Quantity)
}

func (p *plant) HandleInputRegisters(r *sim.InputRegistersRequest) ([]uint16, error) {
	return pick(p, r.UnitId, p.input, r.Addr, r.Quantity)
}

// change changes the plant under its lock.
func (p *plant) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

// served returns the number of requests so far.
func (p *plant) served() (n int) {
	p.change(func() { n = p.requests })
	return n
}

// serve starts a server for the plant and returns its URL. The library can't
// say which port it got, so one that was just free is asked for.
func serve(t *testing.T, p *plant) string {
	t.Helper()
	var failed error
	for range 20 {
		url := "tcp://" + freeAddress(t)
		server, err := serveAt(t, p, url)
		if err == nil {
			t.Cleanup(func() { server.Stop() })
			return url
		}
		failed = errors.Join(failed, err)
	}
	t.Fatal(failed)
	return ""
}

func serveAt(t *testing.T, p *plant, url string) (*sim.ModbusServer, error) {
	t.Helper()
	server, err := sim.NewServer(&sim.ServerConfiguration{URL: url, Logger: log.New(io.Discard, "", 0)}, p)
	if err != nil {
		t.Fatal(err)
	}
	return server, server.Start()
}

// freeAddress returns an address that is free, below those that the kernel gives
// to whoever asks for any at the same time.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 1000 {
		address := fmt.Sprint("127.0.0.1:", 10_000+rand.IntN(20_000))
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			return address
		}
	}
	t.Fatal("no free address")
	return ""
}
