//go:build torture

package torture

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// mendLimit is how soon after its cause is gone a fault must be over.
	mendLimit = 5 * time.Second
	// stopLimit is how long a stop may take whatever the disk does.
	stopLimit = 10 * time.Second
	// memoryLimit bounds what a child may hold: 2 MiB of queues, a Go runtime,
	// and what it takes to read and print a batch.
	memoryLimit = 64 << 20
)

// trouble is a child that is in a fault, and what was measured of it.
type trouble struct {
	t    *testing.T
	name string // the plan's
	dir  string
	book *ledger
	life *life
	next int // number of the next life
	said []string
}

func newTrouble(t *testing.T, name, dir string) *trouble {
	p, ok := findPlan(name)
	if !ok {
		t.Fatalf("no plan %q", name)
	}
	return &trouble{t: t, name: name, dir: dir, book: p.ledger()}
}

func (x *trouble) say(format string, args ...any) {
	x.said = append(x.said, fmt.Sprintf(format, args...))
}

// start starts the next life and waits until it acknowledges.
func (x *trouble) start(wrap ...string) *life {
	x.t.Helper()
	x.life = startLife(x.t, x.name, x.dir, x.book, options{number: x.next, wrap: wrap})
	x.next++
	return x.life
}

func (x *trouble) working(n int) {
	x.t.Helper()
	if !x.life.open() {
		x.t.Fatalf("cannot open: %s\n%s", x.life.refused, x.life.stderr.String())
	}
	const some = 1000 // so many show that it goes on: a busy machine may need longer for all
	for ; n > 0; n -= some {
		if !x.life.acking(min(n, some), patience) {
			x.t.Fatalf("no %d acknowledgements in %s, fault %q", min(n, some), patience, x.life.fault)
		}
	}
}

// stuck waits until nothing is acknowledged for a while and the buffer says
// why; it must live on with bounded memory.
func (x *trouble) stuck(why func(l *life) bool) {
	x.t.Helper()
	l := x.life
	if !l.until(patience, func() bool { return why(l) && time.Since(l.lastAck) > 700*time.Millisecond }) {
		x.t.Errorf("the fault has no effect: %d acknowledged, fault %q, blocked %v", l.acks, l.fault, l.blocked)
	}
	if m := l.memory(); m == 0 || m > memoryLimit {
		x.t.Errorf("the child holds %d KiB", m>>10)
	} else {
		x.say("%d acknowledged, then held at %.1f MiB (%s)", l.acks, float64(m)/(1<<20), l.reason())
	}
}

func (l *life) reason() (s string) {
	l.seen(func() {
		s = l.fault
		if l.blocked {
			s += " blocked"
		}
	})
	if i := strings.LastIndex(s, ": "); i > 0 {
		s = s[i+2:]
	}
	return s
}

func faulty(l *life) bool  { return l.fault != "" }
func blocked(l *life) bool { return l.blocked }

// mended waits for acknowledgements now that the cause is gone.
func (x *trouble) mended() {
	x.t.Helper()
	begin := time.Now()
	if !x.life.acking(20, mendLimit) {
		x.t.Errorf("%s after the cause was gone there are no acknowledgements, fault %q, blocked %v", mendLimit, x.life.fault, x.life.blocked)
		return
	}
	x.say("went on after %s", time.Since(begin).Round(time.Millisecond))
}

// finish ends the life, drains the directory and closes the books.
func (x *trouble) finish(kill bool) {
	x.t.Helper()
	if kill {
		x.life.kill()
	} else {
		x.say("stopped in %s", x.life.terminate(stopLimit).Round(time.Millisecond))
	}
	p, _ := findPlan(x.name)
	missing := drainAll(x.t, x.name, x.dir, x.book, options{number: x.next}, p.lossy)
	judge(x.t, x.book)
	if len(x.said) > 1 {
		x.t.Logf("SUMMARY %s: %s; %s, %d missing", x.t.Name(), strings.Join(x.said, ", "), x.book.counts(), missing)
	}
}

