package buffer

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"sluice/drivers"
)

// TestDroppedGapRecordsNeverFillTheStateFile has one uplink read a thinned class,
// which makes gap records that list many numbers, while another one takes
// nothing: these records are dropped, too.
func TestDroppedGapRecordsNeverFillTheStateFile(t *testing.T) {
	c := thinning(t, DropOldest, 200*time.Millisecond)
	c.Uplinks["dr"] = nil
	c.Log = slog.New(slog.DiscardHandler)
	r := start(t, c)
	rd, largest := r.reader("central"), 0
	for i := range 120 {
		r.signals(i*50, 50, 10)
		for r.Stats().Classes["process"].Uplinks["central"].Lag > 1000 {
			b := next(t, rd)
			rd.Ack("process", b.Last())
		}
		largest = max(largest, r.owes())
	}
	st := r.Stats().Classes["process"].Dropped
	if st[reasonThinned] == 0 || st[reasonDropOldest] == 0 || largest > slotSize/8 {
		t.Errorf("dropped %v, owing %d bytes", st, largest)
	}
	if reasons := r.account(r.reader("dr"), func(uint64, drivers.Event) {}); reasons[reasonDropOldest] == 0 {
		t.Errorf("%v", reasons)
	}
}

// owes is how many bytes of the state file go into debts.
func (r *running) owes() int {
	l := r.lanes["process"]
	l.mu.Lock()
	defer l.mu.Unlock()
	return sizeOf(l.debts)
}

// TestDebtsWithoutRoomAreToldBeforeAnythingIsDropped has an uplink stand between
// numbers and the records that stand for them, so that dropping these would owe
// it more than the state file holds.
func TestDebtsWithoutRoomAreToldBeforeAnythingIsDropped(t *testing.T) {
	var faults bytes.Buffer // the handler has a lock
	c := config(t, func(c *Config) {
		c.Classes[0].KeepBytes, c.Classes[0].WhenFull, c.Memory = 1<<20, DropOldest, 1
		c.Log = slog.New(slog.NewTextHandler(&faults, &slog.HandlerOptions{Level: slog.LevelError}))
	})
	r := start(t, c)
	r.put("process", 0, 4000)
	rd := r.reader("central")
	for b := next(t, rd); b.Last() < 3500; b = next(t, rd) {
	}
	for i := range 40 { // each with a thousand numbers that it does not stand for
		var spans []span
		for seq := uint64(1); seq <= 3000; seq += 3 {
			spans = append(spans, span{seq, seq})
		}
		for _, g := range gapsOf(spans[i:], reasonThinned, time.Now(), time.Now()) {
			if err := r.lanes["process"].account(t.Context(), g); err != nil {
				t.Fatal(err)
			}
		}
	}
	rd.Ack("process", 3500)
	putNoise(t, r, 0, 2000)
	st := r.Stats().Classes["process"]
	r.crash()
	if faults.Len() > 0 || st.Dropped[reasonDropOldest] == 0 {
		t.Errorf("dropped %v, said %.300s", st.Dropped, faults.String())
	}
	r = start(t, c)
	putNoise(t, r, 0, 10)
}

// TestAFileWithManyHolesIsMended damages every second block of a file that has
// more blocks than the state file has room for holes.
func TestAFileWithManyHolesIsMended(t *testing.T) {
	c := config(t, func(c *Config) {
		c.Classes[0].KeepBytes, c.Memory, c.Log = 64<<20, 1, slog.New(slog.DiscardHandler)
	})
	r := start(t, c)
	const blocks = 1200
	for n := range blocks {
		r.put("process", n, 1)
	}
	r.stop()
	file := segmentFiles(t, c.Dir)[0]
	destroyBlocks(t, file, func(n int) bool { return n%2 == 1 })
	r = start(t, c)
	defer r.stop()
	if st := r.Stats().Classes["process"]; st.Fault != "" {
		t.Error(st.Fault)
	}
	r.put("process", blocks, 1)
	reasons := r.account(r.reader("central"), func(uint64, drivers.Event) {})
	if reasons[reasonCorrupt] != blocks/2 {
		t.Errorf("%v", reasons)
	}
}

