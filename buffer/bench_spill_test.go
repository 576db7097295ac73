package buffer

import (
	"testing"
	"time"
)

// BenchmarkWriteBehind has an uplink take each event at once: nothing is written
// but the numbers that are set aside, a slot of the state for 65,536 of them.
func BenchmarkWriteBehind(b *testing.B) {
	log, err := Open(Config{Dir: b.TempDir(), Classes: []Class{{Name: "process"}}, Uplinks: map[string][]string{"central": nil}, SpillAfter: 2 * time.Second})
	if err != nil {
		b.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- log.Run(b.Context()) }()
	rd, err := log.Reader("central")
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		for {
			batch, err := rd.Next(b.Context())
			if err != nil {
				return
			}
			rd.Ack(batch.Class, batch.Last())
		}
	}()
	events := benchEvents(1024, "telemetry")
	before := look(b)
	for b.Loop() {
		if err := appendAll(log, events); err != nil {
			b.Fatal(err)
		}
	}
	n := float64(b.N * len(events))
	st := log.Stats()
	b.ReportMetric(float64(look(b).minus(before).dirtied)/n, "disk-B/event")
	b.ReportMetric(float64(st.WrittenBytes)/n, "log-B/event")
	b.ReportMetric(float64(st.Commits), "commits")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/n, "ns/event")
}
