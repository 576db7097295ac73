//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	driver "sluice/drivers/mqtt"
)

// backlog is what fills a small class, with much to spare.
const backlog = 120_000

// fillUp cuts the link to Kafka and publishes until the class is full: from
// then on thousands of messages wait for their acknowledgement.
func (p *plant) fillUp(t *testing.T, qos byte) {
	t.Helper()
	p.kafka.link.set(t, refuse)
	p.agent.startReady(t)
	publish(t, p.broker, qos, 0, backlog)
	p.awaitFull(t)
	taken := p.metric(t, `sluice_events_taken_total{source="line",class="process"}`)
	if taken >= backlog || taken == 0 {
		t.Fatalf("%.0f of %d messages are taken: nothing waits", taken, backlog)
	}
	t.Logf("the class is full, %.0f of %d messages are taken", taken, backlog)
}

// finish heals the link, sends some more and judges what arrived.
func (p *plant) finish(t *testing.T, qos byte) report {
	t.Helper()
	p.kafka.link.set(t, pass)
	publish(t, p.broker, qos, backlog, backlog+1000)
	p.awaitRead(t, backlog+1000)
	r := p.settle(t, backlog+1000)
	p.wantNothingWaiting(t)
	return r
}

// mqttBrokerRestart restarts Mosquitto while acknowledgements are due. Its end may stand behind
// more than the agent takes from the socket then: the next ping finds it.
func mqttBrokerRestart(t *testing.T, k *kafka) {
	p := newMQTTPlant(t, k, startMosquittoWith(t, ""), mqttSource{class: smallClass, extra: "keep_alive: 5s\n"})
	p.fillUp(t, 1)
	for range 2 {
		before := p.broker.connects(clientID)
		p.broker.stop(t)
		p.broker.again(t)
		p.awaitConnect(t, before)
	}
	wantOnce(t, p.finish(t, 1))
}

// mqttAgentRestart restarts the agent, first in peace and then by a kill, while
// acknowledgements are due.
func mqttAgentRestart(t *testing.T, k *kafka) {
	p := newMQTTPlant(t, k, startMosquittoWith(t, ""), mqttSource{class: smallClass})
	p.fillUp(t, 1)
	p.agent.terminate(t)
	before := p.broker.connects(clientID)
	p.agent.start(t)
	p.awaitConnect(t, before)
	p.awaitFull(t)
	p.agent.proc.kill()
	p.agent.checkLog(t)
	p.agent.start(t)
	p.awaitConnect(t, before+1)
	p.finish(t, 1)
}

// mqttBothRestart kills the agent and restarts Mosquitto while it is away.
func mqttBothRestart(t *testing.T, k *kafka) {
	p := newMQTTPlant(t, k, startMosquittoWith(t, ""), mqttSource{class: smallClass})
	p.fillUp(t, 1)
	before := p.broker.connects(clientID)
	p.agent.proc.kill()
	p.agent.checkLog(t)
	p.broker.stop(t)
	p.broker.again(t)
	p.agent.start(t)
	p.awaitConnect(t, before)
	p.finish(t, 1)
}

// mqttRedelivery breaks the connection again and again while the class is full:
// each time Mosquitto sends all that is due once more, which is more than the
// agent takes in. The session then outlives many keep-alives.
func mqttRedelivery(t *testing.T, k *kafka) {
	broker := startMosquittoWith(t, "max_inflight_messages 0\n") // no limit
	link := startProxy(t, loopback(broker.port))
	p := newMQTTPlant(t, k, broker, mqttSource{class: smallClass, server: "tcp://" + link.addr, extra: "keep_alive: 1s\n"})
	p.fillUp(t, 1)
	for range 3 {
		before := broker.connects(clientID)
		link.set(t, reset)
		time.Sleep(100 * time.Millisecond)
		link.set(t, pass)
		p.awaitConnect(t, before)
	}
	before := broker.connects(clientID)
	time.Sleep(4 * time.Second)
	if n := broker.connects(clientID) - before; n > 0 {
		t.Errorf("%d new connections while the agent held Mosquitto up: %s", n, p.status(t).LastError)
	}
	if s := p.status(t); !strings.Contains(s.State, "waiting for room in the buffer") {
		t.Errorf("state %q", s.State)
	}
	wantOnce(t, p.finish(t, 1))
}

