//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// smallClass is full after about a MiB of what publishers send.
const smallClass = "{ keep: { bytes: 1MiB }, when_full: block }"

// clientID is the one that the agent gives its source when the config has none.
const clientID = "sluice-" + agentID + "-" + mqttName

// mqttSource is what a scenario says of the agent's MQTT source. Its zero value
// reads factory/# with QoS 1 from the plant's broker.
type mqttSource struct {
	server string // URL; empty: the plant's broker
	filter string // empty: factory/#
	qos    int    // 0: QoS 1
	extra  string // further lines of the mqtt block, without indentation
	class  string // of the config; empty: it blocks when it is full
}

func (s mqttSource) config(dataDir, http, kafka, topic string) string {
	if s.filter == "" {
		s.filter = "factory/#"
	}
	if s.class == "" {
		s.class = "{ when_full: block }"
	}
	lines := []string{
		"version: 1",
		fmt.Sprintf("agent: { id: %s, data_dir: %q }", agentID, dataDir),
		"sources:",
		"  " + mqttName + ":",
		"    mqtt:",
		fmt.Sprintf("      servers: [ %q ]", s.server),
		"      subscribe:",
		fmt.Sprintf("        - { filter: %q, qos: %d, class: %s }", s.filter, max(s.qos, 1), className),
	}
	for line := range strings.Lines(s.extra) {
		lines = append(lines, "      "+strings.TrimRight(line, "\n"))
	}
	return strings.Join(append(lines,
		"classes:",
		"  "+className+": "+s.class,
		"uplinks:",
		fmt.Sprintf("  central: { kafka: { brokers: [ %q ], topic: %q } }", kafka, topic),
		fmt.Sprintf("observe: { http: %q }", http), ""), "\n")
}

// newMQTTPlant is a plant whose agent reads a source of the scenario's own.
func newMQTTPlant(t *testing.T, k *kafka, broker *mosquitto, s mqttSource) *plant {
	t.Helper()
	name := strings.ReplaceAll(strings.TrimPrefix(t.Name(), "TestScenarios/"), "/", "-")
	p := &plant{kafka: k, broker: broker, topic: name + "." + className}
	k.createTopic(t, p.topic)
	p.consumer = newConsumer(t, k, p.topic)
	if s.server == "" {
		s.server = broker.url()
	}
	p.agent = newAgent(t, t.TempDir(), func(dataDir, http string) string {
		return s.config(dataDir, http, k.link.addr, name+".{class}")
	})
	return p
}

// publish sends messages from to to-1 of the plant, in turn by machine, and
// returns when Mosquitto has acknowledged all of them.
func publish(t testing.TB, m *mosquitto, qos byte, from, to int) {
	t.Helper()
	client := connectTo(t, m, "plant")
	defer client.Disconnect(100)
	tokens := make(chan mqtt.Token, 500)
	go func() {
		defer close(tokens)
		for i := from; i < to; i++ {
			tokens <- client.Publish(topicOf(i%machines), qos, false, payloadOf(i%machines, i/machines+1))
		}
	}()
	failed := 0
	for token := range tokens {
		if !token.WaitTimeout(patience) || token.Error() != nil {
			failed++
		}
	}
	if failed > 0 {
		t.Fatalf("mosquitto did not take %d of the messages %d to %d", failed, from, to)
	}
}

// connectTo connects a client that acknowledges nothing by itself and keeps its
// session.
func connectTo(t testing.TB, m *mosquitto, id string) mqtt.Client {
	t.Helper()
	client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker(m.url()).SetClientID(id).SetProtocolVersion(4).
		SetCleanSession(false).SetAutoAckDisabled(true).SetAutoReconnect(false).SetConnectTimeout(10 * time.Second))
	if token := client.Connect(); !token.WaitTimeout(patience) || token.Error() != nil {
		t.Fatalf("connect %s to mosquitto: %v", id, token.Error())
	}
	return client
}

// startMosquittoWith starts a broker with further lines in its config.
func startMosquittoWith(t testing.TB, lines string) *mosquitto {
	t.Helper()
	dir := t.TempDir()
	m := &mosquitto{port: freePort(t)}
	conf := filepath.Join(dir, "mosquitto.conf")
	writeFile(t, conf, m.config(dir)+"sys_interval 1\n"+lines)
	m.launch(t, dir, []string{mosquittoPath(t), "-c", conf})
	return m
}

