package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/agent/config"
	"sluice/agent/remote"
	"sluice/agent/remote/trust"
	"sluice/agent/simulate"
	"sluice/agent/web"
	"sluice/drivers/loopback"
)

// fleet is a cluster with the topics of remote config, a broker with a machine, and
// the operator.
type fleet struct {
	*testing.T
	dir     string
	mqtt    string
	hook    *takeovers
	cluster *kfake.Cluster
	client  *kgo.Client
	admin   *kadm.Client
	machine paho.Client
	trial   atomic.Int64 // ns: that of the configs that are read from now on

	plantEnds   func()        // has the broker go away
	reportEvery time.Duration // of agents that are started; 0: the usual
	ahead       atomic.Int64  // ns: the clock of agents that are started, against the right one

	mu       sync.Mutex
	statuses []remote.StatusRecord
	news     chan struct{}
}

// takeovers has the broker distribute no message while it hands a session to
// another connection: it copies what is under way and then lets the old one go, and
// what comes in between would be lost in it.
type takeovers struct {
	mochi.HookBase
	mu         sync.RWMutex
	publishing sync.Map // *mochi.Client that holds mu
	taking     sync.Map // *mochi.Client -> how it gives mu back
	granted    atomic.Int32
}

func (*takeovers) ID() string { return "takeovers" }

func (*takeovers) Provides(b byte) bool {
	return b == mochi.OnSessionEstablish || b == mochi.OnSessionEstablished || b == mochi.OnPublish || b == mochi.OnPacketProcessed || b == mochi.OnSubscribed
}

func (h *takeovers) OnSessionEstablish(cl *mochi.Client, _ packets.Packet) {
	h.mu.Lock()
	release := sync.OnceFunc(h.mu.Unlock)
	h.taking.Store(cl, release)
	time.AfterFunc(time.Second, release) // of a client that was killed meanwhile nothing more is told
}

func (h *takeovers) OnSessionEstablished(cl *mochi.Client, _ packets.Packet) {
	if release, ok := h.taking.LoadAndDelete(cl); ok {
		release.(func())()
	}
}

func (h *takeovers) OnPublish(cl *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	h.mu.RLock()
	h.publishing.Store(cl, true)
	return pk, nil
}

func (h *takeovers) OnPacketProcessed(cl *mochi.Client, pk packets.Packet, _ error) {
	if _, ok := h.publishing.LoadAndDelete(cl); ok && pk.FixedHeader.Type == packets.Publish {
		h.mu.RUnlock()
	}
}

func (h *takeovers) OnSubscribed(cl *mochi.Client, _ packets.Packet, codes []byte) {
	if strings.HasPrefix(cl.ID, "sluice-") && len(codes) == 1 && codes[0] <= 2 {
		h.granted.Add(1)
	}
}

// subscribed waits until the broker has granted so many filters to agents. A message that
// is on its way meanwhile would be a reason for this broker to refuse one: it takes its
// number for that of the request.
func (f *fleet) subscribed(n int32) {
	f.Helper()
	for end := time.Now().Add(patience); f.hook.granted.Load() < n; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			f.Fatal("the agent does not subscribe")
		}
	}
}

// patience ends a test that hangs; nothing is measured by it.
const patience = 60 * time.Second

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{T: t, dir: t.TempDir(), mqtt: loopback.Addr(t), hook: &takeovers{}, news: make(chan struct{}, 1)}
	server := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler), Capabilities: mochi.NewDefaultServerCapabilities()})
	if err := server.AddHook(new(auth.AllowHook), nil); err != nil {
		t.Fatal(err)
	}
	if err := server.AddHook(f.hook, nil); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", f.mqtt)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.AddListener(simulate.NewDoor(server, "t", ln)); err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve() }() // ends with Close
	f.plantEnds = sync.OnceFunc(func() { _ = server.Close() })
	t.Cleanup(f.plantEnds)
	if f.cluster, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.DefaultNumPartitions(1), kfake.AllowAutoTopicCreation()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.cluster.Close)
	if f.client, err = kgo.NewClient(kgo.SeedBrokers(f.cluster.ListenAddrs()...), kgo.ProducerBatchMaxBytes(16<<20), kgo.MetadataMinAge(20*time.Millisecond),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ConsumeTopics("sluice.status"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.client.Close)
	f.admin = kadm.NewClient(f.client)
	f.topic("sluice.config", "compact")
	f.topic("sluice.status", "compact")
	f.topic("sluice.command", "delete")
	go f.follow() // ends with the client
	f.machine = paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + f.mqtt).SetClientID("machine"))
	if tok := f.machine.Connect(); !tok.WaitTimeout(patience) || tok.Error() != nil {
		t.Fatal(tok.Error())
	}
	t.Cleanup(func() { f.machine.Disconnect(0) })
	return f
}

