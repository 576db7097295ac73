package buffer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sluice/drivers"
)

func TestReadsWhatWasAppendedInOrder(t *testing.T) {
	r := start(t, config(t, nil))
	r.put("process", 0, 5000)
	wantEvents(t, collect(t, r.reader("central"), 5000), 1, 0)
}

func TestReadsFromDiskWhatTheTailNoLongerHolds(t *testing.T) {
	r := start(t, config(t, func(c *Config) { c.Memory, c.Segment = 1, 1<<20; c.Classes[0].KeepBytes = 8 << 20 }))
	for i := 0; i < 20; i++ {
		r.put("process", i*2000, 2000)
	}
	if r.lanes["process"].tail[0].First == 1 {
		t.Fatal("the tail still holds everything: nothing is read from disk")
	}
	wantEvents(t, collect(t, r.reader("central"), 40000), 1, 0)
}

func TestCursorSurvivesCleanStopExactly(t *testing.T) {
	c := config(t, nil)
	r := start(t, c)
	r.put("process", 0, 3000)
	rd := r.reader("central")
	collect(t, rd, 3000)
	rd.Ack("process", 1234)
	r.stop()

	r = start(t, c)
	wantEvents(t, collect(t, r.reader("central"), 3000-1234), 1235, 1234)
	r.put("process", 3000, 10)
}

func TestNumbersGoOnAfterACrashAndNothingAcknowledgedIsMissing(t *testing.T) {
	c := config(t, nil)
	for life := 0; life < 4; life++ {
		r := start(t, c)
		r.put("process", life*1000, 1000)
		if life < 3 {
			r.crash()
			continue
		}
		wantEvents(t, collect(t, r.reader("central"), 4000), 1, 0)
	}
}

func TestIncarnationAndCursorsSurviveALostStateFile(t *testing.T) {
	c := config(t, nil)
	r := start(t, c)
	incarnation := r.Incarnation()
	r.put("process", 0, 100)
	r.reader("central").Ack("process", 40)
	r.put("process", 100, 1) // the cursor rides along with this commit
	r.crash()
	if err := os.Remove(filepath.Join(c.Dir, stateName)); err != nil {
		t.Fatal(err)
	}
	r = start(t, c)
	if r.Incarnation() != incarnation {
		t.Errorf("incarnation %s, was %s", r.Incarnation(), incarnation)
	}
	wantEvents(t, collect(t, r.reader("central"), 61), 41, 40)
}

func TestPriorityOvertakes(t *testing.T) {
	r := start(t, config(t, func(c *Config) {
		c.Classes = []Class{{Name: "process", Priority: 10}, {Name: "alarm", Priority: 100}}
	}))
	r.put("process", 0, 3000)
	rd := r.reader("central")
	if b := next(t, rd); b.Class != "process" {
		t.Fatal("first batch is of class", b.Class)
	}
	r.put("alarm", 0, 1)
	if b := next(t, rd); b.Class != "alarm" {
		t.Fatalf("a waiting alarm did not overtake: got %s", b.Class)
	}
}

func TestAFullClassThatBlocksTakesNothingUntilAnUplinkAcknowledges(t *testing.T) {
	r := start(t, config(t, func(c *Config) { c.Classes[0].KeepBytes = 1 << 20; c.Memory = 1 }))
	var mu sync.Mutex
	durable := 0
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for i := 0; ctx.Err() == nil; i++ {
			e := event("process", i)
			e.Payload = noise(i, 4096)
			_ = r.Append(ctx, e, func(err error) {
				if err == nil {
					mu.Lock()
					durable++
					mu.Unlock()
				}
			})
		}
	}()
	defer cancel()
	waitFor(t, "the class to be full", func() bool { return r.Stats().Classes["process"].Blocked })
	st := r.Stats().Classes["process"]
	if st.Bytes > 2<<20 || st.Queued > 300 {
		t.Errorf("full with %d bytes on disk, %d events queued: the limit is 1 MiB", st.Bytes, st.Queued)
	}
	mu.Lock()
	before := durable
	mu.Unlock()
	rd := r.reader("central")
	for i := 0; i < before; {
		b := next(t, rd)
		i += len(b.Events)
		rd.Ack("process", b.Last())
	}
	waitFor(t, "room", func() bool { mu.Lock(); defer mu.Unlock(); return durable > before })
}

