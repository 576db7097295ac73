package buffer

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// writeBehind is a config with spill_after.
func writeBehind(t *testing.T, after time.Duration, edit func(*Config)) Config {
	return config(t, func(c *Config) {
		c.SpillAfter = after
		if edit != nil {
			edit(c)
		}
	})
}

// appendCounting appends events without waiting and counts those acknowledged.
func (r *running) appendCounting(from, n int, payload int) *atomic.Int64 {
	r.t.Helper()
	count := &atomic.Int64{}
	for i := from; i < from+n; i++ {
		e := event("process", i)
		if payload > 0 {
			e.Payload = append(append(e.Payload, '\n'), noise(i, payload)...)
		}
		err := r.Append(context.Background(), e, func(err error) {
			if err == nil {
				count.Add(1)
			}
		})
		if err != nil {
			r.t.Fatal(err)
		}
	}
	return count
}

// follow reads and acknowledges everything as an uplink that keeps up.
func (r *running) follow(uplink string) (stop func()) {
	rd := r.reader(uplink)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			b, err := rd.Next(ctx)
			if err != nil {
				return
			}
			rd.Ack(b.Class, b.Last())
		}
	}()
	return func() { cancel(); <-ended; rd.Close() }
}

func TestWhatAllUplinksTakeInTimeIsNeverWritten(t *testing.T) {
	r := start(t, writeBehind(t, time.Minute, func(c *Config) { c.Uplinks["dr"] = nil }))
	defer r.follow("central")()
	defer r.follow("dr")()
	for i := range 50 {
		count := r.appendCounting(i*200, 200, 0)
		waitFor(t, "acknowledgements", func() bool { return count.Load() == 200 })
	}
	st := r.Stats()
	if st.Commits != 0 || st.WrittenBytes != 0 {
		t.Errorf("%d commits, %d bytes written for 10000 events that were delivered at once", st.Commits, st.WrittenBytes)
	}
	if c := st.Classes["process"]; c.Events != 0 || c.Uplinks["central"].Lag != 0 || c.Next != 10001 {
		t.Errorf("stats %+v", c)
	}
}

func TestAnEventIsNotAcknowledgedBeforeAllUplinksHaveItOrItIsWritten(t *testing.T) {
	r := start(t, writeBehind(t, time.Minute, func(c *Config) { c.Uplinks["dr"] = nil }))
	central, dr := r.reader("central"), r.reader("dr")
	count := r.appendCounting(0, 100, 0)
	wantEvents(t, collect(t, central, 100), 1, 0)
	central.Ack("process", 100)
	dr.Ack("process", 40)
	waitFor(t, "the first 40", func() bool { return count.Load() == 40 })
	time.Sleep(20 * time.Millisecond)
	if n := count.Load(); n != 40 {
		t.Fatalf("%d acknowledged, one uplink has 40", n)
	}
	if lag := r.Stats().Classes["process"].Uplinks["dr"].Lag; lag != 60 {
		t.Errorf("lag %d, want 60", lag)
	}
	dr.Ack("process", 100)
	waitFor(t, "the others", func() bool { return count.Load() == 100 })
}

func TestWhatAnUplinkDoesNotTakeInTimeIsWritten(t *testing.T) {
	c := writeBehind(t, 50*time.Millisecond, nil)
	r := start(t, c)
	count := r.appendCounting(0, 100, 0)
	waitFor(t, "the spill", func() bool { return count.Load() == 100 })
	count = r.appendCounting(100, 100, 0) // the uplink is behind: written at once
	waitFor(t, "the second hundred", func() bool { return count.Load() == 100 })
	if st := r.Stats(); st.Commits == 0 || st.Classes["process"].Committed != 200 {
		t.Errorf("stats %+v", st)
	}
	r.crash()
	r = start(t, c)
	rd := r.reader("central")
	wantEvents(t, collect(t, rd, 200)[:200], 1, 0)
}

// image copies the directory while the buffer runs: what kill -9 would leave.
func image(t *testing.T, c Config) Config {
	t.Helper()
	for {
		dir := t.TempDir()
		err := os.CopyFS(dir, os.DirFS(c.Dir))
		if err == nil {
			c.Dir = dir
			return c
		}
		if !errors.Is(err, fs.ErrNotExist) { // else a file was replaced meanwhile: once more
			t.Fatal(err)
		}
	}
}

