package buffer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// tryPut appends n events numbered from and returns how many of them were acknowledged so far.
func (r *running) tryPut(from, n int) *atomic.Int64 {
	r.t.Helper()
	acknowledged := new(atomic.Int64)
	for i := from; i < from+n; i++ {
		err := r.Append(r.t.Context(), event("process", i), func(err error) {
			if err == nil {
				acknowledged.Add(1)
			}
		})
		if err != nil {
			r.t.Fatal(err)
		}
	}
	return acknowledged
}

func away(r *running) bool {
	return strings.Contains(r.Stats().Classes["process"].Fault, errAway.Error())
}

// TestNothingIsAcknowledgedIntoFilesThatNobodyFinds takes the directory away while events
// come: none is acknowledged, all stored ones are delivered, and when it is back all goes on.
func TestNothingIsAcknowledgedIntoFilesThatNobodyFinds(t *testing.T) {
	for _, memory := range []int64{0, 1} { // readers in the tail, and in the files
		t.Run(fmt.Sprintf("memory %d", memory), func(t *testing.T) {
			c := config(t, func(c *Config) {
				c.Dir, c.Memory, c.Log = filepath.Join(c.Dir, "data"), memory, slog.New(slog.DiscardHandler)
			})
			r := start(t, c)
			r.put("process", 0, 100)
			if err := os.Rename(c.Dir, c.Dir+".moved"); err != nil {
				t.Fatal(err)
			}
			acknowledged := r.tryPut(100, 10)
			waitFor(t, "the fault", func() bool { return away(r) })
			rd := r.reader("central")
			wantEvents(t, collect(t, rd, 100), 1, 0)
			if n := acknowledged.Load(); n > 0 {
				t.Errorf("%d were acknowledged", n)
			}
			if err := os.Rename(c.Dir+".moved", c.Dir); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the rest", func() bool { return acknowledged.Load() == 10 })
			if away(r) {
				t.Error("the fault is still there")
			}
			r.crash()
			r = start(t, c)
			wantEvents(t, collect(t, r.reader("central"), 110), 1, 0)
		})
	}
}

// TestARemovedDirectoryIsAFault removes it for good: what was stored is delivered, nothing new
// is acknowledged, and the next start begins anew.
func TestARemovedDirectoryIsAFault(t *testing.T) {
	c := config(t, func(c *Config) { c.Dir, c.Log = filepath.Join(c.Dir, "data"), slog.New(slog.DiscardHandler) })
	r := start(t, c)
	r.put("process", 0, 100)
	if err := os.RemoveAll(c.Dir); err != nil {
		t.Fatal(err)
	}
	acknowledged := r.tryPut(100, 10)
	waitFor(t, "the fault", func() bool { return away(r) })
	rd := r.reader("central")
	wantEvents(t, collect(t, rd, 100), 1, 0)
	rd.Ack("process", 100)
	l := r.lanes["process"]
	waitFor(t, "the file to be given up", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.active == nil })
	r.crash()
	if n := acknowledged.Load(); n > 0 {
		t.Errorf("%d were acknowledged", n)
	}
	r = start(t, c)
	r.put("process", 0, 10)
	wantEvents(t, collect(t, r.reader("central"), 10), 1, 0)
}

