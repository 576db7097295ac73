package uplink

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"sluice/drivers/loopback"
)

// committed reads what a read_committed consumer sees of the topics now, by
// partition in order.
func committed(t *testing.T, brokers []string, topics ...string) []*kgo.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topics...), kgo.KeepControlRecords(),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListCommittedOffsets(ctx, topics...)
	if err != nil {
		t.Fatal(err)
	}
	type place struct {
		topic     string
		partition int32
	}
	open := map[place]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			open[place{o.Topic, o.Partition}] = o.Offset
		}
	})
	var records []*kgo.Record
	for len(open) > 0 {
		f := cl.PollFetches(ctx)
		if err := f.Err(); err != nil {
			t.Fatalf("consume: %v; open %v", err, open)
		}
		f.EachRecord(func(r *kgo.Record) {
			p := place{r.Topic, r.Partition}
			if r.Offset+1 >= open[p] { // the last is a marker
				delete(open, p)
			}
			if !r.Attrs.IsControl() {
				records = append(records, r)
			}
		})
	}
	return records
}

// consumeAll reads the topics with or without regard to transactions.
func consumeAll(t *testing.T, exact bool, brokers []string, topics ...string) []*kgo.Record {
	t.Helper()
	if exact {
		return committed(t, brokers, topics...)
	}
	return consume(t, brokers, topics...)
}

func exactConfig(c *kfake.Cluster, log Log) Config {
	return Config{Brokers: c.ListenAddrs(), Reader: log, ExactlyOnce: true}
}

func TestExactlyOnceDeliversInOrder(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.NumBrokers(3), kfake.SeedTopics(6, "sluice.process", "sluice.alarm"))
	log := newMemLog()
	for i := range 40 {
		log.put(messages("process", i*500, 500, 20)...)
		log.put(messages("alarm", i*5, 5, 20)...)
	}
	k := start(t, exactConfig(c, log))
	log.waitCursor(t, "process", 20_000)
	log.waitCursor(t, "alarm", 200)
	checkComplete(t, committed(t, c.ListenAddrs(), "sluice.process"), 20_000)
	checkComplete(t, committed(t, c.ListenAddrs(), "sluice.alarm"), 200)
	s := k.Stats()
	if s.Delivered["process"] != 20_000 || s.Delivered["alarm"] != 200 || s.InFlight != 0 || s.LastAck.IsZero() || !s.Up {
		t.Errorf("stats %+v", s)
	}
	k.stop(t)
	positions := committed(t, c.ListenAddrs(), DefaultPositionTopic)
	newest := positions[len(positions)-1]
	if want := `"classes":{"alarm":"0badcafe/200","process":"0badcafe/20000"}`; string(newest.Key) != "gw-17/central" || !strings.Contains(string(newest.Value), want) {
		t.Errorf("newest position %s %s", newest.Key, newest.Value)
	}
}

// TestPositionBeatsTheCursor starts again with a cursor that is behind, as after
// a crash.
func TestPositionBeatsTheCursor(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(2, "sluice.process"))
	log := newMemLog()
	log.put(messages("process", 0, 1000, 7)...)
	k := start(t, exactConfig(c, log))
	log.waitCursor(t, "process", 1000)
	k.stop(t)
	for _, behind := range []uint64{0, 400, 999, 1000} {
		log = newMemLog()
		log.put(messages("process", 0, 600, 7)...)
		log.put(messages("process", 600, 900, 7)...)
		log.acked["process"] = behind
		log.Rewind(nil)
		if k = start(t, exactConfig(c, log)); behind == 1000 {
			log.waitCursor(t, "process", 1500)
			break
		}
		waitFor(t, "a start", func() bool { return log.cursor("process") >= 1000 })
		k.stop(t)
	}
	records := committed(t, c.ListenAddrs(), "sluice.process")
	checkComplete(t, records, 1500)
}

