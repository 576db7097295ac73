package buffer

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
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
	if len(segmentFiles(t, c.Dir)) != 1 {
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
