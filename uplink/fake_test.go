package uplink

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/buffer"
	"sluice/drivers"
)

var _ Log = (*buffer.Reader)(nil)

const incarnation = "0badcafe"

// patience ends a test that hangs; nothing is measured by it.
const patience = 30 * time.Second

// memLog is a log in memory.
type memLog struct {
	incarnation string
	mu          sync.Mutex
	batches     []buffer.Batch
	next        int
	part        int // events of the next batch that were returned
	last        map[string]uint64
	acked       map[string]uint64
	rejected    map[string][]uint64
	changed     chan struct{}
	from        map[string]uint64 // Next leaves out what is up to here
	only        []string          // Next leaves out what is not of these; nil: nothing
	broken      error             // returned by Next once everything was read
}

func newMemLog() *memLog {
	return &memLog{
		incarnation: incarnation, last: map[string]uint64{}, acked: map[string]uint64{},
		rejected: map[string][]uint64{}, changed: make(chan struct{}),
	}
}

// put appends events to their class as one batch.
func (l *memLog) put(events ...drivers.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	class := events[0].Class
	l.batches = append(l.batches, buffer.Batch{
		Class: class, Incarnation: l.incarnation, First: l.last[class] + 1, Events: events,
	})
	l.last[class] += uint64(len(events))
	l.stir()
}

func (l *memLog) stir() {
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *memLog) NextUpTo(ctx context.Context, events int, _ int64) (buffer.Batch, error) {
	for {
		l.mu.Lock()
		if l.next < len(l.batches) {
			b := l.batches[l.next]
			b.First, b.Events = b.First+uint64(l.part), b.Events[l.part:]
			n := min(events, len(b.Events))
			if l.part += n; n == len(b.Events) {
				l.next, l.part = l.next+1, 0
			}
			b.Events = b.Events[:n]
			from, passed := l.from[b.Class], l.only != nil && !slices.Contains(l.only, b.Class)
			l.mu.Unlock()
			if passed || from >= b.Last() {
				continue
			}
			if from >= b.First {
				b.First, b.Events = from+1, b.Events[from+1-b.First:]
			}
			return b, nil
		}
		changed, broken := l.changed, l.broken
		l.mu.Unlock()
		if broken != nil {
			return buffer.Batch{}, broken
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return buffer.Batch{}, ctx.Err()
		}
	}
}

func (l *memLog) AckRun(class string, _ uint32, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked[class] = max(l.acked[class], seq)
	l.stir()
}

func (l *memLog) Reject(_ context.Context, class string, seq uint64, _ string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rejected[class] = append(l.rejected[class], seq)
	return nil
}

func (l *memLog) Rewind(classes []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next, l.part, l.from, l.only = 0, 0, maps.Clone(l.acked), classes
}

func (l *memLog) Incarnation() string { return l.incarnation }

func (l *memLog) cursor(class string) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked[class]
}

func (l *memLog) rejects(class string) []uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]uint64(nil), l.rejected[class]...)
}

// waitCursor waits until the class's cursor stands at seq.
func (l *memLog) waitCursor(t *testing.T, class string, seq uint64) {
	t.Helper()
	waitFor(t, fmt.Sprintf("cursor of %s at %d", class, seq), func() bool { return l.cursor(class) == seq })
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("gave up waiting: %s", what)
		}
	}
}

// message is an MQTT event.
func message(class, topic, payload string) drivers.Event {
	return drivers.Event{
		Class: class, Source: "line", Subject: topic, Type: drivers.TypeMQTTMessage,
		ContentType: drivers.ContentBinary, Time: time.Now(), Payload: []byte(payload),
	}
}

// messages are n events over some keys, with their numbers from first on as
// payloads.
func messages(class string, first, n, keys int) []drivers.Event {
	events := make([]drivers.Event, n)
	for i := range events {
		events[i] = message(class, fmt.Sprintf("key/%d", (first+i)%keys), fmt.Sprint(first+i))
	}
	return events
}

// fixedTLS are settings that do not change.
func fixedTLS(c *tls.Config) func() (*tls.Config, error) {
	return func() (*tls.Config, error) { return c, nil }
}

// cluster starts a Kafka on a free port and stops it with the test.
func cluster(t testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// running is an uplink that runs.
type running struct {
	*Kafka
	cancel context.CancelFunc
	done   chan error
}

// start runs an uplink and stops it with the test.
func start(t testing.TB, cfg Config) *running {
	t.Helper()
	return startWith(t, cfg, func(*Kafka) {})
}

// startWith has edit change the uplink before it runs.
func startWith(t testing.TB, cfg Config, edit func(*Kafka)) *running {
	t.Helper()
	if cfg.Name == "" {
		cfg.Name = "central"
	}
	if cfg.Agent == "" {
		cfg.Agent = "gw-17"
	}
	k, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	edit(k)
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Kafka: k, cancel: cancel, done: make(chan error, 1)}
	go func() { r.done <- k.Run(ctx) }()
	t.Cleanup(func() { r.stop(t) })
	return r
}

// stop ends the uplink and waits for it.
func (r *running) stop(t testing.TB) {
	t.Helper()
	if r.cancel == nil {
		return
	}
	r.cancel()
	r.cancel = nil
	select {
	case err := <-r.done:
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("Run did not return")
	}
}

// consume reads everything that the topics hold now, by partition in order.
func consume(t *testing.T, brokers []string, topics ...string) []*kgo.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topics...),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, topics...)
	if err != nil {
		t.Fatal(err)
	}
	want := int64(0)
	ends.Each(func(o kadm.ListedOffset) { want += o.Offset })
	var records []*kgo.Record
	for int64(len(records)) < want {
		f := cl.PollFetches(ctx)
		if err := f.Err(); err != nil {
			t.Fatalf("consume, %d of %d: %v", len(records), want, err)
		}
		records = append(records, f.Records()...)
	}
	return records
}

func header(r *kgo.Record, key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

// seqOf returns the sequence number in a record's id.
func seqOf(t *testing.T, r *kgo.Record) uint64 {
	t.Helper()
	var seq uint64
	id := header(r, headerID)
	if _, err := fmt.Sscan(id[strings.LastIndexByte(id, '/')+1:], &seq); err != nil {
		t.Fatalf("id %q: %v", id, err)
	}
	return seq
}

// checkComplete fails unless the records are exactly the sequence numbers 1 to n
// but the missing ones, each once and rising for each key.
func checkComplete(t *testing.T, records []*kgo.Record, n uint64, missing ...uint64) {
	t.Helper()
	seen := map[uint64]int{}
	last := map[string]uint64{}
	for _, r := range records {
		seq := seqOf(t, r)
		seen[seq]++
		if k := string(r.Key); seq <= last[k] {
			t.Fatalf("key %s: seq %d comes after %d", k, seq, last[k])
		}
		last[string(r.Key)] = seq
	}
	for _, seq := range missing {
		if seen[seq] != 0 {
			t.Errorf("seq %d is there", seq)
		}
		seen[seq]++
	}
	for seq := uint64(1); seq <= n; seq++ {
		if seen[seq] != 1 {
			t.Errorf("seq %d is there %d times", seq, seen[seq])
		}
	}
	if uint64(len(seen)) != n {
		t.Errorf("%d different sequence numbers, want %d", len(seen), n)
	}
}

func portOf(t *testing.T, addr string) int {
	t.Helper()
	_, digits, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(digits)
	if err != nil {
		t.Fatal(err)
	}
	return port
}
