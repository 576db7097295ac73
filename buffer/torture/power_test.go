//go:build torture

package torture

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ext4 stops at once, as without power: nothing that waits in memory reaches
// the disk any more.
const (
	ext4Shutdown   = 0x8004587d
	goingDefault   = 0 // what waits is written first
	goingLogFlush  = 1 // the journal is
	goingNoFlush   = 2 // nothing is
	powerCuts      = 14
	powerCutsFirst = 100 * time.Millisecond
)

// TestPowerCuts cuts the power of a file system under a writing child again
// and again. After each the journal is replayed, and the next child goes on.
func TestPowerCuts(t *testing.T) {
	seed := newSeed(t)
	rnd := random(seed, 9)
	d := ext4(t, 96, "")
	x := newTrouble(t, "flow", d.data())
	late := 0
	for n := range powerCuts {
		x.start()
		if !x.life.open() {
			t.Fatalf("cut %d: the next child cannot open: %s", n, x.life.refused)
		}
		time.Sleep(powerCutsFirst + time.Duration(rnd.Int64N(int64(500*time.Millisecond))))
		how := goingNoFlush
		if n%5 == 3 {
			how = []int{goingDefault, goingLogFlush}[n/5%2]
		}
		cut(t, d.dir, how)
		time.Sleep(100 * time.Millisecond) // what was under way comes to its end
		if x.life.acking(1, 150*time.Millisecond) {
			late++
		}
		x.life.kill()
		d.unmount()
		d.mount()
	}
	if late > 0 {
		t.Errorf("after %d of %d cuts events were acknowledged that cannot have reached the disk", late, powerCuts)
	}
	x.start()
	x.working(20)
	x.say("seed %d, %d cuts", seed, powerCuts)
	x.finish(false)
}

func cut(t *testing.T, dir string, how int) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), ext4Shutdown, how); err != nil {
		t.Fatalf("EXT4_IOC_SHUTDOWN: %v", err)
	}
}