func (f *fleet) topic(name, policy string) {
	f.Helper()
	largest := "20000000"
	resp, err := f.admin.CreateTopic(f.Context(), 1, 1, map[string]*string{"cleanup.policy": &policy, "max.message.bytes": &largest}, name)
	if err != nil || resp.Err != nil {
		f.Fatal(err, resp.Err)
	}
}

// follow collects the status records.
func (f *fleet) follow() {
	for {
		fetches := f.client.PollFetches(context.Background())
		if fetches.IsClientClosed() {
			return
		}
		for _, r := range fetches.Records() {
			var st remote.StatusRecord
			if json.Unmarshal(r.Value, &st) == nil {
				f.mu.Lock()
				f.statuses = append(f.statuses, st)
				f.mu.Unlock()
			}
		}
		select {
		case f.news <- struct{}{}:
		default:
		}
	}
}

// mark is how many status records there are.
func (f *fleet) mark() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.statuses)
}

// status waits for a status record, from the one with that number on.
func (f *fleet) status(from int, what string, is func(remote.StatusRecord) bool) remote.StatusRecord {
	f.Helper()
	end := time.After(patience)
	for {
		f.mu.Lock()
		list := f.statuses[min(from, len(f.statuses)):]
		f.mu.Unlock()
		for _, st := range list {
			if is(st) {
				return st
			}
		}
		select {
		case <-f.news:
		case <-time.After(100 * time.Millisecond):
		case <-end:
			last := "none"
			if len(list) > 0 {
				last = fmt.Sprintf("%+v", list[len(list)-1].Config)
			}
			f.Fatalf("no status record of %s; the last: %s", what, last)
		}
	}
}

// state waits for a status with that state, running version and code.
func (f *fleet) state(from int, state remote.State, running uint64, code trust.Code) remote.StatusRecord {
	f.Helper()
	return f.status(from, fmt.Sprintf("%s, running %d, code %q", state, running, code), func(st remote.StatusRecord) bool {
		return st.Config.State == state && st.Config.Running == running && st.Config.Code == code
	})
}

func seed(n byte) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, 32)) }

func publicKey(n byte) trust.Key { return trust.Key{Public: seed(n).Public().(ed25519.PublicKey)} }

// file is the config file; more is put behind it.
func (f *fleet) file(more string) []byte {
	return fmt.Appendf(nil, `version: 1
agent: { id: gw-1, data_dir: %s, labels: { site: p7 } }
%s
remote: { uplink: central, trust: [ "%s" ], trial: 60s }
%s`, filepath.Join(f.dir, "data"), f.body(settings{}), publicKey(1), more)
}

// body is what a document changes.
func (f *fleet) body(s settings) string {
	if s.filter == "" {
		s.filter = `{ filter: "factory/#" }`
	}
	if s.brokers == "" {
		s.brokers = f.cluster.ListenAddrs()[0]
	}
	if s.level == "" {
		s.level = "info"
	}
	if s.http == "" {
		s.http = f.mqtt // of the MQTT source
	}
	return fmt.Sprintf(`sources: { line: { mqtt: { servers: [ "tcp://%s" ], subscribe: [ %s ] } } }
uplinks: { central: { kafka: { brokers: [ "%s" ], topic: "p.{class}"%s } } }
observe: { http: "" }
log: { level: %s }`, s.http, s.filter, s.brokers, s.extra, s.level)
}

// signed is a document as it stands in the topic.
type signed struct {
	target  string
	version int
	issued  time.Time
	expires time.Time
	body    string // "config: …" or "patch: …"
	by      []byte // keys; nil: 1
}

func (d signed) payload() []byte {
	if d.target == "" {
		d.target = "agent:gw-1"
	}
	if d.issued.IsZero() {
		d.issued = time.Now().Add(-time.Minute)
	}
	if d.expires.IsZero() {
		d.expires = d.issued.Add(24 * time.Hour)
	}
	return fmt.Appendf(nil, "target: %q\nversion: %d\nissued: %s\nexpires: %s\n%s\n", d.target, d.version, d.issued.UTC().Format(time.RFC3339), d.expires.UTC().Format(time.RFC3339), d.body)
}

