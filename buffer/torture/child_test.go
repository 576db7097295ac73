//go:build torture

package torture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"sluice/buffer"
)

// A child writes one line for each thing that happens, in one call, so that a
// kill cuts no more than the last line. Fields are separated by tabs:
//
//	S pid                                   about to open
//	O ms                                    open
//	F text                                  could not be opened
//	A class id                              acknowledged
//	D uplink class incarnation first events delivered, before it is acknowledged
//	E text                                  something that must not be
//	T commits mean-ms fault blocked         about every 50 ms
//	K uplink class seq                      acknowledged when it stopped in order
//	N class next                            the next number then
//	X ms                                    stopped in order within this time
type child struct {
	plan  plan
	life  int
	drain bool
	buf   *buffer.Buffer

	mu       sync.Mutex
	commits  atomic.Int64
	commitNs atomic.Int64
}

// runChild lives a life of the named plan.
func runChild(name string) int {
	p, ok := findPlan(name)
	life, err := strconv.Atoi(os.Getenv(envLife))
	if !ok || err != nil {
		fmt.Fprintln(os.Stderr, "no such plan or life:", name, err)
		return 2
	}
	go func() { // ends with the test
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(4)
	}()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	c := &child{plan: p, life: life, drain: os.Getenv(envDrain) != ""}
	if n, err := strconv.Atoi(os.Getenv(envFiles)); err == nil {
		if err := fewFiles(n); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
	}
	return c.live(ctx)
}

// fewFiles leaves n descriptors. Those of the Go runtime's own poller are made
// first: it dies without them.
func fewFiles(n int) error {
	r, w, err := os.Pipe()
	if err == nil {
		err = errors.Join(r.Close(), w.Close())
	}
	if err != nil {
		return err
	}
	var l syscall.Rlimit
	if err = syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	for l.Cur = 0; ; l.Cur++ { // the limit is one of their numbers
		if _, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", l.Cur)); err == nil {
			continue
		}
		if n--; n < 0 {
			return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
		}
	}
}

func (c *child) say(fields ...string) {
	var b []byte
	for i, f := range fields {
		if i > 0 {
			b = append(b, '\t')
		}
		b = append(b, f...)
	}
	b = append(b, '\n')
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = os.Stdout.Write(b) // without a reader the test is over
}

func (c *child) live(ctx context.Context) int {
	cfg := c.plan.config()
	cfg.Dir = os.Getenv(envDir)
	cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	cfg.ObserveCommit = func(d time.Duration) {
		c.commits.Add(1)
		c.commitNs.Add(int64(d))
	}
	c.say("S", strconv.Itoa(os.Getpid()))
	begin := time.Now()
	var err error
	if c.buf, err = buffer.Open(cfg); err != nil {
		c.say("F", strconv.Quote(err.Error()))
		return 3
	}
	c.say("O", millis(time.Since(begin)))
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	write, stopWriting := context.WithCancel(context.Background())
	defer stopWriting()
	var sources, uplinks, writer sync.WaitGroup
	writer.Go(func() {
		if err := c.buf.Run(write); err != nil {
			c.say("E", err.Error())
		}
	})
	for uplink := range cfg.Uplinks {
		uplinks.Go(func() { c.read(work, uplink) })
	}
	if c.drain {
		sources.Go(func() { c.drained(work, cancel) })
	} else {
		for _, class := range cfg.Classes {
			for n := range c.plan.producers {
				sources.Go(func() { c.produce(work, class.Name, n) })
			}
		}
	}
	c.watch(work)
	begin = time.Now()
	sources.Wait()
	uplinks.Wait()
	stopWriting()
	writer.Wait()
	for name, st := range c.buf.Stats().Classes {
		c.say("N", name, strconv.FormatUint(st.Next, 10))
	}
	if err := c.buf.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "close:", err)
	}
	c.say("X", millis(time.Since(begin)))
	return 0
}

func millis(d time.Duration) string { return strconv.FormatFloat(d.Seconds()*1000, 'f', 1, 64) }

// watch tells how the buffer is until ctx ends.
func (c *child) watch(ctx context.Context) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		fault, blocked := "", false
		for _, st := range c.buf.Stats().Classes {
			blocked = blocked || st.Blocked
			fault += st.Fault
		}
		n := c.commits.Load()
		mean := time.Duration(0)
		if n > 0 {
			mean = time.Duration(c.commitNs.Load() / n)
		}
		c.say("T", strconv.FormatInt(n, 10), millis(mean), strconv.Quote(fault), strconv.FormatBool(blocked))
	}
}

// produce appends until ctx ends.
func (c *child) produce(ctx context.Context, class string, producer int) {
	r := rand.New(rand.NewPCG(uint64(c.life), uint64(producer)))
	for n := 0; ctx.Err() == nil; n++ {
		i := newID(c.life, producer, n)
		e := makeEvent(class, i, time.Now(), c.plan.size(r))
		err := c.buf.Append(ctx, e, func(err error) {
			if err == nil {
				c.say("A", class, strconv.FormatUint(uint64(i), 16))
			}
		})
		if err != nil {
			return
		}
		if c.plan.rest > 0 {
			pause(ctx, c.plan.rest)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// read reads and acknowledges at the uplink's pace until ctx ends.
func (c *child) read(ctx context.Context, uplink string) {
	rd, err := c.buf.Reader(uplink)
	if err != nil {
		c.say("E", err.Error())
		return
	}
	defer rd.Close()
	p := c.plan.uplinks[uplink]
	if c.drain {
		p = pace{}
	}
	last, acked := map[string]uint64{}, map[string]uint64{}
	for n := 1; ctx.Err() == nil; n++ {
		b, err := rd.Next(ctx)
		if err != nil {
			break
		}
		c.say("D", uplink, b.Class, b.Incarnation, strconv.FormatUint(b.First, 10), c.check(b))
		last[b.Class] = b.Last()
		if n%max(1, p.ackEvery) == 0 {
			for class, seq := range last {
				rd.Ack(class, seq)
				acked[class] = seq
			}
		}
		if p.rest > 0 {
			pause(ctx, p.rest)
		}
	}
	for class, seq := range acked {
		c.say("K", uplink, class, strconv.FormatUint(seq, 10))
	}
}

// check verifies every byte of a batch and returns it as the parent reads it.
func (c *child) check(b buffer.Batch) string {
	var out []byte
	for i, e := range b.Events {
		if i > 0 {
			out = append(out, ' ')
		}
		if e.Type == buffer.TypeGap {
			if _, err := readGap(b.Class, e); err != nil {
				c.say("E", fmt.Sprintf("class %s, number %d: %v", b.Class, b.First+uint64(i), err))
			}
			out = append(append(out, 'g'), e.Payload...) // JSON without white space
			continue
		}
		event, err := readEvent(b.Class, e)
		if err != nil {
			c.say("E", fmt.Sprintf("class %s, number %d: %v", b.Class, b.First+uint64(i), err))
		}
		out = strconv.AppendUint(out, uint64(event), 16)
	}
	return string(out)
}

// drained ends the life when every uplink has everything.
func (c *child) drained(ctx context.Context, end func()) {
	for calm := 0; calm < 3 && ctx.Err() == nil; {
		pause(ctx, 10*time.Millisecond)
		calm++
		for _, st := range c.buf.Stats().Classes {
			for _, u := range st.Uplinks {
				if u.Acked+1 < st.Next || st.Queued > 0 {
					calm = 0
				}
			}
		}
	}
	end()
}
