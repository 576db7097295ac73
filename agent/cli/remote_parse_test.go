package cli

import "testing"

// A document is not refused for a locked path of the file that fits no source of its own.
func TestARemoteConfigIsNotJudgedByTheFilesLocks(t *testing.T) {
	c := &call{file: "sluice.yaml"}
	if _, err := c.parseRemote([]byte(`version: 1
sources: { line: { mqtt: { servers: [ "tcp://h:1883" ], subscribe: [ { filter: a } ] } } }
uplinks: { k: { kafka: { brokers: [ "h:9092" ] } } }
remote:
  uplink: k
  trust: [ "ed25519:A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=" ]
  locked: [ sources.line.1.mqtt.tls ]
`)); err != nil {
		t.Error(err)
	}
}
