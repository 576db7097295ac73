//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// edge is an agent that reads a Mosquitto and whose Kafka is never there: what it
// took is read from its buffer.
type edge struct {
	*agent
	id string
}

// newEdge prepares an agent; mqtt is its source but for the servers, in one line.
func newEdge(t *testing.T, id, server, mqtt string) *edge {
	t.Helper()
	e := &edge{id: id}
	e.agent = newAgent(t, t.TempDir(), func(dataDir, http string) string {
		return fmt.Sprintf(`version: 1
agent: { id: %s, data_dir: %q }
sources:
  line: { mqtt: { servers: [ %q ], %s } }
uplinks:
  central: { kafka: { brokers: [ "127.0.0.1:1" ], topic: t } }
observe: { http: %q }
`, id, dataDir, server, mqtt, http)
	})
	return e
}

func (e *edge) status(t *testing.T) sourceStatus { return (&plant{agent: e.agent}).status(t) }

// awaitTaken waits until the agent has taken n messages since its start.
func (e *edge) awaitTaken(t *testing.T, n int) {
	t.Helper()
	waitFor(t, fmt.Sprintf("%d messages taken", n), func() bool {
		return (&plant{agent: e.agent}).metric(t, `sluice_events_taken_total{source="line",class="process"}`) >= float64(n)
	}, e.proc)
}

// stored stops the agent and adds to all how often it holds each payload.
func (e *edge) stored(t *testing.T, all map[string]int) {
	t.Helper()
	e.terminate(t)
	out, err := exec.Command(e.binary, "buffer", "export", "--class", "process", "-c", e.config).Output()
	if err != nil {
		t.Fatalf("buffer export: %v", err)
	}
	for line := range bytes.Lines(out) {
		var event struct{ Subject, Payload string }
		if err := json.Unmarshal(line, &event); err != nil {
			t.Fatalf("%v: %.200s", err, line)
		}
		all[event.Payload]++
	}
}

// wantAll requires that the first n messages of the plant are there, each the
// given number of times at most.
func wantAll(t *testing.T, all map[string]int, n, times int) {
	t.Helper()
	lost, more := 0, 0
	for i := range n {
		switch got := all[string(payloadOf(i%machines, i/machines+1))]; {
		case got == 0:
			lost++
		case got > times:
			more++
		}
	}
	if lost > 0 || more > 0 {
		t.Errorf("%d of %d messages are lost, %d are there more than %d times", lost, n, more, times)
	}
}

// TestMosquittoOverWebsockets reads with QoS 2 over TLS and a websocket, and
// restarts the broker in between.
func TestMosquittoOverWebsockets(t *testing.T) {
	dir, port := t.TempDir(), freePort(t)
	ca := newAuthority(t)
	ca.issue(t, dir, "broker")
	writeFile(t, filepath.Join(dir, "ca.pem"), ca.pem)
	broker := startMosquittoWith(t, fmt.Sprintf("listener %d 127.0.0.1\nprotocol websockets\ncertfile %[2]s/broker.pem\nkeyfile %[2]s/broker.key\n", port, dir))
	e := newEdge(t, "gw", fmt.Sprintf("wss://127.0.0.1:%d/mqtt", port), fmt.Sprintf(`tls: { ca: %q }, subscribe: [ { filter: "#", qos: 2 } ]`, dir+"/ca.pem"))
	e.startReady(t)
	publish(t, broker, 2, 0, 5000)
	client := connectTo(t, broker, "other")
	for _, payload := range []string{"", strings.Repeat("x", 64<<10)} {
		if token := client.Publish("other", 1, false, payload); !token.WaitTimeout(patience) || token.Error() != nil {
			t.Fatalf("publish: %v", token.Error())
		}
	}
	client.Disconnect(100)
	e.awaitTaken(t, 5002)
	before := broker.connects("sluice-gw-line")
	broker.stop(t)
	broker.again(t)
	waitFor(t, "the agent's next connect", func() bool { return broker.connects("sluice-gw-line") > before }, e.proc)
	if got := e.status(t).LastError; !strings.Contains(got, "the broker closed the connection") && !strings.Contains(got, "reset") && !strings.Contains(got, "refused") {
		t.Errorf("last error %q", got)
	}
	publish(t, broker, 2, 5000, 10_000)
	e.awaitTaken(t, 10_002)
	all := map[string]int{}
	e.stored(t, all)
	wantAll(t, all, 10_000, 1)
	if all[""] != 1 || all[strings.Repeat("x", 64<<10)] != 1 {
		t.Error("an empty or a large payload is not there once")
	}
}

