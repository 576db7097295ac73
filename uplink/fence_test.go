package uplink

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"
)

// startQuick is start for an uplink that looks for its rival often, and takes
// over when that was silent for a while.
func startQuick(t *testing.T, cfg Config, silent time.Duration) *running {
	t.Helper()
	return startWith(t, cfg, func(k *Kafka) { k.exact.fencedCheck, k.exact.takeOverAfter = 50*time.Millisecond, silent })
}

// TestTwoAgentsWithOneID starts a second agent under the id of the first: the first
// one says so and stands back, and there is no fight.
func TestTwoAgentsWithOneID(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(2, "sluice.process"))
	old, young := newMemLog(), newMemLog()
	young.incarnation = "12345678"
	a := startQuick(t, exactConfig(c, old), time.Hour)
	old.put(messages("process", 0, 100, 5)...)
	old.waitCursor(t, "process", 100)
	b := startQuick(t, exactConfig(c, young), time.Hour)
	for i := range 20 {
		young.put(messages("process", i*100, 100, 5)...)
		young.waitCursor(t, "process", uint64(i+1)*100)
		old.put(messages("process", 100+i*100, 100, 5)...)
	}
	waitFor(t, "the older one to say it", func() bool { return a.Stats().Fenced })
	asked := time.Now()
	s := a.Stats()
	if s.Up || s.LastErrAt.Before(asked) || !strings.Contains(s.State, "another agent sends as gw-17/central") || !strings.Contains(s.LastError, "agent.id") {
		t.Errorf("stats %+v", s)
	}
	time.Sleep(time.Second) // some checks
	if n := old.cursor("process"); n != 100 || !a.Stats().Fenced {
		t.Errorf("the older one goes on: cursor %d", n)
	}
	if b.Stats().Fenced || !b.Stats().Up {
		t.Errorf("the younger one: %+v", b.Stats())
	}
	inits := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.InitProducerID}, Err: kerr.UnknownServerError, Count: -1})
	young.put(messages("process", 2000, 100, 5)...)
	young.waitCursor(t, "process", 2100)
	if inits.Hits() > 0 {
		t.Errorf("the two ask for the id in turn: %d times", inits.Hits())
	}
}

// TestRivalIsGone asks that an uplink that stands back goes on by itself when
// the other one has been silent for long.
func TestRivalIsGone(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(2, "sluice.process"))
	log, other := newMemLog(), newMemLog()
	other.incarnation = "12345678"
	a := startQuick(t, exactConfig(c, log), 500*time.Millisecond)
	log.put(messages("process", 0, 100, 5)...)
	log.waitCursor(t, "process", 100)
	b := startQuick(t, exactConfig(c, other), time.Hour)
	other.put(messages("process", 0, 100, 5)...)
	other.waitCursor(t, "process", 100)
	b.stop(t)
	log.put(messages("process", 100, 100, 5)...)
	waitFor(t, "it to stand back", func() bool { return a.Stats().Fenced })
	log.waitCursor(t, "process", 200)
	waitFor(t, "it to be well", func() bool { s := a.Stats(); return s.Up && !s.Fenced })
	if got := len(committed(t, c.ListenAddrs(), "sluice.process")); got != 300 {
		t.Errorf("%d records, want 300", got)
	}
}

// TestMorePartitionsForPositions raises the number of partitions between two
// runs: the position is found where it was written.
func TestMorePartitionsForPositions(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(2, "sluice.process"))
	if err := c.CreateTopic(DefaultPositionTopic, 1, map[string]string{"cleanup.policy": "compact"}); err != nil {
		t.Fatal(err)
	}
	for run, partitions := range []int{1, 7, 20} {
		if run > 0 {
			addPartitions(t, c, DefaultPositionTopic, partitions)
		}
		log := newMemLog()
		log.put(messages("process", 0, 100*(run+1), 5)...)
		k := start(t, exactConfig(c, log))
		log.waitCursor(t, "process", uint64(100*(run+1)))
		k.stop(t)
	}
	checkComplete(t, committed(t, c.ListenAddrs(), "sluice.process"), 300)
}

func addPartitions(t *testing.T, c *kfake.Cluster, topic string, n int) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if r, err := kadm.NewClient(cl).UpdatePartitions(context.Background(), n, topic); err != nil || r.Error() != nil {
		t.Fatal(err, r.Error())
	}
}

// hadRun is a cluster to which a run, which has ended, has delivered 100 events.
func hadRun(t *testing.T) (*kfake.Cluster, *memLog) {
	t.Helper()
	c := cluster(t, kfake.SeedTopics(1, "sluice.process", DefaultPositionTopic))
	log := newMemLog()
	log.put(messages("process", 0, 100, 5)...)
	k := start(t, exactConfig(c, log))
	log.waitCursor(t, "process", 100)
	k.stop(t)
	return c, log
}

// TestPositionAmongMany finds the position of one agent behind those of others.
func TestPositionAmongMany(t *testing.T) {
	t.Parallel()
	c, log := hadRun(t)
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.DefaultProduceTopic(DefaultPositionTopic))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for i := range 5000 {
		r := kgo.KeySliceRecord(fmt.Appendf(nil, "gw-%d/central", 100+i%50), []byte(`{"session":"x","classes":{"process":"0badcafe/7"}}`))
		cl.Produce(t.Context(), r, nil)
	}
	if err := cl.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	log.acked["process"] = 3
	log.Rewind(nil)
	log.put(messages("process", 100, 50, 5)...)
	start(t, exactConfig(c, log))
	log.waitCursor(t, "process", 150)
	checkComplete(t, committed(t, c.ListenAddrs(), "sluice.process"), 150)
}

