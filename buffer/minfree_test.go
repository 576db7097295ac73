package buffer

import (
	"sync/atomic"
	"testing"
)

// smallDisk makes r believe in a file system of 64 MiB of which others take what
// the returned counter says, and r what its segments hold.
func smallDisk(t *testing.T, r *running) (others *atomic.Int64) {
	t.Helper()
	others = &atomic.Int64{}
	r.disk.minFree = 0.5
	r.disk.space = func() (free, all float64, err error) {
		const size = 64 << 20
		own := int64(0)
		for _, file := range segmentFiles(t, r.cfg.Dir) {
			own += fileSize(file)
		}
		return float64(size - others.Load() - own), size, nil
	}
	return others
}

// TestNothingIsTakenBelowMinFree fills the disk from outside right after a commit
// that still had room: the next one must see it.
func TestNothingIsTakenBelowMinFree(t *testing.T) {
	b, err := Open(config(t, func(c *Config) { c.Classes[0].KeepBytes, c.Segment = 1<<30, 1<<20 }))
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Buffer: b, t: t}
	others := smallDisk(t, r)
	r.begin()
	putNoise(t, r, 0, 600)   // more than the one segment that may always be held
	r.put("process", 600, 1) // the disk was asked before this one
	others.Store(40 << 20)
	var taken atomic.Int64
	for n := range 50 {
		if err := r.Append(t.Context(), event("process", n), func(error) { taken.Add(1) }); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "the class to block", func() bool { return r.Stats().Classes["process"].Blocked })
	if n := taken.Load(); n > 0 {
		t.Errorf("%d events were taken below min_free", n)
	}
	others.Store(0)
	waitFor(t, "the events to be taken", func() bool { return taken.Load() == 50 })
}

// TestNothingIsMergedBelowMinFree has a sealed segment of small blocks and no room
// for a second one.
func TestNothingIsMergedBelowMinFree(t *testing.T) {
	c := config(t, func(c *Config) { c.Classes[0].KeepBytes = 2 << 20 })
	b, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Buffer: b, t: t}
	others := smallDisk(t, r)
	others.Store(32<<20 - 600<<10) // room for the segment that is written, not for another of its size
	r.begin()
	for n := 0; len(segmentFiles(t, c.Dir)) < 2; n++ {
		r.put("process", n, 1)
	}
	r.put("process", 100_000, 5)
	if sealed := segmentFiles(t, c.Dir)[0]; r.disk.short(0) || !r.disk.short(fileSize(sealed)) {
		t.Fatalf("the disk has not the room that it is meant to have beside %d bytes", fileSize(sealed))
	}
	r.halt()
	l := r.lanes["process"]
	if l.segments[0].gen > 0 {
		t.Error("a segment was merged without room for it")
	}
	others.Store(0)
	l.mergeSmall(t.Context())
	l.endMerge(true)
	if l.segments[0].gen == 0 {
		t.Error("a segment of small blocks was not merged")
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}