func TestNoNumberThatWasGivenOutUnwrittenIsUsedAgainAfterAKill(t *testing.T) {
	c := writeBehind(t, time.Minute, nil)
	r := start(t, c)
	rd := r.reader("central")
	r.appendCounting(0, 100, 0)
	wantEvents(t, collect(t, rd, 100), 1, 0)
	rd.Ack("process", 60)
	after := start(t, image(t, c))
	count := after.appendCounting(100, 10, 0)
	rd = after.reader("central")
	seen, gaps := map[uint64]string{}, 0
	for last := uint64(0); last+1 < after.Stats().Classes["process"].Next || gaps == 0; {
		b := next(t, rd)
		for i, e := range b.Events {
			if e.Type == TypeGap {
				gaps++
			} else if b.First+uint64(i) <= 100 {
				t.Errorf("number %d is used again for %q", b.First+uint64(i), e.Payload)
			}
			explain(t, seen, b.First+uint64(i), e)
		}
		last = b.Last()
		rd.Ack("process", last)
	}
	waitFor(t, "acknowledgements", func() bool { return count.Load() == 10 })
	for seq := uint64(1); seq <= 100; seq++ {
		if seen[seq] != reasonRestart {
			t.Fatalf("number %d is %q", seq, seen[seq])
		}
	}
}

func TestACleanStopLeavesNoHoleBehind(t *testing.T) {
	c := writeBehind(t, time.Minute, nil)
	r := start(t, c)
	rd := r.reader("central")
	r.appendCounting(0, 100, 0)
	collect(t, rd, 100)
	rd.Ack("process", 60)
	r.stop()
	r = start(t, c)
	rd = r.reader("central")
	wantEvents(t, collect(t, rd, 40), 61, 60)
	rd.Ack("process", 100)
	r.appendCounting(100, 10, 0)
	wantEvents(t, collect(t, rd, 10), 101, 100)
}

func TestHeldEventsAreBoundedInMemory(t *testing.T) {
	r := start(t, writeBehind(t, time.Minute, func(c *Config) { c.Memory = 1 << 20 }))
	count := r.appendCounting(0, 400, 10_000) // 4 MB, and the uplink takes nothing
	waitFor(t, "acknowledgements of what went to the disk", func() bool { return count.Load() > 300 })
	rd := r.reader("central")
	got := collect(t, rd, 400)
	if !slices.IsSortedFunc(got, func(a, b numbered) int { return int(a.seq) - int(b.seq) }) || got[399].seq != 400 {
		t.Error("not in order")
	}
}

func TestAGapRecordIsNotHeld(t *testing.T) {
	r := start(t, writeBehind(t, time.Minute, nil))
	rd := r.reader("central")
	count := r.appendCounting(0, 3, 0)
	collect(t, rd, 3)
	if err := rd.Reject(t.Context(), "process", 2, "too large"); err != nil {
		t.Fatal(err)
	}
	if n := count.Load(); n != 3 {
		t.Errorf("%d acknowledged: what was before the record is written with it", n)
	}
}

func TestAClassWithoutAnUplinkIsWrittenAtOnce(t *testing.T) {
	r := start(t, writeBehind(t, time.Minute, func(c *Config) { c.Uplinks = map[string][]string{"central": {"alarm"}} }))
	r.put("process", 0, 10)
	if st := r.Stats(); st.Classes["process"].Committed != 10 {
		t.Errorf("%d written", st.Classes["process"].Committed)
	}
}

// TestHeldAndWrittenEventsKeepTheirOrder lets an uplink fall behind and catch up
// again and again.
func TestHeldAndWrittenEventsKeepTheirOrder(t *testing.T) {
	r := start(t, writeBehind(t, 40*time.Millisecond, nil))
	rd := r.reader("central")
	from := 0
	for range 8 {
		r.appendCounting(from, 30, 0)
		wantEvents(t, collect(t, rd, 30), uint64(from+1), from)
		rd.Ack("process", uint64(from+30))
		from += 30
		count := r.appendCounting(from, 30, 0)
		waitFor(t, "the spill", func() bool { return count.Load() == 30 })
		r.put("process", from+30, 30)
		wantEvents(t, collect(t, rd, 60), uint64(from+1), from)
		rd.Ack("process", uint64(from+60))
		from += 60
	}
	if st := r.Stats().Classes["process"]; st.Committed < 480 || st.Committed >= 720 {
		t.Errorf("%d of 720 events were written", st.Committed)
	}
}