func (f *fleet) envelope(typ string, payload []byte, by ...byte) *trust.Envelope {
	f.Helper()
	e := &trust.Envelope{Type: typ, Payload: payload}
	for _, n := range by {
		if err := e.Sign(publicKey(n), func(pae []byte) ([]byte, error) { return ed25519.Sign(seed(n), pae), nil }); err != nil {
			f.Fatal(err)
		}
	}
	return e
}

func (f *fleet) sign(d signed) []byte {
	f.Helper()
	if d.by == nil {
		d.by = []byte{1}
	}
	return f.envelope(trust.TypeConfig, d.payload(), d.by...).Encode()
}

// config is a whole config as the body of a document.
func (f *fleet) config(s settings) string {
	return "config:\n  version: 1\n  " + strings.ReplaceAll(f.body(s), "\n", "\n  ")
}

func (f *fleet) put(topic, key string, value []byte) {
	f.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(f.cluster.ListenAddrs()...), kgo.ProducerBatchMaxBytes(16<<20), kgo.ProducerBatchCompression(kgo.NoCompression())) // one that knows no topic of before
	if err != nil {
		f.Fatal(err)
	}
	defer c.Close()
	if err := c.ProduceSync(f.Context(), &kgo.Record{Topic: topic, Key: []byte(key), Value: value}).FirstErr(); err != nil {
		f.Fatal(err)
	}
}

func (f *fleet) publishConfig(d signed) {
	f.Helper()
	key := d.target
	if key == "" {
		key = "agent:gw-1"
	}
	f.put("sluice.config", key, f.sign(d))
}

// quiet is a Notifier that nobody listens to.
type quiet struct{}

func (quiet) Ready()               {}
func (quiet) Reloading()           {}
func (quiet) Stopping()            {}
func (quiet) Alive(web.Status)     {}
func (quiet) Every() time.Duration { return time.Second }

// fixed is a trial for all configs.
func fixed(d time.Duration) func() time.Duration { return func() time.Duration { return d } }

// supervisor runs the config in dir/sluice.yaml, as the command line does. trial
// is that of each config when it is read, and may be shorter than a config may say; 0
// leaves it as it is. The one that runs says how long the next one is tried.
func supervisor(dir string, trial func() time.Duration) *Supervisor {
	file := filepath.Join(dir, "sluice.yaml")
	short := func(cfg *config.Config, err error) (*config.Config, error) {
		if d := trial(); err == nil && cfg.Remote != nil && d > 0 {
			cfg.Remote.Trial = d
		}
		return cfg, err
	}
	return &Supervisor{File: file, Version: "test", Out: os.Stderr, Notify: quiet{},
		Load: func() (*config.Config, error) { return short(config.Load(file, config.Options{})) },
		Parse: func(text []byte) (*config.Config, error) {
			return short(config.Parse(filepath.Join(dir, "remote"), text, config.Options{}))
		}}
}

// start runs an agent on the config file until the returned function is called.
func (f *fleet) start(text []byte, trial time.Duration) (stop func()) {
	f.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, "sluice.yaml"), text, 0o600); err != nil {
		f.Fatal(err)
	}
	f.trial.Store(int64(trial))
	s := supervisor(f.dir, func() time.Duration { return time.Duration(f.trial.Load()) })
	s.Out, s.reportEvery = f.Output(), f.reportEvery
	s.clock = func() time.Time { return time.Now().Add(time.Duration(f.ahead.Load())) }
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			f.Error(err)
		}
	})
}

// publish sends a message with QoS 1 and waits for its PUBACK.
func (f *fleet) publish(topic, payload string) {
	f.Helper()
	if err := f.send(topic, payload); err != nil {
		f.Fatal(err)
	}
}

// send is publish for any goroutine.
func (f *fleet) send(topic, payload string) error {
	tok := f.machine.Publish(topic, 1, false, payload)
	if !tok.WaitTimeout(patience) {
		return fmt.Errorf("publish %s: no PUBACK in %s", payload, patience)
	} else if tok.Error() != nil {
		return fmt.Errorf("publish %s: %w", payload, tok.Error())
	}
	return nil
}

// arrives waits for a value in a topic, and returns all before it.
func (f *fleet) arrives(topic, last string) (values []string) {
	f.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(f.cluster.ListenAddrs()...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.MetadataMinAge(50*time.Millisecond))
	if err != nil {
		f.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(f.Context(), patience)
	defer cancel()
	for ctx.Err() == nil {
		for _, r := range c.PollFetches(ctx).Records() {
			if values = append(values, string(r.Value)); string(r.Value) == last {
				return values
			}
		}
	}
	f.Fatalf("%q never came to %s", last, topic)
	return nil
}

// contextOf is a context that the test ends.
func contextOf(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithCancel(context.Background())
}
