//go:build torture

package torture

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// straced is what starts a child whose calls fail or are late. strace counts
// per thread, so that a Go program may meet the Nth call more than once, or,
// in a short life, not at all: what it did is counted from its log.
func straced(log, calls, inject string) []string {
	return []string{"strace", "-f", "--seccomp-bpf", "-qq", "-o", log, "-e", "trace=" + calls, "-e", "inject=" + calls + ":" + inject}
}

// failures is what the calls of a child do.
var failures = []struct {
	name, calls, inject string
	most                int // when = 1 to most
}{
	{"EIO of the Nth fdatasync", "fdatasync", "error=EIO", 30},
	{"ENOSPC of the Nth pwrite64", "pwrite64", "error=ENOSPC", 30},
	{"EIO of the Nth fsync", "fsync", "error=EIO", 12},
}

// TestFailingCalls fails one call of each thread. What was acknowledged stays
// so in that process and after its end.
func TestFailingCalls(t *testing.T) {
	needRoot(t)
	for _, f := range failures {
		t.Run(f.name, func(t *testing.T) {
			var sum total
			numbers := make(chan int)
			var workers sync.WaitGroup
			for range 2 {
				workers.Go(func() {
					for n := range numbers {
						failNth(t, f.calls, f.inject, n, &sum)
					}
				})
			}
			for n := 1; n <= f.most; n++ {
				numbers <- n
			}
			close(numbers)
			workers.Wait()
			if sum.get("hit") < f.most/3 {
				t.Errorf("only %d of %d children met a failure", sum.get("hit"), f.most)
			}
			t.Logf("SUMMARY %s: %d children, %d met a failure (%d in all), %d refused to open, %d events acknowledged, none missing unless said above",
				t.Name(), f.most, sum.get("hit"), sum.get("injected"), sum.get("refused"), sum.get("acked"))
		})
	}
}

// failNth lives once with a failing call, and drains without. Each second one
// is killed, the others stop in order.
func failNth(t *testing.T, calls, inject string, n int, sum *total) {
	dir := fastDir(t)
	log := filepath.Join(dir, "strace")
	x := newTrouble(t, "flow", filepath.Join(dir, "data"))
	l := x.start(straced(log, calls, fmt.Sprintf("%s:when=%d", inject, n))...)
	if l.open() {
		l.acking(300+20*n, 2*time.Second)
		time.Sleep(150 * time.Millisecond) // in which a failure is to be got over
		if !l.acking(1, mendLimit) {
			x.book.fault("call %d: no acknowledgements after a failure, fault %q", n, l.fault)
		}
	} else {
		sum.add("refused", 1)
	}
	if n%2 == 0 || l.refused != "" {
		l.kill()
	} else {
		l.terminate(stopLimit)
	}
	b, err := os.ReadFile(log)
	if err != nil {
		x.book.fault("%v", err)
	}
	if hits := strings.Count(string(b), "(INJECTED)"); hits > 0 {
		sum.add("hit", 1)
		sum.add("injected", hits)
	}
	drainAll(t, x.name, x.dir, x.book, options{number: x.next}, func(string) bool { return false })
	sum.add("acked", x.book.counts().acked)
	for _, w := range x.book.wrong {
		t.Errorf("%s %s, call %d: %s", calls, inject, n, w)
	}
}

// TestFailedReadHidesNoNewerVersion has one read of the state fail that a newer
// version wrote: no start may take that for an older one, or for none.
func TestFailedReadHidesNoNewerVersion(t *testing.T) {
	needRoot(t)
	x := newTrouble(t, "flow", filepath.Join(fastDir(t), "data"))
	x.start()
	x.working(20)
	x.life.terminate(stopLimit)
	v := &victim{dir: x.dir, rnd: random(newSeed(t), 5), touched: map[string]bool{}}
	writeSlot(v, `{"format":2,"incarnation":1}`)
	state := v.path("state")
	before, err := os.ReadFile(state)
	if err = errors.Join(v.err, err); err != nil {
		t.Fatal(err)
	}
	hits := 0
	for n := range 4 { // two slots, read by who only looks and by who will write
		log := filepath.Join(filepath.Dir(x.dir), fmt.Sprintf("strace-%d", n))
		wrap := straced(log, "pread64", fmt.Sprintf("error=EIO:when=%d", n+1))
		l := x.start(append(wrap, "-P", state)...)
		if l.open() {
			t.Errorf("read %d: the buffer opens", n+1)
		}
		l.kill()
		said, logErr := os.ReadFile(log)
		now, err := os.ReadFile(state)
		if err = errors.Join(err, logErr); err != nil {
			t.Fatal(err)
		}
		hits += strings.Count(string(said), "(INJECTED)")
		if !bytes.Equal(now, before) {
			t.Fatalf("read %d: the state was changed", n+1)
		}
	}
	if hits == 0 {
		t.Error("no read failed")
	}
	t.Logf("SUMMARY %s: %d reads failed", t.Name(), hits)
}

// TestSlowDisk makes each sync 200 ms longer.
func TestSlowDisk(t *testing.T) {
	needRoot(t)
	quick := newTrouble(t, "flow", filepath.Join(fastDir(t), "data"))
	quick.start()
	quick.working(200)
	time.Sleep(time.Second)
	var before, after float64
	quick.life.seen(func() { before = quick.life.commit })
	quick.finish(false)

	dir := fastDir(t)
	x := newTrouble(t, "flow", filepath.Join(dir, "data"))
	l := x.start(straced(filepath.Join(dir, "strace"), "fdatasync,fsync", "delay_exit=200000")...)
	x.working(1)
	highest := int64(0)
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		highest = max(highest, l.memory())
	}
	l.seen(func() { after = l.commit })
	if after < 200 || after < 3*before {
		t.Errorf("a commit takes %.1f ms, %.1f on the quick disk: the delay does nothing", after, before)
	}
	if highest > memoryLimit {
		t.Errorf("the child holds %d KiB", highest>>10)
	}
	x.say("a commit took %.1f ms, %.1f without the delay, memory %.1f MiB at most", after, before, float64(highest)/(1<<20))
	x.finish(false)
}
