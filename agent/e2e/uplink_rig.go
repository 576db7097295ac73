//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// committedConsumer reads what a read_committed consumer sees of a topic, from
// its start, over the listener that is never cut. It needs nothing but records
// of transactions in the topic.
type committedConsumer struct {
	kafka  *kafka
	topic  string
	client *kgo.Client
	next   map[int32]int64  // by partition: the offset after the last one seen, markers included
	last   map[int32]uint64 // by partition: the last sequence number
	take   func(*kgo.Record)
	faults []string
}

func newCommittedConsumer(t testing.TB, k *kafka, topic string, take func(*kgo.Record)) *committedConsumer {
	t.Helper()
	return &committedConsumer{kafka: k, topic: topic, take: take, next: map[int32]int64{}, last: map[int32]uint64{},
		client: k.client(t, kgo.ConsumeTopics(topic), kgo.KeepControlRecords(), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond))}
}

// until reads until enough, which is asked between polls, and tells whether it was
// so in time.
func (c *committedConsumer) until(t testing.TB, within time.Duration, enough func() bool) bool {
	t.Helper()
	for end := time.Now().Add(within); !enough(); {
		if time.Now().After(end) {
			return false
		}
		c.poll(t)
	}
	return true
}

// poll waits a short while for records.
func (c *committedConsumer) poll(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	fetches := c.client.PollFetches(ctx)
	fetches.EachRecord(func(r *kgo.Record) {
		c.next[r.Partition] = r.Offset + 1
		if r.Attrs.IsControl() {
			return
		}
		c.order(r)
		c.take(r)
	})
}

// order notes records of a partition whose numbers do not rise.
func (c *committedConsumer) order(r *kgo.Record) {
	e, err := readEnvelope(r)
	if err != nil {
		return // the ledger says so
	}
	if e.seq <= c.last[r.Partition] {
		c.faults = append(c.faults, fmt.Sprintf("partition %d offset %d: %d after %d", r.Partition, r.Offset, e.seq, c.last[r.Partition]))
	}
	c.last[r.Partition] = e.seq
}

// rest reads all that is committed now.
func (c *committedConsumer) rest(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ends, err := c.kafka.admin.ListCommittedOffsets(ctx, c.topic)
	if err != nil {
		t.Fatalf("end of %s: %v", c.topic, err)
	}
	behind := func() (left int64) {
		ends.Each(func(o kadm.ListedOffset) { left += max(0, o.Offset-c.next[o.Partition]) })
		return left
	}
	if !c.until(t, patience, func() bool { return behind() == 0 }) {
		t.Fatalf("read %s: %d offsets are left after %s", c.topic, behind(), patience)
	}
}

// trim deletes what the consumer has read from the topic, as retention would.
func (c *committedConsumer) trim(t testing.TB) {
	t.Helper()
	offsets := kadm.Offsets{}
	for p, next := range c.next {
		offsets.AddOffset(c.topic, p, next, -1)
	}
	if _, err := c.kafka.admin.DeleteRecords(t.Context(), offsets); err != nil {
		t.Errorf("delete records: %v", err)
	}
}

// exactConfig is mqttConfig with delivery exactly_once.
func exactConfig(dataDir, http, mqttURL, broker, topic string) string {
	return strings.Replace(mqttConfig(dataDir, http, mqttURL, broker, topic), "topic: ", "delivery: exactly_once, topic: ", 1)
}
