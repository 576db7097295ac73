//go:build torture

package torture

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a child may take for what should take a moment.
const patience = 20 * time.Second

// life is a running child of a plan, as its test sees it.
type life struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.Closer
	stderr head
	ended  chan struct{} // all it wrote is read, and it is gone

	mu      sync.Mutex
	ledger  *ledger
	pid     int
	started time.Time // when it was about to open
	opened  string    // ms that took
	refused string    // why it could not be opened
	acks    int
	lastAck time.Time
	commits int
	commit  float64 // mean ms
	fault   string
	blocked bool
	stop    float64 // ms of the stop in order; -1: there was none
	killed  bool
}

// options of a life.
type options struct {
	number  int
	drain   bool
	damaged bool     // something was damaged since the last life
	wrap    []string // a program that starts it, strace
	env     []string
}

// startLife starts a child of a plan in dir and reads what it says.
func startLife(t *testing.T, name, dir string, book *ledger, o options) *life {
	t.Helper()
	env := []string{envDir + "=" + dir, envLife + "=" + strconv.Itoa(o.number)}
	if o.drain {
		env = append(env, envDrain+"=1")
	}
	cmd := command(name, append(env, o.env...)...)
	if len(o.wrap) > 0 {
		wrapped := exec.Command(o.wrap[0], append(o.wrap[1:], cmd.Path)...)
		wrapped.Env = cmd.Env
		cmd = wrapped
	}
	l := &life{t: t, cmd: cmd, ledger: book, ended: make(chan struct{}), stop: -1}
	cmd.Stderr = &l.stderr
	var err error
	if l.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	book.begin(o.damaged)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go l.listen(out)
	t.Cleanup(l.kill)
	return l
}

// listen reads the child's lines until its end.
func (l *life) listen(out io.Reader) {
	r := bufio.NewReaderSize(out, 1<<20)
	for {
		line, err := r.ReadString('\n')
		if err != nil { // what was cut was not said
			break
		}
		l.mu.Lock()
		l.hear(strings.Split(line[:len(line)-1], "\t"))
		l.mu.Unlock()
	}
	_ = l.cmd.Wait() // how it ended is judged by what it said
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.killed && l.stop < 0 && l.refused == "" {
		l.ledger.fault("the child died: %v\n%s", l.cmd.ProcessState, l.stderr.String())
	}
	close(l.ended)
}

func (l *life) hear(f []string) {
	switch f[0] {
	case "S":
		l.pid, _ = strconv.Atoi(f[1])
		l.started = time.Now()
	case "O":
		l.opened = f[1]
	case "F":
		l.refused, _ = strconv.Unquote(f[1])
	case "A":
		i, err := strconv.ParseUint(f[2], 16, 64)
		if err != nil {
			l.ledger.fault("a line of the child: %v", err)
		}
		c := l.ledger.classes[f[1]]
		c.acked = append(c.acked, id(i))
		l.acks++
		l.lastAck = time.Now()
	case "D":
		first, err := strconv.ParseUint(f[4], 10, 64)
		batch, err2 := parseBatch(f[5])
		if err = errors.Join(err, err2); err != nil {
			l.ledger.fault("a line of the child: %v", err)
			return
		}
		l.ledger.delivered(f[1], f[2], f[3], first, batch)
	case "E":
		l.ledger.fault("the child says: %s", f[1])
	case "T":
		l.commits, _ = strconv.Atoi(f[1])
		l.commit, _ = strconv.ParseFloat(f[2], 64)
		l.fault, _ = strconv.Unquote(f[3])
		l.blocked = f[4] == "true"
	case "K":
		seq, _ := strconv.ParseUint(f[3], 10, 64)
		l.ledger.final(f[1], f[2], seq)
	case "N":
		next, _ := strconv.ParseUint(f[2], 10, 64)
		l.ledger.stopped(f[1], next)
	case "X":
		l.stop, _ = strconv.ParseFloat(f[1], 64)
	default:
		l.ledger.fault("a line of the child: %q", f)
	}
}

func parseBatch(s string) ([]given, error) {
	var batch []given
	for _, word := range strings.Split(s, " ") {
		if raw, ok := strings.CutPrefix(word, "g"); ok {
			g := given{raw: raw, gap: &gapRecord{}}
			if err := json.Unmarshal([]byte(raw), g.gap); err != nil {
				return nil, err
			}
			batch = append(batch, g)
			continue
		}
		i, err := strconv.ParseUint(word, 16, 64)
		if err != nil {
			return nil, err
		}
		batch = append(batch, given{event: id(i)})
	}
	return batch, nil
}

