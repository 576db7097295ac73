package config

import (
	"strconv"
	"strings"
	"time"
)

// Source is one thing that is read. It has exactly one of MQTT and Modbus.
type Source struct {
	Name string `yaml:"-"`
	// Subscribes at an MQTT broker.
	MQTT *MQTT `yaml:"mqtt"`
	// Polls devices on a Modbus connection.
	Modbus *Modbus `yaml:"modbus"`
}

// MQTT is a subscriber at a broker, MQTT 3.1.1.
type MQTT struct {
	// Addresses of the broker, tried in order: tcp://host:port, ssl://host:port,
	// ws://host/path or wss://host/path.
	Servers []string `yaml:"servers" required:"true" like:"servers: [ tcp://127.0.0.1:1883 ]"`
	// Name of the session at the broker; two clients must never share it. Left
	// out: sluice-<agent.id>-<source>.
	ClientID string `yaml:"client_id,inherit"`
	// User name for the broker. A ${file:…} is read again at each connect.
	Username string `yaml:"username"`
	// Password for the broker; needs username. A ${file:…} is read again at each connect.
	Password Secret `yaml:"password"`
	// TLS of ssl:// and wss:// addresses. Left out: the authorities of the system.
	TLS *TLS `yaml:"tls"`
	// Longest silence before a ping.
	KeepAlive time.Duration `yaml:"keep_alive" default:"30s" range:"1s..18h"`
	// What to subscribe to. Where several filters match a
	// message the most specific one decides its class.
	Subscribe []Subscription `yaml:"subscribe" required:"true" like:"subscribe: [ { filter: factory/# } ]"`
	// How payloads are read. json: a payload that is not JSON is refused.
	// sparkplug_b: Sparkplug B becomes JSON with the metrics by name; edge nodes
	// are asked for a rebirth where it is missing.
	Decode string `yaml:"decode" default:"raw" enum:"raw|json|sparkplug_b"`
	// How Sparkplug edge nodes are treated; only with decode: sparkplug_b.
	Sparkplug *Sparkplug `yaml:"sparkplug"`
	// Larger payloads are refused, acknowledged and counted. Up to an eighth of
	// agent.memory_limit, since that is what one takes on its way.
	MaxPayload Size `yaml:"max_payload" default:"1MiB" range:"1B..255MiB"`
}

// Sparkplug is how Sparkplug edge nodes are treated.
type Sparkplug struct {
	// Ask edge nodes for their births where they are missing. It needs the right
	// to publish to spBv1.0/GROUP/NCMD/NODE. false: nothing is published, and
	// metrics have no names until their node sends its births by itself.
	Rebirth bool `yaml:"rebirth" default:"true"`
}

// Subscription is one topic filter.
type Subscription struct {
	// Topic filter: + for one level, # at the end for all below, $share/GROUP/FILTER
	// to share the messages with other clients.
	Filter string `yaml:"filter" required:"true" like:"filter: factory/+/telemetry"`
	// Quality of service that is asked for. 0 may lose messages on the way.
	QoS int `yaml:"qos" default:"1" range:"0..2"`
	// Class of its messages.
	Class string `yaml:"class" default:"process"`
}

