package agent

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"sluice/agent/config"
	"sluice/buffer"
	"sluice/drivers"
	"sluice/drivers/modbus"
	"sluice/drivers/mqtt"
)

const wiredConfig = `version: 1
agent: { id: gw-1, data_dir: /nowhere }
sources: { line: { mqtt: { servers: [ "tcp://h:1883" ], subscribe: [ { filter: a }, { filter: b, class: alarm } ] } } }
classes:
  process: { priority: 7, keep: { bytes: 2MiB, age: 3h }, when_full: [ thin: 1s, thin: 1m, drop_oldest ] }
  alarm: { when_full: drop_newest }
buffer: { spill_after: 2s, commit_delay: 30ms, segment: 4MiB, min_free: 10% }
uplinks:
  gone: { removed: true }
  all: { kafka: { brokers: [ "h:9092" ] } }
  some: { kafka: { brokers: [ "h:9092" ], classes: [ alarm ] } }
`

func TestTheBufferGetsWhatTheConfigSays(t *testing.T) {
	cfg, err := config.Parse("c.yaml", []byte(wiredConfig), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	got := bufferConfig(cfg)
	want := buffer.Config{
		Dir: "/nowhere",
		Classes: []buffer.Class{
			{Name: "process", Priority: 7, KeepBytes: 2 << 20, KeepAge: 3 * time.Hour, WhenFull: buffer.DropOldest, Thin: []time.Duration{time.Second, time.Minute}},
			{Name: "alarm", Priority: 10, KeepBytes: 1 << 30, WhenFull: buffer.DropNewest},
			{Name: "security", Priority: 50, KeepBytes: 16 << 20, KeepAge: 720 * time.Hour, WhenFull: buffer.DropOldest},
		},
		Uplinks: map[string][]string{"all": nil, "some": {"alarm"}}, Removed: []string{"gone"},
		CommitDelay: 30 * time.Millisecond, SpillAfter: 2 * time.Second, Segment: 4 << 20, MinFree: 0.1, Memory: 16 << 20,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the buffer gets\n%+v, want\n%+v", got, want)
	}
}

const modbusWired = `version: 1
uplinks: { k: { kafka: { brokers: [ "h:9092" ] } } }
sources:
  b:
    modbus:
      connection: "tcp://h"
      retries: 0
      grouping: { max_gap: 4, max_registers: 100 }
      profiles:
        p:
          base: 1
          grouping: { max_gap: 0, max_bits: 8 }
          tags:
            flag:  { read: holding, at: 1, type: bool, bit: 3 }
            state: { read: holding, at: 1, bits: 4-7, map: { 0: off, 0x2: run } }
            door:  { read: coil, at: 1, map: { 0: closed, 1: open }, write: {} }
            limit: { read: holding, at: 2, type: bcd32, byte_order: CDAB, scale: 0.1, deadband: 1%, write: { min: -0.5, max: 10, expire: 1m } }
      devices:
        d: { unit: 1, profile: p, every: 2s }
        e: { unit: 2, tags: { t: { read: coil, at: 1 } } }
`

// TestADriverGetsWhatTheConfigSays has the driver check what the config let pass.
func TestADriverGetsWhatTheConfigSays(t *testing.T) {
	cfg, err := config.Parse("c.yaml", []byte(modbusWired), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := modbusConfig("b", cfg.Sources[0].Modbus, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	m.Sink = &buffer.Buffer{}
	if _, err := modbus.New(m); err != nil {
		t.Fatal(err)
	}
	three, low, high := 3, -0.5, 10.0
	common := func(x modbus.Tag) modbus.Tag {
		x.Base, x.Every, x.Heartbeat, x.Class = 1, 2*time.Second, time.Minute, "process"
		x.Order, x.Scale = cmp.Or(x.Order, "ABCD"), cmp.Or(x.Scale, 1)
		return x
	}
	want := modbus.Device{Name: "d", Unit: 1, Every: 2 * time.Second, Class: "process", Heartbeat: time.Minute,
		Grouping: modbus.Grouping{MaxGap: modbus.None, MaxRegisters: 100, MaxBits: 8},
		Tags: []modbus.Tag{
			common(modbus.Tag{Name: "flag", Read: "holding", At: 1, Type: "uint16", Bit: &three}),
			common(modbus.Tag{Name: "state", Read: "holding", At: 1, Type: "uint16", Bits: &modbus.BitRange{Low: 4, High: 7}, Map: map[int64]string{0: "off", 2: "run"}}),
			common(modbus.Tag{Name: "door", Read: "coil", At: 1, Type: "bool", Map: map[int64]string{0: "closed", 1: "open"}, Write: &modbus.Write{Expire: 10 * time.Second}}),
			common(modbus.Tag{Name: "limit", Read: "holding", At: 2, Type: "bcd32", Order: "CDAB", Scale: 0.1, Deadband: modbus.Deadband{Width: 1, Percent: true},
				Write: &modbus.Write{Min: &low, Max: &high, Expire: time.Minute}}),
		}}
	if !reflect.DeepEqual(m.Devices[0], want) {
		t.Errorf("got  %+v\nwant %+v", m.Devices[0], want)
	}
	if g := m.Devices[1].Grouping; g != (modbus.Grouping{MaxGap: 4, MaxRegisters: 100, MaxBits: 2000}) || m.Retries != modbus.None {
		t.Errorf("grouping %+v, retries %d", g, m.Retries)
	}
}

func TestStrandedEventsAreToldInWords(t *testing.T) {
	cfg, err := config.Parse("c.yaml", []byte(wiredConfig), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		stranded buffer.StrandedUplink
		want     string
	}{
		{buffer.StrandedUplink{Uplink: "old", Class: "process", Events: 1234},
			`uplink "old" is not in the config any more: 1234 events of class process wait for it and hold their space; put it back, or write "uplinks: { old: { removed: true } }" to give them up`},
		{buffer.StrandedUplink{Uplink: "gone", Class: "alarm", Events: 5, Removed: true},
			`uplink "gone" is removed: 5 events of class alarm that it has not got will be given up`},
		{buffer.StrandedUplink{Uplink: "some", Class: "process", Events: 7},
			`uplink "some" does not send class process any more: 7 events wait for it; put the class back into its kafka.classes`},
	} {
		if got := strandedLine(cfg, c.stranded); got != c.want {
			t.Errorf("%s\nwant\n%s", got, c.want)
		}
	}
}

func TestTheMQTTSourceGetsWhatTheConfigSays(t *testing.T) {
	dir := t.TempDir()
	user := filepath.Join(dir, "user")
	write := func(text string) {
		if err := os.WriteFile(user, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	text := strings.Replace(wiredConfig, "subscribe:", `username: "${file:`+user+`}", password: p, decode: sparkplug_b, sparkplug: { rebirth: false }, max_payload: 2MiB, subscribe:`, 1)
	cfg, err := config.Parse("c.yaml", []byte(text), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := mqttConfig(cfg, "line", cfg.Sources[0].MQTT, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"first", "second"} {
		write(want)
		if got, err := m.Username(); got != want || err != nil {
			t.Errorf("user name %q, %v; want %q", got, err, want)
		}
	}
	if password, err := m.Password(); password != "p" || err != nil {
		t.Errorf("password %q, %v", password, err)
	}
	if !m.NoRebirth || m.Decode != "sparkplug_b" || m.MaxPayload != 2<<20 || m.TLS != nil || m.SessionDir != "/nowhere/mqtt" || m.ClientID != "sluice-gw-1-line" {
		t.Errorf("got %+v", m)
	}
}

// TestEveryReasonIsThereFromTheStart: a first refusal is a step from 0.
func TestEveryReasonIsThereFromTheStart(t *testing.T) {
	cfg, err := config.Parse("c.yaml", []byte(wiredConfig), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := mqttConfig(cfg, "line", cfg.Sources[0].MQTT, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	m.Sink = sinkOfNothing{}
	src, err := mqtt.New(m)
	if err != nil {
		t.Fatal(err)
	}
	for reason := range src.Stats().Rejected {
		if !slices.Contains(rejectReasons, reason) {
			t.Errorf("%s is not among %q", reason, rejectReasons)
		}
	}
}

type sinkOfNothing struct{}

func (sinkOfNothing) Append(context.Context, drivers.Event, func(error)) error { return nil }

func TestTheUplinkGetsWhatTheConfigSays(t *testing.T) {
	text := strings.Replace(wiredConfig, "kafka: {", `kafka: { max_rate: 64KiB,`, 1)
	cfg, err := config.Parse("c.yaml", []byte(text), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := uplinkConfig(cfg, cfg.Uplink("all"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if c.MaxRate != 64<<10 || c.Name != "all" || c.ExactlyOnce {
		t.Errorf("got %+v", c)
	}
}
