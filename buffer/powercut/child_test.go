//go:build torture

package powercut

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sluice/buffer"
)

// What the recorded process is told.
const (
	envScenario = "SLUICE_POWERCUT_SCENARIO"
	envLife     = "SLUICE_POWERCUT_LIFE"
	envRoot     = "SLUICE_POWERCUT_ROOT" // holds the buffer's folder; all that is modelled
	envMarks    = "SLUICE_POWERCUT_MARKS"
	envBase     = "SLUICE_POWERCUT_BASE" // Unix seconds
	envCalm     = "SLUICE_POWERCUT_CALM" // as deterministic as can be
)

// dataDir is the buffer's folder below the root. The buffer makes it itself.
const dataDir = "data"

// longestLife is how long a recorded process may take.
const longestLife = 40 * time.Second

// child is the recorded process.
type child struct {
	scenario *scenario
	base     time.Time
	dir      string
	marks    int
	calm     bool

	buf    *buffer.Buffer
	stop   context.CancelFunc
	ended  chan error
	taps   []*tap
	nextID map[string]int
}

func runChild() error {
	s, err := scenarioNamed(os.Getenv(envScenario))
	if err != nil {
		return err
	}
	life, err := strconv.Atoi(os.Getenv(envLife))
	if err != nil {
		return err
	}
	base, err := strconv.ParseInt(os.Getenv(envBase), 10, 64)
	if err != nil {
		return err
	}
	marks, err := unix.Open(os.Getenv(envMarks), unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	c := &child{scenario: s, base: time.Unix(base, 0), dir: filepath.Join(os.Getenv(envRoot), dataDir), marks: marks,
		calm: os.Getenv(envCalm) != "", nextID: map[string]int{}}
	for _, class := range s.classes {
		c.nextID[class.Name] = 10_000 * (life + 1) // of a life's own, so that an id is never handed in twice
	}
	time.AfterFunc(longestLife, func() { os.Exit(1) }) // strace may be gone and leave this process behind
	return s.life(life)(c)
}

// mark reports something by one write, which the trace shows in its place among
// the calls of the buffer.
func (c *child) mark(m mark) {
	b, err := json.Marshal(m)
	if err == nil {
		_, err = unix.Writev(c.marks, [][]byte{append(b, '\n')}) // not write, which is made to fail
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mark:", err)
		os.Exit(1)
	}
}

func (c *child) open() error {
	cfg := c.scenario.config(c.dir)
	if c.calm {
		// strace counts the calls of each thread: keep opening on one, and the
		// writer on one.
		runtime.LockOSThread()
		cfg.ObserveCommit = func(time.Duration) { runtime.LockOSThread() }
	}
	b, err := buffer.Open(cfg)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	c.buf, c.stop, c.ended = b, stop, make(chan error, 1)
	c.mark(mark{Kind: markOpen, Incarnation: b.Incarnation()})
	go func() { c.ended <- b.Run(ctx) }()
	return nil
}

// openSomehow opens again where a call failed, as a service that is restarted.
func (c *child) openSomehow() {
	var err error
	for range 8 {
		if err = c.open(); err == nil {
			return
		}
	}
	fmt.Fprintln(os.Stderr, "open:", err)
	os.Exit(1)
}

// feed hands in n events and returns what waits until all are acknowledged.
func (c *child) feed(class string, n int) (wait func() error) {
	var acked sync.WaitGroup
	acked.Add(n)
	failed := make(chan error, n)
	appended := make(chan struct{})
	go func() {
		defer close(appended)
		for range n {
			c.nextID[class]++
			id := c.nextID[class]
			c.mark(mark{Kind: markAppend, Class: class, ID: id})
			err := c.buf.Append(context.Background(), c.scenario.event(c.base, class, id), func(err error) {
				if err == nil {
					c.mark(mark{Kind: markAcked, Class: class, ID: id})
				} else {
					failed <- err
				}
				acked.Done()
			})
			if err != nil {
				failed <- err
				acked.Done()
			}
		}
	}()
	return func() error {
		<-appended
		acked.Wait()
		close(failed)
		return errors.Join(<-failed)
	}
}

// bulk hands in n events that the trace shows as one.
func (c *child) bulk(class string, n int) error {
	m := mark{Kind: markAppend, Class: class, ID: c.nextID[class] + 1, N: n}
	c.nextID[class] += n
	c.mark(m)
	failed := make(chan error, n)
	var acked sync.WaitGroup
	acked.Add(n)
	for i := range n {
		err := c.buf.Append(context.Background(), c.scenario.event(c.base, class, m.ID+i), func(err error) {
			if err != nil {
				failed <- err
			}
			acked.Done()
		})
		if err != nil {
			return err
		}
	}
	acked.Wait()
	m.Kind = markAcked
	c.mark(m)
	close(failed)
	return <-failed
}

// put hands in n events, group by group, each acknowledged before the next.
func (c *child) put(class string, n, group int) error {
	for ; n > 0; n -= group {
		if err := c.feed(class, min(n, group))(); err != nil {
			return err
		}
	}
	return nil
}

func (c *child) skipTo(offset int) {
	for class, id := range c.nextID {
		c.nextID[class] = id - id%1000 + offset
	}
}

func (c *child) blocked() bool {
	for _, st := range c.buf.Stats().Classes {
		if st.Blocked {
			return true
		}
	}
	return false
}

func (c *child) until(what string, is func() bool) error {
	for range 2000 {
		if is() {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return fmt.Errorf("not within 10 s: %s; %+v", what, c.buf.Stats())
}

func (c *child) close() error {
	for _, t := range c.taps {
		t.end()
	}
	c.stop()
	err := <-c.ended
	return errors.Join(err, c.buf.Close())
}

func (c *child) kill() error {
	if err := unix.Kill(os.Getpid(), unix.SIGKILL); err != nil {
		return err
	}
	time.Sleep(10 * time.Second)
	return errors.New("still alive after a kill")
}

// tap is an uplink: it reads, holds a few batches in hand and acknowledges.
type tap struct {
	child  *child
	uplink string
	reader *buffer.Reader
	stop   context.CancelFunc
	ended  chan struct{}

	mu      sync.Mutex
	changed *sync.Cond
	paused  bool
	lag     int
	ending  bool
}

func (c *child) read(uplink string, lag int) *tap {
	r, err := c.buf.Reader(uplink)
	if err != nil {
		fmt.Fprintln(os.Stderr, "reader:", err)
		os.Exit(1)
	}
	ctx, stop := context.WithCancel(context.Background())
	t := &tap{child: c, uplink: uplink, reader: r, stop: stop, ended: make(chan struct{}), lag: lag}
	t.changed = sync.NewCond(&t.mu)
	c.taps = append(c.taps, t)
	go t.run(ctx)
	return t
}

func (t *tap) run(ctx context.Context) {
	defer close(t.ended)
	var held []mark
	for {
		t.mu.Lock()
		for t.paused && !t.ending {
			t.changed.Wait()
		}
		lag := t.lag
		t.mu.Unlock()
		for len(held) > lag {
			t.child.mark(held[0])
			t.reader.Ack(held[0].Class, held[0].Seq)
			held = held[1:]
		}
		b, err := t.reader.Next(ctx)
		if err != nil {
			return
		}
		m := mark{Kind: markGot, Uplink: t.uplink, Class: b.Class, Incarnation: b.Incarnation, Items: t.child.scenario.items(t.child.base, b)}
		t.child.mark(m)
		held = append(held, mark{Kind: markAck, Uplink: t.uplink, Class: b.Class, Seq: b.Last()})
	}
}

func (t *tap) pause() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.paused = true
}

func (t *tap) resume(lag int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.paused, t.lag = false, lag
	t.changed.Broadcast()
}

// behind is how many stored events the uplink has not acknowledged.
func (t *tap) behind() uint64 {
	var n uint64
	for _, st := range t.child.buf.Stats().Classes {
		n += st.Uplinks[t.uplink].Lag
	}
	return n
}

func (t *tap) end() {
	t.mu.Lock()
	t.ending = true
	t.changed.Broadcast()
	t.mu.Unlock()
	t.stop()
	<-t.ended
	t.reader.Close()
}