func TestDropOldestAccountsForEachMissingNumber(t *testing.T) {
	testDrops(t, DropOldest, reasonDropOldest, 12000)
}
func TestDropNewestAccountsForEachMissingNumber(t *testing.T) {
	testDrops(t, DropNewest, reasonDropNewest, 600)
}

// testDrops fills a class without a reader, reads what is left, and holds
// stored numbers and gap records against 1..last.
func testDrops(t *testing.T, rule WhenFull, reason string, n int) {
	r := start(t, config(t, func(c *Config) { c.Classes[0].KeepBytes, c.Classes[0].WhenFull = 1<<20, rule }))
	for i := 0; i < n; i += 200 {
		var wg sync.WaitGroup
		for j := i; j < i+200; j++ {
			wg.Add(1)
			e := event("process", j)
			e.Payload = noise(j, 2500)
			if err := r.Append(context.Background(), e, func(error) { wg.Done() }); err != nil {
				t.Fatal(err)
			}
		}
		wg.Wait()
	}
	st := r.Stats().Classes["process"]
	if st.Dropped[reason] == 0 || st.Bytes > 3<<20 {
		t.Fatalf("dropped %v with %d bytes", st.Dropped, st.Bytes)
	}
	seen := map[uint64]string{}
	rd := r.reader("central")
	for last := uint64(0); last+1 < r.Stats().Classes["process"].Next; {
		b := next(t, rd)
		for i, e := range b.Events {
			explain(t, seen, b.First+uint64(i), e)
		}
		last = b.Last()
	}
	for seq := uint64(1); seq < st.Next; seq++ {
		if seen[seq] == "" {
			t.Fatalf("number %d is neither stored nor accounted for", seq)
		}
	}
}

// explain notes a stored number, and those that a gap record stands for.
func explain(t *testing.T, seen map[uint64]string, seq uint64, e drivers.Event) {
	t.Helper()
	if seen[seq] != "" {
		t.Fatalf("number %d is stored and %s", seq, seen[seq])
	}
	seen[seq] = "stored"
	if e.Type != TypeGap {
		return
	}
	g, err := parseGap(e.Payload)
	if err != nil || g.Count+uint64(len(g.Kept)) != g.Last-g.First+1 {
		t.Fatalf("gap record %s: %v", e.Payload, err)
	}
	for _, m := range g.spans() {
		for s := m.first; s <= m.last; s++ {
			if seen[s] != "" {
				t.Fatalf("number %d is missing by a gap record and %s", s, seen[s])
			}
			seen[s] = g.Reason
		}
	}
}

func TestExpiredEventsAreAccountedFor(t *testing.T) {
	c := config(t, func(c *Config) { c.Classes[0].KeepAge = time.Hour })
	r := start(t, c)
	r.put("process", 0, 500) // from 2023
	waitFor(t, "expiry", func() bool { return r.Stats().Classes["process"].Dropped[reasonExpired] == 500 })
	got := collect(t, r.reader("central"), 1)
	if len(got) != 1 || got[0].Type != TypeGap || !strings.Contains(string(got[0].Payload), `"first":1,"last":500,"count":500,"reason":"expired"`) {
		t.Fatalf("got %+v", got)
	}
}

func TestDeliveredSegmentsAreRemoved(t *testing.T) {
	r := start(t, config(t, func(c *Config) { c.Classes[0].KeepBytes = 2 << 20 }))
	rd := r.reader("central")
	for i := 0; i < 3000; i += 100 {
		var wg sync.WaitGroup
		for j := i; j < i+100; j++ {
			wg.Add(1)
			e := event("process", j)
			e.Payload = noise(j, 3000)
			_ = r.Append(context.Background(), e, func(error) { wg.Done() })
		}
		wg.Wait()
		for got := 0; got < 100; {
			b := next(t, rd)
			got += len(b.Events)
			rd.Ack("process", b.Last())
		}
	}
	waitFor(t, "all but 4 segments of 9 MB that were delivered to be removed", func() bool { return len(segmentFiles(t, r.cfg.Dir)) <= 4 })
}

