//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long the rig waits for something that takes a moment on an
// idle machine. It only keeps a broken run from hanging.
const patience = 150 * time.Second // a link that was away for 20 s or more may need 106 s for its first record

// process is a program that a test started, in a process group of its own. It
// ends with the test, and also when the test itself is killed.
type process struct {
	name    string
	logPath string // stdout and stderr, appended to by later processes of this name
	cmd     *exec.Cmd
	done    chan struct{} // closed when the process has ended and cmd.ProcessState is set
}

// command says what startProcess starts. Name and args[0] are needed.
type command struct {
	name string // for messages and the log file's name
	dir  string // where the log goes; the working directory is the test's own
	args []string
	env  []string            // added to the test's environment
	cred *syscall.Credential // nil: the test's own user
}

// startProcess starts c and makes sure that it ends with the test. After a
// failed test the end of its log is printed.
func startProcess(t testing.TB, c command) *process {
	t.Helper()
	_, statErr := os.Stat(filepath.Join(c.dir, c.name+".log"))
	first := errors.Is(statErr, os.ErrNotExist) // of several runs of one program: its cleanup comes last
	p, err := launch(c)
	if err != nil {
		t.Fatalf("start %s: %v", c.name, err)
	}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() && first {
			t.Logf("end of %s:\n%s", p.logPath, p.tail(40))
		}
	})
	return p
}

func launch(c command) (*process, error) {
	p := &process{name: c.name, logPath: filepath.Join(c.dir, c.name+".log"), done: make(chan struct{})}
	log, err := os.OpenFile(p.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd = exec.Command(c.args[0], c.args[1:]...)
	p.cmd.Env = append(os.Environ(), c.env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Credential: c.cred}
	started := make(chan error)
	go func() {
		// The kernel sends Pdeathsig when the thread that forked ends, so this
		// goroutine keeps its thread for as long as the process lives.
		runtime.LockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // the outcome is read from ProcessState
			close(p.done)
		}
	}()
	return p, <-started
}

// signal sends sig to the whole process group.
func (p *process) signal(sig syscall.Signal) {
	_ = syscall.Kill(-p.cmd.Process.Pid, sig) // ESRCH: it has ended already
}

// kill ends the process group with SIGKILL and waits for the process.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

// waitExit waits for the process to end by itself and returns its exit status,
// -1 when a signal ended it. ok is false when it still runs after within.
func (p *process) waitExit(within time.Duration) (status int, ok bool) {
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), true
	case <-time.After(within):
		return 0, false
	}
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// log returns all that was written to the process's log.
func (p *process) log() string {
	b, err := os.ReadFile(p.logPath)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// tail returns the last lines of the process's log.
func (p *process) tail(lines int) string {
	all := strings.Split(strings.TrimRight(p.log(), "\n"), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return strings.Join(all, "\n")
}

// waitFor calls ok every few milliseconds until it returns true. It gives up
// after patience, or as soon as one of the processes that it needs has ended.
func waitFor(t testing.TB, what string, ok func() bool, needs ...*process) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		for _, p := range needs {
			if !p.running() {
				t.Fatalf("waiting for %s: %s has ended (%s)", what, p.name, p.cmd.ProcessState)
			}
		}
		if time.Now().After(end) {
			t.Fatalf("waiting for %s: nothing after %s", what, patience)
		}
	}
}

// freePort returns a TCP port of 127.0.0.1 that nobody listens on. It is below
// the kernel's range for outgoing connections (32768 and up), so that none of
// those takes it before the server that it is meant for; no port is given twice.
func freePort(t testing.TB) int {
	t.Helper()
	for range 1000 {
		port := 20000 + rand.IntN(12000)
		if _, given := givenPorts.LoadOrStore(port, true); given {
			continue
		}
		if ln, err := net.Listen("tcp", loopback(port)); err == nil {
			_ = ln.Close()
			return port
		}
	}
	t.Fatal("no free port between 20000 and 32000")
	return 0
}

// givenPorts are those that freePort has looked at.
var givenPorts sync.Map

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// accepts tells whether somebody listens on addr.
func accepts(addr string) bool {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// commandLines returns the command lines of all live processes that mention
// text, for the proof that nothing was left running.
func commandLines(text string) ([]string, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, d := range dirs {
		b, err := os.ReadFile(d)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it ended meanwhile
		}
		if err != nil {
			return nil, err
		}
		if line := string(bytes.ReplaceAll(b, []byte{0}, []byte{' '})); strings.Contains(line, text) {
			found = append(found, strings.TrimSpace(line))
		}
	}
	return found, nil
}

// writeFile writes a file of the test's scratch folder.
func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
