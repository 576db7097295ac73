package channel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestNewSaysWhatIsMissing(t *testing.T) {
	_, err := New(Config{ConfigTopic: "a", CommandTopic: "a"})
	for _, want := range []string{"status topic is empty", "both \"a\"", "Wanted is missing"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: no %q", err, want)
		}
	}
}

// Everything wanted of all partitions, those of each in order, then the end; then
// what comes later. Nothing else is handed over.
func TestReadsFromTheStartToTheEndAndOn(t *testing.T) {
	r := newRig(t, 3)
	r.topics(3)
	at := func(p int32, rec *kgo.Record) *kgo.Record { rec.Partition = p; return rec }
	r.put(at(0, rec(configs, "all", []byte("1"))), at(0, rec(configs, "other", []byte("x"))), at(0, rec(configs, "all", []byte("2"))),
		at(1, rec(configs, "agent:gw", []byte("3"))), at(1, rec(configs, "all", nil)), at(2, rec(configs, "trust:1", []byte{})),
		at(0, &kgo.Record{Topic: commands, Value: []byte("without a key")}), rec(commands, "all", []byte("do")))
	s := newSeen()
	r.start(s, func(key string) bool { return key != "other" })
	s.until(t, "command all do", 1)
	lines := s.until(t, "caught up", 1)
	order := func(want ...string) {
		t.Helper()
		last := -1
		for _, w := range want {
			i := slices.Index(lines, w)
			if i <= last {
				t.Errorf("%q is not there, or not in order: %q", w, lines)
			}
			last = i
		}
	}
	order("config all 1", "config all 2", "caught up")
	order("config agent:gw 3", "config all deleted", "caught up")
	order("config trust:1 ", "caught up")
	if i := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, "other") || strings.Contains(l, "without") }); i >= 0 {
		t.Errorf("handed over: %q", lines[i])
	}
	if st := s.state(); st.Policy != "compact" || st.ID == "" || st.Emptied || st.Recreated {
		t.Errorf("state %+v", st)
	}
	r.put(at(2, rec(configs, "all", []byte("4"))), rec(commands, "agent:gw", []byte("now")))
	s.until(t, "command agent:gw now", 1)
	lines = s.until(t, "caught up", 2)
	order("config all 4")
}

