package buffer

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestASlotFileGivesTheNewestWholeValue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	s, value, damaged, err := openSlots(path)
	if err != nil || value != nil || damaged {
		t.Fatalf("new: %q %v %v", value, damaged, err)
	}
	for n := range 5 {
		if err := s.save(fmt.Appendf(nil, "value %d", n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.save(make([]byte, slotSize)); err == nil {
		t.Error("a value that does not fit was saved")
	}
	if err := s.file.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	newest := int(5%2) * slotSize // the fifth save
	for name, c := range map[string]struct {
		damage  func([]byte) []byte
		want    string
		damaged bool
	}{
		"as it is":                 {func(b []byte) []byte { return b }, "value 4", false},
		"the newest is torn":       {func(b []byte) []byte { b[newest+slotHeader+3] ^= 1; return b }, "value 3", true},
		"the newest has no header": {func(b []byte) []byte { copy(b[newest:], "rubbish"); return b }, "value 3", true},
		"a length beyond the slot": {func(b []byte) []byte { b[newest+16] = 0xff; return b }, "value 3", true},
		"the older is torn":        {func(b []byte) []byte { b[slotSize-newest+slotHeader] ^= 1; return b }, "value 4", true},
		"cut in the second slot":   {func(b []byte) []byte { return b[:slotSize+10] }, "value 3", true},
		"nothing is left":          {func([]byte) []byte { return nil }, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, c.damage(bytes.Clone(whole)), 0o600); err != nil {
				t.Fatal(err)
			}
			s, value, damaged, err := openSlots(path)
			if err != nil || string(value) != c.want || damaged != c.damaged {
				t.Fatalf("got %q, damaged %v, %v", value, damaged, err)
			}
			if err := s.save([]byte("next")); err != nil {
				t.Fatal(err)
			}
			if err := s.file.Close(); err != nil {
				t.Fatal(err)
			}
			if _, value, _, err := openSlots(path); err != nil || string(value) != "next" {
				t.Fatalf("after a save: %q %v", value, err)
			}
		})
	}
}

// TestNoNumberIsUsedTwiceWhenTheNewestFileCannotBeTrusted takes away, in several
// ways, what tells how far a crashed process had got.
func TestNoNumberIsUsedTwiceWhenTheNewestFileCannotBeTrusted(t *testing.T) {
	const taken = 300
	for name, damage := range map[string]func(t *testing.T, newest string){
		"the file is gone": func(t *testing.T, newest string) {
			if err := os.Remove(newest); err != nil {
				t.Fatal(err)
			}
		},
		"the newer meta page is damaged": flipMeta,
		"the file is empty": func(t *testing.T, newest string) {
			if err := os.Truncate(newest, 0); err != nil {
				t.Fatal(err)
			}
		},
	} {
		for _, crashed := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, crash %v", name, crashed), func(t *testing.T) {
				c := config(t, nil)
				r := start(t, c)
				for i := range 3 { // several commits, so that an older meta page is an older state
					r.put("process", i*taken/3, taken/3)
				}
				if crashed {
					r.crash()
				} else {
					r.stop()
				}
				files := segmentFiles(t, c.Dir)
				damage(t, files[len(files)-1])
				r = start(t, c)
				r.put("process", 9000, 1)
				seen, rd := map[uint64]string{}, r.reader("central")
				for last := uint64(0); last+1 < r.Stats().Classes["process"].Next; {
					b := next(t, rd)
					for i, e := range b.Events {
						seq := b.First + uint64(i)
						explain(t, seen, seq, e)
						if string(e.Payload) == "event 9000" && seq <= taken {
							t.Fatalf("number %d is used again", seq)
						}
					}
					last = b.Last()
				}
				for seq := uint64(1); seq < r.Stats().Classes["process"].Next; seq++ {
					if seen[seq] == "" {
						t.Fatalf("number %d is neither stored nor accounted for", seq)
					}
				}
			})
		}
	}
}