// Modbus is one connection with its devices.
type Modbus struct {
	// Where the devices are: tcp://host:port, tcp+tls://host:port (Modbus/TCP
	// Security, port 802), rtu+tcp://host:port (a gateway that passes RTU frames
	// through), rtu:///dev/ttyUSB0?baud=19200&parity=E&stop=1 or
	// ascii:///dev/ttyUSB0. The default port is 502. The keys of a serial port are
	// baud, parity (E, O, N), data, stop, and rs485=true with rts_high_during_send,
	// rts_high_after_send, rts_delay_before, rts_delay_after (such as 2ms),
	// rx_during_tx and terminate_bus.
	Connection string `yaml:"connection" required:"true" like:"connection: tcp://127.0.0.1:502"`
	// TLS of a tcp+tls connection; the files are read again at each connect. Left
	// out: the authorities of the system, without a client certificate.
	TLS *TLS `yaml:"tls"`
	// Longest wait for an answer. On a serial port the time that request and answer
	// take on the line is added; after a failure it is waited once more for what is late.
	Timeout time.Duration `yaml:"timeout" default:"500ms" range:"10ms..1m"`
	// Further tries after a request that was not answered.
	Retries int `yaml:"retries" default:"1" range:"0..10"`
	// Extra silence between requests.
	FrameGap time.Duration `yaml:"frame_gap" default:"0s" range:"0s..10s"`
	// How tags are merged into requests.
	Grouping Grouping `yaml:"grouping"`
	// How a unit that does not answer is left alone.
	Breaker Breaker `yaml:"breaker"`
	// Register maps that devices share, by name.
	Profiles []Profile `yaml:"profiles,named"`
	// The devices, by name.
	Devices []Device `yaml:"devices,named" required:"true" like:"devices: { meter-1: { unit: 3, profile: … } }"`
}

// Grouping bounds one request.
type Grouping struct {
	// Unused registers or bits that are read along to save a request.
	MaxGap int `yaml:"max_gap" default:"16" range:"0..2000"`
	// Registers in one request. Some devices take less than the protocol allows.
	MaxRegisters int `yaml:"max_registers" default:"125" range:"1..125"`
	// Coils or discrete inputs in one request.
	MaxBits int `yaml:"max_bits" default:"2000" range:"1..2000"`
}

// OwnGrouping bounds one request to the devices of a profile.
type OwnGrouping struct {
	// Unused registers or bits that are read along to save a request.
	MaxGap *int `yaml:"max_gap,inherit" range:"0..2000"`
	// Registers in one request.
	MaxRegisters *int `yaml:"max_registers,inherit" range:"1..125"`
	// Coils or discrete inputs in one request.
	MaxBits *int `yaml:"max_bits,inherit" range:"1..2000"`
}

// Breaker leaves a dead unit alone, so that it doesn't hold up the others.
type Breaker struct {
	// Failed polls in a row before the unit is left alone. 0: it never is.
	OpenAfter int `yaml:"open_after" default:"3" range:"0..1000"`
	// First pause; it doubles each time.
	Retry time.Duration `yaml:"retry" default:"5s" range:"10ms..1h"`
	// Longest pause.
	Max time.Duration `yaml:"max" default:"10m" range:"10ms..24h"`
}

// Profile is a register map that devices share.
type Profile struct {
	Name string `yaml:"-"`
	// Order of the bytes of a value that fills several registers, A the most
	// significant. 16-bit values and each register of a string are
	// byte-swapped under BADC and DCBA.
	ByteOrder string `yaml:"byte_order" default:"ABCD" enum:"ABCD|DCBA|BADC|CDAB"`
	// What the manual's addresses start from.
	Base int `yaml:"base" default:"0" range:"0..1"`
	// Limits of these devices. A key that is left out is the connection's.
	Grouping *OwnGrouping `yaml:"grouping,inherit"`
	// The values to read, by name.
	Tags []Tag `yaml:"tags,named,free" required:"true" like:"tags: { power: { read: holding, at: 3059, type: float32 } }"`
}

// Device is one unit on the connection.
type Device struct {
	Name string `yaml:"-"`
	// Address of the unit. On TCP many devices want 1, 0 or 255.
	Unit int `yaml:"unit" required:"true" range:"0..255"`
	// Name of its profile: one of this source's, or one of the built-in ones that
	// `sluice modbus profiles` lists. A built-in one that takes short requests only
	// lowers grouping.max_registers of the source.
	Profile string `yaml:"profile"`
	// Time between polls.
	Every time.Duration `yaml:"every" default:"1s" range:"10ms..24h"`
	// Class of its readings.
	Class string `yaml:"class" default:"process"`
	// A device that does not answer says so again each time this has passed;
	// a value with a deadband is sent at least this often.
	Heartbeat time.Duration `yaml:"heartbeat" default:"1m" range:"100ms..24h"`
	// Byte order of the tags below. Left out: the profile's, ABCD without one.
	ByteOrder string `yaml:"byte_order,inherit" enum:"ABCD|DCBA|BADC|CDAB"`
	// Base of the tags below. Left out: the profile's, 0 without one.
	Base *int `yaml:"base,inherit" range:"0..1"`
	// Tags of its own, by name; one with the name of a profile's tag takes its place whole.
	Tags []Tag `yaml:"tags,named,free"`
}

