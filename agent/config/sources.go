package config

import "time"

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
	// Larger payloads are refused, acknowledged and counted.
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
	// The values to read, by name.
	Tags []Tag `yaml:"tags,named,free" required:"true" like:"tags: { power: { read: holding, at: 3059, type: float32 } }"`
}

// Device is one unit on the connection.
type Device struct {
	Name string `yaml:"-"`
	// Address of the unit. On TCP many devices want 1, 0 or 255.
	Unit int `yaml:"unit" required:"true" range:"0..255"`
	// Name of its profile.
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
	// How its registers are read. Needed for holding and input; coil and discrete are bool.
	Type string `yaml:"type,inherit" enum:"bool|int8|uint8|int16|uint16|int32|uint32|int64|uint64|float16|float32|float64|string|bytes"`
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
	// Words for numbers.
	Map map[string]string `yaml:"map"`
	// Number of the one bit to take, 0 the least significant.
	Bit *int `yaml:"bit" range:"0..63"`
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
	if t.Type == "" {
		t.Type = "bool"
	}
	return ResolvedTag{Tag: t, Base: base}
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
