package buffer

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkReadBack reads a backlog that is not in the page cache, in the buffer
// and in the floor by turns. A rate that is held against less read from the disk
// than the files hold was not cold: the temporary directory is in memory.
func BenchmarkReadBack(b *testing.B) {
	const size, total = 1024, 512 << 10
	events := benchEvents(16<<10, "telemetry")
	logDir, dir := filepath.Join(b.TempDir(), "log"), b.TempDir()
	log, stop := openBench(b, logDir, 0)
	all := []*contender{
		{name: "buffer", dir: filepath.Join(logDir, "classes"), read: func() (int, error) { return readLog(b, logDir, total) }},
		floorContender(b, "floor zstd", filepath.Join(dir, "zstd"), true),
		floorContender(b, "floor raw", filepath.Join(dir, "raw"), false)}
	all[0].append = appendTo(log)
	for at := 0; at < total; at += size {
		for _, c := range all {
			if err := c.append(events[at%len(events):][:size]); err != nil {
				b.Fatal(err)
			}
		}
	}
	stop()
	for round := 0; b.Loop(); round++ {
		for i := range all {
			c := all[(round+i)%len(all)]
			evict(b, c.dir)
			runtime.GC()
			before := look(b)
			n, err := c.read()
			if err != nil || n != total {
				b.Fatalf("%s: %d of %d events: %v", c.name, n, total, err)
			}
			c.rounds = append(c.rounds, look(b).minus(before))
		}
	}
	fmt.Printf("%-12s %10s %10s %12s %10s  %6s %6s\n", "cold read", "events/s", "cpu µs/ev", "from disk B", "allocs/ev", "x-time", "x-cpu")
	for _, c := range all {
		fmt.Printf("%-12s %10.0f %10.2f %12.1f %10.2f  %6.2f %6.2f\n", c.name, total/(c.median(wall)/1e9), c.median(cpu)/1e3/total,
			c.median(func(u usage) float64 { return float64(u.fetched) })/total, c.median(func(u usage) float64 { return float64(u.allocs) })/total,
			c.over(all[1], wall), c.over(all[1], cpu))
	}
	b.ReportMetric(all[0].median(wall)/total, "ns/op")
	b.ReportMetric(all[0].over(all[1], wall), "x-time")
	b.ReportMetric(all[0].over(all[1], cpu), "x-cpu")
}

// readLog opens the log and reads total events from its beginning.
func readLog(b *testing.B, dir string, total int) (n int, err error) {
	log, stop := openBench(b, dir, 0)
	defer stop()
	rd, err := log.Reader("central")
	if err != nil {
		return 0, err
	}
	defer rd.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for n < total {
		batch, err := rd.Next(ctx)
		if err != nil {
			return n, err
		}
		n += len(batch.Events)
	}
	return n, nil
}

// The child of BenchmarkOpen opens this directory, says how long it took and what
// it holds in memory, and ends.
const openDir = "SLUICE_BENCH_OPEN"

// BenchmarkOpen starts on a backlog of 1 GiB that is not in the page cache, each
// time in a process of its own. The floor's start is reading all of it.
func BenchmarkOpen(b *testing.B) {
	if dir := os.Getenv(openDir); dir != "" {
		openChild(b, dir)
		return
	}
	const backlog = 1 << 30
	events := benchEvents(8<<10, "noise")
	dir := filepath.Join(b.TempDir(), "log")
	log, stop := openBench(b, dir, 0)
	for log.Stats().Classes["process"].Bytes < backlog {
		if err := appendAll(log, events); err != nil {
			b.Fatal(err)
		}
	}
	stop()
	var took, anon float64
	for b.Loop() {
		evict(b, dir)
		cmd := exec.Command(os.Args[0], "-test.run", "^$", "-test.bench", "^BenchmarkOpen$", "-test.benchtime", "1x")
		cmd.Env = append(os.Environ(), openDir+"="+dir)
		out, err := cmd.CombinedOutput()
		if err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		_, said, _ := strings.Cut(string(out), "opened: ")
		var seconds, kilobytes float64
		if _, err := fmt.Sscan(said, &seconds, &kilobytes); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		took, anon = took+seconds, anon+kilobytes
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(took/float64(b.N)*1e3, "ms/open")
	b.ReportMetric(anon/float64(b.N)/1024, "RssAnon-MiB")
}

func openChild(b *testing.B, dir string) {
	begin := time.Now()
	_, stop := openBench(b, dir, 0)
	took := time.Since(begin)
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "\nRssAnon:")
	var kilobytes int
	if _, err = fmt.Sscan(rest, &kilobytes); err != nil {
		b.Fatal(err)
	}
	fmt.Printf("opened: %f %d\n", took.Seconds(), kilobytes)
	stop()
}

// evict takes the files below dir out of the page cache, which needs no root.
// They must be closed.
func evict(b *testing.B, dir string) {
	walk(b, dir, func(path string) {
		f, err := os.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		if err = f.Sync(); err != nil { // only clean pages can go
			b.Fatal(err)
		}
		if err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			b.Fatal(err)
		}
	})
}