// exactFaults are answers that an uplink must live with.
var exactFaults = []struct {
	name string
	key  kmsg.Key
	code *kerr.Error
}{
	{"produce, unknown error", kmsg.Produce, kerr.UnknownServerError},
	{"produce, corrupted on the way", kmsg.Produce, kerr.CorruptMessage},
	{"produce, no permission for a while", kmsg.Produce, kerr.TopicAuthorizationFailed},
	{"produce, no leader for a while", kmsg.Produce, kerr.NotLeaderForPartition},
	{"produce, too few replicas", kmsg.Produce, kerr.NotEnoughReplicas},
	{"produce, the transaction took too long", kmsg.Produce, kerr.InvalidProducerEpoch},
	{"produce, not in a transaction", kmsg.Produce, kerr.InvalidTxnState},
	{"produce, out of sequence", kmsg.Produce, kerr.OutOfOrderSequenceNumber},
	{"produce, abort it", kmsg.Produce, kerr.TransactionAbortable},
	{"commit, unknown error", kmsg.EndTxn, kerr.UnknownServerError},
	{"commit, fenced", kmsg.EndTxn, kerr.ProducerFenced},
	{"commit, the transaction took too long", kmsg.EndTxn, kerr.InvalidProducerEpoch},
	{"commit, not in a transaction", kmsg.EndTxn, kerr.InvalidTxnState},
	{"commit, the id has expired", kmsg.EndTxn, kerr.InvalidProducerIDMapping},
	{"commit, coordinator moved", kmsg.EndTxn, kerr.NotCoordinator},
	{"commit, coordinator loads", kmsg.EndTxn, kerr.CoordinatorLoadInProgress},
	{"commit, busy", kmsg.EndTxn, kerr.ConcurrentTransactions},
	{"begin, no coordinator", kmsg.InitProducerID, kerr.CoordinatorNotAvailable},
	{"begin, busy", kmsg.InitProducerID, kerr.ConcurrentTransactions},
	{"find, no coordinator", kmsg.FindCoordinator, kerr.CoordinatorNotAvailable},
	{"position, no leader", kmsg.Fetch, kerr.NotLeaderForPartition},
	{"position, no such offset", kmsg.Fetch, kerr.OffsetOutOfRange},
}

// TestExactlyOnceUnderFaults makes the broker answer with errors at random while
// events flow and asks for each event once, in order.
func TestExactlyOnceUnderFaults(t *testing.T) {
	t.Parallel()
	for _, tt := range exactFaults {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			rnd := rand.New(rand.NewPCG(seed, 0))
			c := cluster(t, kfake.SeedTopics(3, "sluice.process"))
			log := newMemLog()
			log.put(messages("process", 0, 100, 7)...)
			before := start(t, exactConfig(c, log)) // leaves a position to be found
			log.waitCursor(t, "process", 100)
			before.stop(t)
			rare := map[kmsg.Key]int{kmsg.Produce: 6, kmsg.EndTxn: 3}[tt.key]
			fault := c.Fault(kfake.Fault{Keys: []kmsg.Key{tt.key}, Err: tt.code, Count: 3,
				When: func(kmsg.Request) bool { return rare == 0 || rnd.IntN(rare) == 0 }})
			log.Rewind(nil)
			k := start(t, exactConfig(c, log))
			for i := 0; i < 10 || fault.Hits() == 0 && i < 200; i++ { // a transaction each, so that there are some to fail
				log.put(messages("process", 100+i*200, 200, 7)...)
				log.waitCursor(t, "process", 300+uint64(i)*200)
			}
			if fault.Hits() == 0 {
				t.Error("nothing was refused")
			}
			n := log.cursor("process")
			checkComplete(t, committed(t, c.ListenAddrs(), "sluice.process"), n)
			if d := k.Stats().Delivered["process"]; d != n-100 {
				t.Errorf("%d are counted as delivered, want %d", d, n-100)
			}
		})
	}
}

// TestCommitWhoseAnswerIsLost has the broker commit and hang up before the answer.
func TestCommitWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	link := &lossy{key: kmsg.EndTxn, every: 4}
	c := cluster(t, kfake.SeedTopics(3, "sluice.process"), link.listen())
	log := newMemLog()
	k := start(t, exactConfig(c, log))
	for i := range 12 {
		log.put(messages("process", i*200, 200, 7)...)
		log.waitCursor(t, "process", uint64(i+1)*200)
	}
	checkComplete(t, committed(t, c.ListenAddrs(), "sluice.process"), 2400)
	if d := k.Stats().Delivered["process"]; d != 2400 {
		t.Errorf("%d are counted as delivered", d)
	}
	if link.lost.Load() == 0 {
		t.Error("no answer was lost")
	}
}

func TestExactlyOnceSetsAsideWhatIsTooLarge(t *testing.T) {
	t.Parallel()
	c := cluster(t)
	if err := c.CreateTopic("sluice.process", 3, map[string]string{"max.message.bytes": "20000"}); err != nil {
		t.Fatal(err)
	}
	log := newMemLog()
	events := messages("process", 0, 1500, 5)
	large := []uint64{1, 700, 701, 1500}
	for _, seq := range large {
		events[seq-1].Payload = noise(30_000)
	}
	log.put(events...)
	k := start(t, exactConfig(c, log))
	log.waitCursor(t, "process", 1500)
	k.stop(t)
	checkComplete(t, committed(t, c.ListenAddrs(), "sluice.process"), 1500, large...)
	if got := log.rejects("process"); fmt.Sprint(got) != fmt.Sprint(large) {
		t.Errorf("rejected %v, want %v", got, large)
	}
	if s := k.Stats(); s.Delivered["process"] != 1496 || !strings.Contains(s.LastError, "max.message.bytes") {
		t.Errorf("stats %+v", s)
	}
}

