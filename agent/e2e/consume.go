//go:build e2e

package e2e

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// consumer reads a topic from its start over the listener that is never cut.
type consumer struct {
	kafka  *kafka
	topic  string
	client *kgo.Client
	read   int // records so far
}

func newConsumer(t testing.TB, k *kafka, topic string) *consumer {
	t.Helper()
	return &consumer{kafka: k, topic: topic, client: k.client(t, kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(200*time.Millisecond))}
}

// until hands records to take until enough returns true, and tells whether it
// did within the time. enough is asked between polls.
func (c *consumer) until(t testing.TB, within time.Duration, take func(*kgo.Record), enough func() bool) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	for !enough() {
		c.poll(t, ctx, take)
		if ctx.Err() != nil {
			return enough()
		}
	}
	return true
}

// poll waits a short while for records, so that enough is asked again also
// when none come.
func (c *consumer) poll(t testing.TB, ctx context.Context, take func(*kgo.Record)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	fetches := c.client.PollFetches(ctx)
	for _, e := range fetches.Errors() {
		if !errors.Is(e.Err, context.DeadlineExceeded) && !errors.Is(e.Err, context.Canceled) {
			t.Fatalf("read %s: %v", c.topic, e.Err)
		}
	}
	fetches.EachRecord(func(r *kgo.Record) {
		c.read++
		take(r)
	})
}

// rest reads all that is in the topic now.
func (c *consumer) rest(t testing.TB, take func(*kgo.Record)) {
	t.Helper()
	end := c.kafka.count(t, c.topic)
	if !c.until(t, patience, take, func() bool { return c.read >= end }) {
		t.Fatalf("read %s: %d of %d records after %s", c.topic, c.read, end, patience)
	}
}