func TestADamagedBlockCostsThatBlockAlone(t *testing.T) {
	c := config(t, func(c *Config) { c.Memory = 1 })
	r := start(t, c)
	for i := 0; i < 20; i++ {
		r.put("process", i*100, 100)
	}
	r.stop()
	files, _ := filepath.Glob(filepath.Join(c.Dir, "classes", "process", "*"+segmentSuffix))
	ruinMiddle(t, files[0])
	r = start(t, c)
	rd, seen := r.reader("central"), map[uint64]string{}
	for len(seen) < 2001 {
		b := next(t, rd)
		for i, e := range b.Events {
			if e.Type != TypeGap && string(e.Payload) != fmt.Sprintf("event %d", b.First+uint64(i)-1) {
				t.Fatalf("wrong event at %d: %q", b.First+uint64(i), e.Payload)
			}
			explain(t, seen, b.First+uint64(i), e)
		}
	}
	lost := r.Stats().Classes["process"].Dropped[reasonCorrupt]
	if lost == 0 || lost > 1024 {
		t.Fatalf("%d events lost for one damaged block", lost)
	}
}

func TestADamagedFileIsSetAsideAndAccountedFor(t *testing.T) {
	c := config(t, func(c *Config) { c.Classes[0].KeepBytes = 2 << 20 })
	r := start(t, c)
	for j := 0; j < 300; j++ {
		e := event("process", j)
		e.Payload = noise(j, 3000)
		done := make(chan error, 1)
		_ = r.Append(context.Background(), e, func(err error) { done <- err })
		<-done
	}
	r.crash()
	files, _ := filepath.Glob(filepath.Join(c.Dir, "classes", "process", "*"+segmentSuffix))
	if len(files) < 3 {
		t.Fatalf("only %d segments", len(files))
	}
	for _, f := range files[1:] { // all but the first
		if err := os.WriteFile(f, make([]byte, 64<<10), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r = start(t, c)
	r.put("process", 300, 1)
	aside, _ := filepath.Glob(filepath.Join(c.Dir, "classes", "process", "*.corrupt-*"))
	if len(aside) != len(files)-1 {
		t.Errorf("%d files set aside, %d were damaged", len(aside), len(files)-1)
	}
	rd, seen, last := r.reader("central"), map[uint64]string{}, uint64(0)
	for last+1 < r.Stats().Classes["process"].Next {
		b := next(t, rd)
		for i, e := range b.Events {
			explain(t, seen, b.First+uint64(i), e)
		}
		last = b.Last()
	}
	for seq := uint64(1); seq <= last; seq++ {
		if seen[seq] == "" {
			t.Fatalf("number %d is neither stored nor accounted for", seq)
		}
	}
}

func TestRejectLeavesAGapRecordBeforeItReturns(t *testing.T) {
	r := start(t, config(t, nil))
	r.put("process", 0, 10)
	rd := r.reader("central")
	collect(t, rd, 10)
	if err := rd.Reject(context.Background(), "process", 7, "too large"); err != nil {
		t.Fatal(err)
	}
	rd.Ack("process", 10)
	got := collect(t, rd, 1)
	if got[0].seq != 11 || !strings.Contains(string(got[0].Payload), `"first":7,"last":7,"count":1,"reason":"rejected"`) {
		t.Fatalf("got %+v %s", got[0], got[0].Payload)
	}
}

func TestADirectoryHasOneOwner(t *testing.T) {
	c := config(t, nil)
	start(t, c)
	_, err := Open(c)
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), fmt.Sprint("pid ", os.Getpid())) {
		t.Fatalf("second Open: %v", err)
	}
}

func TestOpenRefusesWhatCannotWork(t *testing.T) {
	for name, edit := range map[string]func(*Config){
		"no directory":      func(c *Config) { c.Dir = "" },
		"no class":          func(c *Config) { c.Classes = nil },
		"class name":        func(c *Config) { c.Classes[0].Name = "../x" },
		"class twice":       func(c *Config) { c.Classes = append(c.Classes, c.Classes[0]) },
		"segment too small": func(c *Config) { c.Segment = 1000 },
		"min_free":          func(c *Config) { c.MinFree = 1 },
		"when_full":         func(c *Config) { c.Classes[0].WhenFull = "maybe" },
		"keep bytes":        func(c *Config) { c.Classes[0].KeepBytes = 5 },
		"a file in its way": func(c *Config) { c.Dir = filepath.Join(c.Dir, "x"); _ = os.WriteFile(c.Dir, nil, 0o600) },
		"uplink name":       func(c *Config) { c.Uplinks[""] = nil },
		"commit delay":      func(c *Config) { c.CommitDelay = time.Hour },
		"a newer format":    func(c *Config) { newerSegment(t, *c) },
	} {
		t.Run(name, func(t *testing.T) {
			c := config(t, edit)
			if b, err := Open(c); err == nil {
				b.Close()
				t.Fatal("opened")
			}
		})
	}
}

