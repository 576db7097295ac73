//go:build e2e

package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// refusedAndRecreated sends, with both deliveries, events that a real broker refuses,
// and then deletes the topics and makes them again under the running agent.
func refusedAndRecreated(t *testing.T, k *kafka) {
	const before, large, after = 400, 3, 200
	dir, limit := t.TempDir(), "20000"
	broker := startMosquitto(t, dir)
	topics := map[string]string{"central": "refused.once", "exact": "refused.exact"}
	makeTopics := func() {
		for _, topic := range topics {
			if _, err := k.admin.CreateTopic(t.Context(), 4, 1, map[string]*string{"max.message.bytes": &limit}, topic); err != nil {
				t.Fatal(err)
			}
		}
	}
	makeTopics()
	a := newAgent(t, dir, func(dataDir, http string) string {
		return twoDeliveries(dataDir, http, broker.url(), k.link.addr, topics["central"], topics["exact"])
	})
	a.startReady(t)
	publish(t, broker, 1, 0, before/2)
	machine := connectTo(t, broker, "camera")
	noise := noiseOf(60_000)
	for range large {
		if token := machine.Publish("factory/hall-1/camera", 1, false, noise); !token.WaitTimeout(patience) || token.Error() != nil {
			t.Fatal(token.Error())
		}
	}
	publish(t, broker, 1, before/2, before)
	for uplink, topic := range topics {
		k.awaitMessages(t, topic, before)
		v := runAudit(t, 0, "--brokers", k.internal, "--topic", topic)
		if v.Totals.Explained["rejected"] != large || v.Totals.Unexplained > 0 || v.Totals.Duplicates > 0 {
			t.Errorf("%s: %+v", topic, v.Totals)
		}
		if n := copies(t, a, uplink, noise); n != large {
			t.Errorf("%s: %d copies are kept", uplink, n)
		}
	}
	for _, topic := range topics {
		if _, err := k.admin.DeleteTopic(t.Context(), topic); err != nil {
			t.Fatal(err)
		}
	}
	makeTopics()
	publish(t, broker, 1, before, before+after)
	for _, topic := range topics {
		k.awaitMessages(t, topic, after)
	}
	a.terminate(t)
	fmt.Printf("E2E refused set_aside=%d recreated=%d\n", large, len(topics))
}

// wrongClock has a real broker refuse the time of every record, as it does when the clock
// of a gateway is an hour ahead (message.timestamp.after.max.ms, an hour by default since
// Kafka 4.0). Here it is the other bound, so that no clock has to be set. Nothing is set
// aside: the records wait, gap records would be refused as well.
func wrongClock(t *testing.T, k *kafka) {
	const n, name = 100, "message.timestamp.before.max.ms"
	dir, refuse, allow := t.TempDir(), "1", "9223372036854775807"
	broker := startMosquitto(t, dir)
	topics := map[string]string{"central": "clock.once", "exact": "clock.exact"}
	for _, topic := range topics {
		if _, err := k.admin.CreateTopic(t.Context(), 2, 1, map[string]*string{name: &refuse}, topic); err != nil {
			t.Fatal(err)
		}
	}
	a := newAgent(t, dir, func(dataDir, http string) string {
		return twoDeliveries(dataDir, http, broker.url(), k.link.addr, topics["central"], topics["exact"])
	})
	a.startReady(t)
	publish(t, broker, 1, 0, n)
	for uplink := range topics {
		waitFor(t, uplink+" to say why", func() bool { return strings.Contains(a.uplink(t, uplink).LastError, "is this gateway's clock right?") }, a.proc)
	}
	for _, topic := range topics {
		if _, err := k.admin.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: name, Value: &allow}}, topic); err != nil {
			t.Fatal(err)
		}
	}
	for _, topic := range topics {
		k.awaitMessages(t, topic, n)
		if v := runAudit(t, 0, "--brokers", k.internal, "--topic", topic); v.Totals.Explained["rejected"] > 0 || v.Totals.Unexplained > 0 {
			t.Errorf("%s: %+v", topic, v.Totals)
		}
	}
	a.terminate(t)
}

func noiseOf(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // it never fails, by its documentation
	return b
}

// awaitMessages waits until a read_committed consumer has found n MQTT messages in a
// topic, and asks that there are no more.
func (k *kafka) awaitMessages(t *testing.T, topic string, n int) {
	t.Helper()
	found := 0
	c := newCommittedConsumer(t, k, topic, func(r *kgo.Record) {
		if e, err := readEnvelope(r); err == nil && e.kind == "sluice.mqtt.message.v1" {
			found++
		}
	})
	c.until(t, patience, func() bool { return found >= n })
	if c.rest(t); found != n || len(c.faults) > 0 {
		t.Errorf("%s holds %d messages, want %d; order %.5q", topic, found, n, c.faults)
	}
}

// copies counts the copies of the payload that "sluice buffer export --rejected" prints
// for an uplink.
func copies(t *testing.T, a *agent, uplink string, payload []byte) (n int) {
	t.Helper()
	out, err := exec.Command(a.binary, "buffer", "export", "--rejected", "-c", a.config).Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(out) {
		var x struct {
			Uplink  string
			Payload []byte `json:"payload_base64"`
		}
		if err := json.Unmarshal(line, &x); err != nil {
			t.Fatalf("%v: %.200s", err, line)
		}
		if x.Uplink == uplink && bytes.Equal(x.Payload, payload) {
			n++
		}
	}
	return n
}
