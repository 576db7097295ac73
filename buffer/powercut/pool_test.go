//go:build torture

package powercut

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"
)

// hang is how long a worker may take for one disk.
const hang = 10 * time.Second

// pool hands tasks to worker processes. One that dies or hangs is replaced; its
// task has failed.
type pool struct {
	jobs   chan job
	ended  sync.WaitGroup
	mu     sync.Mutex
	broken error // no worker can be started
}

type job struct {
	task task
	done func(answer)
}

func newPool(workers int) *pool {
	p := &pool{jobs: make(chan job, 2*workers)}
	for range workers {
		p.ended.Go(p.work)
	}
	return p
}

func (p *pool) submit(t task, done func(answer)) { p.jobs <- job{task: t, done: done} }

func (p *pool) close() error {
	close(p.jobs)
	p.ended.Wait()
	return p.broken
}

func (p *pool) work() {
	var w *worker
	for j := range p.jobs {
		var err error
		if w == nil {
			w, err = startWorker()
		}
		if err != nil {
			p.mu.Lock()
			p.broken = err
			p.mu.Unlock()
			j.done(answer{Err: "no worker: " + err.Error()})
			continue
		}
		a, err := w.ask(j.task)
		if err != nil {
			a = answer{Err: "the process that opened it " + err.Error()}
			w.kill()
			w = nil
		}
		j.done(a)
	}
	if w != nil {
		w.kill()
	}
}

// worker is a process that opens disks.
type worker struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	answers chan []byte // closed when the process has ended
	said    headWriter
}

func startWorker() (*worker, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	w := &worker{cmd: exec.Command(self), answers: make(chan []byte)}
	w.cmd.Env = append(os.Environ(), envRole+"="+roleCheck, "GOGC=400")
	w.cmd.Stderr = &w.said
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err = w.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(w.answers)
		r := bufio.NewReader(out)
		for {
			line, err := r.ReadBytes('\n')
			if err != nil {
				return
			}
			w.answers <- line
		}
	}()
	return w, nil
}

// ask returns the worker's answer, or how the worker ended.
func (w *worker) ask(t task) (a answer, err error) {
	b, err := json.Marshal(t)
	if err != nil {
		return a, err
	}
	if _, err = w.in.Write(append(b, '\n')); err != nil {
		return a, fmt.Errorf("is gone: %w", err)
	}
	limit := time.NewTimer(hang)
	defer limit.Stop()
	select {
	case line, ok := <-w.answers:
		if !ok {
			err = w.cmd.Wait()
			return a, fmt.Errorf("died: %w: %s", errors.Join(err), w.said.String())
		}
		return a, json.Unmarshal(line, &a)
	case <-limit.C:
		return a, fmt.Errorf("hangs for more than %s", hang)
	}
}

// kill ends the process and waits for it.
func (w *worker) kill() {
	_ = w.in.Close()
	_ = w.cmd.Process.Kill() // it may have ended
	for range w.answers {
		continue
	}
	_ = w.cmd.Wait() // killed
}

// headWriter keeps the first part of what a worker says: a crash begins with its
// reason.
type headWriter struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *headWriter) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(b[:min(len(b), max(0, 3000-t.buf.Len()))])
	return len(b), nil
}

func (t *headWriter) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}