// mqttTakeover lets another client come with the agent's client id, three
// times, in the middle of the stream. It is sent messages and acknowledges none.
func mqttTakeover(t *testing.T, k *kafka) {
	p := newMQTTPlant(t, k, startMosquittoWith(t, ""), mqttSource{})
	p.agent.startReady(t)
	pub := startPublisher(t, p.broker, total/2, 4000)
	for i := 1; i <= 3; i++ {
		pub.waitAcked(t, total/2*i/5)
		before := p.broker.connects(clientID)
		other := connectTo(t, p.broker, clientID)
		p.awaitConnect(t, before+1) // it is thrown out by the agent in turn
		other.Disconnect(0)
	}
	pub.waitAcked(t, total/2)
	if s := p.status(t); !regexp.MustCompile("does another client use the same client_id|was reset by the broker").MatchString(s.LastError) {
		t.Errorf("last error %q", s.LastError)
	}
	wantOnce(t, p.settle(t, total/2))
	p.wantNothingWaiting(t)
}

// mqttQoS2 reads with QoS 2 through a shared subscription, over a connection
// that breaks and a restart of the agent: each message is taken once.
func mqttQoS2(t *testing.T, k *kafka) {
	broker := startMosquittoWith(t, "")
	link := startProxy(t, loopback(broker.port))
	p := newMQTTPlant(t, k, broker, mqttSource{server: "tcp://" + link.addr, qos: 2, filter: "$share/gws/factory/#"})
	p.agent.startReady(t)
	before := make(chan int, 1)
	go func() {
		for range 4 {
			time.Sleep(700 * time.Millisecond)
			link.set(t, reset)
			time.Sleep(50 * time.Millisecond)
			link.set(t, pass)
		}
		link.set(t, reset)
		before <- broker.connects(clientID)
		link.set(t, pass)
	}()
	publish(t, broker, 2, 0, total/2)
	p.awaitConnect(t, <-before)
	waitFor(t, "the agent's /readyz", func() bool { return p.agent.get("/readyz") == nil }, p.agent.proc)
	p.awaitRead(t, total/2)
	p.agent.terminate(t)
	p.agent.startReady(t) // and nothing comes again
	publish(t, broker, 2, total/2, total/2+1000)
	p.awaitRead(t, total/2+1000)
	wantOnce(t, p.settle(t, total/2+1000))
	p.wantNothingWaiting(t)
}

// mqttQoS2Killed kills the agent three times while it reads with QoS 2. What
// was stored and not yet acknowledged comes twice, nothing is lost.
func mqttQoS2Killed(t *testing.T, k *kafka) {
	p := newMQTTPlant(t, k, startMosquittoWith(t, ""), mqttSource{qos: 2})
	p.agent.startReady(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		publish(t, p.broker, 2, 0, total/2)
	}()
	for i := 1; i <= 3; i++ {
		waitFor(t, "records in Kafka", func() bool { return k.count(t, p.topic) > total/2*i/5 }, p.agent.proc)
		p.killAndRestart(t, 0)
	}
	<-done
	p.awaitRead(t, total/2)
	p.settle(t, total/2)
	p.wantNothingWaiting(t)
}

// mqttBrokerKilled kills Mosquitto while it is read with QoS 2 and
// acknowledgements are due, after it wrote its sessions down, and lets it go back
// to that state. What it forgot that it had been told comes again; nothing that it
// wrote down is lost.
func mqttBrokerKilled(t *testing.T, k *kafka) {
	p := newMQTTPlant(t, k, startMosquittoWith(t, ""), mqttSource{qos: 2, class: smallClass})
	p.fillUp(t, 2)
	p.broker.writeDown(t)
	before := p.broker.connects(clientID)
	k.link.set(t, pass)
	waitFor(t, "records in Kafka", func() bool { return k.count(t, p.topic) > backlog/3 }, p.agent.proc)
	p.broker.proc.kill() // in the middle of thousands of acknowledgements
	p.broker.again(t)
	p.awaitConnect(t, before)
	p.finish(t, 2)
}

