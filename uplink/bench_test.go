package uplink

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/buffer"
	"sluice/drivers"
)

const benchBatch = 512

// benchLog gives the same batch again and again, n events in all.
type benchLog struct {
	events []drivers.Event
	n, at  uint64
	done   chan struct{}
}

func (l *benchLog) NextUpTo(ctx context.Context, events int, _ int64) (buffer.Batch, error) {
	if l.at >= l.n {
		<-ctx.Done()
		return buffer.Batch{}, ctx.Err()
	}
	b := buffer.Batch{Class: "process", Incarnation: incarnation, First: l.at + 1,
		Events: l.events[:min(uint64(min(events, len(l.events))), l.n-l.at)]}
	l.at += uint64(len(b.Events))
	return b, nil
}

func (l *benchLog) AckRun(_ string, _ uint32, seq uint64) {
	if seq == l.n {
		close(l.done)
	}
}

func (l *benchLog) Reject(context.Context, string, uint64, string) error { return nil }

func (l *benchLog) Rewind([]string) {}

func (l *benchLog) Incarnation() string { return incarnation }

func benchEvents() []drivers.Event {
	events := make([]drivers.Event, benchBatch)
	for i := range events {
		events[i] = message("process", fmt.Sprintf("factory/hall-%d/machine-%02d/telemetry", i%3, i%20), fmt.Sprintf(
			`{"ts":%d,"temperature":%.2f,"vibration":%.4f,"pressure":%.3f,"rpm":%d,"state":"running","job":"A-%06d","quality":"good"}`,
			int64(1767000000000)+int64(i)*50, 20+rand.Float64()*60, rand.Float64(), 1+rand.Float64()*9, rand.IntN(3000), rand.IntN(1e6)))
	}
	return events
}

// BenchmarkProduce compares the uplink with the bare client that produces the
// same records; both go to a broker that throws everything away.
func BenchmarkProduce(b *testing.B) {
	c := cluster(b, kfake.SeedTopics(4, "sluice.process"), kfake.BlackholeProduce())
	events := benchEvents()
	b.Run("bare client", func(b *testing.B) { benchBare(b, c.ListenAddrs(), events) })
	b.Run("uplink", func(b *testing.B) { benchUplink(b, c.ListenAddrs(), events) })
}

func benchBare(b *testing.B, brokers []string, events []drivers.Event) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.MaxBufferedRecords(DefaultWindowRecords),
		kgo.ProducerBatchCompression(kgo.ZstdCompression().WithLevel(1)), kgo.ProducerLinger(0))
	if err != nil {
		b.Fatal(err)
	}
	defer cl.Close()
	enc := newEncoder("gw-17", mustTemplate(b, DefaultTopic), template{})
	chunks := []*chunk{newChunk(chunkRecords), newChunk(chunkRecords)}
	batch := buffer.Batch{Class: "process", Incarnation: incarnation, First: 1, Events: events}
	for _, c := range chunks {
		n := enc.encode(c, batch, chunkRecords, 1<<30)
		batch.Events = batch.Events[n:]
	}
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		r := chunks[i/chunkRecords%2].records[i%chunkRecords]
		r.Context = nil
		wg.Add(1)
		cl.Produce(context.Background(), &r, func(_ *kgo.Record, err error) {
			if err != nil {
				b.Error(err)
			}
			wg.Done()
		})
	}
	wg.Wait()
}

func benchUplink(b *testing.B, brokers []string, events []drivers.Event) {
	log := &benchLog{events: events, n: uint64(b.N), done: make(chan struct{})}
	b.ReportAllocs()
	b.ResetTimer()
	k := start(b, Config{Brokers: brokers, Reader: log})
	select {
	case <-log.done:
	case <-time.After(10 * patience):
		b.Fatal("not delivered")
	}
	b.StopTimer()
	k.stop(b)
}

func mustTemplate(tb testing.TB, text string) template {
	tb.Helper()
	t, err := parseTemplate(text, "gw-17", map[string]string{"site": "plant-7"})
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

// BenchmarkEncode is the cost of making a record.
func BenchmarkEncode(b *testing.B) {
	enc := newEncoder("gw-17", mustTemplate(b, DefaultTopic), template{})
	batch := buffer.Batch{Class: "process", Incarnation: incarnation, First: 1, Events: benchEvents()}
	c := newChunk(chunkRecords)
	b.ReportAllocs()
	for range b.N/chunkRecords + 1 {
		enc.encode(c, batch, chunkRecords, 1<<30)
	}
}