func newerSegment(t *testing.T, c Config) {
	dir := filepath.Join(c.Dir, "classes", "process")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := createSegment(dir, about{Format: segmentFormat + 1, Class: "process", Incarnation: "0badcafe", First: 1}, 0, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	s.close()
}

func TestAFailedCommitLosesNothingThatWasAcknowledged(t *testing.T) {
	c := config(t, func(c *Config) { c.Log = slog.New(slog.DiscardHandler); c.Memory = 1 })
	r := start(t, c)
	r.put("process", 0, 100)
	l := r.lanes["process"]
	l.mu.Lock()
	active := l.active
	l.mu.Unlock()
	active.mu.Lock()
	err := active.db.Close() // the next commit fails, as on a dying disk
	active.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	r.put("process", 100, 100)
	wantEvents(t, collect(t, r.reader("central"), 200), 1, 0)
	r.crash()
	r = start(t, c)
	wantEvents(t, collect(t, r.reader("central"), 200), 1, 0)
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("gave up waiting for", what)
		}
	}
}

func TestAClassThatIsNoLongerDeclaredIsStillDelivered(t *testing.T) {
	c := config(t, func(c *Config) {
		c.Classes = append(c.Classes, Class{Name: "old"})
		c.Uplinks["alarms"] = []string{"alarm"}
	})
	r := start(t, c)
	r.put("old", 0, 50)
	r.reader("central").Ack("old", 20)
	r.stop()
	c.Classes = []Class{{Name: "process"}}
	r = start(t, c)
	if err := r.Append(t.Context(), event("old", 50), nil); !errors.Is(err, ErrClass) {
		t.Fatalf("a class that is not declared takes events: %v", err)
	}
	rd := r.reader("central")
	wantEvents(t, collect(t, rd, 30), 21, 20)
	rd.Ack("old", 50)
	r.stop()
	if r = start(t, c); len(r.lanes) != 1 {
		t.Fatal("a class that is delivered and not declared is still there")
	}
	r.stop()
	c.Classes = append(c.Classes, Class{Name: "old"}) // declared again: its numbers go on
	r = start(t, c)
	r.put("old", 50, 1)
	wantEvents(t, collect(t, r.reader("central"), 1), 51, 50)
}

// TestDropsAreAccountedForAcrossKills fills a class while its uplink reads ahead
// without acknowledging, as one does whose link is down, with crashes in between.
func TestDropsAreAccountedForAcrossKills(t *testing.T) {
	for _, rule := range []WhenFull{DropOldest, DropNewest} {
		t.Run(string(rule), func(t *testing.T) {
			c := config(t, func(c *Config) {
				c.Classes[0].KeepBytes, c.Classes[0].WhenFull, c.Memory = 1<<20, rule, 8<<20
				c.Log = slog.New(slog.DiscardHandler)
			})
			for life := range 4 {
				r := start(t, c)
				rd := r.reader("central")
				putNoise(t, r, life*800, 400)
				next(t, rd)
				putNoise(t, r, life*800+400, 400)
				next(t, rd)
				r.crash()
			}
			r := start(t, c)
			seen, rd := map[uint64]string{}, r.reader("central")
			for last := uint64(0); last+1 < r.Stats().Classes["process"].Next; {
				b := next(t, rd)
				for i, e := range b.Events {
					explain(t, seen, b.First+uint64(i), e)
				}
				last = b.Last()
			}
			reasons := map[string]int{}
			for seq := uint64(1); seq < r.Stats().Classes["process"].Next; seq++ {
				if reasons[seen[seq]]++; seen[seq] == "" {
					t.Fatalf("number %d is neither stored nor accounted for", seq)
				}
			}
			if len(reasons) != 2 || reasons[string(rule)] == 0 {
				t.Errorf("numbers by fate: %v", reasons)
			}
		})
	}
}

// putNoise appends events that hardly compress and waits for them.
func putNoise(t *testing.T, r *running, from, n int) {
	t.Helper()
	var wg sync.WaitGroup
	for j := from; j < from+n; j++ {
		e := event("process", j)
		e.Payload = noise(j, 2500)
		wg.Add(1)
		if err := r.Append(t.Context(), e, func(error) { wg.Done() }); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
}
