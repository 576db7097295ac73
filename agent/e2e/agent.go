//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"
)

// agent is the program under test. It is started, killed and started again on
// the same config and data_dir, as a gateway's supervisor does it.
type agent struct {
	binary, config, dir string
	http                string // host and port of observe.http
	proc                *process
}

// newAgent prepares an agent in a scratch folder; configure is given the
// data_dir and the HTTP address. Nothing runs before start.
func newAgent(t testing.TB, dir string, configure func(dataDir, http string) string) *agent {
	t.Helper()
	a := &agent{binary: sluiceBinary(t), config: filepath.Join(dir, "sluice.yaml"), dir: dir, http: loopback(freePort(t))}
	writeFile(t, a.config, configure(filepath.Join(dir, "data"), a.http))
	return a
}

func (a *agent) start(t testing.TB) {
	t.Helper()
	a.proc = startProcess(t, command{name: "sluice", dir: a.dir, args: []string{a.binary, "run", "-c", a.config}})
}

// startReady starts the agent and waits until all its sources are connected and subscribed,
// or polling.
func (a *agent) startReady(t testing.TB) {
	t.Helper()
	a.start(t)
	waitFor(t, "the agent's /readyz", func() bool { return a.get("/readyz") == nil }, a.proc)
}

// get fetches a page and returns an error unless the answer is 200.
func (a *agent) get(path string) error {
	client := http.Client{Timeout: 5 * time.Second}
	resp, err := client.Get("http://" + a.http + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %.200s", path, resp.Status, body)
	}
	return err
}

// terminate sends SIGTERM and requires exit status 0 within ten seconds.
func (a *agent) terminate(t testing.TB) {
	t.Helper()
	start := time.Now()
	if err := syscall.Kill(a.proc.cmd.Process.Pid, syscall.SIGTERM); err != nil {
		t.Fatalf("SIGTERM: %v", err)
	}
	status, ok := a.proc.waitExit(10 * time.Second)
	switch {
	case !ok:
		t.Errorf("the agent still runs 10 s after SIGTERM")
		a.proc.signal(syscall.SIGQUIT) // its goroutines, into its log
		a.proc.waitExit(2 * time.Second)
		a.proc.kill()
	case status != 0:
		t.Errorf("exit status %d after SIGTERM, want 0", status)
	default:
		t.Logf("SIGTERM: exit 0 after %s", time.Since(start).Round(time.Millisecond))
	}
	a.checkLog(t)
}

// checkLog looks for what must never be in the log.
func (a *agent) checkLog(t testing.TB) {
	t.Helper()
	if bad := regexp.MustCompile(`(?m)^.*(panic:|DATA RACE|fatal error:|SIGSEGV|SIGBUS).*$`).FindString(a.proc.log()); bad != "" {
		t.Errorf("in the agent's log: %s", bad)
	}
}
