package modbus

import (
	"math"
	"strings"
	"testing"
	"time"
)

// sound is a Config that New takes.
func sound() Config {
	return Config{Name: "bus", Connection: "tcp://127.0.0.1:502", Sink: newMemory(), Devices: []Device{
		{Name: "d", Unit: 1, Tags: []Tag{{Name: "v", Read: "holding", At: 1, Type: "uint16"}}},
	}}
}

// rejected is a change to a sound Config, and what New says to it.
type rejected struct {
	name   string
	change func(c *Config, d *Device, x *Tag)
	want   string
}

func refusedSources() []rejected {
	return []rejected{
		{"no name", func(c *Config, _ *Device, _ *Tag) { c.Name = "" }, "name is empty"},
		{"no sink", func(c *Config, _ *Device, _ *Tag) { c.Sink = nil }, "sink is missing"},
		{"no scheme", func(c *Config, _ *Device, _ *Tag) { c.Connection = "10.0.0.1:502" }, "connection needs a scheme (allowed: tcp://host:port"},
		{"no host", func(c *Config, _ *Device, _ *Tag) { c.Connection = "tcp://:502" }, "connection: not an address"},
		{"a path", func(c *Config, _ *Device, _ *Tag) { c.Connection = "tcp://h:502/x" }, "connection: not an address"},
		{"a password", func(c *Config, _ *Device, _ *Tag) { c.Connection = "tcp://u:p@h:502" }, "connection: not an address"},
		{"port 0", func(c *Config, _ *Device, _ *Tag) { c.Connection = "tcp://h:0" }, "port is 0 (allowed: 1 to 65535)"},
		{"port 65536", func(c *Config, _ *Device, _ *Tag) { c.Connection = "tcp://h:65536" }, "port is 65536 (allowed: 1 to 65535)"},
		{"unknown scheme", func(c *Config, _ *Device, _ *Tag) { c.Connection = "udp://h:502" }, `unknown scheme "udp"`},
		{"time-out too short", func(c *Config, _ *Device, _ *Tag) { c.Timeout = time.Millisecond }, "timeout is 1ms (allowed: 10ms to 1m0s)"},
		{"too many retries", func(c *Config, _ *Device, _ *Tag) { c.Retries = 11 }, "retries is 11 (allowed: 0 to 10)"},
		{"negative retries", func(c *Config, _ *Device, _ *Tag) { c.Retries = -2 }, "retries is -2 (allowed: 0 to 10)"},
		{"negative gap", func(c *Config, _ *Device, _ *Tag) { c.FrameGap = -1 }, "frame_gap is -1ns (allowed: 0s to 10s)"},
		{"too many registers", func(c *Config, _ *Device, _ *Tag) { c.Grouping.MaxRegisters = 126 }, "grouping.max_registers is 126 (allowed: 1 to 125)"},
		{"too many bits", func(c *Config, _ *Device, _ *Tag) { c.Grouping.MaxBits = 2001 }, "grouping.max_bits is 2001 (allowed: 1 to 2000)"},
		{"max_gap", func(c *Config, _ *Device, _ *Tag) { c.Grouping.MaxGap = -2 }, "grouping.max_gap is -2 (allowed: 0 to 2000)"},
		{"breaker's longest wait below its first", func(c *Config, _ *Device, _ *Tag) { c.Breaker = Breaker{Retry: time.Minute, Max: time.Second} }, "breaker.max is 1s (allowed: 1m0s to 24h0m0s)"},
		{"no devices", func(c *Config, _ *Device, _ *Tag) { c.Devices = nil }, "devices is empty"},
		{"a device twice", func(c *Config, d *Device, _ *Tag) { c.Devices = append(c.Devices, *d) }, `device "d": devices: name "d" is there twice`},
		{"unit 256", func(_ *Config, d *Device, _ *Tag) { d.Unit = 256 }, `device "d": unit is 256 (allowed: 0 to 255)`},
		{"every too short", func(_ *Config, d *Device, _ *Tag) { d.Every = time.Millisecond }, "every is 1ms (allowed: 10ms to 24h0m0s)"},
		{"heartbeat too short", func(_ *Config, d *Device, _ *Tag) { d.Heartbeat = 1 }, "heartbeat is 1ns (allowed: 100ms to 24h0m0s)"},
	}
}

