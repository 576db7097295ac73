package audit

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// benchRecords fills plant.process with n records of 100 agents, and returns a
// rig to read them from.
func benchRecords(b *testing.B, n int) *rig {
	b.Helper()
	r := newRig(b, plant)
	cl := r.newClient(b, kgo.ProducerBatchMaxBytes(1<<20), kgo.ProducerBatchCompression(kgo.ZstdCompression().WithLevel(1)),
		kgo.MaxBufferedRecords(n), kgo.ProducerLinger(50*time.Millisecond))
	value := []byte(`{"ts":1767000000000,"temperature":71.25,"vibration":0.0312,"pressure":5.312,"rpm":1480,"state":"running","job":"A-001234","quality":"good"}`)
	for i := range n {
		agent, seq := i%100, uint64(i/100+1)
		rec := eventOf(fmt.Sprintf("gw-%02d/process/%s", agent, inc), seq)
		rec.Key, rec.Value, rec.Partition = fmt.Appendf(nil, "factory/hall-%d/machine-%02d/telemetry", agent%3, agent%20), value, int32(agent%3)
		header(header(header(rec, "ce_specversion", "1.0"), "ce_source", "/gw/line"), "content-type", "application/json")
		cl.Produce(context.Background(), rec, func(_ *kgo.Record, err error) {
			if err != nil {
				b.Error(err)
			}
		})
	}
	if err := cl.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	return r
}

// BenchmarkAudit compares an audit with a bare consumer that reads the same
// records and looks at none.
func BenchmarkAudit(b *testing.B) {
	const n = 300_000
	r := benchRecords(b, n)
	b.Run("bare consumer", func(b *testing.B) {
		for range b.N {
			benchConsume(b, r, n)
		}
		b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
	})
	b.Run("audit", func(b *testing.B) {
		for range b.N {
			if res := r.audit(b, "plant.process"); res.Totals.Records != n || res.Totals.Delivered != n {
				b.Fatalf("totals %+v", res.Totals)
			}
		}
		b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
	})
}

func benchConsume(b *testing.B, r *rig, n int) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(r.fake.ListenAddrs()...), kgo.ConsumeTopics("plant.process"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxPartitionBytes(1<<20))
	if err != nil {
		b.Fatal(err)
	}
	defer cl.Close()
	for got := 0; got < n; {
		fetches := cl.PollFetches(b.Context())
		if err := fetches.Err(); err != nil {
			b.Fatal(err)
		}
		got += fetches.NumRecords()
	}
}

// BenchmarkTally is the cost of one record, without Kafka.
func BenchmarkTally(b *testing.B) {
	s := newSource(DefaultMemory, 3)
	b.ReportAllocs()
	for i := range b.N {
		s.take("gw-1/process/0badcafe", uint64(i+1), "factory/hall-1/machine-07/telemetry")
	}
}
