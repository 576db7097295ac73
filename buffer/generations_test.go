package buffer

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"go.etcd.io/bbolt"

	"sluice/drivers"
)

// twoGenerations leaves a directory as a crash does that comes after a segment
// was made anew and before the one that it was made of is removed. It returns
// the new one, and how many events the directory holds.
func twoGenerations(t *testing.T) (c Config, later string, events int) {
	t.Helper()
	c = config(t, func(c *Config) { c.Classes[0].KeepBytes, c.Memory = 4<<20, 1 }) // segments of 512 KiB: made anew in one commit
	r := start(t, c)
	putNoise(t, r, 0, 900)
	r.crash()
	older := segmentFiles(t, c.Dir)[1]
	s := &segment{path: older}
	if !s.parseName() {
		t.Fatalf("%s is no segment", older)
	}
	err := s.load()
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := rewriteLarger(t.Context(), filepath.Dir(older), s, nil)
	if err = errors.Join(err, s.close()); err != nil {
		t.Fatal(err)
	}
	return c, fresh.path, 900
}

// TestALaterGenerationThatLostItsLastCommit is not preferred to the file that it
// was made of: what is left of it is whole, and ends early.
func TestALaterGenerationThatLostItsLastCommit(t *testing.T) {
	c, later, events := twoGenerations(t)
	b, err := os.ReadFile(later)
	if err != nil {
		t.Fatal(err)
	}
	const page, txid = 4096, 16 + 48
	if bytes.Compare(reverse(b[txid:][:8]), reverse(b[page+txid:][:8])) > 0 { // little-endian
		copy(b[:page], b[page:])
	} else {
		copy(b[page:2*page], b)
	}
	if err := os.WriteFile(later, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s := &segment{path: later}
	if err := errors.Join(s.load(), s.close()); err != nil || s.tally.events > 0 {
		t.Fatalf("the damage left %d events, %v", s.tally.events, err)
	}
	wantAll(t, c, events)
	if left := segmentFiles(t, c.Dir); slices.Contains(left, later) {
		t.Errorf("the damaged file is still in its place: %v", left)
	}
}

// TestALaterGenerationCounts where both are whole: the older one is removed.
func TestALaterGenerationCounts(t *testing.T) {
	c, later, events := twoGenerations(t)
	before := segmentFiles(t, c.Dir)
	wantAll(t, c, events)
	if left := segmentFiles(t, c.Dir); len(left) != len(before)-1 || !slices.Contains(left, later) {
		t.Errorf("%v became %v", before, left)
	}
}

// TestARewriteThatFailsLeavesALaterGeneration that was there before it.
func TestARewriteThatFailsLeavesALaterGeneration(t *testing.T) {
	c, later, events := twoGenerations(t)
	s := &segment{path: later}
	if !s.parseName() {
		t.Fatalf("%s is no segment", later)
	}
	s = &segment{path: filepath.Join(filepath.Dir(later), segmentName(s.about.First, s.gen-1)), gen: s.gen - 1}
	if err := s.load(); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := rewriteLarger(ended, filepath.Dir(later), s, nil); !errors.Is(err, context.Canceled) {
		t.Fatal("a rewrite that was ended:", err)
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
	if left := segmentFiles(t, c.Dir); !slices.Contains(left, later) {
		t.Errorf("it is gone: %v", left)
	}
	wantAll(t, c, events)
}

// TestALaterGenerationThatTookOver counts, though the file before it holds more: it is
// not made of that one. A start found nothing in it, since the process was killed in
// its first commit, and gave its numbers to events that it acknowledged. Also where it
// is damaged, a block or all that tells of its blocks: these are nowhere else.
func TestALaterGenerationThatTookOver(t *testing.T) {
	for _, damaged := range []string{"", "a block", "the meta pages"} {
		c := config(t, func(c *Config) { c.Log = slog.New(slog.DiscardHandler) })
		r := start(t, c)
		r.put("process", 0, 3)
		r.crash()
		later := takeOver(t, segmentFiles(t, c.Dir)[0], 700, 701)
		switch damaged {
		case "a block":
			ruinBlock(t, later, 2)
		case "the meta pages":
			ruinMetas(t, later)
		}
		r = start(t, c)
		got := collect(t, r.reader("central"), 2)
		wantEvents(t, got[:1], 1, 700)
		if damaged != "a block" {
			wantEvents(t, got[1:2], 2, 701)
		} else if e := got[1]; e.Type != TypeGap {
			t.Errorf("number %d is %s %.40q, in place of what says that 2 is damaged", e.seq, e.Type, e.Payload)
		}
		r.stop()
	}
}

// takeOver makes the next generation of a file anew, with a block for each event.
func takeOver(t *testing.T, file string, numbers ...int) (path string) {
	t.Helper()
	s := &segment{path: file}
	if !s.parseName() {
		t.Fatalf("%s is no segment", file)
	}
	if err := errors.Join(s.load(), s.close()); err != nil {
		t.Fatal(err)
	}
	w, err := newRewriter(filepath.Dir(s.path), s.about, s.gen+1, s.bytes)
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range numbers {
		err = errors.Join(w.put(run{incarnation: s.about.Incarnation, first: uint64(i + 1), span: 1, events: []drivers.Event{event("process", n)}}), w.flush())
		if err != nil {
			t.Fatal(err)
		}
	}
	fresh, err := w.finish(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return fresh.path
}

// ruinMetas clears both meta pages.
func ruinMetas(t *testing.T, file string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(make([]byte, 2*4096), 0)
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// ruinBlock flips a bit of the block that begins with first.
func ruinBlock(t *testing.T, file string, first uint64) {
	t.Helper()
	db, err := bbolt.Open(file, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		sub := tx.Bucket(bucketBatches).Bucket(seqKey(first))
		b := bytes.Clone(sub.Get(keyBlock))
		b[blockHeader] ^= 1
		return sub.Put(keyBlock, b)
	})
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// wantAll makes sure that the export and the next life give each event once.
func wantAll(t *testing.T, c Config, events int) {
	t.Helper()
	o, err := OpenOffline(c.Dir)
	if err != nil {
		t.Fatal(err)
	}
	exported := 0
	err = o.Export(t.Context(), "process", func(string, uint64, drivers.Event) error { exported++; return nil }, func(Finding) {})
	if err = errors.Join(err, o.Close()); err != nil || exported != events {
		t.Errorf("%d events of %d are exported, %v", exported, events, err)
	}
	r := start(t, c)
	for i, e := range collect(t, r.reader("central"), events)[:events] {
		if e.seq != uint64(i+1) || e.Type == TypeGap {
			t.Fatalf("number %d is %s %.40q", e.seq, e.Type, e.Payload)
		}
	}
	r.stop()
}

// ruinMiddle flips a bit of the middle one of the blocks of a file, in each copy: a small
// block lies within a leaf, of which a file holds dead copies, too.
func ruinMiddle(t *testing.T, file string) {
	t.Helper()
	var live [][]byte
	s := &segment{path: file}
	err := s.each(func(_ uint64, block []byte) error { live = append(live, bytes.Clone(block)); return nil })
	if err = errors.Join(err, s.close()); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	hit := live[len(live)/2]
	for at := bytes.Index(raw, hit); at >= 0; at = bytes.Index(raw, hit) {
		raw[at+blockHeader+10] ^= 0x40
	}
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}
