package buffer

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// rejects reads back what was kept.
func rejects(t *testing.T, dir string) (kept []Rejected, bad int) {
	t.Helper()
	err := ReadRejected(dir, func(r Rejected) error { kept = append(kept, r); return nil }, func(Finding) { bad++ })
	if err != nil {
		t.Fatal(err)
	}
	return kept, bad
}

func TestRejectKeepsACopy(t *testing.T) {
	cfg := config(t, nil)
	r := start(t, cfg)
	r.put("process", 0, 3000)
	rd := r.reader("central")
	collect(t, rd, 3000)
	for _, seq := range []uint64{7, 3000} {
		if err := rd.Reject(t.Context(), "process", seq, "too large"); err != nil {
			t.Fatal(err)
		}
	}
	rd.Close()
	r.stop()
	r = start(t, cfg) // nothing is in memory now
	rd = r.reader("central")
	if err := rd.Reject(t.Context(), "process", 1500, "too large"); err != nil {
		t.Fatal(err)
	}
	kept, bad := rejects(t, cfg.Dir)
	if len(kept) != 3 || bad != 0 {
		t.Fatalf("%d kept, %d bad", len(kept), bad)
	}
	for i, seq := range []uint64{7, 3000, 1500} {
		k, want := kept[i], event("process", int(seq-1))
		if k.Seq != seq || k.Uplink != "central" || k.Incarnation != r.Incarnation() || k.At.IsZero() ||
			!bytes.Equal(k.Payload, want.Payload) || k.Subject != want.Subject || k.Event().Class != "process" {
			t.Errorf("copy %d: %+v", i, k)
		}
	}
	if info, err := os.Stat(filepath.Join(cfg.Dir, rejectedName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestRejectedIsBounded(t *testing.T) {
	cfg := config(t, nil)
	r := start(t, cfg)
	for n := range 30 {
		c := Rejected{Class: "process", Seq: uint64(n + 1), Payload: noise(n, 400<<10)}
		if n == 29 {
			c.Payload = noise(n, rejectedBytes)
		}
		if err := r.appendRejected(c); err != nil {
			t.Fatal(err)
		}
	}
	var size int64
	for _, name := range []string{rejectedName, rejectedOld} {
		info, err := os.Stat(filepath.Join(cfg.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	kept, _ := rejects(t, cfg.Dir)
	if size > 2*rejectedBytes || len(kept) < 8 {
		t.Errorf("%d bytes, %d events", size, len(kept))
	}
	for i := range kept[1:] {
		if kept[i+1].Seq != kept[i].Seq+1 {
			t.Errorf("%d after %d", kept[i+1].Seq, kept[i].Seq)
		}
	}
	if last := kept[len(kept)-1]; last.Seq != 30 || last.Omitted != rejectedBytes || last.Payload != nil {
		t.Errorf("last: seq %d, omitted %d", last.Seq, last.Omitted)
	}
}

func TestTornRejectedLineCostsNoOther(t *testing.T) {
	cfg := config(t, nil)
	r := start(t, cfg)
	path := filepath.Join(cfg.Dir, rejectedName)
	if err := r.appendRejected(Rejected{Seq: 1}); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := 2; cut < len(whole)-2; cut += 7 {
		if err := os.WriteFile(path, append(whole, whole[:cut]...), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := r.appendRejected(Rejected{Seq: 2}); err != nil {
			t.Fatal(err)
		}
		if kept, bad := rejects(t, cfg.Dir); len(kept) != 2 || kept[1].Seq != 2 || bad != 1 {
			t.Fatalf("cut at %d: %d kept, %d bad", cut, len(kept), bad)
		}
	}
	stop := errors.New("enough")
	if err := ReadRejected(cfg.Dir, func(Rejected) error { return stop }, func(Finding) {}); !errors.Is(err, stop) {
		t.Errorf("error %v", err)
	}
}

func TestRewindGivesAgainWhatIsNotAcknowledged(t *testing.T) {
	r := start(t, config(t, func(c *Config) { c.Classes = append(c.Classes, Class{Name: "alarm", Priority: 9}) }))
	r.put("process", 0, 2500)
	r.put("alarm", 0, 10)
	rd := r.reader("central")
	collect(t, rd, 2510)
	rd.Ack("process", 1200)
	rd.Rewind(nil)
	if b := next(t, rd); b.Class != "alarm" || b.First != 1 {
		t.Errorf("class %s from %d on, want alarm from 1", b.Class, b.First)
	}
	rd.Ack("alarm", 10)
	rd.Ack("process", 2000) // a place that the reader has not come to again
	rd.Rewind(nil)
	wantEvents(t, collect(t, rd, 500), 2001, 2000)
	if rd.Incarnation() != r.Incarnation() {
		t.Error("another incarnation")
	}
}
