package mqtt

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"sluice/drivers"
)

// edge is an edge node at a broker: it says what testdata has, and collects the
// commands that it gets.
type edge struct {
	t      *testing.T
	server *mochi.Server
	lines  []edgeLine

	mu       sync.Mutex
	commands [][]byte
}

type edgeLine struct {
	Topic, Note, Hex string
	Want             map[string]any
}

func newEdge(t *testing.T, server *mochi.Server) *edge {
	t.Helper()
	b, err := os.ReadFile("sparkplug/testdata/session.json")
	if err != nil {
		t.Fatal(err)
	}
	e := &edge{t: t, server: server}
	if err := json.Unmarshal(b, &e.lines); err != nil {
		t.Fatal(err)
	}
	err = server.Subscribe("spBv1.0/Plant/NCMD/E1", 1, func(_ *mochi.Client, _ packets.Subscription, p packets.Packet) {
		e.mu.Lock()
		defer e.mu.Unlock()
		if p.FixedHeader.Qos != 0 || p.FixedHeader.Retain {
			t.Errorf("a command with QoS %d, retained %v", p.FixedHeader.Qos, p.FixedHeader.Retain)
		}
		e.commands = append(e.commands, p.Payload)
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// say publishes the line with the note.
func (e *edge) say(note string, qos byte) edgeLine {
	e.t.Helper()
	for _, line := range e.lines {
		if line.Note == note {
			send(e.t, e.server, line.Topic, string(e.bytes(line)), qos)
			return line
		}
	}
	e.t.Fatalf("no line %q", note)
	return edgeLine{}
}

func (e *edge) bytes(line edgeLine) []byte {
	b, err := hex.DecodeString(line.Hex)
	if err != nil {
		e.t.Fatal(err)
	}
	return b
}

func (e *edge) asked() [][]byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.commands)
}

func sparkplugConfig(sink drivers.Sink, addr string) Config {
	cfg := baseConfig(sink, "tcp://"+addr)
	cfg.Decode = DecodeSparkplug
	cfg.Subscriptions = nil
	for _, verb := range []string{"NBIRTH", "NDEATH", "NDATA", "DBIRTH", "DDEATH", "DDATA"} {
		filter := "spBv1.0/+/" + verb + "/#"
		cfg.Subscriptions = append(cfg.Subscriptions, Subscription{Filter: filter, QoS: 1, Class: "process"})
	}
	return cfg
}

func payloadOf(t *testing.T, e drivers.Event) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(e.Payload, &v); err != nil {
		t.Fatalf("%v: %s", err, e.Payload)
	}
	return v
}

func TestSparkplugFromTheBrokerToTheSink(t *testing.T) {
	t.Parallel()
	server, addr := newMochi(t, nil, nil)
	node := newEdge(t, server)
	sink := &testSink{}
	src, _ := start(t, sparkplugConfig(sink, addr))
	waitUp(t, src)

	node.say("values by alias, without data types", 0) // it was born before the agent came
	eventually(t, "a request for a rebirth", func() bool { return len(node.asked()) == 1 })
	if !bytes.Contains(node.asked()[0], []byte("Node Control/Rebirth")) {
		t.Errorf("the command is %x", node.asked()[0])
	}
	var said []edgeLine
	for i, line := range node.lines[:6] { // from the birth to the death of the device
		node.say(line.Note, byte(i%2))
		said = append(said, line)
	}
	eventually(t, "all taken", func() bool { return len(sink.taken()) == 7 })
	first := payloadOf(t, sink.taken()[0])
	if first["gap"] != true || first["unresolved"] == nil {
		t.Errorf("before the birth: %v", first)
	}
	for i, e := range sink.taken()[1:] {
		line := said[i]
		device := strings.Join(strings.Split(line.Topic, "/")[3:], "/")
		if e.Subject != line.Topic || e.Device != device || e.ContentType != drivers.ContentJSON || e.Type != drivers.TypeMQTTMessage || e.Source != "line-mqtt" || e.Class != "process" {
			t.Errorf("event %+v of %s", e, line.Topic)
		}
		if got := payloadOf(t, e); !reflect.DeepEqual(got, line.Want) {
			t.Errorf("%s (%s):\n%v, want\n%v", line.Topic, line.Note, got, line.Want)
		}
	}
	eventually(t, "all acknowledged", func() bool { return inflight(server, "gw-1") == 0 })
	want := fmt.Sprintf("connected to tcp://%s, 6 filters, Sparkplug: 1 node, 0 gaps, 1 rebirth asked for", addr)
	if got := src.Stats().State; got != want {
		t.Errorf("state %q, want %q", got, want)
	}
}

