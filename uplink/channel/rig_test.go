package channel

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// patience ends a test that hangs; nothing is measured by it.
const patience = 40 * time.Second

const (
	configs  = "sluice.config"
	commands = "sluice.command"
	statuses = "sluice.status"
)

// rig is a cluster with the three topics, and an operator's client.
type rig struct {
	*testing.T
	cluster *kfake.Cluster
	client  *kgo.Client
	admin   *kadm.Client
}

func newRig(t *testing.T, brokers int, opts ...kfake.Opt) *rig {
	t.Helper()
	cluster, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(brokers)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchMaxBytes(16<<20), kgo.MetadataMinAge(20*time.Millisecond), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return &rig{t, cluster, client, kadm.NewClient(client)}
}

// topic makes a topic; policy is its cleanup.policy.
func (r *rig) topic(name string, partitions int32, policy string) {
	r.Helper()
	largest := "20000000"
	resp, err := r.admin.CreateTopic(r.Context(), partitions, 1, map[string]*string{"cleanup.policy": &policy, "max.message.bytes": &largest}, name)
	if err != nil || resp.Err != nil {
		r.Fatal(err, resp.Err)
	}
}

func (r *rig) topics(partitions int32) {
	r.topic(configs, partitions, "compact")
	r.topic(commands, 1, "delete")
	r.topic(statuses, 1, "compact")
}

// put writes records, in order.
func (r *rig) put(records ...*kgo.Record) {
	r.Helper()
	for _, rec := range records {
		if err := r.client.ProduceSync(r.Context(), rec).FirstErr(); err != nil {
			r.Fatal(err)
		}
	}
}

func rec(topic, key string, value []byte) *kgo.Record {
	return &kgo.Record{Topic: topic, Key: []byte(key), Value: value}
}

// seen is what a handler was called with, in order.
type seen struct {
	mu     sync.Mutex
	lines  []string
	states []TopicState
	news   chan struct{}
}

func newSeen() *seen { return &seen{news: make(chan struct{}, 1)} }

func (s *seen) add(line string, state *TopicState) {
	s.mu.Lock()
	s.lines = append(s.lines, line)
	if state != nil {
		s.states = append(s.states, *state)
	}
	s.mu.Unlock()
	select {
	case s.news <- struct{}{}:
	default:
	}
}

func describe(r Record) string {
	switch {
	case r.Oversized:
		return r.Key + " oversized"
	case r.Value == nil:
		return r.Key + " deleted"
	case len(r.Value) > 20:
		return fmt.Sprintf("%s %d bytes", r.Key, len(r.Value))
	}
	return r.Key + " " + string(r.Value)
}

func (s *seen) Config(_ context.Context, r Record)  { s.add("config "+describe(r), nil) }
func (s *seen) Command(_ context.Context, r Record) { s.add("command "+describe(r), nil) }
func (s *seen) CaughtUp(_ context.Context, t TopicState) {
	if t.Unreachable != "" {
		s.add("unreachable", &t)
		return
	}
	s.add("caught up", &t)
}

// until waits until a line is there n times and returns all lines.
func (s *seen) until(t *testing.T, line string, n int) []string {
	t.Helper()
	end := time.After(patience)
	for {
		s.mu.Lock()
		lines := slices.Clone(s.lines)
		s.mu.Unlock()
		count := 0
		for _, l := range lines {
			if l == line {
				count++
			}
		}
		if count >= n {
			return lines
		}
		select {
		case <-s.news:
		case <-end:
			t.Fatalf("no %q (%d times) in %q", line, n, lines)
		}
	}
}

// state is the last one that CaughtUp got.
func (s *seen) state() TopicState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.states[len(s.states)-1]
}

// start runs a channel on the cluster until the test ends.
func (r *rig) start(h Handler, wanted func(string) bool, change ...func(*Config)) *Channel {
	r.Helper()
	if wanted == nil {
		wanted = func(string) bool { return true }
	}
	cfg := Config{Client: []kgo.Opt{kgo.SeedBrokers(r.cluster.ListenAddrs()...), kgo.ClientID("channel")},
		ConfigTopic: configs, CommandTopic: commands, StatusTopic: statuses, Wanted: wanted}
	for _, f := range change {
		f(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		r.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = c.Run(ctx, h) }()
	r.Cleanup(func() {
		stop()
		select {
		case <-ended:
		case <-time.After(patience):
			r.Error("Run does not end")
		}
	})
	return c
}
