package config

import (
	"strings"
	"testing"
)

// TestLockedPathsThatAConfigCanHave are not refused, whether it has them or not.
func TestLockedPathsThatAConfigCanHave(t *testing.T) {
	text := `version: 1
sources: { line.1: { mqtt: { servers: [ "tcp://h:1883" ], subscribe: [ { filter: a } ] } } }
uplinks: { k: { kafka: { brokers: [ "h:9092" ] } } }
remote:
  uplink: k
  trust: [ "ed25519:A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=" ]
  locked: [ PATHS ]
`
	for _, path := range []string{
		"sources", "agent", "agent.id", "agent.labels", "agent.labels.site", "remote.trust", "remote.trust[1]", "update", "update.install[0]", "observe.http",
		"sources.line.1", "sources.line.1.mqtt.servers[0]", "sources.line.1.mqtt.subscribe[0].filter", "sources.line.1.mqtt.tls.ca",
		"sources.other", `sources."other.one".modbus`, "sources.other.modbus.devices.meter.tags.u1.map.0", "classes.process.when_full", "classes.alarm.when_full[0]",
		"uplinks.k.kafka.sasl.password", "uplinks.dr.kafka.brokers", "pipeline", "pipeline[0]", "buffer.segment",
	} {
		if _, err := Parse("c.yaml", []byte(strings.Replace(text, "PATHS", `'`+path+`'`, 1)), Options{}); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}