// Tag is one value of a device.
type Tag struct {
	Name string `yaml:"-"`
	// The table it is in.
	Read string `yaml:"read" required:"true" enum:"holding|input|coil|discrete"`
	// Address of its first register or bit.
	At int `yaml:"at" required:"true" range:"0..65536"`
	// How its registers are read. Needed for holding and input, but with bit or
	// bits, where it is uint16; coil and discrete are bool.
	Type string `yaml:"type,inherit" enum:"bool|int8|uint8|int16|uint16|int32|uint32|int64|uint64|bcd16|bcd32|float16|float32|float64|string|bytes"`
	// Byte order of this tag. Left out: that of the profile or device.
	ByteOrder string `yaml:"byte_order,inherit" enum:"ABCD|DCBA|BADC|CDAB"`
	// Registers of a string or bytes.
	Length int `yaml:"length" range:"1..125"`
	// The value is multiplied by this. Not 0.
	Scale float64 `yaml:"scale" default:"1"`
	// And then this is added.
	Offset float64 `yaml:"offset" default:"0"`
	// Unit for people, such as kW.
	Unit string `yaml:"unit"`
	// A change of up to this is not sent; absolute (0.2) or a share of the last
	// value sent (1%). 0: only changes are sent, also of a bool or a string.
	// Left out: every value is.
	Deadband *Deadband `yaml:"deadband,inherit"`
	// A value within its deadband is sent at least this often. Left out: the device's.
	Heartbeat time.Duration `yaml:"heartbeat,inherit" range:"100ms..24h"`
	// Time between polls. Left out: the device's.
	Every time.Duration `yaml:"every,inherit" range:"10ms..24h"`
	// Class; its own makes an event of its own. Left out: the device's.
	Class string `yaml:"class,inherit"`
	// Takes one bit of a register value, 0 the least significant; the value is
	// true or false.
	Bit *int `yaml:"bit" range:"0..63"`
	// Takes the number in these bits of a register value, LOW-HIGH, 0 the least
	// significant. With int16, int32 or int64 the highest one is the sign.
	Bits string `yaml:"bits" like:"bits: 4-7"`
	// Words for raw numbers; of a bool 0 and 1. The value is the word. A number
	// without one makes the tag bad, with the reason unmapped-NUMBER.
	Map map[string]string `yaml:"map" like:"map: { 0: off, 1: run }"`
	// Raw number, such as 0x80000000, that the device sends where it has no value:
	// the bits of the tag, before scale and offset. The tag is bad then, with the
	// reason missing.
	Missing string `yaml:"missing"`
	// Declares that remote commands may write the tag, and within which bounds.
	// Left out: they may not; sluice modbus write asks, and writes all the same.
	Write *Write `yaml:"write,inherit"`
}

// Write bounds what may be written to a tag of holding registers or coils.
type Write struct {
	// Smallest value, scaled. Needed for numbers; not for bool and with a map.
	Min *float64 `yaml:"min,inherit"`
	// Largest value, scaled.
	Max *float64 `yaml:"max,inherit"`
	// A request that is older than this is refused.
	Expire time.Duration `yaml:"expire" default:"10s" range:"100ms..24h"`
}

// ResolvedTag is a tag with everything that it inherits filled in.
type ResolvedTag struct {
	Tag
	Base int // 0 or 1
}

