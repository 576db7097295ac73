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