// What somebody puts into the topics neither stops the reading nor is kept.
func TestRubbishIsSkipped(t *testing.T) {
	r := newRig(t, 1)
	r.topics(1)
	junk := func(n int) []byte { return bytes.Repeat([]byte("junk"), n/4) }
	r.put(rec(configs, "all", []byte("1")), rec(configs, "all", junk(MaxValue+4)), rec(configs, "all", junk(MaxValue)),
		rec(configs, "all", junk(10<<20)), rec(configs, "all", []byte("2")), rec(configs, strings.Repeat("k", 2000), []byte("long key")))
	bomb, err := kgo.NewClient(kgo.SeedBrokers(r.cluster.ListenAddrs()...), kgo.ProducerBatchCompression(kgo.ZstdCompression()), kgo.ProducerBatchMaxBytes(16<<20))
	if err != nil {
		t.Fatal(err)
	}
	defer bomb.Close()
	if err := bomb.ProduceSync(t.Context(), rec(configs, "all", junk(12<<20))).FirstErr(); err != nil {
		t.Fatal(err)
	}
	// Many records in one batch that is too large: the first behind it is found.
	many := []*kgo.Record{}
	for i := range 30 {
		many = append(many, rec(configs, fmt.Sprint(i), junk(100<<10)))
	}
	if err := r.client.ProduceSync(t.Context(), many...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	tx, err := kgo.NewClient(kgo.SeedBrokers(r.cluster.ListenAddrs()...), kgo.TransactionalID("t"))
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	if err := errors.Join(tx.BeginTransaction(), tx.ProduceSync(t.Context(), rec(configs, "all", []byte("3"))).FirstErr(), tx.EndTransaction(t.Context(), kgo.TryCommit)); err != nil {
		t.Fatal(err)
	}
	s := newSeen()
	r.start(s, func(key string) bool { return len(key) < 2000 })
	lines := s.until(t, "caught up", 1)
	for i, want := range []string{"config all 1", "config all oversized", fmt.Sprintf("config all %d bytes", MaxValue), "config  oversized", "config all 2", "config  oversized"} {
		if i >= len(lines) || lines[i] != want {
			t.Fatalf("line %d: want %q in %q", i, want, lines)
		}
	}
	if !slices.Contains(lines, "config all 3") {
		t.Errorf("what follows is missing: %q", lines)
	}
}

func TestATopicThatIsMissingIsSaidAndFoundLater(t *testing.T) {
	r := newRig(t, 1)
	r.topic(commands, 1, "delete")
	r.put(rec(commands, "all", []byte("do")))
	s := newSeen()
	r.start(s, nil)
	s.until(t, "unreachable", 1)
	s.until(t, "command all do", 1)
	if st := s.state(); !strings.Contains(st.Unreachable, "topic sluice.config is not there") {
		t.Errorf("state %+v", st)
	}
	r.topic(configs, 1, "delete")
	r.put(rec(configs, "all", []byte("1")))
	s.until(t, "config all 1", 1)
	s.until(t, "caught up", 1)
	if st := s.state(); st.Policy != "delete" || st.Unreachable != "" {
		t.Errorf("state %+v", st)
	}
}

// A topic that is made anew answers each fetch with an error until metadata are
// asked for: that must not become a loop, and nothing of the new topic is missed.
func TestATopicThatIsMadeAnewIsReadFromItsStart(t *testing.T) {
	r := newRig(t, 1)
	r.topics(1)
	for i := range 5 {
		r.put(rec(configs, "all", fmt.Append(nil, i)))
	}
	s := newSeen()
	r.start(s, nil)
	s.until(t, "caught up", 1)
	before := s.state()
	var fetches atomic.Int64
	r.cluster.ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) {
		r.cluster.KeepControl()
		fetches.Add(1)
		return nil, nil, false
	})
	if _, err := r.admin.DeleteTopics(t.Context(), configs); err != nil {
		t.Fatal(err)
	}
	r.topic(configs, 1, "compact")
	producer, err := kgo.NewClient(kgo.SeedBrokers(r.cluster.ListenAddrs()...)) // the old one holds to the old topic
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	for i := range 9 {
		if err := producer.ProduceSync(t.Context(), rec(configs, "all", fmt.Append(nil, 10+i))).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	s.until(t, "config all 18", 1)
	s.until(t, "caught up", 2)
	for i := range 9 {
		s.until(t, fmt.Sprintf("config all %d", 10+i), 1)
	}
	if st := s.state(); !st.Recreated || st.ID == before.ID {
		t.Errorf("before %+v, now %+v", before, st)
	}
	if n := fetches.Load(); n > 60 {
		t.Errorf("%d fetches for a topic that was made anew", n)
	}
}

// Records that were deleted, by a retention time or by hand, are no compaction.
func TestAnEmptiedTopicIsSaid(t *testing.T) {
	for name, running := range map[string]bool{"before the start": false, "while it runs": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 1)
			r.topics(1)
			r.put(rec(configs, "all", []byte("1")), rec(configs, "all", []byte("2")))
			s := newSeen()
			if running {
				r.start(s, nil)
				s.until(t, "caught up", 1)
			}
			offsets := kadm.Offsets{}
			offsets.Add(kadm.Offset{Topic: configs, At: 2})
			if resp, err := r.admin.DeleteRecords(t.Context(), offsets); err != nil || resp.Error() != nil {
				t.Fatal(err, resp.Error())
			}
			if !running {
				r.start(s, nil)
				s.until(t, "caught up", 1)
			}
			r.put(rec(configs, "all", []byte("3")))
			s.until(t, "config all 3", 1)
			for end := time.Now().Add(patience); !s.state().Emptied; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("state %+v", s.state())
				}
			}
		})
	}
}