// TestExactlyOnceNeedsPermissions grants one thing after the other and asks that
// each that is missing is said in words.
func TestExactlyOnceNeedsPermissions(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.EnableSASL(), kfake.EnableACLs(), kfake.User("PLAIN", "gw", "pw"),
		kfake.Superuser("PLAIN", "root", "pw"), kfake.SeedTopics(1, "sluice.process", DefaultPositionTopic))
	log := newMemLog()
	log.put(messages("process", 0, 10, 2)...)
	cfg := exactConfig(c, log)
	cfg.SASL = SASL{Mechanism: "plain", Username: "gw", Password: func() (string, error) { return "pw", nil }}
	k := start(t, cfg)
	says := func(want string) {
		t.Helper()
		waitFor(t, want, func() bool { return strings.Contains(k.Stats().LastError, want) })
		if s := k.Stats(); s.Delivered["process"] != 0 {
			t.Errorf("stats %+v", s)
		}
	}
	says(`topic "sluice.positions"`)
	grant(t, c, kadm.NewACLs().Topics(DefaultPositionTopic).Operations(kadm.OpRead, kadm.OpWrite, kadm.OpDescribe))
	says("transactional ids with the prefix sluice/")
	grant(t, c, kadm.NewACLs().TransactionalIDs("sluice/").ResourcePatternType(kadm.ACLPatternPrefixed).Operations(kadm.OpWrite, kadm.OpDescribe))
	says(`no permission to write topic "sluice.process"`)
	grant(t, c, kadm.NewACLs().Topics("sluice.process").Operations(kadm.OpWrite, kadm.OpDescribe))
	log.waitCursor(t, "process", 10)
	waitFor(t, "up", func() bool { return k.Stats().Up })
}

func grant(t *testing.T, c *kfake.Cluster, b *kadm.ACLBuilder) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.SASL(plain.Auth{User: "root", Pass: "pw"}.AsMechanism()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	results, err := kadm.NewClient(cl).CreateACLs(context.Background(), b.Allow("User:gw").AllowHosts("*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
}

// TestNoTransactions runs against a cluster whose coordinator is not there.
func TestNoTransactions(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(1, "sluice.process"))
	away := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.FindCoordinator}, Err: kerr.CoordinatorNotAvailable, Count: -1})
	log := newMemLog()
	log.put(messages("process", 0, 10, 2)...)
	k := start(t, exactConfig(c, log))
	waitFor(t, "the error to be said", func() bool {
		return strings.Contains(k.Stats().LastError, "transaction.state.log.replication.factor")
	})
	waitFor(t, "down", func() bool { s := k.Stats(); return !s.Up && strings.Contains(s.State, "transaction.state.log") })
	away.Remove()
	log.waitCursor(t, "process", 10)
}

// overlap has another agent begin a transaction, and leave it open, right before the first
// position of an uplink is sent.
type overlap struct {
	other *kgo.Client
	begun chan struct{} // capacity 1
}

var _ kgo.HookProduceRecordBuffered = overlap{}

func (o overlap) OnProduceRecordBuffered(r *kgo.Record) {
	if r.Topic != DefaultPositionTopic {
		return
	}
	select {
	case o.begun <- struct{}{}:
	default:
		return
	}
	if err := o.other.BeginTransaction(); err != nil {
		panic(err)
	}
	theirs := &kgo.Record{Topic: DefaultPositionTopic, Partition: 0, Key: []byte("gw-18/central"), Value: []byte(`{"session":"x","classes":{}}`)}
	if err := o.other.ProduceSync(context.Background(), theirs).FirstErr(); err != nil {
		panic(err)
	}
}

// TestOwnPositionIsHidden breaks a session while the open transaction of another agent
// hides what this run has written, so that the run before it seems to be the last
// one. That is no rival.
func TestOwnPositionIsHidden(t *testing.T) {
	t.Parallel()
	c, log := hadRun(t)
	log.Rewind(nil)
	other, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.TransactionalID("other"), kgo.TransactionTimeout(20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	broken := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "sluice.process", Err: kerr.OutOfOrderSequenceNumber, Count: 1})
	hidden := overlap{other, make(chan struct{}, 1)}
	k := startWith(t, exactConfig(c, log), func(k *Kafka) { k.options = append(k.options, kgo.WithHooks(hidden)) })
	log.put(messages("process", 100, 50, 5)...)
	waitFor(t, "a session that breaks", func() bool { return broken.Hits() == 1 })
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end) && !k.Stats().Fenced; {
		time.Sleep(2 * time.Millisecond)
	}
	if s := k.Stats(); s.Fenced {
		t.Fatalf("it takes the run before it for a rival: %s", s.State)
	}
	if err := other.EndTransaction(context.Background(), kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	log.waitCursor(t, "process", 150)
	checkComplete(t, committed(t, c.ListenAddrs(), "sluice.process"), 150)
}
