package uplink

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestClientThatSendsNothing has the client keep the records that it is given, as one
// does that has lost its place in a partition: another takes over, and each event
// arrives once.
func TestClientThatSendsNothing(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(2, "sluice.process"))
	log := newMemLog()
	k := startWith(t, Config{Brokers: c.ListenAddrs(), Reader: log}, func(k *Kafka) {
		k.idleAfter = 3 * time.Second
		k.options = append(k.options, kgo.ManualFlushing())
	})
	log.put(messages("process", 0, 100, 7)...)
	waitFor(t, "records in the client", func() bool { return k.Stats().InFlight == 100 })
	made := k.renewed()
	waitFor(t, "another client", func() bool { return k.renewed() != made })
	waitFor(t, "the records in that one", func() bool {
		// The client takes part in the test's trick: what it was not given yet is not flushed.
		return k.link().BufferedProduceRecords() == 100 && k.link().Flush(context.Background()) == nil
	})
	log.waitCursor(t, "process", 100)
	checkComplete(t, consume(t, c.ListenAddrs(), "sluice.process"), 100)
}

// TestClientThatHasToWait asks that a client which has a reason to send nothing is left
// alone: another one would wait like it, and cost connections.
func TestClientThatHasToWait(t *testing.T) {
	t.Parallel()
	for name, hinder := range map[string]func(*kfake.Cluster) (lift func()){
		"a partition without a leader": func(c *kfake.Cluster) func() {
			return c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: "sluice.process", Err: kerr.LeaderNotAvailable, Count: -1}).Remove
		},
		"a topic that is not there yet": func(c *kfake.Cluster) func() {
			return c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Metadata}, Topic: "sluice.process", Err: kerr.UnknownTopicOrPartition, Count: -1}).Remove
		},
		"a broker that wants a pause": func(c *kfake.Cluster) func() {
			c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
				return pauseFor(r.(*kmsg.ProduceRequest), 7*time.Second), nil, true
			})
			return func() {}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := cluster(t, kfake.SeedTopics(1, "sluice.process"))
			lift := hinder(c)
			log := newMemLog()
			log.put(messages("process", 0, 100, 7)...)
			k := startWith(t, Config{Brokers: c.ListenAddrs(), Reader: log}, func(k *Kafka) { k.idleAfter = 3 * time.Second })
			waitFor(t, "records in the client", func() bool { return k.Stats().InFlight == 100 })
			made := k.renewed()
			waitFor(t, "a standstill", func() bool { return k.window.progress().stalled > 6*time.Second })
			if k.renewed() != made {
				t.Error("another client was made")
			}
			lift()
			log.waitCursor(t, "process", 100)
			checkComplete(t, consume(t, c.ListenAddrs(), "sluice.process"), 100)
		})
	}
}

// pauseFor answers a produce for one partition: nothing was taken, and nothing more is wanted for d.
func pauseFor(r *kmsg.ProduceRequest, d time.Duration) kmsg.Response {
	resp := r.ResponseKind().(*kmsg.ProduceResponse)
	resp.ThrottleMillis = int32(d.Milliseconds())
	p := kmsg.NewProduceResponseTopicPartition()
	p.Partition, p.ErrorCode = r.Topics[0].Partitions[0].Partition, kerr.NotEnoughReplicas.Code
	topic := kmsg.NewProduceResponseTopic()
	topic.Topic, topic.TopicID, topic.Partitions = r.Topics[0].Topic, r.Topics[0].TopicID, []kmsg.ProduceResponseTopicPartition{p}
	resp.Topics = append(resp.Topics, topic)
	return resp
}
