package config

import (
	"strings"
	"testing"
)

func TestIsSecret(t *testing.T) {
	for path, want := range map[string]bool{
		"sources/line/mqtt/password": true, "uplinks/central/kafka/sasl/password": true, "sources/line/mqtt/username": false, "sources/line/mqtt": false,
		"sources/line/mqtt/password/x": false, "agent/labels/password": false, "uplinks//kafka/brokers/": false, "password": false, "": false, "classes/a/when_full/thin": false,
	} {
		if got := IsSecret(strings.Split(path, "/")); got != want {
			t.Errorf("%s: %t", path, got)
		}
	}
}

func TestIsSecretName(t *testing.T) {
	for key, want := range map[string]bool{"password": true, "username": false, "tags": false, "": false} {
		if got := IsSecretName(key); got != want {
			t.Errorf("%s: %t", key, got)
		}
	}
}

func TestIsLiteral(t *testing.T) {
	for text, want := range map[string]bool{
		"": false, "${A}": false, "${file:/run/x}": false, "${file:/a:-b}": false, "${A}${file:/b}": false, "${A:-}": false,
		"x": true, "${A}x": true, "x${A}": true, "${A:-x}": true, "$${A}": true, "${A": true, " ${A}": true,
	} {
		if got := IsLiteral(text); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
}

// An operator's machine has neither the variables nor the files of the gateway.
func TestOperatorReadsAConfigForAnotherMachine(t *testing.T) {
	const text = `version: 1
agent: { id: "${GATEWAY}" }
sources:
  line: { mqtt: { servers: [ "ssl://${BROKER}:8883" ], username: u, password: "${file:/run/secrets/mqtt}", tls: { ca: nowhere.pem }, keep_alive: "${ALIVE}", subscribe: [ { filter: "a/#" } ] } }
uplinks: { central: { kafka: { brokers: [ "${BROKERS}" ], sasl: { mechanism: plain, username: u, password: "${P}" } } } }
remote: { uplink: central, trust: [ "ed25519:A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=" ] }
`
	o := Options{Env: func(string) (string, bool) { return "", false }, Hostname: func() (string, error) { return "ws", nil }}
	if _, err := Parse("a.yaml", []byte(text), o); err == nil || strings.Count(err.Error(), "\n") < 5 {
		t.Errorf("on the gateway: %v", err)
	}
	o.Operator = true
	c, err := Parse("a.yaml", []byte(text), o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Uplinks[0].Kafka.SASL.Password.Value(); err == nil {
		t.Error("a password that is not here is empty")
	}
	begin, end := strings.Index(text, "sources:"), strings.Index(text, "uplinks:")
	toolsPart := []byte(text[:begin] + text[end:])
	if _, err := Parse("a.yaml", toolsPart, o); err == nil {
		t.Error("a gateway without sources is taken")
	}
	o.Tool = true
	if _, err := Parse("a.yaml", toolsPart, o); err != nil {
		t.Errorf("the config of a tool: %v", err)
	}
	o.Tool = false
	for old, with := range map[string]string{"keep_alive": "keep_alife", "${P}": "${P", "a/#": "a/#/b", "uplink: central": "uplink: east"} {
		if _, err := Parse("a.yaml", []byte(strings.Replace(text, old, with, 1)), o); err == nil {
			t.Errorf("%s is taken", with)
		}
	}
}
