package buffer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"sluice/drivers"
)

// signals appends n rounds of one event per key, 100 ms apart.
func (r *running) signals(from, n, keys int) {
	r.t.Helper()
	var last chan error
	for i := from; i < from+n; i++ {
		for k := range keys {
			last = make(chan error, 1)
			e := drivers.Event{Class: "process", Source: "line", Subject: fmt.Sprintf("m%d", k), Type: drivers.TypeMQTTMessage,
				ContentType: drivers.ContentBinary, Time: signalTime(i), Payload: fmt.Appendf(nil, "%d %d %x", i, k, noise(i*keys+k, 150))}
			done := last
			if err := r.Append(r.t.Context(), e, func(err error) { done <- err }); err != nil {
				r.t.Fatal(err)
			}
		}
		if i%50 == 49 {
			<-last
		}
	}
}

func signalTime(i int) time.Time {
	return time.Unix(1_700_000_000, 0).Add(time.Duration(i) * 100 * time.Millisecond).UTC()
}

func thinning(t *testing.T, last WhenFull, ladder ...time.Duration) Config {
	return config(t, func(c *Config) {
		c.Classes[0].KeepBytes, c.Classes[0].Thin, c.Classes[0].WhenFull, c.Memory = 1<<20, ladder, last, 1
	})
}

// account reads all that is there, holds it against 1..last and counts reasons.
func (r *running) account(rd *Reader, visit func(seq uint64, e drivers.Event)) map[string]int {
	r.t.Helper()
	seen := map[uint64]string{}
	for last := uint64(0); last+1 < r.Stats().Classes["process"].Next; {
		b := next(r.t, rd)
		for i, e := range b.Events {
			explain(r.t, seen, b.First+uint64(i), e)
			visit(b.First+uint64(i), e)
		}
		if b.First <= last {
			r.t.Fatalf("batch at %d after %d", b.First, last)
		}
		last = b.Last()
	}
	reasons := map[string]int{}
	for seq := uint64(1); seq < r.Stats().Classes["process"].Next; seq++ {
		if reasons[seen[seq]]++; seen[seq] == "" {
			r.t.Fatalf("number %d is neither stored nor accounted for", seq)
		}
	}
	return reasons
}

func TestAFullClassIsThinnedBeforeItDrops(t *testing.T) {
	r := start(t, thinning(t, DropOldest, time.Second))
	r.signals(0, 900, 10) // 9,000 events of about 330 bytes
	kept := map[string]map[int64]int{}
	var times []time.Time
	reasons := r.account(r.reader("central"), func(_ uint64, e drivers.Event) {
		if e.Type == TypeGap {
			return
		}
		if kept[e.Subject] == nil {
			kept[e.Subject] = map[int64]int{}
		}
		kept[e.Subject][e.Time.Unix()]++
		times = append(times, e.Time)
	})
	t.Logf("%v", reasons)
	if reasons[reasonThinned] < 3000 || reasons[reasonDropOldest] > 0 {
		t.Errorf("reasons %v, want thinned events and none dropped", reasons)
	}
	for key, seconds := range kept {
		if len(seconds) != 90 {
			t.Errorf("%s: events in %d of 90 seconds", key, len(seconds))
		}
	}
	for i := 1; i < len(times); i++ {
		if times[i].Before(times[i-1]) {
			t.Fatal("not in order")
		}
	}
	if st := r.Stats().Classes["process"]; st.Dropped[reasonThinned] != uint64(reasons[reasonThinned]) {
		t.Errorf("counted %d thinned", st.Dropped[reasonThinned])
	}
}

func TestTheLadderEndsInItsLastWord(t *testing.T) {
	r := start(t, thinning(t, DropOldest, time.Second, 10*time.Second))
	r.signals(0, 3000, 10)
	reasons := r.account(r.reader("central"), func(uint64, drivers.Event) {})
	t.Logf("%v", reasons)
	if reasons[reasonThinned] == 0 {
		t.Errorf("reasons %v", reasons)
	}
	st := r.Stats().Classes["process"]
	if st.Bytes > 2<<20 {
		t.Errorf("%d bytes", st.Bytes)
	}
}