func refusedTags() []rejected {
	return []rejected{
		{"no tags", func(_ *Config, d *Device, _ *Tag) { d.Tags = nil }, `device "d": tags is empty`},
		{"a tag twice", func(_ *Config, d *Device, x *Tag) { d.Tags = append(d.Tags, *x) }, `device "d": tag "v": name "v" is there twice`},
		{"a tag without a name", func(_ *Config, _ *Device, x *Tag) { x.Name = "" }, "name is empty"},
		{"a name that is no text", func(_ *Config, _ *Device, x *Tag) { x.Name = "\xff" }, "is not UTF-8"},
		{"unknown table", func(_ *Config, _ *Device, x *Tag) { x.Read = "register" }, `read is "register" (allowed: holding, input, coil, discrete)`},
		{"no type", func(_ *Config, _ *Device, x *Tag) { x.Type = "" }, `type is "" (allowed: bcd16, bcd32, bool, bytes, float16,`},
		{"bool in a register", func(_ *Config, _ *Device, x *Tag) { x.Type = "bool" }, "type bool can't be read from holding"},
		{"number in a coil", func(_ *Config, _ *Device, x *Tag) { x.Read = "coil" }, "type uint16 can't be read from coil"},
		{"unknown order", func(_ *Config, _ *Device, x *Tag) { x.Order = "ABDC" }, `byte_order is "ABDC" (allowed: ABCD, DCBA, BADC, CDAB)`},
		{"base 2", func(_ *Config, _ *Device, x *Tag) { x.Base = 2 }, "base is 2 (allowed: 0 to 1)"},
		{"address 0 with base 1", func(_ *Config, _ *Device, x *Tag) { x.At, x.Base = 0, 1 }, "at is 0 (allowed: 1 to 65536)"},
		{"address beyond the last", func(_ *Config, _ *Device, x *Tag) { x.At = 65536 }, "at is 65536 (allowed: 0 to 65535)"},
		{"value beyond the last address", func(_ *Config, _ *Device, x *Tag) { x.At, x.Type = 65535, "float32" }, "at is 65535, so that it ends at address 65536 (the last one is 65535)"},
		{"string without a length", func(_ *Config, _ *Device, x *Tag) { x.Type = "string" }, "length is 0 (allowed: 1 to 125)"},
		{"number with a length", func(_ *Config, _ *Device, x *Tag) { x.Length = 2 }, "length is 2 (only string and bytes have one)"},
		{"value larger than a request", func(c *Config, _ *Device, x *Tag) { c.Grouping.MaxRegisters, x.Type = 1, "float32" }, "it has 2 registers (grouping.max_registers is 1"},
		{"scale that is no number", func(_ *Config, _ *Device, x *Tag) { x.Scale = math.NaN() }, "scale is NaN (allowed: a finite number)"},
		{"endless offset", func(_ *Config, _ *Device, x *Tag) { x.Offset = math.Inf(1) }, "offset is +Inf (allowed: a finite number)"},
		{"scale of a string", func(_ *Config, _ *Device, x *Tag) { x.Type, x.Length, x.Scale = "string", 2, 0.1 }, "scale and offset make no sense with type string"},
		{"deadband of a string", func(_ *Config, _ *Device, x *Tag) { x.Type, x.Length, x.Deadband.Width = "string", 2, 1 }, "deadband is 1, but type string is no number"},
		{"negative deadband", func(_ *Config, _ *Device, x *Tag) { x.Deadband.Width = -1 }, "deadband is -1 (allowed: 0 or more)"},
		{"every of a tag", func(_ *Config, _ *Device, x *Tag) { x.Every = 25 * time.Hour }, "every is 25h0m0s (allowed: 10ms to 24h0m0s)"},
	}
}

func TestNewRefuses(t *testing.T) {
	for _, test := range append(refusedSources(), refusedTags()...) {
		t.Run(test.name, func(t *testing.T) {
			c := sound()
			test.change(&c, &c.Devices[0], &c.Devices[0].Tags[0])
			_, err := New(c)
			if err == nil {
				t.Fatal("New took it")
			}
			if text := err.Error(); !strings.Contains(text, test.want) || strings.Count(text, "\n") > 0 {
				t.Errorf("error %q, want %q and nothing else", text, test.want)
			}
		})
	}
}

func TestNewReportsEveryProblemAtOnce(t *testing.T) {
	c := sound()
	c.Timeout = -1
	c.Devices[0].Unit = -1
	c.Devices[0].Tags[0].Type = "real"
	_, err := New(c)
	for _, want := range []string{"timeout is -1ns", "unit is -1", `type is "real"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v lacks %q", err, want)
		}
	}
}

func TestZeroValuesAreTheDefaults(t *testing.T) {
	s, err := New(sound())
	if err != nil {
		t.Fatal(err)
	}
	d := s.schedule.devices[0]
	if s.link.timeout != 500*time.Millisecond || s.retries != 1 || s.limits != (Grouping{16, 125, 2000}) {
		t.Errorf("timeout %v, retries %d, grouping %+v", s.link.timeout, s.retries, s.limits)
	}
	if b := d.breaker; b.openAfter != 3 || b.retry != 5*time.Second || b.max != 10*time.Minute {
		t.Errorf("breaker %+v", b)
	}
	if d.groups[0].every != time.Second || d.heartbeat != time.Minute || d.tags[0].class != "process" {
		t.Errorf("every %v, heartbeat %v, class %s", d.groups[0].every, d.heartbeat, d.tags[0].class)
	}
	st := s.Stats()
	if st.Up || len(st.Devices) != 1 || st.Taken["process"] != 0 || len(st.Devices[0].Polls) < 4 {
		t.Errorf("stats before Run: %+v", st)
	}
}