// destroyBlocks damages some of the blocks of a file, and its first page.
func destroyBlocks(t *testing.T, file string, which func(n int) bool) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var found []int64
	err = scanBlocks(strings.NewReader(string(b)), int64(len(b)), func(at int64, _ []byte) error { found = append(found, at); return nil })
	if err != nil {
		t.Fatal(err)
	}
	bySeq := map[uint64][]int64{} // bbolt leaves copies behind
	for _, at := range found {
		h, err := parseHeader(b[at:][:blockHeader+bodyLen(b[at:])])
		if err != nil {
			t.Fatal(err)
		}
		bySeq[h.first] = append(bySeq[h.first], at)
	}
	for seq, places := range bySeq {
		for _, at := range places {
			if which(int(seq)) {
				b[at+blockHeader] ^= 0xff
			}
		}
	}
	clear(b[:8192])
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func bodyLen(b []byte) int { return int(b[24])<<24 | int(b[25])<<16 | int(b[26])<<8 | int(b[27]) }

func TestTooManyClassesAndUplinksAreRefused(t *testing.T) {
	c := config(t, func(c *Config) {
		for i := range 40 {
			c.Classes = append(c.Classes, Class{Name: fmt.Sprintf("class-%d", i)})
			c.Uplinks[strings.Repeat("u", 60)+fmt.Sprint(i)] = nil
		}
	})
	if b, err := Open(c); err == nil {
		b.Close()
		t.Fatal("opened")
	} else if !strings.Contains(err.Error(), "41 classes and 41 uplinks") {
		t.Error(err)
	}
}

// TestARecordIsOwedToAReaderThatReliesOnIt drops, in ways that only a race makes
// in the field, a gap record that a reader has moved past its numbers for and has
// not come to.
func TestARecordIsOwedToAReaderThatReliesOnIt(t *testing.T) {
	full := func(t *testing.T) (*running, *Reader, uint64) {
		c := config(t, func(c *Config) {
			c.Classes[0].KeepBytes, c.Classes[0].WhenFull, c.Memory, c.Log = 1<<20, DropOldest, 1, slog.New(slog.DiscardHandler)
			c.Uplinks["dr"] = nil
		})
		r := start(t, c)
		putNoise(t, r, 0, 1000)
		return r, r.reader("central"), r.Stats().Classes["process"].First
	}
	t.Run("moved past what is not there", func(t *testing.T) {
		r, rd, first := full(t)
		// As if it had looked before the last of the files was dropped: something is
		// still owed, and no event was given since.
		if err := rd.tiers[0].tracks[0].main.bridge(t.Context(), first/2, nil); err != nil {
			t.Fatal(err)
		}
		putNoise(t, r, 1000, 1000)
		r.allTold(rd, map[uint64]bool{})
	})
	t.Run("holds a thinned block", func(t *testing.T) {
		r := start(t, thinning(t, DropOldest, time.Second))
		r.signals(0, 900, 10)
		n := 900
		for l := r.lanes["process"]; !firstIsThinned(l); n += 50 { // the first one is left out while its small blocks are merged
			if n > 9000 {
				t.Fatal("the oldest segment is never thinned")
			}
			r.signals(n, 50, 10)
		}
		rd, seen := r.reader("central"), map[uint64]bool{}
		b, err := rd.NextUpTo(t.Context(), 1, 1)
		if err != nil || rd.tiers[0].tracks[0].main.rest == nil {
			t.Fatalf("no thinned block at %d: %v", b.First, err)
		}
		seen[b.First] = true
		for i := range 60 { // one of each key in a second: nothing to thin
			r.signals(n+9+10*i, 1, 200)
		}
		if r.Stats().Classes["process"].Dropped[reasonDropOldest] == 0 {
			t.Fatal("nothing was dropped")
		}
		r.allTold(rd, seen)
	})
	t.Run("another uplink refuses the record", func(t *testing.T) {
		r, rd, first := full(t)
		if err := rd.tiers[0].tracks[0].main.bridge(t.Context(), first-1, nil); err != nil {
			t.Fatal(err)
		}
		record := r.Stats().Classes["process"].Next - 1
		putNoise(t, r, 1000, 300)
		if err := r.reader("dr").Reject(t.Context(), "process", record, "for the test"); err != nil {
			t.Fatal(err)
		}
		for n := 1300; r.Stats().Classes["process"].First <= record; n += 20 {
			putNoise(t, r, n, 20)
		}
		r.allTold(rd, map[uint64]bool{})
	})
}

