//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/buffer"
	"sluice/drivers"
)

// backlogEnv sets how many events TestUplinkDrain drains; make bench sets 2,000,000.
const backlogEnv = "SLUICE_E2E_BACKLOG"

// speed is that of a producer: events per second, and the CPU time that it took itself.
type speed struct{ rate, micros float64 } // micros: CPU microseconds an event

// TestUplinkDrain measures how fast a backlog goes out, with both deliveries, and
// holds it against the Kafka client alone that produces the same records. Judged are the CPU
// time, which other work on the machine and the broker's share of it change less, and the
// rates, since a stall costs no CPU time. Rates that are too low are measured once more, and
// the better try counts: all three are of the same try, so that the machine is about the same.
func TestUplinkDrain(t *testing.T) {
	n := 300_000
	if v := os.Getenv(backlogEnv); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil || n < 10_000 {
			t.Fatalf("%s is %q (at least 10000)", backlogEnv, v)
		}
	}
	k := startKafka(t, t.TempDir())
	bareRate(t, k, n/4, "cold") // not counted
	d := measureDrain(t, k, n, "first")
	if d.once.micros > d.alone.micros/onceShare || d.exact.micros > d.once.micros/exactShare {
		t.Errorf("the backlog takes too much CPU time")
	}
	if !d.keepsUp() && !measureDrain(t, k, n, "second").keepsUp() {
		t.Errorf("the backlog drains too slowly, twice")
	}
}

// What is wanted: at_least_once of the client alone, exactly_once of at_least_once.
const onceShare, exactShare = 0.4, 0.6

// drainSpeeds is the same backlog in three ways.
type drainSpeeds struct{ alone, once, exact speed }

func (d drainSpeeds) keepsUp() bool {
	return d.once.rate >= onceShare*d.alone.rate && d.exact.rate >= exactShare*d.once.rate
}

// measureDrain sends n events in each way, to topics of the try's own.
func measureDrain(t *testing.T, k *kafka, n int, try string) drainSpeeds {
	t.Helper()
	d := drainSpeeds{bareRate(t, k, n, try), drainRate(t, k, n, "at_least_once", try), drainRate(t, k, n, "exactly_once", try)}
	fmt.Printf("E2E drain %s events=%d client_alone=%.0f/s at_least_once=%.0f/s (%.2f of alone) exactly_once=%.0f/s (%.2f of at_least_once)\n",
		try, n, d.alone.rate, d.once.rate, d.once.rate/d.alone.rate, d.exact.rate, d.exact.rate/d.once.rate)
	fmt.Printf("E2E drain %s cpu us/event client_alone=%.2f at_least_once=%.2f (alone has %.2f of it) exactly_once=%.2f (at_least_once has %.2f of it)\n",
		try, d.alone.micros, d.once.micros, d.alone.micros/d.once.micros, d.exact.micros, d.once.micros/d.exact.micros)
	return d
}

// fillBacklog writes n events into the buffer of an agent that does not run yet.
func fillBacklog(t *testing.T, dataDir string, n int) {
	t.Helper()
	b, err := buffer.Open(buffer.Config{Dir: dataDir, Classes: []buffer.Class{{Name: className, KeepBytes: 4 << 30}},
		Uplinks: map[string][]string{"central": nil}, CommitDelay: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	var left sync.WaitGroup
	left.Add(n)
	for i := range n {
		e := drivers.Event{Class: className, Source: mqttName, Subject: topicOf(i % machines), Type: drivers.TypeMQTTMessage,
			ContentType: drivers.ContentJSON, Time: time.Now(), Payload: payloadOf(i%machines, i/machines+1)}
		if err := b.Append(ctx, e, func(err error) {
			if err != nil {
				t.Error(err)
			}
			left.Done()
		}); err != nil {
			t.Fatal(err)
		}
	}
	left.Wait()
	cancel()
	if err := errors.Join(<-ended, b.Close()); err != nil {
		t.Fatal(err)
	}
}

// drainRate returns how fast an agent sends a backlog. Its start is in the CPU time.
func drainRate(t *testing.T, k *kafka, n int, delivery, try string) speed {
	t.Helper()
	dir, topic := t.TempDir(), "drain."+delivery+"."+try
	k.createTopic(t, topic)
	fillBacklog(t, filepath.Join(dir, "data"), n)
	a := newAgent(t, dir, func(dataDir, http string) string {
		return strings.Replace(exactConfig(dataDir, http, "tcp://"+loopback(freePort(t)), k.internal, topic), "exactly_once", delivery, 1)
	})
	a.start(t)
	rate := watchRate(t, k, topic, n)
	used := cpuTime(t, a.proc.cmd.Process.Pid)
	a.terminate(t)
	return speed{rate, float64(used.Microseconds()) / float64(n)}
}

// watchRate waits until topic holds n records and returns how many came in a
// second, from the first ones on.
func watchRate(t *testing.T, k *kafka, topic string, n int) float64 {
	t.Helper()
	var first time.Time
	begin := 0
	for end := time.Now().Add(2 * patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		there := k.committed(t, topic)
		if there > 0 && first.IsZero() {
			first, begin = time.Now(), there
		}
		if there >= n {
			return float64(there-begin) / time.Since(first).Seconds()
		}
	}
	t.Fatalf("%d of %d records in %s", k.committed(t, topic), n, topic)
	return 0
}

// committed is count for what a read_committed consumer may read.
func (k *kafka) committed(t testing.TB, topic string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	offsets, err := k.admin.ListCommittedOffsets(ctx, topic)
	if err != nil {
		t.Fatalf("end of %s: %v", topic, err)
	}
	total := 0
	offsets.Each(func(o kadm.ListedOffset) { total += int(o.Offset) })
	return total
}

// bareRate returns how fast the Kafka client alone produces records.
func bareRate(t *testing.T, k *kafka, n int, try string) speed {
	t.Helper()
	topic := "alone." + try
	k.createTopic(t, topic)
	client := k.client(t, kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(kgo.ZstdCompression().WithLevel(1)),
		kgo.ProducerLinger(0), kgo.MaxBufferedRecords(10_000))
	records := make([]kgo.Record, 4096)
	for i := range records {
		m := message(i+1, i%machines, i/machines+1)
		m.Value = payloadOf(i%machines, i/machines+1)
		records[i] = *m
	}
	start, used := time.Now(), cpuTime(t, os.Getpid())
	for i := range n {
		r := records[i%len(records)]
		client.Produce(t.Context(), &r, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	if err := client.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	took, used := time.Since(start), cpuTime(t, os.Getpid())-used
	return speed{float64(n) / took.Seconds(), float64(used.Microseconds()) / float64(n)}
}