// TestARemovedSegmentIsReplaced removes the file that is written: the class goes on in the
// next one once it is delivered.
func TestARemovedSegmentIsReplaced(t *testing.T) {
	c := config(t, func(c *Config) { c.Log = slog.New(slog.DiscardHandler) })
	r := start(t, c)
	r.put("process", 0, 100)
	for _, file := range segmentFiles(t, c.Dir) {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	acknowledged := r.tryPut(100, 10)
	waitFor(t, "the fault", func() bool { return away(r) })
	rd := r.reader("central")
	wantEvents(t, collect(t, rd, 100), 1, 0)
	rd.Ack("process", 100)
	waitFor(t, "the rest", func() bool { return acknowledged.Load() == 10 })
	wantEvents(t, collect(t, rd, 10), 101, 100)
	r.crash()
	r = start(t, c)
	got := collect(t, r.reader("central"), 10)
	if i := slices.IndexFunc(got, func(e numbered) bool { return e.seq == 101 }); i < 0 {
		t.Error("number 101 is gone")
	}
}

// TestAFileThatIsAwayIsGivenUpWhenItIsDelivered asks it of the writer step by step: no longer
// readable once closed, the file stays open as long as something of it is not delivered.
func TestAFileThatIsAwayIsGivenUpWhenItIsDelivered(t *testing.T) {
	r, l, first := oneStored(t)
	if err := os.Remove(first.path); err != nil {
		t.Fatal(err)
	}
	err := l.commit([]item{{event: event("process", 1)}})
	if !errors.Is(err, errAway) {
		t.Fatal(err)
	}
	l.failed(err)
	if l.active != first {
		t.Error("given up, with what is not delivered")
	}
	r.reader("central").Ack("process", 1)
	l.failed(err)
	if l.active != nil {
		t.Error("not given up, although all of it is delivered")
	}
}

// TestAFileThatVanishesInACommitIsNotWrittenAgain removes the file after the look before the
// commit: the one after it finds that out, nothing counts as stored, and the next commit goes
// to another file.
func TestAFileThatVanishesInACommitIsNotWrittenAgain(t *testing.T) {
	_, l, first := oneStored(t)
	save := l.saveState
	l.reserved, l.saveState = 0, func(clean bool) error { return errors.Join(os.Remove(first.path), save(clean)) }
	err := l.commit([]item{{event: event("process", 1)}})
	if err == nil || errors.Is(err, errAway) || !strings.Contains(err.Error(), errAway.Error()) {
		t.Fatal(err)
	}
	if l.stored != 1 {
		t.Errorf("%d are stored, want 1", l.stored)
	}
	l.saveState = save
	l.failed(err)
	if l.active != nil {
		t.Fatal("the file may be written again")
	}
	if err := l.commit([]item{{event: event("process", 1)}}); err != nil || l.active == first || l.stored != 2 {
		t.Errorf("%v, %d are stored", err, l.stored)
	}
}

// oneStored is a buffer without a writer, with one event in its file.
func oneStored(t *testing.T) (*running, *lane, *segment) {
	t.Helper()
	r, l := still(t, config(t, func(c *Config) { c.Log = slog.New(slog.DiscardHandler) }))
	if err := l.commit([]item{{event: event("process", 0)}}); err != nil {
		t.Fatal(err)
	}
	return r, l, l.active
}

// TestSegmentsThatAreAwayAreNotDamaged takes the directory away while a reader is to open
// segments that are closed: no try makes a gap record, and when it is back all is delivered.
func TestSegmentsThatAreAwayAreNotDamaged(t *testing.T) {
	c := config(t, func(c *Config) {
		c.Dir, c.Memory, c.Log = filepath.Join(c.Dir, "data"), 1, slog.New(slog.DiscardHandler)
		c.Classes[0].KeepBytes = 2 << 20
	})
	r := start(t, c)
	putNoise(t, r, 0, 300)
	r.stop()
	r, l := still(t, c) // all segments are closed, and nothing merges them
	if len(l.segments) < 2 {
		t.Fatalf("%d segments", len(l.segments))
	}
	p, first := r.reader("central").tiers[0].tracks[0].main, l.segments[0]
	for _, in := range []string{"nothing", "another directory"} {
		if err := os.Rename(c.Dir, c.Dir+".moved"); err != nil {
			t.Fatal(err)
		}
		if in == "another directory" {
			if err := os.MkdirAll(l.dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 { // damage is believed when it is met twice
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			b, err := p.fetch(ctx, first, first.tally.last, first.tally.last)
			cancel()
			if err == nil || first.damaged.Load() || p.next != 1 {
				t.Fatalf("%s in its place: %d events, %v, damaged %v, goes on with %d", in, len(b.Events), err, first.damaged.Load(), p.next)
			}
		}
		rr, err := r.Range("process", event("process", 0).Time, event("process", 300).Time)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = rr.Next(t.Context()); err == nil || errors.Is(err, io.EOF) || first.damaged.Load() {
			t.Errorf("a replay with %s in its place: %v, damaged %v", in, err, first.damaged.Load())
		}
		if err := errors.Join(os.RemoveAll(c.Dir), os.Rename(c.Dir+".moved", c.Dir)); err != nil {
			t.Fatal(err)
		}
	}
	r.stop()
	r = start(t, c)
	for i, e := range collect(t, r.reader("central"), 300) {
		if e.seq != uint64(i+1) || e.Type == TypeGap {
			t.Fatalf("number %d is %s %.40q", e.seq, e.Type, e.Payload)
		}
	}
}

// TestNothingIsMadeOrRemovedInAnotherDirectory puts another one in the place of that which
// is locked, when all is delivered: no segment is made there, and none of it removed.
func TestNothingIsMadeOrRemovedInAnotherDirectory(t *testing.T) {
	r, l, first := oneStored(t)
	own := l.dir + ".moved"
	if err := errors.Join(os.Rename(l.dir, own), os.Mkdir(l.dir, 0o700), os.WriteFile(first.path, []byte("another's"), 0o600)); err != nil {
		t.Fatal(err)
	}
	r.reader("central").Ack("process", 1)
	for range 2 { // the first one gives the file up
		err := l.commit([]item{{event: event("process", 1)}})
		if !errors.Is(err, errAway) {
			t.Fatal(err)
		}
		l.failed(err)
	}
	if l.active != nil {
		t.Fatal("the file is not given up, although all of it is delivered")
	}
	if err := l.roll(); !errors.Is(err, errAway) {
		t.Error("a new segment:", err)
	}
	l.unlink(first)
	if b, err := os.ReadFile(first.path); err != nil || string(b) != "another's" {
		t.Errorf("another buffer's file is %q, %v", b, err)
	}
	if files := segmentFiles(t, r.cfg.Dir); len(files) != 1 {
		t.Errorf("%v, not only what was there", files)
	}
	if err := errors.Join(os.RemoveAll(l.dir), os.Rename(own, l.dir)); err != nil {
		t.Fatal(err)
	}
	if err := l.commit([]item{{event: event("process", 1)}}); err != nil || l.stored != 2 {
		t.Errorf("back in its place: %v, %d are stored", err, l.stored)
	}
}

// TestAnEmptySegmentIsNotRemovedInAnotherDirectory gives up one that nothing was written to,
// while another directory is in the place of its own.
func TestAnEmptySegmentIsNotRemovedInAnotherDirectory(t *testing.T) {
	_, l, first := oneStored(t)
	if err := l.roll(); err != nil || l.active == first {
		t.Fatal("a new segment:", err)
	}
	path := l.active.path
	if err := errors.Join(os.Rename(l.dir, l.dir+".moved"), os.Mkdir(l.dir, 0o700), os.WriteFile(path, []byte("another's"), 0o600)); err != nil {
		t.Fatal(err)
	}
	l.abandon()
	if b, err := os.ReadFile(path); err != nil || string(b) != "another's" {
		t.Errorf("another buffer's file is %q, %v", b, err)
	}
}

// TestNothingIsDroppedWhileTheDirectoryIsAway: a full class that drops has nothing to make
// way for until it can be written again.
func TestNothingIsDroppedWhileTheDirectoryIsAway(t *testing.T) {
	for _, full := range []WhenFull{DropOldest, DropNewest} {
		_, l, first := oneStored(t)
		if err := l.roll(); err != nil {
			t.Fatal("a new segment:", err)
		}
		l.class.WhenFull, l.class.KeepBytes = full, 1
		if err := os.Rename(l.dir, l.dir+".moved"); err != nil {
			t.Fatal(err)
		}
		items := []item{{event: event("process", 1)}}
		if !l.makeRoom(items) || l.segments[0] != first {
			t.Errorf("%v: what comes is refused, or what is stored is dropped, while neither helps", full)
		}
		if err := os.Rename(l.dir+".moved", l.dir); err != nil {
			t.Fatal(err)
		}
		if room := l.makeRoom(items); room != (full == DropOldest) || (l.segments[0] == first) == room {
			t.Errorf("%v: back in its place: room is %v, dropped %v", full, room, l.segments[0] != first)
		}
	}
}