func TestWhatIsNotSparkplugIsRefusedAndAcknowledged(t *testing.T) {
	t.Parallel()
	server, addr := newMochi(t, nil, nil)
	node := newEdge(t, server)
	sink := &testSink{}
	cfg := sparkplugConfig(sink, addr)
	cfg.Subscriptions = []Subscription{{Filter: "#", QoS: 2, Class: "process"}}
	cfg.MaxPayload = 1 << 10
	src, _ := start(t, cfg)
	waitUp(t, src)
	var large []byte // names with many control characters, six bytes each in JSON
	for range 4 {
		name := append([]byte{0x0a, 0xf0, 1}, bytes.Repeat([]byte{1}, 240)...)
		large = append(append(large, 0x12, byte(len(name)|0x80), byte(len(name)>>7)), name...)
	}
	for i, m := range []struct{ topic, payload string }{
		{"plant/a", "1"}, {"spBv1.0/Plant/NDATA/E1", "\xff"}, {"spBv1.0/Plant/NDATA/E1", "{}"}, {"spBv1.0/Plant/NBIRTH", ""}, {"spBv1.0/Plant/NCMD/E9", string(large)},
	} {
		send(t, server, m.topic, m.payload, byte(1+i%2))
	}
	node.say("a node is born", 1)
	send(t, server, "spBv1.0/STATE/host", `{"online":true,"timestamp":1}`, 1)
	eventually(t, "the good ones", func() bool { return len(sink.taken()) == 2 })
	eventually(t, "all acknowledged", func() bool { return inflight(server, "gw-1") == 0 })
	if got := src.Stats().Rejected[reasonSparkplug]; got != 5 {
		t.Errorf("%d refused, want 5", got)
	}
	if e := sink.taken()[1]; e.Device != "" || string(e.Payload) != `{"online":true,"timestamp":1}` {
		t.Errorf("the state of a host: %+v", e)
	}
}

func TestANewConnectionMakesNodesUnsure(t *testing.T) {
	t.Parallel()
	server, addr := newMochi(t, nil, nil)
	node := newEdge(t, server)
	sink := &testSink{}
	src, _ := start(t, sparkplugConfig(sink, addr))
	waitUp(t, src)
	node.say("a node is born", 0)
	node.say("its device is born", 0)
	eventually(t, "the births", func() bool { return len(sink.taken()) == 2 })
	before := src.conns.Load()
	cl, _ := server.Clients.Get("gw-1")
	cl.Stop(fmt.Errorf("gone"))
	eventually(t, "connected again", func() bool { return src.conns.Load() > before && src.Stats().Up })
	node.say("values by alias, without data types", 0)
	eventually(t, "the data", func() bool { return len(sink.taken()) == 3 })
	got := payloadOf(t, sink.taken()[2])
	if got["gap"] != true || got["unresolved"] != nil {
		t.Errorf("after a new connection: %v", got)
	}
	eventually(t, "a request for a rebirth", func() bool { return len(node.asked()) == 1 })
}

// What the sink did not take is offered again, and decoded once: its seq counts
// once.
func TestSparkplugIsDecodedOnce(t *testing.T) {
	t.Parallel()
	server, addr := newMochi(t, nil, nil)
	node := newEdge(t, server)
	gate := make(chan struct{})
	sink := &testSink{gate: gate}
	src, err := New(sparkplugConfig(sink, addr))
	if err != nil {
		t.Fatal(err)
	}
	src.stopGrace = 50 * time.Millisecond
	stop := run(t, src)
	waitUp(t, src)
	node.say("a node is born", 0)
	node.say("its device is born", 0)
	eventually(t, "both wait", func() bool { return src.queue.len() == 2 })
	stop()
	close(gate)
	run(t, src)
	eventually(t, "both taken", func() bool { return len(sink.taken()) == 2 })
	for i, e := range sink.taken() {
		if got := payloadOf(t, e); !reflect.DeepEqual(got, node.lines[i].Want) {
			t.Errorf("%v, want %v", got, node.lines[i].Want)
		}
	}
	if gaps := src.plant.decoder.Stats().Gaps; gaps != 0 {
		t.Errorf("%d gaps", gaps)
	}
}

