//go:build torture

package powercut

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// recording is what the processes of a scenario did, one after the other.
type recording struct {
	scenario *scenario
	base     time.Time
	root     string
	reports  string // the file for marks
	after    *trial // the cut on whose disk it began; nil: none
	lives    [][]step
	bytes    int64  // of the trace
	fault    inject // what was made to fail,
	injected int    // and how often; a kill counts
}

// inject makes calls of the recorded process fail, in the words of strace:
// fdatasync:error=EIO:when=3. signal=KILL in place of the error ends it before
// the call. Only the first process of a scenario is concerned.
type inject string

func newRecording(s *scenario, dir string) (*recording, error) {
	if _, err := exec.LookPath("strace"); err != nil {
		return nil, errors.New("strace is not installed: apt-get install strace")
	}
	r := &recording{scenario: s, base: time.Now().Truncate(time.Second), root: filepath.Join(dir, "root"), reports: filepath.Join(dir, "marks")}
	return r, os.MkdirAll(r.root, 0o700)
}

// record runs the scenario below dir.
func record(s *scenario, dir string, fault inject) (*recording, error) {
	r, err := newRecording(s, dir)
	if err != nil {
		return nil, err
	}
	r.fault = fault
	if !s.fresh {
		if err = os.Mkdir(filepath.Join(r.root, dataDir), 0o700); err != nil {
			return nil, err
		}
	}
	for i := range s.lives {
		if err = r.live(i); err != nil {
			return nil, err
		}
	}
	return r, os.RemoveAll(dir)
}

// recordAfter runs one more process on what the cut t has left.
func recordAfter(before *recording, t trial, dir string) (*recording, error) {
	r, err := newRecording(before.scenario, dir)
	if err != nil {
		return nil, err
	}
	r.base, r.after = before.base, &t
	if err = t.image.copyTo(r.root); err != nil {
		return nil, err
	}
	if err = r.live(len(r.scenario.lives)); err != nil {
		return nil, err
	}
	return r, os.RemoveAll(dir)
}

// live records one process of the scenario.
func (r *recording) live(i int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	trace := fmt.Sprintf("%s-%d", r.reports, i)
	ctx, cancel := context.WithTimeout(context.Background(), longestLife+5*time.Second)
	defer cancel()
	args := []string{"-f", "-y", "-xx", "-s", "16777216", "-o", trace, "-e", "trace=" + traced, "-e", "signal=none"}
	if r.fault != "" && i == 0 {
		args = append(args, "-e", "inject="+string(r.fault))
	}
	if !strings.Contains(string(r.fault), "signal") { // with it no signal is sent
		args = append(args, "--seccomp-bpf")
	}
	cmd := exec.CommandContext(ctx, "strace", append(args, self)...)
	cmd.Env = append(os.Environ(), envRole+"="+roleChild, envScenario+"="+r.scenario.name, fmt.Sprintf("%s=%d", envLife, i),
		envRoot+"="+r.root, envMarks+"="+r.reports, fmt.Sprintf("%s=%d", envBase, r.base.Unix()))
	if r.fault != "" && i == 0 {
		cmd.Env = append(cmd.Env, "GOMAXPROCS=1", envCalm+"=1")
	}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) } // which strace hands on
	cmd.WaitDelay = 5 * time.Second
	err = cmd.Run()
	killed := err != nil && strings.Contains(err.Error(), "signal: killed")
	if err != nil && !killed || ctx.Err() != nil {
		return fmt.Errorf("record %s, process %d, fault %q: %w: %s", r.scenario.name, i, r.fault, errors.Join(err, ctx.Err()), tailOf(said.String()))
	}
	st, err := os.Stat(trace)
	if err != nil {
		return err
	}
	r.bytes += st.Size()
	steps, err := readTrace(trace)
	if err != nil {
		return err
	}
	for _, s := range steps {
		if s.exit && s.injected {
			r.injected++
		}
	}
	if killed {
		r.injected++
	}
	r.lives = append(r.lives, steps)
	return nil
}

func tailOf(s string) string { return s[max(0, len(s)-2000):] }

// disk is what the recording began with.
func (r *recording) disk(m model) *disk {
	d := newDisk(r.root, m)
	var files []file
	switch {
	case r.after != nil:
		files = r.after.image.files
	case !r.scenario.fresh:
		files = []file{{path: dataDir, dir: true}}
	}
	for _, f := range files {
		path := filepath.Join(r.root, f.path)
		i := d.node(path, f.dir)
		i.base, i.size = f.data, int64(len(f.data))
		d.base[path], d.live[path] = i, i
	}
	return d
}

// marks is what had been reported before the recording began.
func (r *recording) marks() []mark {
	if r.after == nil {
		return nil
	}
	return r.after.marks
}

// reasons lists those of the gap records that the uplinks were given.
func (r *recording) reasons() (list []string, err error) {
	for _, s := range slices.Concat(r.lives...) {
		if s.exit || s.name != "writev" || s.fdPath != r.reports {
			continue
		}
		marks, err := parseMarks(s.data)
		if err != nil {
			return nil, err
		}
		for _, it := range slices.Concat(marks[0].Items) {
			if it.Gap != nil {
				list = append(list, it.Gap.Reason)
			}
		}
	}
	return list, nil
}

// fates counts what happened to segment files.
type fates struct{ made, rewritten, removed int }

func (r *recording) segments() (f fates) {
	for _, s := range slices.Concat(r.lives...) {
		ok := s.exit && s.returned && s.ret == 0
		switch {
		case ok && strings.HasPrefix(s.name, "rename") && strings.HasSuffix(s.to, ".seg"):
			f.made++
			if !strings.HasSuffix(s.to, "-0000.seg") {
				f.rewritten++
			}
		case ok && s.name == "unlinkat" && strings.HasSuffix(s.path, ".seg"):
			f.removed++
		}
	}
	return f
}
