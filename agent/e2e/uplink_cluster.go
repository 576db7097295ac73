//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
)

// startCluster starts three brokers that are controllers, too, and returns one of
// them, through which the test looks at the cluster, and all by their node ids. Its
// link goes nowhere.
func startCluster(t testing.TB) (*kafka, map[int32]*kafka) {
	t.Helper()
	const nodes = 3
	nodesByID := map[int32]*kafka{}
	var voters []string
	var internal, controller [nodes + 1]int
	for id := 1; id <= nodes; id++ {
		internal[id], controller[id] = freePort(t), freePort(t)
		voters = append(voters, fmt.Sprintf("%d@127.0.0.1:%d", id, controller[id]))
	}
	classPath := installed(t, "kafka-4.1.0") + "/*"
	for id := 1; id <= nodes; id++ {
		dir := filepath.Join(t.TempDir(), fmt.Sprint(id))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		conf := filepath.Join(dir, "server.properties")
		writeFile(t, conf, clusterNode(id, internal[id], controller[id], strings.Join(voters, ","), filepath.Join(dir, "kafka-data")))
		if out, err := exec.Command(javaPath(t), "-cp", classPath, "kafka.tools.StorageTool", "format",
			"-t", "c2x1aWNlLWUyZS1rYWZrYQ", "-c", conf).CombinedOutput(); err != nil {
			t.Fatalf("format the storage of Kafka: %v\n%s", err, out)
		}
		nodesByID[int32(id)] = &kafka{internal: loopback(internal[id]), proc: startProcess(t, command{name: "kafka", dir: dir,
			args: []string{javaPath(t), "-Xms200m", "-Xmx320m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", classPath, "kafka.Kafka", conf}})}
	}
	k := nodesByID[1]
	k.admin = kadm.NewClient(k.client(t))
	waitFor(t, "three brokers", func() bool {
		brokers, err := k.admin.ListBrokers(t.Context())
		return err == nil && len(brokers) == nodes
	}, k.proc, nodesByID[2].proc, nodesByID[3].proc)
	return k, nodesByID
}

// clusterNode is the config of one broker. Leaders of what a dead one led are found
// within a second or two.
func clusterNode(id, internal, controller int, voters, data string) string {
	return fmt.Sprintf(`process.roles=broker,controller
node.id=%d
controller.quorum.voters=%s
listeners=INTERNAL://127.0.0.1:%[3]d,CONTROLLER://127.0.0.1:%[4]d
advertised.listeners=INTERNAL://127.0.0.1:%[3]d
listener.security.protocol.map=INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=INTERNAL
controller.listener.names=CONTROLLER
log.dirs=%[5]s
auto.create.topics.enable=false
offsets.topic.replication.factor=3
offsets.topic.num.partitions=3
transaction.state.log.replication.factor=3
transaction.state.log.num.partitions=3
transaction.state.log.min.isr=2
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
group.initial.rebalance.delay.ms=0
`, id, voters, internal, controller, data)
}

// leaderOf returns the node that leads a partition of topic, another one than
// not.
func leaderOf(t testing.TB, k *kafka, topic string, not int32) int32 {
	t.Helper()
	topics, err := k.admin.ListTopics(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range topics[topic].Partitions.Sorted() {
		if p.Leader > 0 && p.Leader != not {
			return p.Leader
		}
	}
	t.Fatalf("node %d leads all of %s", not, topic)
	return 0
}
