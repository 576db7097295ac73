//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"sluice/agent/remote"
)

// What a gateway has for the agent, and a message that is more than that: what one
// message takes on its way is several times its size.
const (
	smallMachine = 300_000 // KiB of data, as ulimit -d has it
	largeMessage = 60 << 20
)

// crashingConfig gives the agent a config that says more memory than the machine has, and
// a filter behind which a message waits that takes it. The program dies of that at each
// start, by itself, perhaps after the config has proven itself, and is started again as a service manager does.
func crashingConfig(t *testing.T, k *kafka) {
	o := newOperator(t, k, "30s")
	p := o.plant
	retain(t, p.broker, "big/1", bytes.Repeat([]byte("x"), largeMessage))
	start := func() *process {
		return startProcess(t, command{name: "small-machine", dir: p.agent.dir,
			args: []string{"sh", "-c", fmt.Sprintf(`ulimit -d %d && exec "$0" run -c "$1"`, smallMachine), p.agent.binary, p.agent.config}})
	}
	p.agent.proc = start()
	waitFor(t, "the agent's /readyz", func() bool { return p.agent.get("/readyz") == nil }, p.agent.proc)
	pub := startPublisher(t, p.broker, 4_000, 200)

	k.createTopic(t, strings.Replace(p.topic, className, "big", 1))
	o.publish(1, "agent: { ", "agent: { memory_limit: 1GiB, ", "classes:\n", "classes:\n  big: {}\n",
		"      subscribe:\n", "      max_payload: 120MiB\n      subscribe:\n        - { filter: \"big/#\", qos: 1, class: big }\n")
	deaths := 0
	for end := time.Now().Add(patience); o.page().State != string(remote.StateRolledBack); {
		if status, ok := p.agent.proc.waitExit(100 * time.Millisecond); ok {
			if deaths++; status != 2 || !strings.Contains(p.agent.proc.log(), "fatal error: runtime: cannot allocate memory") {
				t.Fatalf("death %d: exit status %d", deaths, status)
			}
			p.agent.proc = start()
		}
		if time.Now().After(end) {
			t.Fatalf("after %d deaths the agent says %+v", deaths, o.page())
		}
	}
	if deaths < 3 || deaths > 5 { // those before it was proven, and those after it, are counted each by itself
		t.Errorf("it died %d times", deaths)
	}
	if st := o.until(remote.StateRolledBack, 0, remote.Crashed); !strings.Contains(st.Reason, "3 times") {
		t.Errorf("%+v", st)
	}
	p.agent.proc.kill() // its log holds how it died
	p.agent.startReady(t)
	pub.waitAcked(t, 4_000)
	p.settle(t, 4_000)
}

// retain leaves a message with a broker for whoever subscribes.
func retain(t *testing.T, m *mosquitto, topic string, payload []byte) {
	t.Helper()
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker(m.url()).SetClientID("retains").SetProtocolVersion(4))
	for _, do := range []func() mqtt.Token{c.Connect, func() mqtt.Token { return c.Publish(topic, 1, true, payload) }} {
		if token := do(); !token.WaitTimeout(patience) || token.Error() != nil {
			t.Fatalf("retain %s: %v", topic, token.Error())
		}
	}
	c.Disconnect(100)
}
