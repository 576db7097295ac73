package buffer

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"sluice/drivers"
)

// TestADamagedDirectoryStartsAndNeverGivesAWrongEvent damages the files of a
// stopped buffer in many ways. It must open, give each event right or account
// for it, and go on taking new ones.
func TestADamagedDirectoryStartsAndNeverGivesAWrongEvent(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 2))
	original := damageOriginal(t)
	ways := map[string]func([]byte) []byte{
		"flip a bit":    func(b []byte) []byte { b[rnd.IntN(len(b))] ^= 1 << rnd.IntN(8); return b },
		"zero a page":   func(b []byte) []byte { clear(b[rnd.IntN(len(b)/4096)*4096:][:4096]); return b },
		"random page":   func(b []byte) []byte { copy(b[rnd.IntN(len(b)/4096)*4096:][:4096], noise(rnd.Int(), 4096)); return b },
		"cut":           func(b []byte) []byte { return b[:rnd.IntN(len(b))] },
		"cut at a page": func(b []byte) []byte { return b[:rnd.IntN(len(b)/4096)*4096] },
	}
	for name, damage := range ways {
		t.Run(name, func(t *testing.T) {
			for range 30 {
				dir := t.TempDir()
				if err := os.CopyFS(dir, os.DirFS(original)); err != nil {
					t.Fatal(err)
				}
				files := append(segmentFiles(t, dir), filepath.Join(dir, stateName))
				file := files[rnd.IntN(len(files))]
				b, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if len(b) >= 4096 || name == "cut" || name == "flip a bit" {
					b = damage(b)
				}
				if err := os.WriteFile(file, b, 0o600); err != nil {
					t.Fatal(err)
				}
				checkDamaged(t, dir)
			}
		})
	}
}

const damagedEvents = 900

func damageConfig(dir string) Config {
	return Config{Dir: dir, Classes: []Class{{Name: "process", KeepBytes: 8 << 20}}, Uplinks: map[string][]string{"central": nil}, Segment: 1 << 20, Memory: 1,
		Log: slog.New(slog.DiscardHandler)}
}

// damageOriginal makes a directory with several segments.
func damageOriginal(t *testing.T) string {
	dir := t.TempDir()
	r := start(t, damageConfig(dir))
	for n := 0; n < damagedEvents; n++ {
		e := event("process", n)
		e.Payload = append(append(e.Payload, '\n'), noise(n, 2500)...)
		done := make(chan error, 1)
		if err := r.Append(t.Context(), e, func(err error) { done <- err }); err != nil {
			t.Fatal(err)
		}
		if n%7 == 0 {
			<-done
		}
	}
	r.stop()
	if n := len(segmentFiles(t, dir)); n < 3 {
		t.Fatalf("only %d segments", n)
	}
	return dir
}

func segmentFiles(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "classes", "process", "*"+segmentSuffix))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// checkDamaged opens dir, reads all of it and holds it against the original.
func checkDamaged(t *testing.T, dir string) {
	t.Helper()
	r := start(t, damageConfig(dir))
	defer r.stop()
	r.put("process", 100_000, 1)
	last := r.Stats().Classes["process"].Next - 1
	rd, seen := r.reader("central"), map[uint64]string{}
	for at := uint64(0); at < r.Stats().Classes["process"].Next-1; {
		b := next(t, rd)
		at = b.Last()
		for i, e := range b.Events {
			seq := b.First + uint64(i)
			explain(t, seen, seq, e)
			if n := seq - 1; e.Type != TypeGap && n < damagedEvents {
				want := append(fmt.Appendf(nil, "event %d\n", n), noise(int(n), 2500)...)
				if string(e.Payload) != string(want) {
					t.Fatalf("wrong event at %d: %.20q", seq, e.Payload)
				}
			}
		}
	}
	for seq := uint64(1); seq <= last; seq++ {
		if seen[seq] == "" {
			t.Fatalf("number %d of %d is neither stored nor accounted for", seq, last)
		}
	}
}

// TestWithoutAnyCursorWhatIsNotThereIsTold loses the state and the cursors in the segments:
// nobody knows what the uplink has, so a gap record stands for all numbers before those that
// are there.
func TestWithoutAnyCursorWhatIsNotThereIsTold(t *testing.T) {
	c := config(t, func(c *Config) {
		c.Classes[0].KeepBytes, c.Classes[0].WhenFull, c.Log = 1<<20, DropOldest, slog.New(slog.DiscardHandler)
	})
	r := start(t, c)
	putNoise(t, r, 0, 1000)
	r.stop()
	if err := os.Remove(filepath.Join(c.Dir, "state")); err != nil {
		t.Fatal(err)
	}
	for _, file := range segmentFiles(t, c.Dir) {
		db, err := bbolt.Open(file, 0o600, nil)
		if err == nil {
			err = errors.Join(db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketMeta).Delete(keyCursors) }), db.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	r = start(t, c)
	if first := r.Stats().Classes["process"].First; first < 100 {
		t.Fatalf("begins with number %d: nothing was dropped", first)
	}
	reasons := r.account(r.reader("central"), func(uint64, drivers.Event) {}) // which fails for a number that is not explained
	if reasons[reasonNotKept] == 0 {
		t.Errorf("reasons %v", reasons)
	}
}
