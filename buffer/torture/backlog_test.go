//go:build torture

package torture

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sluice/buffer"
)

const (
	backlogBytes  = 2150 << 20 // a little over 2 GiB
	backlogEvent  = 250_000
	backlogStart  = 2 * time.Second
	backlogMemory = 64 << 20
)

func backlogConfig(dir string) buffer.Config {
	return buffer.Config{Dir: dir, Classes: []buffer.Class{{Name: "process", KeepBytes: 8 << 30}}, Uplinks: map[string][]string{"central": nil}}
}

// started is what a child measured of its start.
type started struct {
	OpenMs, BatchMs       float64 // until it was open, until it had its first batch
	Held                  int64   // the highest RssAnon + RssShmem that was seen
	Peak, RssFile, GoHeap int64   // at the end
	Events                uint64
	First                 uint64
	Problem               string
}

// TestStartWithALargeBacklog opens 2 GiB in a child, with the files in the page
// cache and without. It must give its first batch soon, in little memory.
func TestStartWithALargeBacklog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data") // on a disk: in memory its mapped pages would count as the child's
	begin := time.Now()
	size := makeBacklog(t, dir)
	t.Logf("%d MiB in %s", size>>20, time.Since(begin).Round(time.Millisecond))
	best := math.Inf(1)
	for _, how := range []string{"cold", "warm", "warm, again"} {
		if how == "cold" {
			forget(t, dir)
		}
		s := startBacklog(t, dir)
		if s.Problem != "" {
			t.Fatal(s.Problem)
		}
		t.Logf("SUMMARY backlog, %s: %d MiB, %d events: open after %.0f ms, first batch after %.0f ms; RssAnon+RssShmem %.1f MiB at most, VmHWM %.1f MiB, RssFile %.1f MiB, Go heap %.1f MiB",
			how, size>>20, s.Events, s.OpenMs, s.BatchMs, mib(s.Held), mib(s.Peak), mib(s.RssFile), mib(s.GoHeap))
		best = min(best, s.BatchMs)
		if s.Held >= backlogMemory {
			t.Errorf("%s: %.1f MiB of memory, %d are allowed", how, mib(s.Held), backlogMemory>>20)
		}
		if s.First != 1 {
			t.Errorf("%s: the first batch begins with %d", how, s.First)
		}
	}
	// Of the three: one start may meet a machine that is busy.
	if limit := backlogStart.Seconds() * 1000; best >= limit {
		t.Errorf("the first batch came after %.0f ms at best, %.0f are allowed", best, limit)
	}
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// makeBacklog writes events that do not compress, and returns what they take.
func makeBacklog(t *testing.T, dir string) (size int64) {
	t.Helper()
	b, err := buffer.Open(backlogConfig(dir))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	var durable sync.WaitGroup
	var failed atomic.Value
	for n := range backlogBytes / backlogEvent {
		durable.Add(1)
		err := b.Append(ctx, makeEvent("process", newID(1, 0, n), time.Now(), backlogEvent), func(err error) {
			if err != nil {
				failed.Store(err)
			}
			durable.Done()
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	durable.Wait()
	size = b.Stats().Classes["process"].Bytes
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil || failed.Load() != nil {
		t.Fatal(err, failed.Load())
	}
	if size < 2<<30 {
		t.Fatalf("only %d MiB", size>>20)
	}
	return size
}

// forget has the kernel drop the files from its page cache.
func forget(t *testing.T, dir string) {
	t.Helper()
	unix.Sync()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func startBacklog(t *testing.T, dir string) (s started) {
	t.Helper()
	cmd := command(roleBacklog, envDir+"="+dir)
	var stderr head
	cmd.Stderr = &stderr
	late := time.AfterFunc(3*patience, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &s)
	}
	if err != nil {
		t.Fatalf("the child: %v\n%s", err, stderr.String())
	}
	return s
}

// backlogReader is the child: it opens, reads one batch, and tells.
func backlogReader() int {
	var s started
	stop := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			m := memoryOf("self")
			s.Held = max(s.Held, m["RssAnon"]+m["RssShmem"])
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	})
	if err := s.start(os.Getenv(envDir)); err != nil {
		s.Problem = err.Error()
	}
	close(stop)
	watch.Wait()
	m := memoryOf("self")
	s.Held = max(s.Held, m["RssAnon"]+m["RssShmem"])
	s.Peak, s.RssFile = m["VmHWM"], m["RssFile"]
	var g runtime.MemStats
	runtime.ReadMemStats(&g)
	s.GoHeap = int64(g.HeapInuse)
	if err := json.NewEncoder(os.Stdout).Encode(s); err != nil {
		return 1
	}
	return 0
}

func (s *started) start(dir string) error {
	begin := time.Now()
	b, err := buffer.Open(backlogConfig(dir))
	if err != nil {
		return err
	}
	s.OpenMs = time.Since(begin).Seconds() * 1000
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	rd, err := b.Reader("central")
	if err != nil {
		cancel()
		return err
	}
	batch, err := rd.Next(ctx)
	s.BatchMs = time.Since(begin).Seconds() * 1000
	s.First, s.Events = batch.First, b.Stats().Classes["process"].Events
	cancel()
	<-ended
	for _, e := range batch.Events {
		if err == nil {
			_, err = readEvent("process", e)
		}
	}
	if err != nil {
		return fmt.Errorf("first batch: %w", err)
	}
	return b.Close()
}
