//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// kafka is one Apache Kafka broker (KRaft, broker and controller in one). It
// has two listeners: clients of the one are told to come through link, a proxy
// that can be cut; the other is for the test itself and always works.
type kafka struct {
	proc     *process
	link     *proxy
	internal string // address of the listener that the test uses
	admin    *kadm.Client
}

func startKafka(t testing.TB, dir string) *kafka {
	t.Helper()
	internal, proxied, controller := freePort(t), freePort(t), freePort(t)
	k := &kafka{internal: loopback(internal), link: startProxy(t, loopback(proxied))}
	conf := filepath.Join(dir, "server.properties")
	writeFile(t, conf, fmt.Sprintf(`process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:%[3]d
listeners=INTERNAL://127.0.0.1:%[1]d,PROXIED://127.0.0.1:%[2]d,CONTROLLER://127.0.0.1:%[3]d
advertised.listeners=INTERNAL://127.0.0.1:%[1]d,PROXIED://%[4]s
listener.security.protocol.map=INTERNAL:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=INTERNAL
controller.listener.names=CONTROLLER
log.dirs=%[5]s
auto.create.topics.enable=false
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
`, internal, proxied, controller, k.link.addr, filepath.Join(dir, "kafka-data")))
	classPath := installed(t, "kafka-4.1.0") + "/*"
	if out, err := exec.Command(javaPath(t), "-cp", classPath, "kafka.tools.StorageTool", "format",
		"-t", "c2x1aWNlLWUyZS1rYWZrYQ", "-c", conf).CombinedOutput(); err != nil {
		t.Fatalf("format the storage of Kafka: %v\n%s", err, out)
	}
	k.proc = startProcess(t, command{name: "kafka", dir: dir, args: []string{javaPath(t), "-Xms256m", "-Xmx512m",
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", classPath, "kafka.Kafka", conf}})
	waitFor(t, "kafka", k.answers, k.proc)
	k.admin = kadm.NewClient(k.client(t))
	return k
}

// answers tells whether the broker has joined its own cluster.
func (k *kafka) answers() bool {
	if !accepts(k.internal) {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(k.internal))
	if err != nil {
		return false
	}
	defer client.Close()
	brokers, err := kadm.NewClient(client).ListBrokers(ctx)
	return err == nil && len(brokers) == 1
}

// client returns a client of the listener that is never cut, closed at the end
// of the test.
func (k *kafka) client(t testing.TB, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	// A topic that was made a moment ago must be found without a wait of seconds.
	own := []kgo.Opt{kgo.SeedBrokers(k.internal), kgo.MetadataMinAge(50 * time.Millisecond)}
	client, err := kgo.NewClient(append(own, opts...)...)
	if err != nil {
		t.Fatalf("Kafka client: %v", err)
	}
	t.Cleanup(client.Close)
	return client
}

// createTopic makes a topic of four partitions, and waits until each has a leader: the
// broker learns of a new topic a moment after its controller has answered.
func (k *kafka) createTopic(t testing.TB, topic string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := k.admin.CreateTopic(ctx, 4, 1, nil, topic)
	if err != nil {
		t.Fatalf("create topic %s: %v", topic, err)
	}
	waitFor(t, "the leaders of "+topic, func() bool {
		offsets, err := k.admin.ListEndOffsets(ctx, topic)
		return err == nil && offsets.Error() == nil && len(offsets[topic]) == 4
	}, k.proc)
}

// count returns how many records topic holds, all partitions together.
func (k *kafka) count(t testing.TB, topic string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	offsets, err := k.admin.ListEndOffsets(ctx, topic)
	if err == nil {
		err = offsets.Error()
	}
	if err != nil {
		t.Fatalf("end offsets of %s: %v", topic, err)
	}
	total := 0
	offsets.Each(func(o kadm.ListedOffset) { total += int(o.Offset) })
	return total
}
