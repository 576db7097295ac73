package modbus

import (
	"crypto/tls"
	"log/slog"
	"time"

	"sluice/drivers"
)

// None stands for "no retries", "no gap" and "no breaker" in the fields whose
// zero value means the default.
const None = -1

// Config configures New. Name, Connection, Devices and Sink are needed; the
// zero value of every other field is its default.
type Config struct {
	Name       string        // the source's name, 1 to 64 characters
	Connection string        // tcp://host[:port], tcp+tls://…, rtu+tcp://…, rtu:///dev/…?key=value or ascii:///dev/…; see the README
	Timeout    time.Duration // of one request, from its first byte to the last one of the answer; 10ms to 1m; 0: 500ms
	Retries    int           // how often a request that failed is repeated, up to 10; 0: 1; None: not at all
	FrameGap   time.Duration // extra silence between an answer and the next request, 0 to 10s
	Grouping   Grouping
	Breaker    Breaker
	Devices    []Device // at least one; their profiles are already resolved

	TLS      func() (*tls.Config, error) // of tcp+tls, called at each connect, so that a certificate may change; nil: the authorities of the system
	StateDir string                      // where the addresses that devices refuse are remembered, in NAME.json; made if needed; empty: they are not

	Sink        drivers.Sink        // where readings go; polls of a class are held while it is a drivers.Roomy that has no room for it
	Log         *slog.Logger        // nil: discarded; the caller adds the source to its lines
	ObservePoll func(time.Duration) // called from Run's goroutine after each poll with its duration; may be nil
}

// Grouping limits what the planner merges into one request.
type Grouping struct {
	MaxGap       int // registers (or bits) that are read though nobody asked, between two tags; up to 2000; 0: 16; None: no gap
	MaxRegisters int // of one request, 1 to 125; 0: 125
	MaxBits      int // of one request, 1 to 2000; 0: 2000
}

// or fills in what g leaves out from limits that have their defaults.
func (g Grouping) or(whole Grouping) Grouping {
	return Grouping{orNone(g.MaxGap, whole.MaxGap), or(g.MaxRegisters, whole.MaxRegisters), or(g.MaxBits, whole.MaxBits)}
}

// Breaker stops polling a unit that doesn't answer, so that waiting for it does
// not take the time of the others on the same connection.
type Breaker struct {
	OpenAfter int           // polls without an answer in a row, up to 1000; 0: 3; None: it never opens
	Retry     time.Duration // until the first attempt, doubled after each that fails; 10ms to 1h; 0: 5s
	Max       time.Duration // the longest wait between attempts, Retry to 24h; 0: 10m (or Retry, if that is longer)
}

// Device is one device behind the connection.
type Device struct {
	Name      string        // unique in the source, 1 to 64 characters
	Unit      int           // unit identifier (slave address), 0 to 255
	Every     time.Duration // interval of its polls, 10ms to 24h; 0: 1s
	Class     string        // class of its readings; empty: process
	Heartbeat time.Duration // while it doesn't answer one reading says so each heartbeat, 100ms to 24h; 0: 1m
	Grouping  Grouping      // limits of its own; a field that is 0 is the source's
	Tags      []Tag         // at least one; readings keep this order
}

// Tag is one value of a device.
type Tag struct {
	Name   string  // unique in the device, UTF-8, 1 to 128 bytes
	Read   string  // holding, input, coil or discrete
	At     int     // the address as the manual gives it
	Base   int     // what the manual's addresses start from, 0 or 1
	Type   string  // bool, int8 … uint64, bcd16, bcd32, float16, float32, float64, string, bytes; coil and discrete: bool, which may be left out; with Bit or Bits: uint16 if left out
	Order  string  // ABCD, DCBA, BADC or CDAB; empty: ABCD
	Scale  float64 // value = raw × Scale + Offset; 0: 1
	Offset float64
	Length int    // registers of a string or of bytes, 1 to 125; of other types 0
	Unit   string // what the value is counted in (kW): for people only

	Bit     *int             // the value is this one bit of a register value, as a bool; 0 is the least significant one after Order; nil: all bits
	Bits    *BitRange        // the value is the number in these bits; with a signed Type its highest bit is the sign; nil: all bits
	Map     map[int64]string // the value is the word of the raw number (of a bool: 0 or 1), each 1 to 128 bytes; a number without one is bad: unmapped-N. nil: the number itself
	Missing string           // raw number that stands for "no value", such as 0x80000000: the tag is bad then, with the reason missing; empty: there is none

	Deadband  Deadband      // leaves the tag out while its value hardly moves
	Heartbeat time.Duration // with a deadband: the longest silence, 100ms to 24h; 0: the device's
	Every     time.Duration // 10ms to 24h; 0: the device's
	Class     string        // empty: the device's; another one makes an event of its own

	Write *Write // nil: Source.Write refuses it
}

// BitRange is a run of bits, both ends included, 0 the least significant.
type BitRange struct{ Low, High int }

// Write declares that a tag may be written, in holding registers or coils.
type Write struct {
	Min, Max *float64      // allowed values, scaled, both included; both needed for numbers, none for bool and with a Map
	Expire   time.Duration // a request is refused when it is older than this, 100ms to 24h; 0: 10s
}

// Deadband leaves a tag out of readings while its value differs from the last
// one that was sent by no more than Width. The zero value sends every value.
type Deadband struct {
	Width    float64 // in the units of the scaled value, or percent; at least 0
	Percent  bool    // Width is in percent of the last sent value's magnitude
	OnChange bool    // with Width 0: any change is sent, the same value is not; the only form for bool, string and bytes
}

func (d Deadband) on() bool { return d.OnChange || d.Width > 0 }

// Defaults of Config's fields.
const (
	defaultPort         = "502"
	defaultTimeout      = 500 * time.Millisecond
	defaultRetries      = 1
	defaultMaxGap       = 16
	defaultOpenAfter    = 3
	defaultRetry        = 5 * time.Second
	defaultBreakerMax   = 10 * time.Minute
	defaultEvery        = time.Second
	defaultHeartbeat    = time.Minute
	defaultClass        = "process"
	defaultOrder        = "ABCD"
	defaultExpire       = 10 * time.Second
	defaultMaxRegisters = maxRegisters
	defaultMaxBits      = maxBits
)

// Most that one request may ask for (Modbus Application Protocol V1.1b3 §6.1
// and §6.3).
const (
	maxRegisters = 125
	maxBits      = 2000
)

// withDefaults replaces the zero values of what concerns the whole source.
func (c Config) withDefaults() Config {
	c.Timeout = or(c.Timeout, defaultTimeout)
	c.Retries = orNone(c.Retries, defaultRetries)
	c.Grouping.MaxGap = orNone(c.Grouping.MaxGap, defaultMaxGap)
	c.Grouping.MaxRegisters = or(c.Grouping.MaxRegisters, defaultMaxRegisters)
	c.Grouping.MaxBits = or(c.Grouping.MaxBits, defaultMaxBits)
	c.Breaker.OpenAfter = orNone(c.Breaker.OpenAfter, defaultOpenAfter)
	c.Breaker.Retry = or(c.Breaker.Retry, defaultRetry)
	c.Breaker.Max = or(c.Breaker.Max, max(defaultBreakerMax, c.Breaker.Retry))
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// or returns v, or the default where v is the zero value.
func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// orNone is or for a count whose zero value is the default and None means 0.
func orNone(v, otherwise int) int {
	if v == None {
		return 0
	}
	return or(v, otherwise)
}
