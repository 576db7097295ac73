//go:build torture

package torture

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestKillsLoseNothing kills children in every phase of their work, at starts
// and in the repair of damage, and holds what came against what they had
// acknowledged over all their lives.
func TestKillsLoseNothing(t *testing.T) {
	seed := newSeed(t)
	var sum total
	t.Run("phases", func(t *testing.T) {
		for n, ph := range phases {
			t.Run(ph.name, func(t *testing.T) {
				t.Parallel()
				k := &killer{phase: ph, rnd: random(seed, uint64(n)), dir: filepath.Join(fastDir(t), "data"), book: ph.plan.ledger(), sum: &sum}
				k.run(t)
			})
		}
	})
	if n := sum.get("kills"); n < 240 {
		t.Errorf("only %d kills", n)
	}
	t.Logf("SUMMARY kills: seed %d, %d kills (%d of them while opening, %d of starts that found damage), %d stops in order, %d events acknowledged, %d missing with a gap record for each, slowest open %d ms",
		seed, sum.get("kills"), sum.get("opening"), sum.get("damaged"), sum.get("stops"), sum.get("acked"), sum.get("missing"), sum.get("open"))
}

// killer lives through a phase.
type killer struct {
	phase
	rnd  *rand.Rand
	dir  string
	book *ledger
	sum  *total
}

func (k *killer) run(t *testing.T) {
	n, damagedEver, window := 0, false, 5*time.Millisecond
	kills, opening, starts := 0, 0, 0
	for ; kills < k.kills; n++ {
		damaged := k.damaged > 0 && n%3 < k.damaged && k.damage(t)
		damagedEver = damagedEver || damaged
		l := startLife(t, k.name, k.dir, k.book, options{number: n, damaged: damaged})
		if damaged {
			starts++
		}
		if n%3 < k.early {
			l.until(patience, func() bool { return l.pid > 0 })
			time.Sleep(time.Duration(k.rnd.Int64N(int64(window))))
		} else if l.open() {
			time.Sleep(k.least + time.Duration(k.rnd.Int64N(int64(k.most-k.least))))
			if n%7 == 6 { // now and then a stop in order: nothing before it may come again
				l.terminate(10 * time.Second)
				k.sum.add("stops", 1)
				continue
			}
		}
		l.kill()
		kills++
		if l.refused != "" {
			k.book.fault("life %d could not open the buffer: %s", n, l.refused)
		}
		if l.opened == "" {
			opening++
		} else { // about as long as the next one will take
			window = time.Millisecond + time.Duration(atof(l.opened)*float64(time.Millisecond))
		}
		k.sum.highest("open", int(atof(l.opened)))
		if len(k.book.wrong) > 0 {
			break
		}
	}
	missing := drainAll(t, k.name, k.dir, k.book, options{number: n}, func(class string) bool { return damagedEver || k.plan.lossy(class) })
	judge(t, k.book)
	k.sum.add("kills", kills)
	k.sum.add("opening", opening)
	k.sum.add("damaged", starts)
	k.sum.add("missing", missing)
	k.sum.add("acked", k.book.counts().acked)
	t.Logf("%d kills, %d while opening, %d starts with damage; %s, %d missing and explained", kills, opening, starts, k.book.counts(), missing)
}

// damage flips bytes in one segment; false: there is none yet.
func (k *killer) damage(t *testing.T) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(k.dir, "classes", "*", "*.seg"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		return false
	}
	file := files[k.rnd.IntN(len(files))]
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) == 0 {
		return false
	}
	flips := 1 + k.rnd.IntN(20)
	for range flips {
		b[k.rnd.IntN(len(b))] ^= 1 << k.rnd.IntN(8)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return true
}
