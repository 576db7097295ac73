package modbus

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"sluice/agent/config"
	"sluice/drivers/modbus/profiles"
)

// The built-in profiles are read by the config's parser and polled by the
// driver from images of devices that profiles/testdata/images.py made: it counts
// as the manuals do and knows nothing of the profiles.

var missingKey = regexp.MustCompile(`, missing: (0x[0-9a-f]+)`)

// parsedProfile is a profile pasted into a config, as its user would.
func parsedProfile(t *testing.T, p profiles.Profile) (*config.Modbus, map[string]string) {
	t.Helper()
	missing := map[string]string{}
	for line := range strings.Lines(string(p.YAML)) {
		if m := missingKey.FindStringSubmatch(line); m != nil {
			name, _, _ := strings.Cut(strings.TrimSpace(line), ":")
			missing[name] = m[1]
		}
	}
	// A version that doesn't build missing yet reads the rest.
	var indented strings.Builder
	for line := range strings.Lines(p.Config()) {
		indented.WriteString("      " + line)
	}
	text := "version: 1\nuplinks: { k: { kafka: { brokers: [ \"h:9092\" ] } } }\nsources:\n  b:\n    modbus:\n" +
		"      connection: \"tcp://127.0.0.1\"\n      devices: { d: { unit: 1, profile: " + p.Name + ", every: 1h } }\n" + indented.String()
	c, err := config.Parse("c.yaml", []byte(text), config.Options{})
	var problems config.Problems
	if errors.As(err, &problems) && strings.Contains(problems[0].Path, ".missing") {
		c, err = config.Parse("c.yaml", []byte(missingKey.ReplaceAllString(text, "")), config.Options{})
	}
	if err != nil {
		t.Fatal(err)
	}
	return c.Sources[0].Modbus, missing
}

// driverConfig is the part of the wiring that these tests need.
func driverConfig(m *config.Modbus, url string, limit int, sink *memory) Config {
	d := Device{Name: "d", Unit: 1, Every: time.Hour}
	for _, t := range m.Resolve(&m.Devices[0]) {
		d.Tags = append(d.Tags, Tag{Name: t.Name, Read: t.Read, At: t.At, Base: t.Base, Type: t.Type, Order: t.ByteOrder,
			Scale: t.Scale, Offset: t.Offset, Length: t.Length, Unit: t.Unit})
	}
	return Config{Name: "b", Connection: url, Timeout: patience, Retries: None, Devices: []Device{d}, Sink: sink,
		Grouping: Grouping{MaxRegisters: limit}}
}

type deviceImage struct {
	Table     string            `json:"table"`
	Registers map[string]string `json:"registers"`
	Want      map[string]any    `json:"want"`
}

func deviceImages(t *testing.T) map[string]deviceImage {
	t.Helper()
	data, err := os.ReadFile("profiles/testdata/images.json")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]deviceImage
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// registersOf is the memory of the device.
func (i deviceImage) registersOf(t *testing.T) *plant {
	t.Helper()
	memory := map[uint16]uint16{}
	for at, word := range i.Registers {
		a, err1 := strconv.ParseUint(at, 10, 16)
		w, err2 := strconv.ParseUint(word, 16, 16)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		memory[uint16(a)] = uint16(w)
	}
	if i.Table == "input" {
		return &plant{input: memory}
	}
	return &plant{holding: memory}
}

func TestProfilesReadTheirDevices(t *testing.T) {
	all := deviceImages(t)
	for _, p := range profiles.All() {
		t.Run(p.Name, func(t *testing.T) {
			img, ok := all[p.Name]
			if !ok {
				t.Fatal("profiles/testdata/images.json has no such device")
			}
			m, missing := parsedProfile(t, p)
			plant := img.registersOf(t)
			sink := newMemory()
			start(t, driverConfig(m, serve(t, plant), p.Limit, sink))
			r := sink.next(t)
			tags := m.Resolve(&m.Devices[0])
			if len(tags) != len(img.Want) {
				t.Errorf("the profile has %d tags, the image %d", len(tags), len(img.Want))
			}
			for _, tag := range tags {
				if img.Want[tag.Name] == "missing" {
					checkMissingTag(t, tag, missing[tag.Name], plant)
					continue
				}
				want, _ := img.Want[tag.Name].(float64)
				var got float64
				if err := json.Unmarshal(r.Values[tag.Name], &got); err != nil || math.Abs(got-want) > 1e-9*math.Abs(want) {
					t.Errorf("%s is %s (bad: %q), want %v", tag.Name, r.Values[tag.Name], r.Bad[tag.Name], img.Want[tag.Name])
				}
			}
		})
	}
}

// checkMissingTag: the registers that stand for "not available" are what the
// profile says, and no other tag's value is.
func checkMissingTag(t *testing.T, tag config.ResolvedTag, missing string, p *plant) {
	t.Helper()
	f := Form{Type: tag.Type, Order: tag.ByteOrder, Scale: tag.Scale, Missing: missing}
	n, err := f.Registers()
	if err != nil {
		t.Fatal(err)
	}
	var data []byte
	for i := range n {
		w := p.holding[uint16(tag.At-tag.Base+i)]
		data = append(data, byte(w>>8), byte(w))
	}
	if _, bad, err := f.Decode(data); bad != badMissing || err != nil {
		t.Errorf("%s: % x is not what the profile calls missing, %q", tag.Name, data, missing)
	}
	data[len(data)-1]--
	if _, bad, err := f.Decode(data); bad == badMissing || err != nil {
		t.Errorf("%s: % x is called missing, too", tag.Name, data)
	}
}

// No request is longer than the device takes, and none begins or ends within a
// value, which some of them refuse.
func TestProfilesArePlannedWithinTheLimits(t *testing.T) {
	for _, p := range profiles.All() {
		m, _ := parsedProfile(t, p)
		c := driverConfig(m, "tcp://127.0.0.1", p.Limit, newMemory())
		s, err := New(c)
		if err != nil {
			t.Errorf("%s: %v", p.Name, err)
			continue
		}
		limit := p.Limit
		if limit == 0 {
			limit = maxRegisters
		}
		for _, g := range s.schedule.devices[0].groups {
			for _, r := range g.requests {
				if r.count > limit {
					t.Errorf("%s: a request has %d registers (limit %d)", p.Name, r.count, limit)
				}
				first, last := r.tags[0], r.tags[len(r.tags)-1]
				if r.at != first.at || r.at+r.count != last.at+last.count {
					t.Errorf("%s: a request for %d to %d doesn't begin and end with a value", p.Name, r.at, r.at+r.count-1)
				}
			}
		}
	}
}

// Each profile names its device and its sources, and all together stay small.
func TestProfilesSayWhereTheyComeFrom(t *testing.T) {
	size := 0
	for _, p := range profiles.All() {
		size += len(p.YAML)
		for _, key := range []string{"# device: ", "# source: ", "# checked: "} {
			if !strings.Contains(string(p.YAML), key) {
				t.Errorf("%s has no line %q", p.Name, key)
			}
		}
		if p.Device == "" || strings.Contains(string(p.YAML), "# limit: ") != (p.Limit > 0) {
			t.Errorf("%s: device %q, limit %d", p.Name, p.Device, p.Limit)
		}
	}
	if len(profiles.All()) < 6 || size > 60_000 {
		t.Errorf("%d profiles, %d bytes", len(profiles.All()), size)
	}
	if _, ok := profiles.Find("../profiles/abb-b23"); ok {
		t.Error("a path is taken for a name")
	}
}
