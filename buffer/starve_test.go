package buffer

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestADeliveredSegmentMakesRoomForTheNext has the disk refuse new files while the
// only segment, which holds what fills it, is delivered.
func TestADeliveredSegmentMakesRoomForTheNext(t *testing.T) {
	c := config(t, func(c *Config) { c.Log = slog.New(slog.DiscardHandler) })
	r := start(t, c)
	r.put("process", 0, 100)
	r.stop()
	full := filepath.Join(c.Dir, "classes", "process", segmentName(101, 0)+".tmp", "in the way")
	r = start(t, c)
	if err := os.MkdirAll(full, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := r.Append(t.Context(), event("process", 100), nil); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the fault", func() bool { return r.Stats().Classes["process"].Fault != "" })
	rd := r.reader("central")
	wantEvents(t, collect(t, rd, 100), 1, 0)
	if len(segmentFiles(t, c.Dir)) == 0 { // two, where its small blocks are being merged
		t.Fatal("removed before it was delivered")
	}
	rd.Ack("process", 100)
	waitFor(t, "the segment to be removed", func() bool { return len(segmentFiles(t, c.Dir)) == 0 })
	r.crash()
	r = start(t, c) // there is room again
	r.put("process", 100, 10)
	wantEvents(t, collect(t, r.reader("central"), 10), 101, 100)
	r.crash()
	r = start(t, c)
	wantEvents(t, collect(t, r.reader("central"), 10), 101, 100)
}

// TestAnIdleClassGivesItsSpaceToOneThatLacksIt has another class find the disk full
// while all of this one is delivered.
func TestAnIdleClassGivesItsSpaceToOneThatLacksIt(t *testing.T) {
	c := config(t, nil)
	r := start(t, c)
	r.put("process", 0, 100)
	rd := r.reader("central")
	wantEvents(t, collect(t, rd, 100), 1, 0)
	r.disk.starve()
	rd.Ack("process", 100)
	waitFor(t, "the segment to be removed", func() bool { return len(segmentFiles(t, c.Dir)) == 0 })
	r.put("process", 100, 10)
	wantEvents(t, collect(t, rd, 10), 101, 100)
}

// still opens a buffer whose writer does not run: the test is the writer.
func still(t *testing.T, c Config) (*running, *lane) {
	t.Helper()
	b, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Buffer: b, t: t, cancel: func() {}, ended: make(chan struct{})}
	close(r.ended)
	t.Cleanup(r.stop)
	return r, b.lanes["process"]
}

// events are n items numbered from.
func events(from, n int) (items []item) {
	for i := range n {
		items = append(items, item{event: event("process", from+i)})
	}
	return items
}

// TestAnEmptySegmentThatIsGivenUpIsNotMissed has the disk refuse the first commit
// of a new file, and kills the agent then.
func TestAnEmptySegmentThatIsGivenUpIsNotMissed(t *testing.T) {
	c := config(t, nil)
	r, l := still(t, c)
	if left := l.store(t.Context(), events(0, 100)); len(left) > 0 {
		t.Fatal("not stored")
	}
	if err := l.roll(); err != nil {
		t.Fatal(err)
	}
	l.abandon()
	r.crash()
	if n := len(segmentFiles(t, c.Dir)); n != 1 {
		t.Errorf("%d files, not 1: the empty one stays", n)
	}
	r = start(t, c)
	if s := r.Stats().Classes["process"]; len(s.Dropped) > 0 || s.Next != 101 {
		t.Errorf("dropped %v, goes on with %d: nothing was lost", s.Dropped, s.Next)
	}
}

// TestWithoutSpaceGapRecordsGoFirst: whoever waits for one frees the disk.
func TestWithoutSpaceGapRecordsGoFirst(t *testing.T) {
	_, l := still(t, config(t, nil))
	if left := l.store(t.Context(), events(0, 10)); len(left) > 0 {
		t.Fatal("not stored")
	}
	told := make(chan error, 2)
	tell := func(err error) { told <- err }
	now := time.Now()
	l.queueGap(newGap(3, 4, reasonDropOldest, now, now), tell)
	items := append(events(10, 1), l.take()...)
	l.queueGap(newGap(5, 6, reasonDropOldest, now, now), tell)
	left := l.gapsFirst(items)
	if len(left) != 1 || left[0].gap != nil {
		t.Errorf("left are %d items, not the event alone", len(left))
	}
	if len(told) != 2 || <-told != nil || <-told != nil || l.gapsQueued != 0 {
		t.Errorf("%d gap records are still on their way", l.gapsQueued)
	}
	if l.next != 13 || len(subtract([]span{{3, 6}}, l.recordedSpans(3, 6))) > 0 {
		t.Errorf("the next number is %d, not 13, or the records are not there", l.next)
	}
}

