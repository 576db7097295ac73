package uplink

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"sluice/buffer"
	"sluice/drivers/loopback"
)

// cpuTime is what this process has used.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestADeadClusterCostsTheOthersNothing drains the same backlog alone and beside an
// uplink whose cluster is unreachable. That reads a window full and waits; 1.25 times
// the CPU time leaves room for this and for the noise of a busy machine, and none for
// anything that is done for each event or each batch. It runs alone in its process
// (it is not parallel), and the better one of some rounds counts on both sides.
func TestADeadClusterCostsTheOthersNothing(t *testing.T) {
	const rounds, limit = 8, 1.25
	events := 20 * DefaultWindowRecords
	c := cluster(t, kfake.SeedTopics(4, "sluice.process"), kfake.BlackholeProduce())
	drainBeside(t, c, events, false) // cold, not counted
	alone, beside, ratio := time.Hour, time.Hour, 0.0
	for range rounds {
		alone = min(alone, drainBeside(t, c, events, false))
		beside = min(beside, drainBeside(t, c, events, true))
		if ratio = float64(beside) / float64(alone); ratio <= limit {
			t.Logf("%d events: CPU %s alone, %s beside a dead cluster: %.2f", events, alone, beside, ratio)
			return
		}
	}
	t.Errorf("%d events: CPU %s alone, %s beside a dead cluster: %.2f, at most %.2f is meant", events, alone, beside, ratio, limit)
}

// drainBeside returns the CPU time in which an uplink gets a backlog out, with or
// without another one that is unreachable and reads the same.
func drainBeside(t *testing.T, c *kfake.Cluster, events int, dead bool) time.Duration {
	t.Helper()
	names := map[string][]string{"central": nil}
	if dead {
		names["dead"] = nil
	}
	log := openStoredLog(t, buffer.Config{Dir: t.TempDir(), Uplinks: names, Classes: []buffer.Class{{Name: "process"}}})
	defer log.stop()
	for log.sent["process"] < events {
		log.put(t, "process", DefaultWindowRecords)
	}
	before := cpuTime(t)
	k := start(t, Config{Brokers: c.ListenAddrs(), Reader: log})
	defer k.stop(t)
	if dead {
		defer startDead(t, log.buf).stop(t)
	}
	for end := time.Now().Add(2 * patience); log.acked("process") < uint64(events); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d of %d events are delivered", log.acked("process"), events)
		}
	}
	used := cpuTime(t) - before
	if lag := log.buf.Stats().Classes["process"].Uplinks["dead"].Lag; dead && lag != uint64(events) {
		t.Errorf("the dead cluster lacks %d of %d events", lag, events)
	}
	return used
}

// startDead runs an uplink whose connections are refused.
func startDead(t *testing.T, b *buffer.Buffer) *running {
	t.Helper()
	rd, err := b.Reader("dead")
	if err != nil {
		t.Fatal(err)
	}
	return start(t, Config{Name: "dead", Brokers: []string{loopback.Addr(t)}, Reader: rd})
}

// TestADeadClusterBlocksAFullClassOnly fills a class that blocks, beside a cluster
// that takes nothing. The other cluster gets all that the class took until its limit;
// another class goes on after that.
func TestADeadClusterBlocksAFullClassOnly(t *testing.T) {
	t.Parallel()
	const keep = 4 << 20
	c := cluster(t, kfake.SeedTopics(1, "sluice.process", "sluice.alarm"))
	log := openStoredLog(t, buffer.Config{Dir: t.TempDir(), Uplinks: map[string][]string{"central": nil, "dead": nil}, Memory: 1,
		Classes: []buffer.Class{{Name: "alarm", Priority: 100}, {Name: "process", KeepBytes: keep, WhenFull: buffer.Block}}})
	start(t, Config{Brokers: c.ListenAddrs(), Reader: log})
	startDead(t, log.buf)
	process := func() buffer.ClassStats { return log.buf.Stats().Classes["process"] }

	log.put(t, "process", 500)
	waitFor(t, "what came while there was room", func() bool { return process().Uplinks["central"].Acked == 500 })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	defer func() { cancel(); <-ended }()
	go func() {
		defer close(ended)
		for i := 0; ctx.Err() == nil; i++ {
			e := message("process", fmt.Sprint("key/", i%7), string(noise(4096)))
			_ = log.buf.Append(ctx, e, nil) // it ends with ctx
		}
	}()
	waitFor(t, "the class to be full", func() bool { return process().Blocked })
	if st := process(); st.Bytes < keep/2 || st.Uplinks["dead"].Acked > 0 {
		t.Errorf("it blocks with %d bytes of %d, the dead cluster has %d events", st.Bytes, keep, st.Uplinks["dead"].Acked)
	}
	waitFor(t, "what was taken", func() bool { st := process(); return st.Uplinks["central"].Lag == 0 && st.Committed > 0 })
	log.put(t, "alarm", 100)
	waitFor(t, "alarms", func() bool { return log.acked("alarm") == 100 })
	if st := process(); !st.Blocked || len(st.Dropped) > 0 {
		t.Errorf("blocked %v, dropped %v", st.Blocked, st.Dropped)
	}
	checkComplete(t, consume(t, c.ListenAddrs(), "sluice.process"), process().Committed)
}
