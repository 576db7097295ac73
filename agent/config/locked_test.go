package config

import (
	"strings"
	"testing"
)

// TestLockedPathsThatAConfigCanHave are not refused, whether it has them or not.
func TestLockedPathsThatAConfigCanHave(t *testing.T) {
	text := `version: 1
sources: { line.1: { mqtt: { servers: [ "tcp://h:1883" ], subscribe: [ { filter: a } ] } } }
uplinks: { k: { kafka: { brokers: [ "h:9092" ] } }, old.v1: { removed: true } }
remote:
  uplink: k
  trust: [ "ed25519:A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=" ]
  locked: [ PATHS ]
`
	for _, path := range []string{
		"sources", "agent", "agent.id", "agent.labels", "agent.labels.site", "agent.labels.site.name", "remote.trust", "remote.trust[1]", "update", "update.install[0]", "observe.http",
		"sources.line.1", "sources.line.1.mqtt.servers[0]", "sources.line.1.mqtt.subscribe[0].filter", "sources.line.1.mqtt.tls.ca",
		"sources.other", "sources.not.there.mqtt.tls", `sources."other.one".modbus`, "sources.other.modbus.devices.meter.tags.u1.map.0", "classes.process.when_full", "classes.alarm.when_full[0]",
		"uplinks.k.kafka.sasl.password", "uplinks.dr.kafka.brokers", "uplinks.old.v1", "classes.alarm.high.keep.bytes", "pipeline", "pipeline[0]", "buffer.segment",
	} {
		if _, err := Parse("c.yaml", []byte(strings.Replace(text, "PATHS", `'`+path+`'`, 1)), Options{}); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestLockedPathsAreJudgedInTheFileOnly: a document may lack a source that the file
// has, and have one with a name that is the beginning of its name.
func TestLockedPathsAreJudgedInTheFileOnly(t *testing.T) {
	text := []byte(`version: 1
sources: { line: { mqtt: { servers: [ "tcp://h:1883" ], subscribe: [ { filter: a } ] } } }
uplinks: { k: { kafka: { brokers: [ "h:9092" ] } } }
remote:
  uplink: k
  trust: [ "ed25519:A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=" ]
  locked: [ sources.line.1.mqtt.tls ]
`)
	_, err := Parse("c.yaml", text, Options{})
	if want := `c.yaml:7:13: remote.locked[0]: "sources.line.1.mqtt.tls" is no path of a config: 1 is not a known key`; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("in the file: %v, want %s", err, want)
	}
	if _, err := Parse("c.yaml", text, Options{Assembled: true}); err != nil {
		t.Errorf("assembled from a document: %v", err)
	}
}
