package channel

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"sluice/uplink"
)

// road is a Via over a client of its own, which can be made to fail.
type road struct {
	client *kgo.Client

	mu    sync.Mutex
	fail  error
	code  *kerr.Error
	asked int
	sent  int
}

func (w *road) request(ctx context.Context, broker int32, req kmsg.Request) (kmsg.Response, error) {
	w.mu.Lock()
	fail, code := w.fail, w.code
	w.asked++
	w.mu.Unlock()
	if fail != nil {
		return nil, fail
	}
	if err := w.client.Ping(ctx); err != nil { // it knows the brokers
		return nil, err
	}
	resp, err := w.client.Broker(int(broker)).Request(ctx, req)
	if r, ok := resp.(*kmsg.ProduceResponse); ok && code != nil {
		r.Topics[0].Partitions[0].ErrorCode = code.Code
	}
	w.mu.Lock()
	w.sent++
	w.mu.Unlock()
	return resp, err
}

func (w *road) set(fail error, code *kerr.Error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail, w.code, w.asked, w.sent = fail, code, 0, 0
}

func (w *road) counts() (asked, sent int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked, w.sent
}

// startVia runs a channel that has caught up and may write by way of a client of an uplink.
func (r *rig) startVia() (*road, *Channel) {
	r.Helper()
	other, err := kgo.NewClient(kgo.SeedBrokers(r.cluster.ListenAddrs()...))
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(other.Close)
	w, h := &road{client: other}, newSeen()
	c := r.start(h, nil, func(cfg *Config) { cfg.Via = w.request })
	h.until(r.T, "caught up", 1)
	return w, c
}

// The first status goes by the own client, which learns where; the others go by way of
// the uplink, into the same partition, and are read as any. What the uplink cannot do
// the own client does.
func TestStatusesGoByWayOfTheUplink(t *testing.T) {
	r := newRig(t, 3)
	r.topic(configs, 1, "compact")
	r.topic(commands, 1, "delete")
	r.topic(statuses, 7, "compact")
	w, c := r.startVia()
	number := 0
	publish := func() {
		t.Helper()
		number++
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := c.Publish(ctx, "gw", fmt.Appendf(nil, `{"number":%d,"text":"again and again and again and again"}`, number)); err != nil {
			t.Fatal(err)
		}
	}
	for _, x := range []struct {
		what string
		fail error
		code *kerr.Error
		sent int
	}{
		{"first", nil, nil, 0},
		{"known", nil, nil, 1},
		{"known again", nil, nil, 1},
		{"no client", uplink.ErrNoClient, nil, 0},
		{"client again", nil, nil, 1},
		{"moved", nil, kerr.NotLeaderForPartition, 1}, // and once more by the own client
		{"forbidden there", nil, kerr.TopicAuthorizationFailed, 1},
		{"at last", nil, nil, 1},
	} {
		w.set(x.fail, x.code)
		publish()
		if _, sent := w.counts(); sent != x.sent {
			t.Errorf("%s: %d times by way of the uplink (not %d)", x.what, sent, x.sent)
		}
	}
	w.set(errors.New("broken"), nil)
	publish() // the way is given up after some attempts
	if asked, _ := w.counts(); asked != triesVia {
		t.Errorf("%d attempts by a way that is broken", asked)
	}

	consumer, err := kgo.NewClient(kgo.SeedBrokers(r.cluster.ListenAddrs()...), kgo.ConsumeTopics(statuses))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(consumer.Close)
	got, partitions := map[string]int{}, map[int32]bool{}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for len(got) < number && ctx.Err() == nil {
		consumer.PollFetches(ctx).EachRecord(func(rec *kgo.Record) {
			got[string(rec.Key)+" "+string(rec.Value)]++
			partitions[rec.Partition] = true
			if age := time.Since(rec.Timestamp); age < 0 || age > time.Minute {
				t.Errorf("a record of %v", rec.Timestamp)
			}
		})
	}
	if len(got) != number || len(partitions) != 1 {
		t.Errorf("%d of %d records in %d partitions: %v", len(got), number, len(partitions), got)
	}
}

// While the uplink's connection is not due a status waits for it, and a newer one takes
// its place; the own client makes no connection for it.
func TestAStatusWaitsForTheUplinksTurn(t *testing.T) {
	r := newRig(t, 1)
	r.topics(1)
	w, c := r.startVia()
	if err := c.Publish(t.Context(), "gw", []byte("one")); err != nil {
		t.Fatal(err)
	}
	w.set(fmt.Errorf("unable to dial: %w", uplink.ErrAway), nil)
	old := make(chan error, 1)
	go func() { old <- c.Publish(t.Context(), "gw", []byte("two")) }()
	for asked := 0; asked < 2; asked, _ = w.counts() {
		time.Sleep(10 * time.Millisecond)
	}
	newest := make(chan error, 1)
	go func() { newest <- c.Publish(t.Context(), "gw", []byte("three")) }()
	select {
	case err := <-old:
		if !errors.Is(err, ErrReplaced) {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("the old one is not replaced")
	}
	w.set(nil, nil)
	if err := <-newest; err != nil {
		t.Error(err)
	}
	if _, sent := w.counts(); sent != 1 {
		t.Errorf("%d times by way of the uplink", sent)
	}
}
