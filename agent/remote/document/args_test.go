package document

import (
	"fmt"
	"testing"
	"time"
)

func TestCommandArgs(t *testing.T) {
	at := func(s string) string {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(d).Format(time.RFC3339)
	}
	for name, tt := range map[string]struct{ kind, args, want, wrong string }{
		"replay":                  {"replay", "{ class: a, uplink: u, from: 2h, to: 30m }", "a u  " + at("-2h") + " " + at("-30m"), ""},
		"replay until issued":     {"replay", "{ class: a, uplink: u, from: 2h, topic: t }", "a u t " + at("-2h") + " " + at("0s"), ""},
		"replay by times":         {"replay", "{ class: a, uplink: u, from: 2025-01-01T00:00:00Z, to: 2025-01-01T00:00:01+01:00 }", "", "args: to: is not after from"},
		"replay of nothing":       {"replay", "{ class: a, uplink: u, from: 1h, to: 1h }", "", "args: to: is not after from"},
		"replay without a start":  {"replay", "{ class: a, uplink: u }", "", "args: from: is missing"},
		"replay, a strange time":  {"replay", "{ class: a, uplink: u, from: yesterday }", "", "neither a time"},
		"replay, a strange key":   {"replay", "{ class: a, uplink: u, from: 1h, speed: 2 }", "", `"speed" is not a known key`},
		"log-level":               {"log-level", "{ level: debug, for: 1h }", "debug 1h0m0s", ""},
		"log-level, its default":  {"log-level", "{ level: warn }", "warn 15m0s", ""},
		"log-level, an odd one":   {"log-level", "{ level: loud }", "", "args: level: \"loud\" is unknown"},
		"log-level for ever":      {"log-level", "{ level: debug, for: 25h }", "", "no duration from 1s to 24h"},
		"log-level for no time":   {"log-level", "{ level: debug, for: 0s }", "", "no duration from 1s to 24h"},
		"write":                   {"modbus-write", "{ source: bus, device: d, tag: t, value: 21.5 }", "bus d t 21.5", ""},
		"write a word":            {"modbus-write", "{ source: bus, device: d, tag: t, value: auto }", `bus d t "auto"`, ""},
		"write a number in words": {"modbus-write", "{ source: bus, device: d, tag: t, value: '21' }", `bus d t "21"`, ""},
		"write true":              {"modbus-write", "{ source: bus, device: d, tag: t, value: true }", "bus d t true", ""},
		"write as YAML may":       {"modbus-write", "{ source: bus, device: d, tag: t, value: 0x10 }", "", "as JSON writes it"},
		"write a list":            {"modbus-write", "{ source: bus, device: d, tag: t, value: [ 1 ] }", "", "value: a single value"},
		"write nothing":           {"modbus-write", "{ source: bus, device: d, tag: t }", "", "value: is missing"},
		"diagnostics":             {"diagnostics", "{}", "", ""},
		"diagnostics with args":   {"diagnostics", "{ all: true }", "", `"all" is not a known key`},
		"restart with args":       {"restart", "{ now: true }", "", `"now" is not a known key`},
		"update":                  {"update", "{ what: ever }", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := ParseCommand(fmt.Appendf(nil, "id: c\ntarget: all\nissued: 2026-01-01T00:00:00Z\nexpires: 2026-01-01T01:00:00Z\nkind: %s\nargs: %s\n", tt.kind, tt.args))
			wantError(t, err, tt.wrong)
			if err != nil {
				return
			}
			got := ""
			switch c.Kind {
			case "replay":
				r, _ := c.Replay()
				got = fmt.Sprint(r.Class, " ", r.Uplink, " ", r.Topic, " ", r.From.Format(time.RFC3339), " ", r.To.Format(time.RFC3339))
			case "log-level":
				l, _ := c.LogLevel()
				got = fmt.Sprint(l.Level, " ", l.For)
			case "modbus-write":
				w, _ := c.ModbusWrite()
				got = fmt.Sprint(w.Source, " ", w.Device, " ", w.Tag, " ", string(w.Value))
			}
			if got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}
