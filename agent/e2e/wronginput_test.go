//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// wrongInput starts agents that must not start: each says why in one line and
// exits with the right status.
func wrongInput(t *testing.T) {
	broker := startMosquitto(t, t.TempDir())
	for _, c := range []struct {
		name   string
		spoil  func(t *testing.T, a *agent)
		status int
		says   []string // parts of the line
	}{
		{"port in use", takePort, 1, []string{"address already in use", "observe.http"}},
		{"data_dir below a file", func(t *testing.T, a *agent) { writeFile(t, filepath.Join(a.dir, "data"), "") }, 1, []string{"data"}},
		{"data_dir in a folder that is not ours", denyDataDir, 1, []string{"permission denied", "data"}},
		{"unknown key", replace("observe:", "observer:"), 2, []string{"sluice.yaml:14:1", "observer"}},
		{"missing unit", replace("when_full: block", "keep: { age: 72 }"), 2, []string{"sluice.yaml:10:27", "age"}},
		{"empty config", func(t *testing.T, a *agent) { writeFile(t, a.config, "") }, 2, []string{"sluice.yaml"}},
		{"no config file", func(_ *testing.T, a *agent) { _ = os.Remove(a.config) }, 2, []string{"sluice.yaml", "no such file"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			a := newAgent(t, dir, func(dataDir, http string) string {
				return mqttConfig(dataDir, http, broker.url(), loopback(freePort(t)), "wrong.{class}")
			})
			c.spoil(t, a)
			p := startProcess(t, command{name: "sluice", dir: dir, args: []string{a.binary, "run", "-c", a.config}, cred: nobodyIf(a.binary != sluiceBinary(t))})
			status, ok := p.waitExit(20 * time.Second)
			if !ok {
				t.Fatal("it runs")
			}
			fmt.Printf("E2E wrong-input case=%q exit=%d says=%q\n", c.name, status, p.tail(1))
			wantRefusal(t, p.log(), status, c.status, c.says)
		})
	}
}

// wantRefusal requires the status and one line, not a page, that names the
// trouble.
func wantRefusal(t *testing.T, log string, status, want int, says []string) {
	t.Helper()
	if status != want {
		t.Errorf("exit status %d, want %d", status, want)
	}
	lines := strings.Split(strings.TrimSpace(log), "\n")
	last := lines[len(lines)-1]
	for _, s := range says {
		if !strings.Contains(last, s) {
			t.Errorf("the last line has no %q: %s", s, last)
		}
	}
	if strings.Contains(log, "goroutine ") || len(lines) > 4 {
		t.Errorf("%d lines in place of one:\n%s", len(lines), log)
	}
}

func replace(old, with string) func(*testing.T, *agent) {
	return func(t *testing.T, a *agent) {
		t.Helper()
		text, err := os.ReadFile(a.config)
		if err != nil || !strings.Contains(string(text), old) {
			t.Fatalf("no %q in the config (%v)", old, err)
		}
		writeFile(t, a.config, strings.Replace(string(text), old, with, 1))
	}
}

// takePort listens where the agent wants to.
func takePort(t *testing.T, a *agent) {
	t.Helper()
	ln, err := net.Listen("tcp", a.http)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
}

// denyDataDir makes the folder of data_dir read-only. Root may write
// everywhere, so the agent then runs as nobody, from a copy that nobody may run.
func denyDataDir(t *testing.T, a *agent) {
	t.Helper()
	locked := filepath.Join(a.dir, "locked")
	if err := errors.Join(os.Mkdir(locked, 0o555), os.Chmod(filepath.Dir(a.dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	replace(filepath.Join(a.dir, "data"), filepath.Join(locked, "data"))(t, a)
	program, err := os.ReadFile(a.binary)
	if err != nil {
		t.Fatal(err)
	}
	a.binary = filepath.Join(a.dir, "sluice")
	if err := os.WriteFile(a.binary, program, 0o755); err != nil {
		t.Fatal(err)
	}
}

func nobodyIf(other bool) *syscall.Credential {
	if !other || os.Geteuid() != 0 {
		return nil
	}
	return &syscall.Credential{Uid: 65534, Gid: 65534}
}