// The newest value of a key waits, the others are given up; what is given up by
// its caller is not sent.
func TestPublishKeepsTheNewest(t *testing.T) {
	r := newRig(t, 1)
	r.topics(1)
	var hold atomic.Bool
	hold.Store(true)
	block := make(chan struct{})
	r.cluster.ControlKey(int16(kmsg.Metadata), func(kmsg.Request) (kmsg.Response, error, bool) {
		r.cluster.KeepControl()
		if hold.Load() {
			r.cluster.SleepControl(func() { <-block })
		}
		return nil, nil, false
	})
	c := r.start(newSeen(), nil)
	results := make(chan error, 3)
	waits := func(value string) bool {
		c.box.mu.Lock()
		defer c.box.mu.Unlock()
		return slices.ContainsFunc(c.box.waiting, func(l *letter) bool { return string(l.value) == value })
	}
	for i := range 3 {
		go func() { results <- c.Publish(t.Context(), "gw", fmt.Append(nil, i)) }()
		for end := time.Now().Add(patience); !waits(fmt.Sprint(i)); time.Sleep(time.Millisecond) { // in this order
			if time.Now().After(end) {
				t.Fatalf("value %d does not wait", i)
			}
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Publish(gone, "other", []byte("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("publish with an ended context: %v", err)
	}
	for range 2 {
		if err := <-results; !errors.Is(err, ErrReplaced) {
			t.Errorf("an older value: %v", err)
		}
	}
	hold.Store(false)
	close(block)
	if err := <-results; err != nil {
		t.Fatal(err)
	}
	r.client.AddConsumePartitions(map[string]map[int32]kgo.Offset{statuses: {0: kgo.NewOffset().AtStart()}})
	fetches := r.client.PollFetches(t.Context())
	var got []string
	fetches.EachRecord(func(rec *kgo.Record) { got = append(got, string(rec.Key)+" "+string(rec.Value)) })
	if fmt.Sprint(got) != "[gw 2]" {
		t.Errorf("in the topic: %q", got)
	}
	if err := c.Publish(t.Context(), "gw", make([]byte, MaxValue+1)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("too large: %v", err)
	}
}

// TestPublishMakesTheTopic has no status topic. It is made, compacted; an agent that may
// not make it says so.
func TestPublishMakesTheTopic(t *testing.T) {
	for _, tt := range []struct {
		name string
		code *kerr.Error
		says string // empty: it is made
	}{
		{"made", nil, ""},
		{"another one was faster", kerr.TopicAlreadyExists, ""},
		{"not allowed", kerr.TopicAuthorizationFailed, "sluice.status is not there (sluice config push --create makes it)"},
		{"refused", kerr.PolicyViolation, "it could not be made"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, 1)
			r.topic(configs, 1, "compact")
			r.topic(commands, 1, "delete")
			if tt.code != nil {
				asked := make(chan struct{})
				r.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.CreateTopics}, Topic: statuses, Err: tt.code, When: func(kmsg.Request) bool { close(asked); return true }})
				if tt.says == "" {
					go func() {
						<-asked
						r.topic(statuses, 1, "compact")
					}()
				}
			}
			c := r.start(newSeen(), nil)
			err := c.Publish(t.Context(), "gw", []byte("x"))
			if tt.says != "" {
				if err == nil || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := r.admin.DescribeTopicConfigs(t.Context(), statuses)
			if err != nil || len(got) != 1 {
				t.Fatal(got, err)
			}
			policy := ""
			for _, c := range got[0].Configs {
				if c.Key == "cleanup.policy" {
					policy = c.MaybeValue()
				}
			}
			if policy != "compact" {
				t.Errorf("cleanup.policy=%q", policy)
			}
		})
	}
}
