//go:build images

package test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/agent/simulate"
)

// hostInGuest is this machine's loopback as qemu's network shows it to the guest.
const hostInGuest = "10.0.2.2"

// plant is what the gateway works for, on this machine: an MQTT broker with a
// machine that publishes with QoS 1, and a Kafka.
type plant struct {
	t      testing.TB
	broker string // host:port
	kafka  string // host:port, from here
	client *kgo.Client

	mu        sync.Mutex
	confirmed []int       // numbers that the broker has acknowledged
	counts    atomic.Bool // confirmed messages count from now on
	stop      atomic.Bool
	done      chan struct{}
}

// advertised is a listener that says to the guest where it can be reached.
type advertised struct{ net.Listener }

func (l advertised) Addr() net.Addr {
	return &net.TCPAddr{IP: net.ParseIP(hostInGuest), Port: l.Listener.Addr().(*net.TCPAddr).Port}
}

func newPlant(t testing.TB) *plant {
	t.Helper()
	p := &plant{t: t, done: make(chan struct{})}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.kafka = listener.Addr().String()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.DefaultNumPartitions(4), kfake.SeedTopics(4, "plant"), kfake.SeedTopics(1, "sluice.config", "sluice.status", "sluice.command", "sluice.update"),
		kfake.ListenFn(func(string, string) (net.Listener, error) { return advertised{listener}, nil }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	p.client = p.reads("plant")

	standing, err := simulate.NewPlant(simulate.PlantConfig{MQTT: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	p.broker = standing.Broker.Addr()
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- standing.Run(ctx) }()
	t.Cleanup(func() { end(); <-ended })
	return p
}

// reads is a client that reads a topic from its beginning, from here.
func (p *plant) reads(topic string) *kgo.Client {
	p.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(p.kafka), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.Dialer(func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, p.kafka)
		}))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(client.Close)
	return client
}

// config is the gateway's.
func (p *plant) config() string {
	_, port, _ := net.SplitHostPort(p.broker)
	_, kafka, _ := net.SplitHostPort(p.kafka)
	return fmt.Sprintf(`version: 1
agent: { id: gw-1 }
sources: { line: { mqtt: { servers: [ "tcp://%[1]s:%[2]s" ], subscribe: [ { filter: "line/#", qos: 1 } ] } } }
uplinks: { central: { kafka: { brokers: [ "%[1]s:%[3]s" ], topic: plant } } }
remote: { uplink: central, trust: [ "%[4]s" ] }
update: { install: [ /usr/lib/sluice/install, "{file}" ] }
`, hostInGuest, port, kafka, operator())
}

// publish lets the machine publish 1, 2, 3 … every interval until the plant is
// asked for what arrived. What counts begins with count: a broker keeps nothing for
// a subscriber that it has never seen.
func (p *plant) publish(every time.Duration) {
	p.t.Helper()
	client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + p.broker).SetClientID("machine").SetAutoReconnect(false))
	if token := client.Connect(); !token.WaitTimeout(10*time.Second) || token.Error() != nil {
		p.t.Fatalf("connect the machine: %v", token.Error())
	}
	go func() {
		defer close(p.done)
		defer client.Disconnect(100)
		for n := 1; !p.stop.Load(); n++ {
			token := client.Publish("line/press", 1, false, strconv.Itoa(n))
			if token.WaitTimeout(10*time.Second) && token.Error() == nil && p.counts.Load() {
				p.mu.Lock()
				p.confirmed = append(p.confirmed, n)
				p.mu.Unlock()
			}
			time.Sleep(every)
		}
	}()
}

func (p *plant) count() int64 {
	ends, err := kadm.NewClient(p.client).ListEndOffsets(context.Background(), "plant")
	if err != nil {
		return 0
	}
	var n int64
	ends.Each(func(o kadm.ListedOffset) { n += o.Offset })
	return n
}

// arrives waits until Kafka holds at least n records.
func (p *plant) arrives(n int64) {
	p.t.Helper()
	for end := time.Now().Add(patience); p.count() < n; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("kafka holds %d records after %s, not %d", p.count(), patience, n)
		}
	}
}

// verdict stops the machine, waits until all that the broker confirmed to it is
// in Kafka, and lets the agent's own audit judge the numbers of the topic.
func (p *plant) verdict(sluice string) {
	p.t.Helper()
	p.stop.Store(true)
	<-p.done
	found := map[string]int{}
	var records []*kgo.Record
	lost := func() (missing []int) {
		for _, n := range p.confirmed {
			if found[strconv.Itoa(n)] == 0 {
				missing = append(missing, n)
			}
		}
		return missing
	}
	for end := time.Now().Add(patience); len(lost()) > 0 && time.Now().Before(end); {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		p.client.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
			found[string(r.Value)]++
			records = append(records, r)
		})
		cancel()
	}
	if missing := lost(); len(missing) > 0 {
		p.t.Errorf("%d of %d confirmed messages are not in kafka: %v", len(missing), len(p.confirmed), missing[:min(20, len(missing))])
	}
	p.t.Logf("confirmed %d, in kafka %d records of %d messages, lost %d", len(p.confirmed), len(records), len(found), len(lost()))
	p.audit(sluice, records)
}

// audit copies the records to a Kafka whose address is good here, and runs
// sluice audit on it.
func (p *plant) audit(sluice string, records []*kgo.Record) {
	p.t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(4, "plant"))
	if err != nil {
		p.t.Fatal(err)
	}
	defer cluster.Close()
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		p.t.Fatal(err)
	}
	defer client.Close()
	for _, r := range records {
		r := &kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: r.Headers, Timestamp: r.Timestamp}
		if err := client.ProduceSync(context.Background(), r).FirstErr(); err != nil {
			p.t.Fatal(err)
		}
	}
	p.t.Log(run(p.t, sluice, "audit", "--brokers", strings.Join(cluster.ListenAddrs(), ","), "--topic", "plant"))
}

// dist is the folder of what make images has made.
func dist(t testing.TB) string {
	t.Helper()
	folder := os.Getenv("DIST")
	if folder == "" {
		folder = "../../../dist"
	}
	abs, err := filepath.Abs(folder)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}