func (m *mosquitto) launch(t testing.TB, dir string, args []string) {
	t.Helper()
	m.proc = startProcess(t, command{name: "mosquitto", dir: dir, args: args})
	waitFor(t, "mosquitto", func() bool { return accepts(loopback(m.port)) }, m.proc)
}

// stop ends the broker with SIGTERM: it writes down its sessions then.
func (m *mosquitto) stop(t testing.TB) {
	t.Helper()
	m.proc.signal(syscall.SIGTERM)
	if _, ok := m.proc.waitExit(patience); !ok {
		t.Fatalf("mosquitto does not stop")
	}
}

// writeDown makes the broker write its sessions to disk, and waits for it.
func (m *mosquitto) writeDown(t testing.TB) {
	t.Helper()
	db := filepath.Join(filepath.Dir(m.proc.logPath), "mosquitto.db")
	before := time.Now()
	if err := syscall.Kill(m.proc.cmd.Process.Pid, syscall.SIGUSR1); err != nil {
		t.Fatalf("SIGUSR1: %v", err)
	}
	waitFor(t, "mosquitto's database", func() bool { // it comes by a rename, when it is whole
		about, err := os.Stat(db)
		return err == nil && about.ModTime().After(before)
	}, m.proc)
}

// again starts a broker that has ended, on the same port and files.
func (m *mosquitto) again(t testing.TB) {
	t.Helper()
	m.launch(t, filepath.Dir(m.proc.logPath), m.proc.cmd.Args)
}

// connects counts how often a client has connected, over all runs.
func (m *mosquitto) connects(id string) int { return strings.Count(m.proc.log(), " as "+id+" (") }

// awaitConnect waits until the agent has connected more than before times.
func (p *plant) awaitConnect(t testing.TB, before int) {
	t.Helper()
	waitFor(t, "the agent's next connect", func() bool { return p.broker.connects(clientID) > before }, p.broker.proc, p.agent.proc)
}

// awaitFull waits until the class has no room, so that acknowledgements are due.
func (p *plant) awaitFull(t testing.TB) {
	t.Helper()
	waitFor(t, "a full class", func() bool {
		err := p.agent.get("/healthz")
		return err != nil && strings.Contains(err.Error(), "full, its sources wait")
	}, p.agent.proc)
}

// fewStored is how many messages a broker may keep that is as good as done: its
// own figures are some 60 of them.
const fewStored = 100

// awaitRead waits until Kafka has n records and the broker has read the
// acknowledgements of all but a few. Mosquitto 2.0.11 can take seconds for those of
// thousands of QoS 2 messages, longer than the agent waits when it is stopped.
func (p *plant) awaitRead(t testing.TB, n int) {
	t.Helper()
	waitFor(t, "records in Kafka", func() bool { return p.kafka.count(t, p.topic) >= n }, p.agent.proc)
	var stored atomic.Int64
	stored.Store(fewStored)
	client := connectTo(t, p.broker, "watcher")
	defer client.Disconnect(100)
	token := client.Subscribe("$SYS/broker/store/messages/count", 0, func(_ mqtt.Client, m mqtt.Message) {
		if n, err := strconv.Atoi(string(m.Payload())); err == nil {
			stored.Store(int64(n))
		}
	})
	if !token.WaitTimeout(patience) || token.Error() != nil {
		t.Fatalf("read the broker's figures: %v", token.Error())
	}
	fresh := time.Now().Add(2500 * time.Millisecond) // a figure is a second old, and comes only when it changes
	waitFor(t, "the broker to have read the acknowledgements", func() bool {
		return time.Now().After(fresh) && stored.Load() < fewStored
	}, p.broker.proc)
}

// wantNothingWaiting takes the agent's session over and requires that the broker
// has nothing left to send in it, nor asks for anything.
func (p *plant) wantNothingWaiting(t testing.TB) {
	t.Helper()
	got := make(chan mqtt.Message, 1000)
	client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker(p.broker.url()).SetClientID(clientID).SetProtocolVersion(4).
		SetCleanSession(false).SetAutoReconnect(false).SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { got <- m }))
	token := client.Connect()
	if !token.WaitTimeout(patience) || token.Error() != nil {
		t.Fatalf("take the session over: %v", token.Error())
	}
	defer client.Disconnect(100)
	if connect, ok := token.(*mqtt.ConnectToken); !ok || !connect.SessionPresent() {
		t.Error("the broker has no session for the agent")
	}
	select {
	case m := <-got:
		t.Errorf("mosquitto still had message %d on %s: it was not acknowledged", m.MessageID(), m.Topic())
	case <-time.After(time.Second):
	}
}
