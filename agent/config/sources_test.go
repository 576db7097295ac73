package config

import (
	"bytes"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

const resolveText = `version: 1
uplinks: { k: { kafka: { brokers: [ "h:9092" ] } } }
sources:
  b:
    modbus:
      connection: "tcp://h"
      profiles:
        p:
          byte_order: CDAB
          base: 1
          tags:
            zulu:  { read: holding, at: 0x10, type: float32 }
            alpha: { read: coil, at: 2, every: 200ms, class: alarm, heartbeat: 5m }
            mike:  { read: input, at: 3, type: int16, byte_order: DCBA, deadband: 1% }
      devices:
        shared: { unit: 0, profile: p, every: 5s, class: slow, heartbeat: 2m }
        mixed:
          unit: 2
          profile: p
          base: 0
          tags:
            extra: { read: holding, at: 0, type: uint32, deadband: 0 }
            alpha: { read: holding, at: 7, type: uint16 }
        alone: { unit: 3, tags: { "Temperatur außen": { read: input, at: 0, type: int16, scale: 0.1, offset: -40 } } }
`

func TestResolve(t *testing.T) {
	c := mustParse(t, resolveText)
	m := c.Sources[0].Modbus
	type row struct {
		name, read, kind, order string
		at, base                int
		every, heartbeat        time.Duration
		class                   string
	}
	want := map[string][]row{
		"shared": {
			{"zulu", "holding", "float32", "CDAB", 16, 1, 5 * time.Second, 2 * time.Minute, "slow"},
			{"alpha", "coil", "bool", "CDAB", 2, 1, 200 * time.Millisecond, 5 * time.Minute, "alarm"},
			{"mike", "input", "int16", "DCBA", 3, 1, 5 * time.Second, 2 * time.Minute, "slow"},
		},
		"mixed": {
			{"zulu", "holding", "float32", "CDAB", 16, 1, time.Second, time.Minute, "process"},
			{"alpha", "holding", "uint16", "CDAB", 7, 0, time.Second, time.Minute, "process"},
			{"mike", "input", "int16", "DCBA", 3, 1, time.Second, time.Minute, "process"},
			{"extra", "holding", "uint32", "CDAB", 0, 0, time.Second, time.Minute, "process"},
		},
		"alone": {{"Temperatur außen", "input", "int16", "ABCD", 0, 0, time.Second, time.Minute, "process"}},
	}
	for i := range m.Devices {
		var got []row
		for _, r := range m.Resolve(&m.Devices[i]) {
			got = append(got, row{r.Name, r.Read, r.Type, r.ByteOrder, r.At, r.Base, r.Every, r.Heartbeat, r.Class})
		}
		if name := m.Devices[i].Name; !reflect.DeepEqual(got, want[name]) {
			t.Errorf("%s has the tags\n%+v\nwant\n%+v", name, got, want[name])
		}
	}
	var classes []string
	for _, class := range c.Classes {
		classes = append(classes, class.Name)
	}
	if want := []string{"slow", "alarm", "process", "security"}; !reflect.DeepEqual(classes, want) {
		t.Errorf("the classes are %v, want %v", classes, want)
	}
}

func TestDeadbandForms(t *testing.T) {
	tags := mustParse(t, resolveText).Sources[0].Modbus
	if d := tags.Profiles[0].Tags[0].Deadband; d != nil {
		t.Errorf("a deadband that is left out is %v", d)
	}
	if d := tags.Profiles[0].Tags[2].Deadband; d == nil || *d != (Deadband{Value: 1, Percent: true}) {
		t.Errorf("1%% is %v", d)
	}
	if d := tags.Devices[1].Tags[0].Deadband; d == nil || *d != (Deadband{}) {
		t.Errorf("0 is %v", d)
	}
}

const tagsText = `version: 1
uplinks: { k: { kafka: { brokers: [ "h:9092" ] } } }
sources:
  b:
    modbus:
      connection: "tcp://h"
      grouping: { max_gap: 4, max_registers: 100 }
      profiles:
        p:
          grouping: { max_gap: 0, max_bits: 8 }
          tags:
            flag:  { read: holding, at: 1, type: bool, bit: 3 }
            state: { read: holding, at: 1, bits: 4-7, map: { 0: off, 0x2: run, 15: "on" } }
            wide:  { read: holding, at: 1, type: int32, bits: 0-11 }
            door:  { read: coil, at: 1, map: { 0: closed, 1: open }, write: {} }
            limit: { read: holding, at: 2, type: bcd32, scale: 0.1, write: { min: -0.5, max: 10, expire: 1m } }
      devices:
        d: { unit: 1, profile: p }
        e: { unit: 2, tags: { t: { read: coil, at: 1 } } }
`

func TestTagsOfRegisters(t *testing.T) {
	m := mustParse(t, tagsText).Sources[0].Modbus
	if got := m.Limits(&m.Devices[0]); got != (Grouping{0, 100, 8}) {
		t.Errorf("the limits of the profile are %+v", got)
	}
	if got := m.Limits(&m.Devices[1]); got != (Grouping{4, 100, 2000}) {
		t.Errorf("the limits of the connection are %+v", got)
	}
	tags := m.Resolve(&m.Devices[0])
	var kinds []string
	for i := range tags {
		kinds = append(kinds, tags[i].Type)
	}
	if got := strings.Join(kinds, " "); got != "uint16 uint16 int32 bool bcd32" {
		t.Errorf("types %s", got)
	}
	if low, high, ok := tags[1].BitRange(); low != 4 || high != 7 || !ok {
		t.Errorf("bits %d to %d, %v", low, high, ok)
	}
	if got := tags[1].Words(); !reflect.DeepEqual(got, map[int64]string{0: "off", 2: "run", 15: "on"}) {
		t.Errorf("words %v", got)
	}
	if w := tags[3].Write; w == nil || w.Min != nil || w.Expire != 10*time.Second {
		t.Errorf("write of a coil %+v", w)
	}
	if w := tags[4].Write; w == nil || *w.Min != -0.5 || *w.Max != 10 || w.Expire != time.Minute {
		t.Errorf("write of a number %+v", w)
	}
}

// TestPrintedConfigsReadBack covers values that YAML could take for others.
func TestPrintedConfigsReadBack(t *testing.T) {
	for name, text := range map[string]string{
		"smallest": minimal,
		"modbus":   resolveText,
		"a ladder": ladderText,
		"tags":     tagsText,
		"secrets":  withSecret("${file:/run/secrets/mqtt}"),
		"odd texts": minimal + `agent: { labels: { a: "true", b: "1.10", c: 1.10, d: "", e: "null", f: "- x", g: "a: b", h: "#", i: "$${x}", j: "é\"\\/", k: no, l: "0x1", m: "~", n: "{", "true": "*a", "7": "!b", o: " x ", p: "\u2028\u00a0" } }
observe: { http: "" }
`,
		"all quantities": minimal + `agent: { memory_limit: 100MB }
buffer: { commit_delay: 1500us, segment: 1.5MiB, min_free: 12.5% }
classes: { process: { priority: 0, keep: { bytes: 1234567B, age: 90m }, retain: 1h30m, when_full: drop_oldest } }
`,
	} {
		t.Run(name, func(t *testing.T) {
			first := mustParse(t, text)
			printed := first.YAML()
			second, err := Parse("c.yaml", printed, machine())
			if err != nil {
				t.Fatalf("the printed config has problems:\n%v\n%s", err, printed)
			}
			if again := second.YAML(); !bytes.Equal(again, printed) {
				t.Errorf("printed, and printed again:\n%s\n%s", printed, again)
			}
			if !reflect.DeepEqual(first.Agent, second.Agent) || !reflect.DeepEqual(first.Buffer, second.Buffer) || !reflect.DeepEqual(first.Classes, second.Classes) || !reflect.DeepEqual(first.Removed, second.Removed) || first.Observe != second.Observe {
				t.Errorf("read back as %+v, want %+v", second, first)
			}
		})
	}
}

func TestShippedConfigsAreValid(t *testing.T) {
	const uplinks = "uplinks: { k: { kafka: { brokers: [ \"h:9092\" ] } } }\n"
	for _, file := range []string{"../../drivers/mqtt/sample.yaml", "../../drivers/modbus/sample.yaml"} {
		t.Run(file, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			whole := string(text)
			if !strings.HasPrefix(whole, "version:") && !strings.Contains(whole, "\nversion:") {
				whole = "version: 1\n" + whole
			}
			if !strings.HasPrefix(whole, "uplinks:") && !strings.Contains(whole, "\nuplinks:") {
				whole += "\n" + uplinks
			}
			// What a sample refers to is there on the machine of its user.
			o := Options{
				Env:      func(string) (string, bool) { return "x", true },
				ReadFile: func(string) ([]byte, error) { return []byte("x"), nil },
			}
			if _, err := Parse(file, []byte(whole), o); err != nil {
				t.Errorf("problems:\n%v", err)
			}
		})
	}
	head, err := os.ReadFile("testdata/reference_head.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(head), "```yaml\n")
	example, _, _ = strings.Cut(example, "```")
	mustParse(t, example)
}

func TestRebirthsAreAskedForUnlessSwitchedOff(t *testing.T) {
	for text, want := range map[string]bool{"{ }": true, "{ rebirth: true }": true, "{ rebirth: false }": false} {
		c := mustParse(t, strings.Replace(minimal, "subscribe:", "decode: sparkplug_b, sparkplug: "+text+", subscribe:", 1))
		if got := c.Sources[0].MQTT.Sparkplug; got == nil || got.Rebirth != want {
			t.Errorf("%s: %+v", text, got)
		}
	}
}
