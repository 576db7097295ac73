package simulate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// stopLimit is how long the agent may take to stop, by its own promise.
const stopLimit = 10 * time.Second

// agentProcess is the agent, running as a child of this process.
type agentProcess struct {
	cmd   *exec.Cmd
	log   string        // the file that holds what it printed
	ended chan struct{} // closed once it has ended
	err   error         // how it ended; read it after ended
	url   string        // of its HTTP
	http  *http.Client
	limit time.Duration // for stop
}

// startAgent runs "sluice run -c config". Its output goes into the file log.
func startAgent(sluice, config, log, httpAddr string) (*agentProcess, error) {
	out, err := os.Create(log)
	if err != nil {
		return nil, fmt.Errorf("start the agent: %w", err)
	}
	defer out.Close() // the child has its own copy
	cmd := exec.Command(sluice, "run", "-c", config)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = childAttributes()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the agent: %w (build it with \"make build\", or name it with --sluice)", err)
	}
	a := &agentProcess{
		cmd: cmd, log: log, ended: make(chan struct{}), url: "http://" + httpAddr,
		http: &http.Client{Timeout: 2 * time.Second}, limit: stopLimit,
	}
	go func() { // ends with the child; stop and kill wait for it
		a.err = cmd.Wait()
		close(a.ended)
	}()
	return a, nil
}

// watch returns an error when the agent ends, nil when ctx ends before.
func (a *agentProcess) watch(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-a.ended:
		return fmt.Errorf("the agent ended by itself: %s", outcome(a.err))
	}
}

// ready waits until /readyz says 200, or ctx ends.
func (a *agentProcess) ready(ctx context.Context) error {
	last := "no answer yet"
	for ctx.Err() == nil {
		code, body, err := a.get(ctx, "/readyz")
		switch {
		case err == nil && code == http.StatusOK:
			return nil
		case err == nil:
			last = fmt.Sprintf("%d %s", code, bytes.TrimSpace(body))
		case ctx.Err() == nil:
			last = err.Error()
		}
		pause(ctx, 50*time.Millisecond)
	}
	return fmt.Errorf("the agent isn't ready: %w (GET %s/readyz: %s)", context.Cause(ctx), a.url, last)
}

func (a *agentProcess) get(ctx context.Context, path string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url+path, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, body, err
}

// agentStatus is the part of GET /api/v1/status that the table shows. The
// result of the demonstration doesn't depend on it.
type agentStatus struct {
	Sources map[string]struct {
		Up    bool
		State string
		Taken map[string]uint64
	}
	Classes map[string]struct {
		Events        uint64 // in the buffer, not delivered to all uplinks
		Bytes         uint64
		OldestSeconds float64 `json:"oldest_seconds"`
	}
	Uplinks map[string]struct {
		Up        bool
		State     string
		LastError string `json:"last_error"`
		Delivered map[string]uint64
	}
}

func (a *agentProcess) status(ctx context.Context) (agentStatus, error) {
	var s agentStatus
	code, body, err := a.get(ctx, "/api/v1/status")
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("answer %d", code)
	}
	if err == nil {
		err = json.Unmarshal(body, &s)
	}
	if err != nil {
		return s, fmt.Errorf("ask the agent for its status: %w", err)
	}
	return s, nil
}

// stop asks the agent to end, as systemd does, and kills it if it doesn't
// within its limit. An exit status other than 0 is an error, unless the agent had
// ended before: that is for watch to tell.
func (a *agentProcess) stop() error {
	select {
	case <-a.ended:
		return nil
	default:
	}
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop the agent: %w", err)
	}
	limit := time.NewTimer(a.limit)
	defer limit.Stop()
	select {
	case <-a.ended:
	case <-limit.C:
		a.kill()
		return fmt.Errorf("the agent didn't stop within %s of SIGTERM and was killed", a.limit)
	}
	if a.err != nil {
		return fmt.Errorf("the agent stopped with %s", outcome(a.err))
	}
	return nil
}

// kill ends the agent at once, if it hasn't ended, and waits for that.
func (a *agentProcess) kill() {
	_ = a.cmd.Process.Kill() // it fails only if the process has ended
	<-a.ended
}

func outcome(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// tail returns the last lines that the agent printed.
func (a *agentProcess) tail(lines int) []string {
	b, err := os.ReadFile(a.log)
	if err != nil || len(bytes.TrimSpace(b)) == 0 {
		return nil
	}
	all := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return all[max(0, len(all)-lines):]
}