// mqttProbe asks a Mosquitto that drops messages what the agent will find there,
// beside an agent that reads it.
func mqttProbe(t *testing.T, k *kafka) {
	broker := startMosquittoWith(t, "")
	p := newMQTTPlant(t, k, broker, mqttSource{})
	p.agent.startReady(t)
	probe := func() driver.ServerProbe {
		r := driver.Probe(t.Context(), driver.Config{Name: mqttName, Servers: []string{broker.url()}, ClientID: clientID,
			Subscriptions: []driver.Subscription{{Filter: "factory/#", QoS: 1, Class: "c"}, {Filter: "$share/g/factory/#", QoS: 2, Class: "c"}}})
		return r.Servers[0]
	}
	s := probe()
	t.Logf("%+v", s)
	if s.Error != "" || !s.Authorised || !strings.HasPrefix(s.Broker, "mosquitto version") || s.Filters[0].Granted != 1 || s.Filters[1].Granted != 2 ||
		!strings.Contains(strings.Join(s.Warnings, "\n"), "max_queued_messages 0") || strings.Contains(strings.Join(s.Warnings, "\n"), "dropped") {
		t.Errorf("probe: %+v", s)
	}
	publish(t, broker, 1, 0, 1000)
	wantOnce(t, p.settle(t, 1000))
	if n := broker.connects(clientID); n != 1 {
		t.Errorf("the agent connected %d times: the probe threw it out", n)
	}

	// The defaults but for the queue: what is beyond it is dropped.
	small := startMosquittoWith(t, "max_inflight_messages 10\nmax_queued_messages 100\n")
	away := connectTo(t, small, "away")
	if token := away.Subscribe("factory/#", 1, nil); !token.WaitTimeout(patience) || token.Error() != nil {
		t.Fatalf("subscribe: %v", token.Error())
	}
	away.Disconnect(100)
	publish(t, small, 1, 0, 1000)
	broker = small
	waitFor(t, "a warning", func() bool {
		return strings.Contains(strings.Join(probe().Warnings, "\n"), "this mosquitto has dropped ")
	})
}

// mqttUnsubscribe removes a filter from the config: what comes by it while the
// agent is away is refused, and then Mosquitto sends no more of it.
func mqttUnsubscribe(t *testing.T, k *kafka) {
	p := newMQTTPlant(t, k, startMosquittoWith(t, ""), mqttSource{extra: "  - { filter: \"old/+/x\", qos: 1 }"})
	p.agent.startReady(t)
	p.agent.terminate(t)
	other := connectTo(t, p.broker, "another")
	defer other.Disconnect(100)
	toOld := func(n int) {
		for range n {
			if token := other.Publish("old/a/x", 1, false, "x"); !token.WaitTimeout(patience) || token.Error() != nil {
				t.Fatalf("publish: %v", token.Error())
			}
		}
	}
	replace("        - { filter: \"old/+/x\", qos: 1 }\n", "")(t, p.agent)
	toOld(30)
	p.agent.startReady(t)
	waitFor(t, "the end of the subscription", func() bool { return strings.Contains(p.agent.proc.log(), "old/+/x") }, p.agent.proc)
	toOld(50)
	publish(t, p.broker, 1, 0, 100)
	waitFor(t, "records in Kafka", func() bool { return k.count(t, p.topic) >= 100 }, p.agent.proc)
	if n := p.metric(t, `sluice_events_rejected_total{source="line",reason="no-route"}`); n != 30 {
		t.Errorf("%.0f messages without a route, want the 30 that waited", n)
	}
	wantOnce(t, p.settle(t, 100))
	p.wantNothingWaiting(t)
}

// sourceStatus is what the agent says of its source.
type sourceStatus struct {
	Up        bool   `json:"up"`
	State     string `json:"state"`
	LastError string `json:"last_error"`
}

func (p *plant) status(t testing.TB) sourceStatus {
	t.Helper()
	resp, err := http.Get("http://" + p.agent.http + "/api/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	var st struct {
		Sources map[string]sourceStatus `json:"sources"`
	}
	if err == nil {
		err = json.Unmarshal(text, &st)
	}
	if err != nil {
		t.Fatal(fmt.Errorf("status: %w: %.200s", err, text))
	}
	return st.Sources[mqttName]
}