// TestExactlyOnceLargerThanABatch sends records beyond the client's limit for a
// batch: the broker decides about them.
func TestExactlyOnceLargerThanABatch(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(1, "sluice.process"))
	log := newMemLog()
	events := messages("process", 0, 20, 2)
	events[4].Payload = []byte(strings.Repeat("0123456789", 120_000)) // fits when it is compressed
	events[9].Payload = noise(1_500_000)                              // doesn't
	log.put(events...)
	k := start(t, exactConfig(c, log))
	log.waitCursor(t, "process", 20)
	k.stop(t)
	checkComplete(t, committed(t, c.ListenAddrs(), "sluice.process"), 20, 10)
	if got := log.rejects("process"); fmt.Sprint(got) != "[10]" {
		t.Errorf("rejected %v", got)
	}
}

// TestExactlyOnceSmallTopicLimit asks that nothing is set aside when only batches
// are too large, not records.
func TestExactlyOnceSmallTopicLimit(t *testing.T) {
	t.Parallel()
	c := cluster(t)
	if err := c.CreateTopic("sluice.process", 1, map[string]string{"max.message.bytes": "20000"}); err != nil {
		t.Fatal(err)
	}
	log := newMemLog()
	events := messages("process", 0, 300, 5)
	for i := range events {
		events[i].Payload = noise(1000)
	}
	log.put(events...)
	start(t, exactConfig(c, log))
	log.waitCursor(t, "process", 300)
	checkComplete(t, committed(t, c.ListenAddrs(), "sluice.process"), 300)
	if got := log.rejects("process"); len(got) > 0 {
		t.Errorf("rejected %v", got)
	}
}

// TestStopCommitsWhatWasSent stops in the middle of a stream.
func TestStopCommitsWhatWasSent(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(3, "sluice.process"))
	log := newMemLog()
	for i := range 400 {
		log.put(messages("process", i*100, 100, 9)...)
	}
	k := start(t, exactConfig(c, log))
	waitFor(t, "the first ones", func() bool { return log.cursor("process") > 0 })
	k.stop(t)
	checkComplete(t, committed(t, c.ListenAddrs(), "sluice.process"), log.cursor("process"))
}

func TestExactlyOnceBrokerAwayInTheMiddle(t *testing.T) {
	t.Parallel()
	port := portOf(t, loopback.Addr(t))
	opts := []kfake.Opt{kfake.NumBrokers(1), kfake.Ports(port), kfake.DataDir(t.TempDir()), kfake.SyncWrites(), kfake.SeedTopics(3, "sluice.process")}
	c, err := kfake.NewCluster(opts...)
	if err != nil {
		t.Fatal(err)
	}
	log := newMemLog()
	k := start(t, exactConfig(c, log))
	log.put(messages("process", 0, 500, 5)...)
	log.waitCursor(t, "process", 500)
	c.Close()
	for i := range 20 {
		log.put(messages("process", 500+i*500, 500, 5)...)
	}
	waitFor(t, "down", func() bool { return !k.Stats().Up })
	c = cluster(t, opts...)
	log.waitCursor(t, "process", 10_500)
	checkComplete(t, committed(t, c.ListenAddrs(), "sluice.process"), 10_500)
	waitFor(t, "up", func() bool { return k.Stats().Up })
}

func TestExactlyOnceRecreatedTopic(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(2, "sluice.process"))
	log := newMemLog()
	start(t, exactConfig(c, log))
	log.put(messages("process", 0, 10, 2)...)
	log.waitCursor(t, "process", 10)
	if err := c.DeleteTopic("sluice.process"); err != nil {
		t.Fatal(err)
	}
	if err := c.CreateTopic("sluice.process", 2, nil); err != nil {
		t.Fatal(err)
	}
	log.put(messages("process", 10, 10, 2)...)
	log.waitCursor(t, "process", 20)
	if got := committed(t, c.ListenAddrs(), "sluice.process"); len(got) != 10 || seqOf(t, got[0]) < 11 {
		t.Errorf("%d records in the new topic", len(got))
	}
}

// TestDeletedPositions deletes the topic of positions under a running uplink.
func TestDeletedPositions(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(2, "sluice.process"))
	log := newMemLog()
	k := start(t, exactConfig(c, log))
	for i := range 3 {
		log.put(messages("process", i*10, 10, 2)...)
		log.waitCursor(t, "process", uint64(i+1)*10)
		if err := c.DeleteTopic(DefaultPositionTopic); err != nil {
			t.Fatal(err)
		}
	}
	log.put(messages("process", 30, 10, 2)...)
	log.waitCursor(t, "process", 40)
	k.stop(t)
	log.acked["process"] = 5 // the cursor is behind
	log.Rewind(nil)
	start(t, exactConfig(c, log))
	log.waitCursor(t, "process", 40)
	checkComplete(t, committed(t, c.ListenAddrs(), "sluice.process"), 40)
}
