package simulate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/simonvetter/modbus"
)

// The registers of a Meter. All 32- and 64-bit values stand high word first
// (order ABCD); addresses count from 0.
const (
	meterUnit   = 1    // the unit it answers as
	regPower    = 3059 // holding, float32, kW
	regAnswer   = 3061 // holding, uint32: the number of this answer, counted from 1; 0 once frozen
	regLabel    = 500  // holding, 8 registers of text
	regEnergy   = 100  // input, uint64, Wh
	bitRunning  = 1    // coil
	bitDoorOpen = 12   // discrete input
	labelWords  = 8
)

// Meter is a Modbus TCP device with an energy meter's registers. It counts the
// answers it serves in a register that stands beside the power and is read with
// it, and the power is a function of that number: so each reading says which
// answer it came from, and a mixed-up one shows.
type Meter struct {
	name     string
	listener net.Listener // holds the address until Run
	ledger   *Ledger
	serving  chan struct{} // closed when Run serves

	mu      sync.Mutex
	answers uint32 // counted so far
	frozen  bool
	after   uint32 // answers served since it was frozen
}

// newMeter takes over the listener; it is closed by Run or by Close.
func newMeter(name string, l net.Listener, ledger *Ledger) *Meter {
	return &Meter{name: name, listener: l, ledger: ledger, serving: make(chan struct{})}
}

// Name is what the device is called in the agent's config.
func (m *Meter) Name() string { return m.name }

// Addr is where the device listens, "127.0.0.1:1502" for example.
func (m *Meter) Addr() string { return m.listener.Addr().String() }

// Close frees the address of a meter that was never run.
func (m *Meter) Close() error { return m.listener.Close() }

// Answers is how many answers were counted.
func (m *Meter) Answers() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return uint64(m.answers)
}

// Freeze ends the counting: from now on the answer register reads 0 and the
// other values stay. A client that asks one thing after the other has dealt
// with the last counted answer once Settled.
func (m *Meter) Freeze() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.frozen = true
}

// Settled says whether two answers were served since Freeze: one might have
// been on its way while the meter was frozen, two can't.
func (m *Meter) Settled() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.after >= 2
}

// Run serves until ctx ends. It is called once.
func (m *Meter) Run(ctx context.Context) error {
	server, err := modbus.NewServer(&modbus.ServerConfiguration{
		URL: "tcp://" + m.Addr(), Timeout: 2 * time.Minute, MaxClients: 16,
		Logger: log.New(io.Discard, "", 0),
	}, m)
	if err != nil {
		return fmt.Errorf("modbus device %s: %w", m.name, err)
	}
	if err := m.listener.Close(); err != nil {
		return fmt.Errorf("modbus device %s: %w", m.name, err)
	}
	if err := server.Start(); err != nil { // the library insists on listening itself
		return fmt.Errorf("modbus device %s: %w", m.name, err)
	}
	close(m.serving)
	<-ctx.Done()
	if err := server.Stop(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("modbus device %s: %w", m.name, err)
	}
	return nil
}

// awaitServing waits until Run serves. Before that the address is taken, but a
// connection to it comes to nothing.
func (m *Meter) awaitServing(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return fmt.Errorf("modbus device %s: %w", m.name, context.Cause(ctx))
	case <-m.serving:
		return nil
	}
}

// HandleHoldingRegisters serves function 3.
func (m *Meter) HandleHoldingRegisters(r *modbus.HoldingRegistersRequest) ([]uint16, error) {
	if r.IsWrite {
		return nil, modbus.ErrIllegalFunction
	}
	if r.UnitId != meterUnit {
		return nil, modbus.ErrGWTargetFailedToRespond
	}
	n, shown := m.count(covers(r.Addr, r.Quantity, regAnswer, 2))
	image := map[uint16][]byte{
		regPower:  binary.BigEndian.AppendUint32(nil, math.Float32bits(powerAt(m.name, n))),
		regAnswer: binary.BigEndian.AppendUint32(nil, shown),
		regLabel:  labelBytes(m.name),
	}
	return registers(image, r.Addr, r.Quantity)
}

// HandleInputRegisters serves function 4.
func (m *Meter) HandleInputRegisters(r *modbus.InputRegistersRequest) ([]uint16, error) {
	if r.UnitId != meterUnit {
		return nil, modbus.ErrGWTargetFailedToRespond
	}
	n, _ := m.count(false)
	image := map[uint16][]byte{regEnergy: binary.BigEndian.AppendUint64(nil, 1_250_000+3*uint64(n))}
	return registers(image, r.Addr, r.Quantity)
}

// HandleCoils serves function 1.
func (m *Meter) HandleCoils(r *modbus.CoilsRequest) ([]bool, error) {
	if r.IsWrite {
		return nil, modbus.ErrIllegalFunction
	}
	n, _ := m.count(false)
	return bits(r.UnitId, bitRunning, n/40%4 != 3, r.Addr, r.Quantity)
}

// HandleDiscreteInputs serves function 2.
func (m *Meter) HandleDiscreteInputs(r *modbus.DiscreteInputsRequest) ([]bool, error) {
	n, _ := m.count(false)
	return bits(r.UnitId, bitDoorOpen, n/100%5 == 4, r.Addr, r.Quantity)
}

// count numbers one answer if it holds the answer register. n is the number of
// counted answers, shown is what the register reads.
func (m *Meter) count(holds bool) (n, shown uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case holds && m.frozen:
		m.after++
	case holds:
		m.answers++
		m.ledger.Sent(m.name, uint64(m.answers), nil)
		m.ledger.Confirmed(m.name, uint64(m.answers))
	}
	if m.frozen {
		return m.answers, 0
	}
	return m.answers, m.answers
}

// powerAt is the power in kW that stands beside answer n of the meter.
func powerAt(name string, n uint32) float32 {
	base := 40 + 10*float64(len(name)) + float64(name[len(name)-1]%10)
	return float32(base + 20*math.Sin(float64(n)/25) + float64(n%7)/8)
}

// labelBytes is the meter's name, padded with zeros.
func labelBytes(name string) []byte {
	b := make([]byte, 2*labelWords)
	copy(b, "METER "+name)
	return b
}

// covers says whether a request for n registers from at on holds the size
// registers of a value.
func covers(at, n, value, size uint16) bool {
	return at <= value && uint32(at)+uint32(n) >= uint32(value)+uint32(size)
}

// registers cuts the asked range out of a device's memory. Addresses between
// the values read as 0; a range that touches no value at all is refused with
// exception 2, as a real device does.
func registers(image map[uint16][]byte, at, n uint16) ([]uint16, error) {
	out := make([]uint16, n)
	touched := false
	for start, value := range image {
		for i := 0; i < len(value); i += 2 {
			offset := int(start) + i/2 - int(at)
			if offset >= 0 && offset < len(out) {
				out[offset] = binary.BigEndian.Uint16(value[i:])
				touched = true
			}
		}
	}
	if !touched {
		return nil, modbus.ErrIllegalDataAddress
	}
	return out, nil
}

// bits is the same for a memory that holds one bit.
func bits(unit uint8, where uint16, value bool, at, n uint16) ([]bool, error) {
	if unit != meterUnit {
		return nil, modbus.ErrGWTargetFailedToRespond
	}
	if !covers(at, n, where, 1) {
		return nil, modbus.ErrIllegalDataAddress
	}
	out := make([]bool, n)
	out[where-at] = value
	return out, nil
}

// addressInUse says whether err means that another program has the address.
func addressInUse(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }
