//go:build e2e

package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// total is how many messages the plant sends in a scenario.
const total = 50_000

// TestScenarios runs one after the other on one Kafka; each has a topic, a
// Mosquitto and an agent of its own.
func TestScenarios(t *testing.T) {
	scratch := t.TempDir()
	k := startKafka(t, scratch)
	for _, s := range []struct {
		name string
		run  func(*testing.T, *kafka)
	}{
		{"ledger", checkLedgerFindsFaults},
		{"straight", straight},
		{"clean-restart", cleanRestart},
		{"broker-away-at-start", brokerAwayAtStart},
		{"link-refused", func(t *testing.T, k *kafka) { linkCut(t, k, refuse) }},
		{"link-swallowed", func(t *testing.T, k *kafka) { linkCut(t, k, swallow) }},
		{"answers-lost", func(t *testing.T, k *kafka) { linkCut(t, k, swallowAnswers) }},
		{"kill-9", killedThreeTimes},
		{"kill-9-while-sending", killedWhileSending},
		{"write-behind", writeBehind},
		{"write-behind-outage", writeBehindOutage},
		{"write-behind-kill-9", writeBehindKilled},
		{"mqtt-broker-restart", mqttBrokerRestart},
		{"mqtt-agent-restart", mqttAgentRestart},
		{"mqtt-both-restart", mqttBothRestart},
		{"mqtt-broker-kill-9", mqttBrokerKilled},
		{"mqtt-redelivery", mqttRedelivery},
		{"mqtt-takeover", mqttTakeover},
		{"mqtt-qos2", mqttQoS2},
		{"mqtt-qos2-kill-9", mqttQoS2Killed},
		{"mqtt-unsubscribe", mqttUnsubscribe},
		{"mqtt-certificates", mqttCertificates},
		{"mqtt-probe", mqttProbe},
		{"mqtt-hostile-broker", mqttHostileBroker},
		{"modbus", modbusReadings},
		{"modbus-rtu", func(t *testing.T, k *kafka) { serialReadings(t, k, "rtu") }},
		{"modbus-ascii", func(t *testing.T, k *kafka) { serialReadings(t, k, "ascii") }},
		{"modbus-rtu-over-tcp", rtuOverTCP},
		{"modbus-tls", modbusOverTLS},
		{"modbus-libmodbus", libmodbusReadings},
		{"modbus-port-comes-back", portComesBack},
		{"modbus-dead-unit", deadUnitOnALine},
		{"remote-config", remoteConfig},
		{"wrong-input", func(t *testing.T, _ *kafka) { wrongInput(t) }},
	} {
		t.Run(s.name, func(t *testing.T) {
			k.link.set(t, pass)
			s.run(t, k)
		})
	}
	k.proc.kill()
	left, err := commandLines(scratch)
	if err != nil || len(left) > 0 {
		t.Errorf("left running: %q (%v)", left, err)
	}
}

// plant is one scenario's agent between a Mosquitto and a topic of Kafka.
type plant struct {
	kafka    *kafka
	broker   *mosquitto
	agent    *agent
	topic    string
	consumer *consumer
}

func newPlant(t *testing.T, k *kafka) *plant { return newPlantWith(t, k, "") }

// newPlantWith adds lines to the agent's config.
func newPlantWith(t *testing.T, k *kafka, lines string) *plant {
	t.Helper()
	dir := t.TempDir()
	name := strings.ReplaceAll(strings.TrimPrefix(t.Name(), "TestScenarios/"), "/", "-")
	p := &plant{kafka: k, broker: startMosquitto(t, dir), topic: name + "." + className}
	k.createTopic(t, p.topic)
	p.consumer = newConsumer(t, k, p.topic)
	p.agent = newAgent(t, dir, func(dataDir, http string) string {
		return mqttConfig(dataDir, http, p.broker.url(), k.link.addr, name+".{class}") + lines
	})
	return p
}

// settle waits until all that was sent has arrived, stops the agent, reads
// what is left in the topic, prints the scenario's line and judges it.
func (p *plant) settle(t *testing.T, sent int) report {
	t.Helper()
	l := newLedger(agentID, mqttName, className, sent)
	if !p.consumer.until(t, patience, l.add, func() bool { return l.missing() == 0 }) {
		t.Errorf("%d of %d messages have not arrived %s after the link was healed", l.missing(), sent, patience)
	}
	p.agent.terminate(t)
	p.consumer.rest(t, l.add)
	r := l.report()
	fmt.Printf("E2E %s %s\n", strings.TrimPrefix(t.Name(), "TestScenarios/"), r)
	if r.missing > 0 {
		t.Errorf("%d messages are missing", r.missing)
	}
	for kind, n := range r.faults {
		t.Errorf("%d faults of kind %s, for example %s", n, kind, r.example[kind])
	}
	if r.incarnations != 1 {
		t.Errorf("%d incarnations of the buffer, want 1", r.incarnations)
	}
	return r
}

// wantOnce requires that nothing arrived twice: duplicates are for crashes.
func wantOnce(t *testing.T, r report) {
	t.Helper()
	if r.duplicates > 0 {
		t.Errorf("%d duplicates without a crash, want 0", r.duplicates)
	}
}

func straight(t *testing.T, k *kafka) {
	p := newPlant(t, k)
	p.agent.startReady(t)
	start := time.Now()
	startPublisher(t, p.broker, total, 0).waitAcked(t, total)
	sent := time.Since(start)
	r := p.settle(t, total)
	t.Logf("sent in %s, all there and the agent ended %s later", sent.Round(time.Millisecond), (time.Since(start) - sent).Round(time.Millisecond))
	wantOnce(t, r)
	p.readWithKcat(t)
}

// readWithKcat lets an independent client judge one record.
func (p *plant) readWithKcat(t *testing.T) {
	t.Helper()
	out, err := exec.Command("kcat", "-C", "-q", "-b", p.kafka.internal, "-t", p.topic, "-o", "beginning", "-c", "1",
		"-f", `%k|%s|%h\n`).Output()
	if err != nil {
		t.Fatalf("kcat: %v", err)
	}
	part := strings.SplitN(strings.TrimSpace(string(out)), "|", 3)
	if len(part) != 3 || !strings.HasPrefix(part[0], "factory/hall-1/m") || !strings.HasPrefix(part[1], `{"machine":`) {
		t.Fatalf("kcat read %q", out)
	}
	for _, want := range []string{
		"ce_specversion=1.0", "ce_id=" + agentID + "/process/", "ce_source=/" + agentID + "/" + mqttName,
		"ce_type=sluice.mqtt.message.v1", "ce_subject=" + part[0], "ce_time=20", "content-type=application/json",
	} {
		if !strings.Contains(","+part[2], ","+want) {
			t.Errorf("kcat: no header %s in %s", want, part[2])
		}
	}
}

// cleanRestart stops the agent with SIGTERM in the middle and starts it again
// while the plant goes on.
func cleanRestart(t *testing.T, k *kafka) {
	p := newPlant(t, k)
	p.agent.startReady(t)
	pub := startPublisher(t, p.broker, total/5, 3000)
	for _, n := range []int{total / 15, total / 8} {
		pub.waitAcked(t, n)
		p.agent.terminate(t)
		p.agent.startReady(t)
	}
	pub.waitAcked(t, total/5)
	wantOnce(t, p.settle(t, total/5))
}

// brokerAwayAtStart starts the agent for the very first time while Kafka can't
// be reached.
func brokerAwayAtStart(t *testing.T, k *kafka) {
	p := newPlant(t, k)
	k.link.set(t, refuse)
	p.agent.startReady(t)
	startPublisher(t, p.broker, total/50, 0).waitAcked(t, total/50)
	if n := k.count(t, p.topic); n != 0 {
		t.Fatalf("%d records came through a link that is cut", n)
	}
	k.link.set(t, pass)
	wantOnce(t, p.settle(t, total/50))
}

// linkCut cuts the link after two fifths of the messages and heals it when all
// are sent and it has been down for a while.
func linkCut(t *testing.T, k *kafka, mode linkMode) {
	p := newPlant(t, k)
	p.agent.startReady(t)
	pub := startPublisher(t, p.broker, total, 5000)
	pub.waitAcked(t, total*2/5)
	_, lost := k.link.counts()
	k.link.set(t, mode)
	cut := time.Now()
	pub.waitAcked(t, total)
	time.Sleep(time.Until(cut.Add(12 * time.Second))) // longer than the time-outs of a client
	p.wantOutage(t, mode, lost)
	k.link.set(t, pass)
	healed := time.Now()
	r := p.settle(t, total)
	t.Logf("down for %s, all there %s after", healed.Sub(cut).Round(time.Second), time.Since(healed).Round(time.Millisecond))
	wantOnce(t, r)
}

// wantOutage proves that the cut was one: most of what was sent is not in
// Kafka, and the agent is alive.
func (p *plant) wantOutage(t *testing.T, mode linkMode, lostBefore int) {
	t.Helper()
	there := p.kafka.count(t, p.topic)
	_, lost := p.kafka.link.counts()
	t.Logf("when the link is healed: %d of %d in Kafka, %d bytes swallowed", there, total, lost-lostBefore)
	if there == 0 || there > total*4/5 {
		t.Errorf("%d of %d messages were in Kafka before the link was healed: the cut was none", there, total)
	}
	if mode != refuse && lost == lostBefore {
		t.Errorf("the link swallowed nothing")
	}
	if err := p.agent.get("/readyz"); err != nil {
		t.Errorf("during the outage: %v", err)
	}
}

// killedThreeTimes kills the agent with SIGKILL while the link is down: in the
// middle of the stream, while the broker sends it what it missed, and again in
// the stream.
func killedThreeTimes(t *testing.T, k *kafka) {
	p := newPlant(t, k)
	p.agent.startReady(t)
	pub := startPublisher(t, p.broker, total, 8000)
	pub.waitAcked(t, total/5)
	k.link.set(t, refuse)
	pub.waitAcked(t, total*2/5+37)
	p.killAndRestart(t, 300*time.Millisecond)
	p.killAndRestart(t, 0)
	pub.waitAcked(t, total*4/5+37)
	p.killAndRestart(t, 0)
	pub.waitAcked(t, total)
	there := k.count(t, p.topic)
	if there == 0 || there > total*2/5 {
		t.Errorf("%d of %d messages were in Kafka before the link was healed: the cut was none", there, total)
	}
	k.link.set(t, pass)
	p.settle(t, total)
}

// killedWhileSending kills the agent three times while records are on their way
// to Kafka, so that some arrive twice.
func killedWhileSending(t *testing.T, k *kafka) { newPlant(t, k).killWhileSending(t) }

func (p *plant) killWhileSending(t *testing.T) {
	t.Helper()
	p.agent.startReady(t)
	pub := startPublisher(t, p.broker, total, 0)
	for i := 1; i <= 3; i++ {
		waitFor(t, "records in Kafka", func() bool { return p.kafka.count(t, p.topic) > total*i/5 }, p.agent.proc)
		p.killAndRestart(t, 0)
	}
	pub.waitAcked(t, total)
	p.settle(t, total)
}

// killAndRestart kills the agent and starts it again after a while.
func (p *plant) killAndRestart(t *testing.T, away time.Duration) {
	t.Helper()
	p.agent.proc.kill()
	p.agent.checkLog(t)
	time.Sleep(away)
	p.agent.startReady(t)
}
