package simulate

import (
	"errors"
	"testing"

	"github.com/simonvetter/modbus"
)

func startMeter(t *testing.T, ledger *Ledger) (*Meter, *modbus.ModbusClient) {
	t.Helper()
	m := newMeter("meter-1", freeListener(t), ledger)
	runIn(t, m.Run)
	must(t, m.awaitServing(t.Context()))
	c, err := modbus.NewClient(&modbus.ClientConfiguration{URL: "tcp://" + m.Addr(), Timeout: patience})
	must(t, err)
	must(t, c.Open())
	t.Cleanup(func() { c.Close() })
	must(t, c.SetUnitId(meterUnit))
	return m, c
}

func TestMeterCountsTheAnswersThatHoldTheNumber(t *testing.T) {
	var ledger Ledger
	m, c := startMeter(t, &ledger)
	for n := uint32(1); n <= 3; n++ {
		regs, err := c.ReadRegisters(regPower, 4, modbus.HOLDING_REGISTER)
		must(t, err)
		if got := uint32(regs[2])<<16 | uint32(regs[3]); got != n {
			t.Errorf("answer %d says %d", n, got)
		}
		power, err := c.ReadFloat32(regPower, modbus.HOLDING_REGISTER) // without the number: not counted
		must(t, err)
		if power != powerAt("meter-1", n) {
			t.Errorf("power beside answer %d: %v, not %v", n, power, powerAt("meter-1", n))
		}
	}
	if m.Answers() != 3 || ledger.Taken() != 3 {
		t.Errorf("answers %d, in the ledger %d, not 3", m.Answers(), ledger.Taken())
	}
}

func TestFrozenMeterCountsNothingAndShowsZero(t *testing.T) {
	var ledger Ledger
	m, c := startMeter(t, &ledger)
	read := func() uint32 {
		n, err := c.ReadUint32(regAnswer, modbus.HOLDING_REGISTER)
		must(t, err)
		return n
	}
	read()
	m.Freeze()
	if m.Settled() {
		t.Error("settled before another answer was served")
	}
	if a, b := read(), read(); a != 0 || b != 0 {
		t.Errorf("the number reads %d, %d after Freeze", a, b)
	}
	if !m.Settled() || m.Answers() != 1 || ledger.Taken() != 1 {
		t.Errorf("settled %v, answers %d, in the ledger %d", m.Settled(), m.Answers(), ledger.Taken())
	}
}

func TestMeterServesItsOtherRegisters(t *testing.T) {
	_, c := startMeter(t, nil)
	energy, err := c.ReadUint64(regEnergy, modbus.INPUT_REGISTER)
	if err != nil || energy < 1_000_000 {
		t.Errorf("energy: %d, %v", energy, err)
	}
	label, err := c.ReadBytes(regLabel, 2*labelWords, modbus.HOLDING_REGISTER)
	if err != nil || string(label) != "METER meter-1\x00\x00\x00" {
		t.Errorf("label: %q, %v", label, err)
	}
	if on, err := c.ReadCoil(bitRunning); err != nil || !on {
		t.Errorf("running: %v, %v", on, err)
	}
	if open, err := c.ReadDiscreteInput(bitDoorOpen); err != nil || open {
		t.Errorf("door: %v, %v", open, err)
	}
}

func TestMeterRefusesAsARealDevice(t *testing.T) {
	_, c := startMeter(t, nil)
	tests := []struct {
		name string
		ask  func() error
		want error
	}{
		{"an address without a register", func() error { _, err := c.ReadRegister(9000, modbus.HOLDING_REGISTER); return err }, modbus.ErrIllegalDataAddress},
		{"a coil that isn't there", func() error { _, err := c.ReadCoil(7); return err }, modbus.ErrIllegalDataAddress},
		{"a write to a register", func() error { return c.WriteRegister(regPower, 1) }, modbus.ErrIllegalFunction},
		{"a write to a coil", func() error { return c.WriteCoil(bitRunning, true) }, modbus.ErrIllegalFunction},
		{"another unit", func() error {
			must(t, c.SetUnitId(9))
			_, err := c.ReadRegister(regPower, modbus.HOLDING_REGISTER)
			return err
		}, modbus.ErrGWTargetFailedToRespond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.ask(); !errors.Is(err, tt.want) {
				t.Errorf("error: %v, not %v", err, tt.want)
			}
		})
	}
}
