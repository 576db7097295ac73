package buffer

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// shared is a reader with a live share, of events that are all years old: only a
// backlog is late, then, and a run never becomes a backlog by itself.
func (r *running) shared(uplink string, share float64) *Reader {
	rd := r.reader(uplink)
	rd.LiveShare(share)
	rd.againAfter = math.MaxInt64
	return rd
}

func some(t *testing.T, rd *Reader, events int) Batch {
	t.Helper()
	b, err := rd.NextUpTo(t.Context(), events, math.MaxInt64)
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Events) > events {
		t.Fatalf("%d events, asked for %d", len(b.Events), events)
	}
	return b
}

func TestNewEventsKeepTheirShareWhileABacklogDrains(t *testing.T) {
	for _, share := range []float64{0.1, 0.5, 0.7, 0.99} {
		t.Run(fmt.Sprint(share), func(t *testing.T) {
			r := start(t, config(t, nil))
			r.put("process", 0, 5000)
			rd := r.shared("central", share)
			b := some(t, rd, 10)
			if !b.Late || b.First != 1 {
				t.Fatalf("the backlog begins with %d events from %d on, late %v", len(b.Events), b.First, b.Late)
			}
			r.put("process", 5000, 5000)
			late, live, next := len(b.Events), 0, [2]uint64{b.Last() + 1, 5001}
			for late < 5000 && live < 5000 {
				b := some(t, rd, 27)
				kind := 1
				if b.Late {
					kind = 0
				}
				if b.First != next[kind] {
					t.Fatalf("late %v: %d after %d", b.Late, b.First, next[kind]-1)
				}
				next[kind] = b.Last() + 1
				if b.Late {
					late += len(b.Events)
				} else {
					live += len(b.Events)
				}
				rd.AckRun("process", b.Run, b.Last())
			}
			if got := float64(live) / float64(live+late); math.Abs(got-share) > 0.03 {
				t.Errorf("%d of %d events were new ones: %.2f, want %.2f", live, live+late, got, share)
			}
			for late < 5000 || live < 5000 { // either has all of the link when the other has nothing
				b := some(t, rd, 1000)
				rd.AckRun("process", b.Run, b.Last())
				if b.First <= 5000 {
					late += len(b.Events)
				} else {
					live += len(b.Events)
				}
			}
			if st := r.Stats().Classes["process"]; st.Uplinks["central"] != (UplinkStats{Acked: 10000}) || st.Events != 0 {
				t.Errorf("at the end: %+v", st)
			}
			r.put("process", 10000, 10)
			if b := some(t, rd, 100); b.First != 10001 {
				t.Errorf("after the backlog: from %d on", b.First)
			}
		})
	}
}

// TestARunSurvivesACrash reads a backlog and new events beside it, crashes, and asks
// the next life for exactly what was not delivered.
func TestARunSurvivesACrash(t *testing.T) {
	c := config(t, nil)
	r := start(t, c)
	r.put("process", 0, 4000)
	rd := r.shared("central", 0.5)
	ack := func(b Batch) { rd.AckRun("process", b.Run, b.Last()) }
	begin := some(t, rd, 100)
	ack(begin)
	r.put("process", 4000, 2000)
	delivered := map[uint64]bool{}
	for n := uint64(1); n <= begin.Last(); n++ { // as many as the first commit had, and 100 at most
		delivered[n] = true
	}
	var inFlight []Batch
	for range 40 {
		b := some(t, rd, 50)
		if inFlight = append(inFlight, b); len(inFlight) > 4 {
			ack(inFlight[0])
			for n := inFlight[0].First; n <= inFlight[0].Last(); n++ {
				delivered[n] = true
			}
			inFlight = inFlight[1:]
		}
	}
	st := r.Stats().Classes["process"].Uplinks["central"]
	if want := uint64(6000 - len(delivered)); st.Lag != want || !st.Ahead || st.Acked >= 4000 {
		t.Errorf("stats %+v, want a lag of %d", st, want)
	}
	if err := r.saveState(false); err != nil { // as every 3 s
		t.Fatal(err)
	}
	left := image(t, c)
	r.stop()

	again := start(t, left)
	rest := again.reader("central") // the share may be switched off meanwhile
	for missing := 6000 - len(delivered); missing > 0; {
		b := next(t, rest)
		for n := b.First; n <= b.Last(); n++ {
			if n <= 6000 {
				if delivered[n] {
					t.Fatalf("%d is read again, though it is saved as delivered", n)
				}
				delivered[n] = true
				missing--
			}
		}
		rest.AckRun("process", b.Run, b.Last())
	}
	if acked := again.Stats().Classes["process"].Uplinks["central"].Acked; acked < 6000 {
		t.Errorf("the cursor stands at %d", acked)
	}
}

// TestDropsBesideARun drops the oldest while a backlog drains beside new events: gap
// records stand for what was dropped and not delivered, and for nothing else.
func TestDropsBesideARun(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 3))
	r := start(t, config(t, func(c *Config) {
		c.Classes = []Class{{Name: "process", KeepBytes: 2 << 20, WhenFull: DropOldest}}
		c.Segment, c.Memory, c.Log = 1<<20, 256<<10, nil
	}))
	rd := r.shared("central", 0.5)
	got, missing, events := map[uint64]int{}, map[uint64]string{}, 0
	var inFlight []Batch
	ack := func() {
		b := inFlight[0]
		for i, e := range b.Events {
			if got[b.First+uint64(i)]++; e.Type != TypeGap {
				continue
			}
			g, err := parseGap(e.Payload)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range g.spans() {
				for n := s.first; n <= s.last; n++ {
					missing[n] = g.Reason
				}
			}
		}
		rd.AckRun("process", b.Run, b.Last())
		inFlight = inFlight[1:]
	}
	read := func() {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		b, err := rd.NextUpTo(ctx, 1+rnd.IntN(200), math.MaxInt64)
		if err != nil { // it has everything
			return
		}
		inFlight = append(inFlight, b)
		for len(inFlight) > rnd.IntN(6) {
			ack()
		}
	}
	for range 40 {
		n := 100 + rnd.IntN(400)
		for i := range n {
			e := event("process", events+i)
			e.Payload = noise(events+i, 1000)
			if err := r.Append(t.Context(), e, nil); err != nil {
				t.Fatal(err)
			}
		}
		events += n
		r.put("process", events, 1)
		events++
		for range rnd.IntN(3) {
			read()
		}
		if rnd.IntN(10) == 0 {
			inFlight = nil
			rd.Rewind(nil)
		}
	}
	end := r.Stats().Classes["process"].Next
	for st := r.Stats().Classes["process"]; st.Uplinks["central"].Acked < st.Next-1; st = r.Stats().Classes["process"] { // the last gap records, too
		read()
		for len(inFlight) > 0 {
			ack()
		}
	}
	lost := 0
	for n := uint64(1); n < end; n++ {
		switch {
		case got[n] == 0 && missing[n] == "":
			t.Fatalf("%d of %d is neither delivered nor explained", n, end-1)
		case got[n] > 0 && missing[n] != "":
			t.Fatalf("%d is delivered, and a gap record says %s", n, missing[n])
		case got[n] == 0:
			lost++
		}
	}
	if lost == 0 {
		t.Error("nothing was dropped")
	}
	t.Logf("%d of %d dropped, runs so far: %d", lost, end-1, rd.tiers[0].tracks[0].cursor.ids)
}
