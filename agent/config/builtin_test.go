package config

import (
	"bytes"
	"strings"
	"testing"

	"sluice/drivers/modbus/profiles"
)

// builtinText is a config whose device names a profile that it doesn't declare.
func builtinText(profile, more string) string {
	return "version: 1\nuplinks: { k: { kafka: { brokers: [ \"h:9092\" ] } } }\nsources:\n  b:\n    modbus:\n      connection: \"tcp://h\"\n" +
		more + "      devices: { d: { unit: 1, profile: " + profile + " }, e: { unit: 2, profile: " + profile + " } }\n"
}

// Each built-in profile is one that this package reads without a complaint, and
// the printed config, in which it stands, reads back to the same.
func TestBuiltinProfiles(t *testing.T) {
	for _, known := range profiles.All() {
		d := newDecoder("c.yaml", Options{})
		d.all = true
		d.run([]byte(builtinText(known.Name, "")), func() (string, error) { return "gw", nil })
		if len(d.problems) > 0 {
			t.Errorf("%s: %v", known.Name, d.problems)
			continue
		}
		m := d.cfg.Sources[0].Modbus
		if len(m.Profiles) != 1 || m.Profiles[0].Name != known.Name || len(m.Resolve(&m.Devices[1])) < 10 {
			t.Errorf("%s: profiles %+v", known.Name, m.Profiles)
		}
		if got := m.Limits(&m.Devices[1]).MaxRegisters; known.Limit > 0 && got != known.Limit || m.Grouping.MaxRegisters != 125 {
			t.Errorf("%s: requests for %d registers, and the device takes %d", known.Name, got, known.Limit)
		}
		again := newDecoder("c.yaml", Options{})
		again.all = true
		again.run(d.cfg.YAML(), func() (string, error) { return "gw", nil })
		if len(again.problems) > 0 || !bytes.Equal(again.cfg.YAML(), d.cfg.YAML()) {
			t.Errorf("%s: the printed config reads back with %v", known.Name, again.problems)
		}
	}
}

func TestBuiltinProfileLowersNothingThatIsLower(t *testing.T) {
	c := mustParse(t, builtinText("eastron-sdm630", "      grouping: { max_registers: 20 }\n"))
	m := c.Sources[0].Modbus
	if got := m.Limits(&m.Devices[0]).MaxRegisters; got != 20 {
		t.Errorf("max_registers is %d, not 20", got)
	}
}

func TestDeclaredProfileWins(t *testing.T) {
	c := mustParse(t, builtinText("eastron-sdm630", "      profiles: { eastron-sdm630: { tags: { t: { read: coil, at: 1 } } } }\n"))
	m := c.Sources[0].Modbus
	if len(m.Profiles) != 1 || len(m.Profiles[0].Tags) != 1 || m.Grouping.MaxRegisters != 125 {
		t.Errorf("%+v", m)
	}
}

// What a version doesn't build is refused in a built-in profile, too, at the device
// that names it first.
func TestBuiltinProfileThatNeedsMore(t *testing.T) {
	defer func(was []refusal) { unavailable = was }(unavailable)
	unavailable = append(append([]refusal{}, unavailable...), refusal{"Tag.Scale", nil, "1"})
	_, err := Parse("c.yaml", []byte(builtinText("carlo-gavazzi-em24", "")), Options{})
	if err == nil || !strings.Contains(err.Error(), `c.yaml:7:41: sources.b.modbus.devices.d.profile: "carlo-gavazzi-em24" is a built-in profile that this version cannot read: tags.`) {
		t.Errorf("%v", err)
	}
}

func TestMissing(t *testing.T) {
	for _, c := range []struct{ tag, want string }{
		{"type: int32, missing: 0x80000000", ""},
		{"type: int32, missing: -2147483648", ""},
		{"type: uint64, missing: 0xffffffffffffffff", ""},
		{"type: float32, missing: 0x7fc00000", ""},
		{"type: int16, missing: 0x80000000", `"0x80000000" does not fit the type int16 (a number of 16 bits)`},
		{"type: int16, missing: -32769", "does not fit the type int16"},
		{"type: int16, missing: none", `"none" is not a whole number (such as 0x80000000 or -32768)`},
		{"type: int16, missing: 1.5", "is not a whole number"},
		{"type: int8, missing: 1", "is only for numbers of whole registers, and the type is int8"},
		{"type: string, length: 2, missing: 1", "is only for numbers of whole registers, and the type is string"},
	} {
		d := newDecoder("c.yaml", Options{})
		d.all = true
		d.run([]byte("version: 1\nuplinks: { k: { kafka: { brokers: [ \"h:9092\" ] } } }\nsources: { b: { modbus: { connection: \"tcp://h\", devices: { d: { unit: 1, tags: { t: { read: input, at: 1, "+c.tag+" } } } } } } }\n"),
			func() (string, error) { return "gw", nil })
		got := ""
		if len(d.problems) > 0 {
			got = d.problems.Error()
		}
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.tag, got, c.want)
		}
	}
}