// Resolve returns the tags of d: those of its profile in their order, replaced
// by d's own of the same name, then d's other ones. ByteOrder, Every, Class,
// Heartbeat and Type are filled in. d must belong to m, and m must have come
// from Load without problems.
func (m *Modbus) Resolve(d *Device) []ResolvedTag {
	p := find(m.Profiles, func(p *Profile) bool { return p.Name == d.Profile })
	base, order := 0, "ABCD"
	var tags []ResolvedTag
	if p != nil {
		base, order = p.Base, p.ByteOrder
		for _, t := range p.Tags {
			tags = append(tags, t.resolve(d, order, base))
		}
	}
	if d.Base != nil {
		base = *d.Base
	}
	if d.ByteOrder != "" {
		order = d.ByteOrder
	}
	for _, t := range d.Tags {
		r := t.resolve(d, order, base)
		if old := find(tags, func(o *ResolvedTag) bool { return o.Name == t.Name }); old != nil {
			*old = r
		} else {
			tags = append(tags, r)
		}
	}
	return tags
}

func (t Tag) resolve(d *Device, order string, base int) ResolvedTag {
	if t.ByteOrder == "" {
		t.ByteOrder = order
	}
	if t.Every == 0 {
		t.Every = d.Every
	}
	if t.Class == "" {
		t.Class = d.Class
	}
	if t.Heartbeat == 0 {
		t.Heartbeat = d.Heartbeat
	}
	t.Type = t.wholeType()
	return ResolvedTag{Tag: t, Base: base}
}

// wholeType is the type of the value that is read, of which bit or bits take a part.
func (t *Tag) wholeType() string {
	switch {
	case !t.readsBits() && (t.Bit != nil && (t.Type == "" || t.Type == "bool") || t.Bits != "" && t.Type == ""):
		return "uint16"
	case t.Type == "":
		return "bool"
	}
	return t.Type
}

// readsBits says whether the tag's table holds bits, not registers.
func (t *Tag) readsBits() bool { return t.Read == "coil" || t.Read == "discrete" }

// Limits are the bounds of one request to d: its profile's, else the connection's.
func (m *Modbus) Limits(d *Device) Grouping {
	return m.limits(find(m.Profiles, func(p *Profile) bool { return p.Name == d.Profile }))
}

// limits are the bounds of one request to the devices of p, which may be nil.
func (m *Modbus) limits(p *Profile) Grouping {
	g := m.Grouping
	if p == nil || p.Grouping == nil {
		return g
	}
	for _, f := range []struct{ own, whole *int }{{p.Grouping.MaxGap, &g.MaxGap}, {p.Grouping.MaxRegisters, &g.MaxRegisters}, {p.Grouping.MaxBits, &g.MaxBits}} {
		if f.own != nil {
			*f.whole = *f.own
		}
	}
	return g
}

// BitRange reads LOW-HIGH; false where it is something else.
func (t *Tag) BitRange() (low, high int, ok bool) {
	a, b, found := strings.Cut(t.Bits, "-")
	low, err1 := parseInt(a)
	high, err2 := parseInt(b)
	return low, high, found && err1 == nil && err2 == nil && low >= 0 && low <= high && high <= 63
}

// Words is the map by numbers. The tag must have come from Load without problems.
func (t *Tag) Words() map[int64]string {
	if len(t.Map) == 0 {
		return nil
	}
	words := map[int64]string{}
	for key, word := range t.Map {
		if n, err := parseRaw(key); err == nil {
			words[n] = word
		}
	}
	return words
}

// parseRaw reads the number of a word, decimal or with 0x.
func parseRaw(key string) (int64, error) {
	if hex, ok := strings.CutPrefix(key, "0x"); ok {
		return strconv.ParseInt(hex, 16, 64)
	}
	n, err := strconv.ParseInt(key, 10, 64)
	if err == nil && strconv.FormatInt(n, 10) != key {
		return 0, strconv.ErrSyntax
	}
	return n, err
}

// find returns the first element that ok accepts, nil if there is none.
func find[T any](list []T, ok func(*T) bool) *T {
	for i := range list {
		if ok(&list[i]) {
			return &list[i]
		}
	}
	return nil
}