// TestFullDisk fills a disk under a writing child. It must hold its sources
// back, and go on when there is space; also across a kill on the full disk.
func TestFullDisk(t *testing.T) {
	for name, mount := range map[string]func(t *testing.T) *disk{
		"tmpfs": func(t *testing.T) *disk { return tmpfs(t, 32) },
		"ext4":  func(t *testing.T) *disk { return ext4(t, 48, "") },
	} {
		t.Run(name, func(t *testing.T) {
			d := mount(t)
			x := newTrouble(t, "fill", d.data())
			x.start()
			x.working(200)
			d.fill(6 << 20)
			x.stuck(faulty)
			free(t, d)
			x.mended()
			d.fill(0)
			x.stuck(faulty)
			x.life.kill() // and a start on a full disk
			x.start()
			if !x.life.open() {
				t.Fatalf("no start on a full disk: %s", x.life.refused)
			}
			x.stuck(faulty)
			free(t, d)
			x.mended()
			d.fill(0)
			x.stuck(faulty)
			x.say("stopped on the full disk in %s", x.life.terminate(stopLimit).Round(time.Millisecond))
			free(t, d)
			x.start()
			x.working(20)
			x.finish(true)
		})
	}
}

// TestFullOfItsOwn lets the backlog alone fill a disk, in one file, and then be
// delivered: what it held is the room for what comes.
func TestFullOfItsOwn(t *testing.T) {
	d := tmpfs(t, 4)
	x := newTrouble(t, "one file", d.data())
	x.start()
	x.working(100)
	x.stuck(faulty)
	x.life.kill()
	x.name = "deliver"
	x.start()
	if !x.life.open() {
		t.Fatalf("no start on a full disk: %s", x.life.refused)
	}
	x.mended()
	x.finish(true)
}

// TestFullDiskDropsTheOldest fills a disk by the backlog alone, in a class whose
// oldest events make way. It must go on: at first with uplinks that are away, then
// after a kill with uplinks that come to what was dropped and need gap records.
func TestFullDiskDropsTheOldest(t *testing.T) {
	d := tmpfs(t, 8)
	x := newTrouble(t, "fill and drop", d.data())
	x.start()
	x.working(30_000)
	x.life.kill()
	x.name = "deliver and drop"
	x.start()
	x.working(10_000)
	x.finish(true)
}

func free(t *testing.T, d *disk) {
	t.Helper()
	if err := os.Remove(d.hog()); err != nil {
		t.Fatal(err)
	}
}

// TestMinFree fills the disk from outside: below min_free the class is full, from
// the commit on that comes next. Half of the disk is to stay free; what fills it
// stops at a quarter, so that no commit may end after that but the one under way.
func TestMinFree(t *testing.T) {
	d := ext4(t, 64, "")
	x := newTrouble(t, "min free", d.data())
	x.start()
	x.working(3000) // some segments: one may always be held
	all := d.free()
	d.fill(all / 4)
	x.stuck(blocked)
	const commit = 2 << 20 // at most
	left := d.free()
	if left < all/4-commit {
		t.Errorf("only %d KiB are left of %d: it took more", left>>10, all>>10)
	}
	x.say("took %d KiB below what filled it", max(0, all/4-left)>>10)
	free(t, d)
	x.mended()
	x.finish(false)
}

// TestFileSizeLimit lets a limit of the file size end writes with SIGXFSZ and
// EFBIG, and raises it again.
func TestFileSizeLimit(t *testing.T) {
	needRoot(t)
	x := newTrouble(t, "one file", filepath.Join(fastDir(t), "data"))
	x.start()
	x.working(200)
	limitTo(t, x.life.pid, unix.RLIMIT_FSIZE, 64<<10)
	x.stuck(faulty)
	limitTo(t, x.life.pid, unix.RLIMIT_FSIZE, unix.RLIM_INFINITY)
	x.mended()
	x.finish(true)
}