// flipMeta damages the meta page with the higher transaction number.
func flipMeta(t *testing.T, file string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const page, txid = 4096, 16 + 48
	at := 0
	if bytes.Compare(reverse(b[page+txid:][:8]), reverse(b[txid:][:8])) > 0 { // little-endian
		at = page
	}
	b[at+txid] ^= 0x10
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func reverse(b []byte) []byte {
	out := make([]byte, len(b))
	for i := range b {
		out[len(b)-1-i] = b[i]
	}
	return out
}

func TestManyDebtsAreWrittenIntoTheLog(t *testing.T) {
	r := start(t, config(t, nil))
	r.put("process", 0, 1)
	l, now := r.lanes["process"], time.Now()
	l.mu.Lock()
	for i := range uint64(maxDebts + 1) { // apart from each other, so that they don't merge
		l.owe(debt{gap: newGap(1_000+2*i, 1_000+2*i, reasonDropNewest, now, now)})
	}
	l.next = 2_000
	l.mu.Unlock()
	r.put("process", 1, 1)
	waitFor(t, "the debts to be written", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.debts) == 0 && l.next > 2_000+maxDebts
	})
}

func TestAStopDropsNothing(t *testing.T) {
	c := config(t, func(c *Config) { c.Classes[0].KeepBytes, c.Classes[0].WhenFull, c.Memory = 1<<20, DropNewest, 8<<20 })
	r := start(t, c)
	putNoise(t, r, 0, 500) // more than the class keeps
	putNoise(t, r, 500, 10)
	if r.Stats().Classes["process"].Dropped[reasonDropNewest] == 0 {
		t.Fatal("the class is not full")
	}
	refused := make(chan error, 50)
	for j := range 50 {
		e := event("process", j)
		e.Payload = noise(j, 2500)
		if err := r.Append(t.Context(), e, func(err error) { refused <- err }); err != nil {
			t.Fatal(err)
		}
	}
	r.stop() // well within the pause before a refusal
	acknowledged := 0
	for range 50 {
		if err := <-refused; err == nil {
			acknowledged++
		}
	}
	if acknowledged == 50 {
		t.Fatal("a stop dropped what its source still had")
	}
}

// TestNoNumberIsUsedTwiceWithoutTheState takes the state file away, and what
// else would tell which numbers a crashed process had used.
func TestNoNumberIsUsedTwiceWithoutTheState(t *testing.T) {
	for name, of := range map[string]struct {
		spill  time.Duration
		delete bool
	}{
		"the newest segment is gone, too": {delete: true},
		"events were delivered unwritten": {spill: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			c := config(t, func(c *Config) { c.Classes[0].KeepBytes = 2 << 20 })
			r := start(t, c)
			putNoise(t, r, 0, 200) // more than one segment
			r.stop()
			c.SpillAfter = of.spill
			r = start(t, c)
			rd := r.reader("central")
			take(t, rd, 200, of.spill > 0)
			for n := range 50 {
				if err := r.Append(t.Context(), event("process", 200+n), nil); err != nil {
					t.Fatal(err)
				}
			}
			take(t, rd, 250, of.spill > 0)
			old := r.Incarnation()
			r.crash()
			if err := os.Remove(filepath.Join(c.Dir, stateName)); err != nil {
				t.Fatal(err)
			}
			if files := segmentFiles(t, c.Dir); of.delete {
				if err := os.Remove(files[len(files)-1]); err != nil {
					t.Fatal(err)
				}
			}
			r = start(t, c)
			if err := r.Append(t.Context(), event("process", 9000), nil); err != nil {
				t.Fatal(err)
			}
			for rd = r.reader("central"); ; {
				b := next(t, rd)
				for i, e := range b.Events {
					if string(e.Payload) == "event 9000" {
						if b.Incarnation == old && b.First+uint64(i) <= 250 {
							t.Errorf("number %d of %s is used again", b.First+uint64(i), old)
						}
						return
					}
				}
			}
		})
	}
}

// take reads up to seq, with ack acknowledging it.
func take(t *testing.T, rd *Reader, seq uint64, ack bool) {
	t.Helper()
	for {
		b := next(t, rd)
		if ack {
			rd.Ack("process", b.Last())
		}
		if b.Last() >= seq {
			return
		}
	}
}