func firstIsThinned(l *lane) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.segments[0].thinnedTo() > 0
}

// allTold reads to the end, after which each number must have come or be missing by
// a gap record. seen has what came before.
func (r *running) allTold(rd *Reader, seen map[uint64]bool) {
	r.t.Helper()
	for last := uint64(0); last+1 < r.Stats().Classes["process"].Next; {
		b := next(r.t, rd)
		noteTold(r.t, b, seen)
		last = b.Last()
	}
	var untold []span
	for seq := uint64(1); seq < r.Stats().Classes["process"].Next; seq++ {
		if n := len(untold) - 1; !seen[seq] && n >= 0 && untold[n].last == seq-1 {
			untold[n].last = seq
		} else if !seen[seq] {
			untold = append(untold, span{seq, seq})
		}
	}
	if len(untold) > 0 {
		r.t.Errorf("%s: %d neither came nor does a gap record stand for them", rd.uplink, untold)
	}
}

// noteTold notes the numbers that came with b, and those that it says are missing.
func noteTold(t *testing.T, b Batch, seen map[uint64]bool) {
	t.Helper()
	for i, e := range b.Events {
		seen[b.First+uint64(i)] = true
		if e.Type != TypeGap {
			continue
		}
		g, err := parseGap(e.Payload)
		if err != nil {
			t.Error(err)
		}
		for _, m := range g.spans() {
			for seq := m.first; seq <= m.last; seq++ {
				seen[seq] = true
			}
		}
	}
}

// TestReasonsAreForTheNumbersAskedForAlone has a dropped record stand for numbers on
// both sides of those.
func TestReasonsAreForTheNumbersAskedForAlone(t *testing.T) {
	d := debt{gap: newGap(5, 50, reasonThinned, time.Now(), time.Now()), At: 60}
	for seq := uint64(6); seq <= 20; seq++ {
		d.Kept = append(d.Kept, seq)
	}
	l := &lane{debts: []debt{d}}
	for _, want := range []span{{10, 12}, {1, 5}, {3, 22}, {21, 60}} {
		at := want.first
		parts, _ := l.reasons(want.first, want.last, reasonCorrupt)
		for _, p := range parts {
			if p.First != at || p.Count != p.Last-p.First+1 {
				t.Errorf("%d: %d to %d, %d of them, behind %d", want, p.First, p.Last, p.Count, at-1)
			}
			at = p.Last + 1
		}
		if at != want.last+1 {
			t.Errorf("%d: up to %d", want, at-1)
		}
	}
}

// TestFewRecordsSayWhatManyDid: and what a dropped record said comes before what
// stands for its number.
func TestFewRecordsSayWhatManyDid(t *testing.T) {
	now := time.Now()
	listed := newGap(70, 79, reasonThinned, now, now)
	listed.Kept, listed.Count = []uint64{75}, 9
	got := inFew([]gap{newGap(80, 95, reasonDropOldest, now, now), newGap(1, 4, reasonDropOldest, now, now)}, // of which 90 stood for 5 to 9
		[]gap{newGap(5, 9, reasonDropOldest, now, now), newGap(50, 59, reasonExpired, now, now), listed})
	want := []span{{70, 79}, {1, 9}, {50, 59}, {80, 95}}
	if len(got) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i, g := range got {
		if g.First != want[i].first || g.Last != want[i].last || g.Count != g.Last-g.First+1-uint64(len(g.Kept)) {
			t.Errorf("record %d: %+v, want %d", i, g, want[i])
		}
	}
}