// seen reads what the life has said so far.
func (l *life) seen(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// until waits until cond, asked under the lock, holds; false: the child ended
// or time was up before.
func (l *life) until(limit time.Duration, cond func() bool) bool {
	end := time.Now().Add(limit)
	for {
		l.mu.Lock()
		ok := cond()
		l.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-l.ended:
			l.mu.Lock()
			defer l.mu.Unlock()
			return cond()
		case <-time.After(time.Millisecond):
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// open waits until the child has opened the buffer.
func (l *life) open() bool {
	ok := l.until(patience, func() bool { return l.opened != "" || l.refused != "" })
	l.mu.Lock()
	defer l.mu.Unlock()
	if !ok {
		l.ledger.fault("the child did not open the buffer in %s\n%s", patience, l.stderr.String())
	}
	return ok && l.refused == ""
}

// acking waits for n more acknowledgements.
func (l *life) acking(n int, limit time.Duration) bool {
	var from int
	l.seen(func() { from = l.acks })
	return l.until(limit, func() bool { return l.acks >= from+n })
}

// kill ends the child by SIGKILL, if it still lives, and reads the rest.
func (l *life) kill() {
	l.mu.Lock()
	l.killed = true
	pid := l.pid
	l.mu.Unlock()
	select {
	case <-l.ended:
		return
	default:
	}
	if pid > 0 { // under strace the child is not the process that was started
		_ = syscall.Kill(pid, syscall.SIGKILL)
	} else {
		_ = l.cmd.Process.Kill()
	}
	l.stdin.Close() // ends whatever is left
	select {
	case <-l.ended:
	case <-time.After(patience):
		_ = l.cmd.Process.Kill()
		<-l.ended
	}
}

// terminate stops the child in order and returns how long that took. A child
// that takes longer than the limit is killed, which is a fault.
func (l *life) terminate(limit time.Duration) time.Duration {
	begin := time.Now()
	l.seen(func() {
		if l.pid > 0 {
			_ = syscall.Kill(l.pid, syscall.SIGTERM)
		}
	})
	return l.wait(begin, limit, "a stop in order")
}

func (l *life) wait(begin time.Time, limit time.Duration, what string) time.Duration {
	select {
	case <-l.ended:
	case <-time.After(limit):
		l.seen(func() { _ = syscall.Kill(l.pid, syscall.SIGQUIT) }) // says where it hangs
		select {
		case <-l.ended:
		case <-time.After(2 * time.Second):
		}
		l.seen(func() { l.ledger.fault("%s took longer than %s\n%s", what, limit, l.stderr.String()) })
		l.kill()
	}
	l.stdin.Close()
	return time.Since(begin)
}

// memory is what the child holds: RssAnon and RssShmem, in bytes.
func (l *life) memory() int64 {
	var pid int
	l.seen(func() { pid = l.pid })
	m := memoryOf(strconv.Itoa(pid))
	return m["RssAnon"] + m["RssShmem"]
}

// memoryOf reads the sizes in /proc/<pid>/status, in bytes.
func memoryOf(pid string) map[string]int64 {
	m := map[string]int64{}
	b, _ := os.ReadFile("/proc/" + pid + "/status") // an ended child has no memory
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		var kib int64
		if n, _ := fmt.Sscanf(value, "%d kB", &kib); n == 1 {
			m[name] = kib << 10
		}
	}
	return m
}

// drainAll lets a last child deliver everything, and closes the books: every
// acknowledged event came or, in a lossy class, is said to be missing.
func drainAll(t *testing.T, name, dir string, book *ledger, o options, lossy func(class string) bool) (missing int) {
	t.Helper()
	o.drain = true
	l := startLife(t, name, dir, book, o)
	if !l.open() {
		l.kill()
		book.fault("the last child could not open the buffer: %s", l.refused)
		return 0
	}
	l.wait(time.Now(), 3*patience, "to drain")
	if l.stop < 0 {
		return 0 // the books can't be closed, and that is noted
	}
	for class := range book.classes {
		missing += book.account(class, lossy(class))
	}
	return missing
}

// judge fails the test with what the ledger found.
func judge(t *testing.T, book *ledger) {
	t.Helper()
	for _, w := range book.wrong {
		t.Error(w)
	}
}