// limitTo sets the soft limit of a running process.
func limitTo(t *testing.T, pid, what int, n uint64) {
	t.Helper()
	var l unix.Rlimit
	err := unix.Prlimit(pid, what, nil, &l)
	if err == nil {
		l.Cur = min(n, l.Max)
		err = unix.Prlimit(pid, what, &l, nil)
	}
	if err != nil {
		t.Fatalf("prlimit: %v", err)
	}
}

// TestNoMoreFiles leaves no file descriptor for new segments nor for reading
// old ones; no file may be judged damaged for that.
func TestNoMoreFiles(t *testing.T) {
	needRoot(t)
	x := newTrouble(t, "flow", filepath.Join(fastDir(t), "data"))
	x.start()
	x.working(500)
	limitTo(t, x.life.pid, unix.RLIMIT_NOFILE, 4)
	x.stuck(func(l *life) bool { return l.fault != "" || l.blocked })
	limitTo(t, x.life.pid, unix.RLIMIT_NOFILE, 1000)
	x.mended()
	x.life.kill()
	for n := range 7 { // and starts with so few
		l := startLife(t, x.name, x.dir, x.book, options{number: x.next, env: []string{fmt.Sprintf("%s=%d", envFiles, n)}})
		x.next++
		if l.open() {
			x.say("opens with %d more descriptors", n)
		} else if !strings.Contains(l.refused, "too many open files") {
			t.Errorf("with %d more descriptors: %s", n, l.refused)
		}
		l.kill()
	}
	if set, err := filepath.Glob(filepath.Join(x.dir, "classes", "*", "*.corrupt-*")); err != nil || len(set) > 0 {
		t.Errorf("whole files were set aside: %v %v", set, err)
	}
	x.start()
	x.working(20)
	x.finish(false)
}

// TestReadOnlyDisk makes a file system read-only under a writing child, as a
// failing SD card does (ext4 with errors=remount-ro and an error that the
// kernel is told to find), and starts on one that is.
func TestReadOnlyDisk(t *testing.T) {
	d := ext4(t, 64, "errors=remount-ro")
	x := newTrouble(t, "fill", d.data())
	x.start()
	x.working(1000)
	trigger := filepath.Join("/sys/fs/ext4", d.device(), "trigger_fs_error")
	if err := os.WriteFile(trigger, []byte("told to by a test"), 0); err != nil {
		t.Fatal(err)
	}
	x.stuck(faulty)
	x.say("stopped in %s", x.life.terminate(stopLimit).Round(time.Millisecond))
	l := x.start()
	if l.open() {
		t.Error("opens on a read-only file system")
	}
	if !strings.Contains(l.refused, "read-only file system") || !strings.Contains(l.refused, x.dir) {
		t.Errorf("an error that does not say what is wrong: %q", l.refused)
	}
	x.say("the start says %q", strings.ReplaceAll(l.refused, x.dir, "DIR"))
	l.kill()
	d.unmount()
	d.mount() // replays the journal
	run(t, "mount", "-o", "remount,ro", d.dir)
	if l = x.start(); l.open() || !strings.Contains(l.refused, "read-only file system") {
		t.Errorf("start on a read-only mount: %q", l.refused)
	}
	l.kill()
	d.unmount()
	d.mount()
	x.start()
	x.working(20)
	x.finish(true)
}

// TestUnchangeableFiles forbids all writes with chattr +i, and takes that back.
func TestUnchangeableFiles(t *testing.T) {
	d := ext4(t, 64, "")
	x := newTrouble(t, "fill", d.data())
	x.start()
	x.working(1000)
	run(t, "chattr", "-R", "+i", d.data())
	defer run(t, "chattr", "-R", "-i", d.data())
	x.stuck(faulty)
	run(t, "chattr", "-R", "-i", d.data())
	x.mended()
	x.finish(true)
}