// TestWhatWasInHandIsCountedOnceAGapRecordStandsForIt drops events that the uplink was given
// and never acknowledges: over both lives what counts as dropped is what the records say.
func TestWhatWasInHandIsCountedOnceAGapRecordStandsForIt(t *testing.T) {
	for _, end := range []string{"a stop", "a crash", "a reader made anew"} {
		c := config(t, func(c *Config) {
			c.Classes[0].KeepBytes, c.Classes[0].WhenFull, c.Log = 1<<20, DropOldest, slog.New(slog.DiscardHandler)
		})
		r := start(t, c)
		rd := r.reader("central")
		var given uint64
		for i := range 10 {
			putNoise(t, r, 200*i, 200)
			if i == 0 { // from then on all it has is in its hands
				for given < 200 {
					given = next(t, rd).Last()
				}
			}
		}
		before := r.Stats().Classes["process"].Dropped[reasonDropOldest]
		switch end {
		case "a stop":
			r.stop()
			r = start(t, c)
		case "a crash":
			r.crash()
			r = start(t, c)
		default:
			before = 0 // the same life counts on
			rd.Close()
		}
		told := r.account(r.reader("central"), func(uint64, drivers.Event) {})[reasonDropOldest]
		after := r.Stats().Classes["process"].Dropped[reasonDropOldest]
		if uint64(told) != before+after || after == 0 || told < 400 {
			t.Errorf("%s: gap records stand for %d, counted were %d before it and %d after it", end, told, before, after)
		}
	}
}

// TestWhatWasThinnedInHandIsCounted thins events that the uplink was given and never
// acknowledges.
func TestWhatWasThinnedInHandIsCounted(t *testing.T) {
	c := thinning(t, DropOldest, time.Second)
	c.Log = slog.New(slog.DiscardHandler)
	r := start(t, c)
	rd := r.reader("central")
	r.signals(0, 100, 10)
	for given := uint64(0); given < 1000; {
		given = next(t, rd).Last()
	}
	r.signals(100, 700, 10)
	before := r.Stats().Classes["process"].Dropped
	if before[reasonThinned] == 0 {
		t.Fatalf("%v", before)
	}
	r.stop()
	r = start(t, c)
	told := r.account(r.reader("central"), func(uint64, drivers.Event) {})
	after := r.Stats().Classes["process"].Dropped
	if uint64(told[reasonThinned]) != before[reasonThinned]+after[reasonThinned] || after[reasonThinned] == 0 || told[reasonDropOldest] > 0 {
		t.Errorf("gap records stand for %v, counted were %v before the stop and %v after it", told, before, after)
	}
}

// TestAGapBeginsWithTheTimeOfItsFirstEvent drops a segment of which the uplink has a part.
func TestAGapBeginsWithTheTimeOfItsFirstEvent(t *testing.T) {
	r := start(t, config(t, func(c *Config) {
		c.Classes[0].KeepBytes, c.Classes[0].WhenFull, c.Log = 1<<20, DropOldest, slog.New(slog.DiscardHandler)
	}))
	rd := r.reader("central")
	for i := range 10 { // in many blocks
		putNoise(t, r, 5*i, 5)
	}
	for last := uint64(0); last < 30; {
		last = next(t, rd).Last()
	}
	rd.Ack("process", 30)
	putNoise(t, r, 50, 1000)
	rd.Close()
	rd = r.reader("central")
	told := false
	for last := uint64(0); last+1 < r.Stats().Classes["process"].Next; {
		b := next(t, rd)
		last = b.Last()
		for _, e := range b.Events {
			if e.Type != TypeGap {
				continue
			}
			g, err := parseGap(e.Payload)
			if err != nil {
				t.Fatal(err)
			}
			if want := event("process", 30).Time; !g.From.Equal(want) { // one that tells a part has the times of the whole
				t.Errorf("the gap from number %d begins at %s, its first event was of %s", g.First, g.From, want)
			}
			told = told || g.First == 31
		}
	}
	if !told {
		t.Error("no gap record")
	}
}