// TestMosquittoSharesAmongAgents kills two agents in turn that share a
// subscription: together they have everything.
func TestMosquittoSharesAmongAgents(t *testing.T) {
	broker := startMosquittoWith(t, "")
	const n = 20_000
	agents := make([]*edge, 2)
	for i := range agents {
		agents[i] = newEdge(t, fmt.Sprintf("gw-%d", i+1), broker.url(), `subscribe: [ { filter: "$share/gws/factory/#" } ]`)
		agents[i].startReady(t)
	}
	pub := startPublisher(t, broker, n, 6000)
	for i := range 4 {
		pub.waitAcked(t, n*(i+1)/6)
		e := agents[i%2]
		e.proc.kill()
		e.checkLog(t)
		time.Sleep(time.Duration(i) * 200 * time.Millisecond)
		e.startReady(t)
	}
	pub.waitAcked(t, n)
	all := map[string]int{}
	for _, e := range agents {
		p := &plant{agent: e.agent, broker: broker}
		waitFor(t, "a quiet source", p.quiet(t), e.proc)
		e.stored(t, all)
	}
	wantAll(t, all, n, 3)
}

// quiet says whether nothing was taken since the last call, half a second ago.
func (p *plant) quiet(t *testing.T) func() bool {
	last := -1.0
	return func() bool {
		time.Sleep(500 * time.Millisecond)
		taken := p.metric(t, `sluice_events_taken_total{source="line",class="process"}`)
		defer func() { last = taken }()
		return taken == last
	}
}

// TestMosquittoAndReloads changes the config again and again under a stream: a
// filter comes and goes, and everything of the other one is taken once.
func TestMosquittoAndReloads(t *testing.T) {
	broker := startMosquittoWith(t, "")
	const n = 20_000
	e := newEdge(t, "gw", broker.url(), `subscribe: [ { filter: "factory/#" } ]`)
	e.startReady(t)
	text, err := os.ReadFile(e.config)
	if err != nil {
		t.Fatal(err)
	}
	pub := startPublisher(t, broker, n, 6000)
	for i := range 4 {
		pub.waitAcked(t, n*(i+1)/6)
		now := string(text)
		if i%2 == 0 {
			now = strings.Replace(now, `"factory/#" }`, `"factory/#" }, { filter: "other/#" }`, 1)
		}
		writeFile(t, e.config, now)
		e.proc.signal(syscall.SIGHUP)
		waitFor(t, "the source after a reload", func() bool { return strings.Count(e.proc.log(), `msg="source up"`) >= i+2 }, e.proc)
	}
	pub.waitAcked(t, n)
	waitFor(t, "a quiet source", (&plant{agent: e.agent}).quiet(t), e.proc)
	all := map[string]int{}
	e.stored(t, all)
	wantAll(t, all, n, 1)
}

// TestMosquittoThatStandsStill stops the broker for a while, and then the agent for
// longer than the broker waits: neither loses a message or takes one twice.
func TestMosquittoThatStandsStill(t *testing.T) {
	broker := startMosquittoWith(t, "")
	e := newEdge(t, "gw", broker.url(), `keep_alive: 1s, subscribe: [ { filter: "factory/#" } ]`)
	e.startReady(t)
	publish(t, broker, 1, 0, 2000)
	e.awaitTaken(t, 2000)
	broker.proc.signal(syscall.SIGSTOP)
	waitFor(t, "the agent to see that nobody answers", func() bool { return !e.status(t).Up }, e.proc)
	broker.proc.signal(syscall.SIGCONT)
	waitFor(t, "the agent's /readyz", func() bool { return e.get("/readyz") == nil }, e.proc)
	publish(t, broker, 1, 2000, 4000)
	e.awaitTaken(t, 4000)
	e.proc.signal(syscall.SIGSTOP)
	publish(t, broker, 1, 4000, 10_000)
	time.Sleep(3 * time.Second) // the broker waits one and a half keep-alives
	e.proc.signal(syscall.SIGCONT)
	e.awaitTaken(t, 10_000)
	waitFor(t, "a quiet source", (&plant{agent: e.agent}).quiet(t), e.proc)
	all := map[string]int{}
	e.stored(t, all)
	wantAll(t, all, 10_000, 1)
}