// Some brokers end the connection of a client that may not publish. Data has to
// come in all the same.
func TestABrokerThatDeniesRebirthsIsNotAskedForEver(t *testing.T) {
	t.Parallel()
	broker := newRawBroker(t)
	sink := &testSink{}
	cfg := sparkplugConfig(sink, strings.TrimPrefix(broker.url(), "tcp://"))
	log := &told{}
	cfg.OnRefused = log.add
	src, _ := start(t, cfg)
	for i := range refusalsTaken {
		c := broker.accept(false)
		c.mu.Lock()
		c.denies = true
		c.mu.Unlock()
		c.send(publishFrame(0, 0, fmt.Sprintf("spBv1.0/G/NDATA/N%d", i), ""))
		eventually(t, "a request, and the end", c.gone)
		if want := fmt.Sprintf("PUBLISH flags 0 spBv1.0/G/NCMD/N%d", i); !slices.Contains(c.acked(), want) {
			t.Fatalf("connection %d got %v", i, c.acked())
		}
	}
	c := broker.accept(false)
	if words := src.Stats().LastError; !strings.Contains(words, "may this user publish to spBv1.0/+/NCMD/#?") {
		t.Errorf("last error %q", words)
	}
	if log.has(reasonTaken) {
		t.Error("another client is suspected")
	}
	for i := range 20 {
		c.send(publishFrame(qos1, uint16(i+1), fmt.Sprintf("spBv1.0/G/NDATA/M%d", i), ""))
	}
	eventually(t, "data comes in", func() bool { return len(sink.taken()) == 20+refusalsTaken })
	eventually(t, "no request waits", func() bool { return len(src.plant.requests) == 0 })
	for _, got := range c.acked() {
		if strings.HasPrefix(got, "PUBLISH") {
			t.Errorf("asked all the same: %s", got)
		}
	}
}

func TestRebirthsAreNotAskedForWhereNobodyWantsThem(t *testing.T) {
	t.Parallel()
	broker, sink := newRawBroker(t), &testSink{}
	cfg := sparkplugConfig(sink, strings.TrimPrefix(broker.url(), "tcp://"))
	cfg.NoRebirth = true
	src, stop := start(t, cfg)
	c := broker.accept(false)
	for i := range 20 {
		c.send(publishFrame(qos1, uint16(i+1), fmt.Sprintf("spBv1.0/G/NDATA/N%d", i), ""))
	}
	eventually(t, "all are stored", func() bool { return len(sink.taken()) == 20 })
	if n := len(src.plant.requests); n > 0 {
		t.Errorf("%d requests wait", n)
	}
	stop()
	eventually(t, "goodbye", c.gone)
	for _, got := range c.acked() {
		if strings.HasPrefix(got, "PUBLISH") {
			t.Errorf("asked: %s", got)
		}
	}
}

// TestABirthThatIsTooLargeTeachesItsNames: JSON makes six bytes of each control
// character, so a payload that may pass becomes an event that may not.
func TestABirthThatIsTooLargeTeachesItsNames(t *testing.T) {
	t.Parallel()
	field := func(number, kind int, body ...byte) []byte { // protobuf: fields up to 15, lengths up to 16,383
		out := []byte{byte(number<<3 | kind)}
		if kind == 2 {
			out = append(out, byte(len(body)&0x7f|0x80), byte(len(body)>>7))
		}
		return append(out, body...)
	}
	text := bytes.Repeat([]byte{1}, 900)
	name, alias, isString := field(1, 2, []byte("Big")...), field(2, 0, 1), field(4, 0, 12)
	birth := slices.Concat(field(1, 0, 1), field(2, 2, slices.Concat(name, alias, isString, field(15, 2, text...))...), field(3, 0, 0))
	data := slices.Concat(field(1, 0, 2), field(2, 2, slices.Concat(alias, field(15, 2, []byte("small")...))...), field(3, 0, 1))
	broker, sink := newRawBroker(t), &testSink{}
	cfg := sparkplugConfig(sink, strings.TrimPrefix(broker.url(), "tcp://"))
	cfg.MaxPayload = 1000
	src, _ := start(t, cfg)
	c := broker.accept(false)
	c.send(publishFrame(qos1, 1, "spBv1.0/G/NBIRTH/N", string(birth)), publishFrame(qos1, 2, "spBv1.0/G/NDATA/N", string(data)))
	eventually(t, "the data", func() bool { return len(sink.taken()) == 1 })
	if got := string(sink.taken()[0].Payload); !strings.Contains(got, `"Big":"small"`) || strings.Contains(got, "unresolved") {
		t.Errorf("got %s", got)
	}
	if got := src.Stats().Rejected[reasonSparkplug]; got != 1 {
		t.Errorf("%d refused, want the birth", got)
	}
}
