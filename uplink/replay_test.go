package uplink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/buffer"
)

// again returns a source of batches for Replay.
func again(batches ...buffer.Batch) func(context.Context) (buffer.Batch, error) {
	return func(context.Context) (buffer.Batch, error) {
		if len(batches) == 0 {
			return buffer.Batch{}, io.EOF
		}
		b := batches[0]
		batches = batches[1:]
		return b, nil
	}
}

func replays(records []*kgo.Record) (marked int) {
	for _, r := range records {
		if last := r.Headers[len(r.Headers)-1]; last.Key == headerReplay && string(last.Value) == "r-1" {
			marked++
		}
	}
	return marked
}

func TestReplayKeepsIDsKeysAndOrder(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(3, "sluice.process", "again.process"))
	log := newMemLog()
	k := start(t, Config{Brokers: c.ListenAddrs(), Reader: log, WindowBytes: 1 << 16})
	events := messages("process", 0, 3000, 7)
	events[77].Payload = noise(1_500_000) // too large
	log.put(messages("process", 0, 10, 7)...)
	log.waitCursor(t, "process", 10)
	var steps int
	got, err := k.Replay(t.Context(), Replay{ID: "r-1", Topic: "again.{class}", Progress: func(Replayed) { steps++ },
		Next: again(buffer.Batch{Class: "process", Incarnation: incarnation, First: 1, Events: events[:2000]},
			buffer.Batch{Class: "process", Incarnation: incarnation, First: 2001, Events: events[2000:]})})
	if err != nil || got.Sent != 2999 || got.Refused != 1 || !got.At.Equal(events[2999].Time) || steps < 2 {
		t.Errorf("%+v after %d steps, %v", got, steps, err)
	}
	records := consume(t, c.ListenAddrs(), "again.process")
	checkComplete(t, records, 3000, 78)
	if n := replays(records); n != 2999 {
		t.Errorf("%d carry the replay's id", n)
	}
	if records = consume(t, c.ListenAddrs(), "sluice.process"); len(records) != 10 || replays(records) != 0 {
		t.Errorf("%d records in the live topic", len(records))
	}
}

func TestReplayEnds(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.EnableSASL(), kfake.EnableACLs(), kfake.User("PLAIN", "gw", "pw"),
		kfake.Superuser("PLAIN", "root", "pw"), kfake.SeedTopics(1, "sluice.process"))
	k := start(t, Config{Brokers: c.ListenAddrs(), Reader: newMemLog(), SASL: SASL{Mechanism: "plain", Username: "gw",
		Password: func() (string, error) { return "pw", nil }}})
	batch := buffer.Batch{Class: "process", Incarnation: incarnation, First: 1, Events: messages("process", 0, 10, 2)}
	got, err := k.Replay(t.Context(), Replay{ID: "r-1", Next: again(batch)})
	if err == nil || !strings.Contains(err.Error(), "no permission to write") || got.Sent != 0 || !got.At.IsZero() {
		t.Errorf("%+v %v", got, err)
	}
	for _, topic := range []string{"{nonsense}", "a b", "plant/{class}", "..", "ü", strings.Repeat("x", 250)} {
		if _, err = k.Replay(t.Context(), Replay{ID: "r-1", Topic: topic, Next: again(batch)}); err == nil || !strings.Contains(err.Error(), `topic "`) {
			t.Errorf("%.20q was taken: %v", topic, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = k.Replay(ctx, Replay{ID: "r-1", Next: again(batch)}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	broken := errors.New("the log is closed")
	allow(t, c, "gw", "sluice.process")
	first := true
	got, err = k.Replay(t.Context(), Replay{ID: "r-1", Next: func(context.Context) (buffer.Batch, error) {
		if first {
			first = false
			return batch, nil
		}
		return buffer.Batch{}, broken
	}})
	if !errors.Is(err, broken) {
		t.Errorf("%+v %v", got, err)
	}
	if bytes.Contains(fmt.Append(nil, err), []byte("pw")) {
		t.Error("a secret")
	}
}