// TestWithoutSpaceTheOldestGivesWay, but no more of it than what is to be written
// can need, and only where the class says so.
func TestWithoutSpaceTheOldestGivesWay(t *testing.T) {
	for when, want := range map[WhenFull]int{Block: 0, DropOldest: 2, DropNewest: 0} {
		_, l := still(t, config(t, func(c *Config) { c.Classes[0].WhenFull = when }))
		for i := range 5 {
			if left := l.store(t.Context(), events(10*i, 10)); len(left) > 0 {
				t.Fatal("not stored")
			}
			if err := l.roll(); err != nil {
				t.Fatal(err)
			}
		}
		size, had := l.segments[0].bytes, len(l.segments)
		one := events(50, 1)
		freed := l.giveWay(one, growStep-size) // so that a little more than one of them is missing
		if n := had - len(l.segments); n != want || freed != int64(want)*size {
			t.Errorf("%s: %d segments and %d bytes were given up, not %d", when, n, freed, want)
		}
		if freed = l.giveWay(one, growStep+2*cost(&one[0].event)); freed > 0 {
			t.Errorf("%s: %d bytes more than it can need were given up", when, freed)
		}
	}
}

// TestWhatIsHeldNeedsSpaceToo has more in memory, to be written now, than the one
// event that comes with it, and a damaged segment, which gives no space back.
func TestWhatIsHeldNeedsSpaceToo(t *testing.T) {
	_, l := still(t, config(t, func(c *Config) { c.Classes[0].WhenFull = DropOldest }))
	for i := range 6 {
		if left := l.store(t.Context(), events(10*i, 10)); len(left) > 0 {
			t.Fatal("not stored")
		}
		if err := l.roll(); err != nil {
			t.Fatal(err)
		}
	}
	one, size, had := events(60, 1), l.segments[0].bytes, len(l.segments)
	l.segments[0].damaged.Store(true)
	l.heldSum = size
	freed := l.giveWay(one, growStep+2*cost(&one[0].event)) // enough for the event alone
	if n := had - len(l.segments); n != 3 || freed != 2*size {
		t.Errorf("%d segments and %d bytes were given up, not the damaged one and two of %d", n, freed, size)
	}
	l.heldSum = 0
}

// TestAMergeGivesItsSpaceBackWhileTheDiskRefuses: the file that was made anew is
// there, and the one that it was made of holds the space that a commit lacks.
func TestAMergeGivesItsSpaceBackWhileTheDiskRefuses(t *testing.T) {
	c := config(t, func(c *Config) { c.Log = slog.New(slog.DiscardHandler) })
	_, l := still(t, c)
	if left := l.store(t.Context(), events(0, 100)); len(left) > 0 {
		t.Fatal("not stored")
	}
	l.abandon()
	old := l.segments[0]
	fresh, err := rewriteLarger(t.Context(), l.dir, old, nil)
	if err != nil {
		t.Fatal(err)
	}
	l.merging = true
	l.merges <- merged{old: old, fresh: fresh, blocks: 1}
	if err := os.MkdirAll(filepath.Join(l.dir, segmentName(101, 0)+".tmp", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if left := l.store(ctx, events(100, 1)); len(left) != 1 {
		t.Fatal("stored, with something in the way")
	}
	if files := segmentFiles(t, c.Dir); len(files) != 1 || files[0] != fresh.path {
		t.Errorf("%v are there, not %s alone", files, fresh.path)
	}
}

// TestNobodyWaitsForGapRecordsOfAClosedBuffer: of one that another reader asked for.
func TestNobodyWaitsForGapRecordsOfAClosedBuffer(t *testing.T) {
	r, l := still(t, config(t, nil))
	rd := r.reader("central")
	l.queueGap(newGap(1, 1, reasonCorrupt, time.Now(), time.Now()), nil)
	l.shut()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := rd.tiers[0].tracks[0].main.bridge(ctx, 1, nil); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}