func TestThinnedEventsAreAccountedForAcrossACrashAndForEachUplink(t *testing.T) {
	c := thinning(t, DropOldest, time.Second)
	c.Uplinks["dr"] = nil
	r := start(t, c)
	dr := r.reader("dr")
	r.signals(0, 50, 10)
	next(t, dr) // dr has the beginning in hand
	r.signals(50, 650, 10)
	r.account(r.reader("central"), func(uint64, drivers.Event) {})
	r.crash()
	r = start(t, c)
	for _, uplink := range []string{"central", "dr"} {
		reasons := r.account(r.reader(uplink), func(uint64, drivers.Event) {})
		if reasons[reasonThinned] == 0 || reasons[reasonCorrupt] > 0 {
			t.Errorf("%s: reasons %v", uplink, reasons)
		}
	}
}

func TestGapRecordsAreNotThinned(t *testing.T) {
	th := thinner{every: time.Hour, last: map[thinKey]int64{}}
	now := time.Unix(1_700_000_000, 0)
	g := newGap(1, 2, reasonCorrupt, now, now).event("process")
	for range 2 {
		if !th.keeps(&g) {
			t.Error("a gap record was thinned")
		}
	}
}

// TestSmallBlocksOfASealedSegmentAreMerged commits one event at a time.
func TestSmallBlocksOfASealedSegmentAreMerged(t *testing.T) {
	c := config(t, func(c *Config) { c.Classes[0].KeepBytes = 2 << 20 })
	r := start(t, c)
	for n := range 3000 {
		r.put("process", n, 1)
		if len(segmentFiles(t, c.Dir)) > 2 && n > 1500 {
			break
		}
	}
	var before, merged int
	waitFor(t, "a merge", func() bool {
		before, merged = 0, 0
		for _, s := range r.lanes["process"].segments {
			if s.gen > 0 {
				merged++
			}
			before++
		}
		return merged > 0
	})
	n := int(r.Stats().Classes["process"].Next) - 1
	wantEvents(t, collect(t, r.reader("central"), n), 1, 0)
	r.stop()
	r = start(t, c)
	wantEvents(t, collect(t, r.reader("central"), n), 1, 0)
}

// TestFilesAreHardlyLargerThanWhatTheyHold commits 64 events at a time in an
// outage, in two lives, and weighs the sealed segments against their blocks.
func TestFilesAreHardlyLargerThanWhatTheyHold(t *testing.T) {
	c := config(t, func(c *Config) { c.Classes[0].KeepBytes = 32 << 20 }) // segments of 4 MiB
	events := benchEvents(16<<10, "telemetry")
	r := start(t, c)
	fill := func(until uint64) {
		for at := 0; r.Stats().Classes["process"].Next < until; at += 64 {
			if err := appendAll(r.Buffer, events[at%len(events):][:64]); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill(125_000) // a segment holds some 65,000
	r.crash()
	r = start(t, c)
	fill(240_000)
	var file, live int64
	waitFor(t, "all sealed segments to be small", func() bool {
		file, live = 0, 0
		l := r.lanes["process"]
		l.mu.Lock()
		sealed := slices.Clone(l.segments[:len(l.segments)-1])
		l.mu.Unlock()
		for _, s := range sealed {
			if s.tally.events < 1000 {
				continue
			}
			file += fileSize(s.path)
			if err := s.each(func(_ uint64, block []byte) error { live += int64(len(block)); return nil }); err != nil && !errors.Is(err, errGone) {
				t.Fatal(err)
			}
		}
		return len(sealed) >= 3 && float64(file) <= 1.2*float64(live)
	})
	t.Logf("%d bytes of files for %d of blocks: %.2f", file, live, float64(file)/float64(live))
}

// TestADamagedMergeIsReplacedByWhatItWasMadeOf has a crash come after a segment was
// merged and before the old file is removed; then a block of the new one is
// damaged.
func TestADamagedMergeIsReplacedByWhatItWasMadeOf(t *testing.T) {
	c := config(t, nil)
	r := start(t, c)
	for n := range 200 {
		r.put("process", n, 1)
	}
	s := r.lanes["process"].segments[0]
	r.crash()
	fresh, err := rewriteLarger(t.Context(), filepath.Dir(s.path), s, nil)
	if err := errors.Join(err, s.close()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(fresh.path)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; ; at += len(blockMagic) { // bbolt leaves no copy behind that would matter
		i := bytes.Index(b[at:], []byte(blockMagic))
		if i < 0 {
			break
		}
		at += i
		b[at+blockHeader+3] ^= 1
	}
	if err := os.WriteFile(fresh.path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	r = start(t, c)
	if files := segmentFiles(t, c.Dir); len(files) != 1 || files[0] != s.path {
		t.Errorf("%v", files)
	}
	wantEvents(t, collect(t, r.reader("central"), 200), 1, 0)
}
