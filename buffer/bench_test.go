package buffer

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"sluice/drivers"
)

// benchEvents makes n events as machines send them: 190 bytes of JSON and 34 of
// topic. Telemetry compresses about six times, noise not at all.
func benchEvents(n int, payload string) []drivers.Event {
	rnd := rand.New(rand.NewPCG(1, 2))
	noise := rand.NewChaCha8([32]byte{1})
	type machine struct{ temperature, vibration, pressure, power, count float64 }
	machines := make([]machine, 40)
	for i := range machines {
		machines[i] = machine{20 + rnd.Float64()*60, rnd.Float64(), 1 + rnd.Float64()*9, rnd.Float64() * 40, rnd.Float64() * 1e6}
	}
	events := make([]drivers.Event, n)
	for i := range events {
		k := rnd.IntN(len(machines))
		m := &machines[k]
		m.temperature += rnd.NormFloat64()
		m.vibration += rnd.NormFloat64() / 50
		m.pressure += rnd.NormFloat64() / 10
		m.power += rnd.NormFloat64()
		m.count += rnd.Float64() * 3
		at := time.UnixMilli(1767000000000 + int64(i)*7).UTC()
		e := drivers.Event{Class: "process", Source: "line-mqtt", Subject: fmt.Sprintf("factory/hall-%d/press-%03d/telemetry", k%3, k),
			Type: drivers.TypeMQTTMessage, ContentType: drivers.ContentJSON, Time: at}
		if payload == "noise" {
			e.ContentType, e.Payload = drivers.ContentBinary, make([]byte, 190)
			_, _ = noise.Read(e.Payload)
		} else {
			e.Payload = fmt.Appendf(nil, `{"ts":%d,"machine":"press-%03d","temperature":%.2f,"vibration":%.4f,"pressure":%.3f,"rpm":%d,"power":%.2f,"state":"running","job":"A-%06d","count":%.0f,"quality":"good"}`,
				at.UnixMilli(), k, m.temperature, m.vibration, m.pressure, 1400+rnd.IntN(100), m.power, i/500, m.count)
		}
		events[i] = e
	}
	return events
}

// openBench opens a log that no uplink reads, as in an outage, and runs it.
func openBench(b *testing.B, dir string, delay time.Duration) (log *Buffer, stop func()) {
	b.Helper()
	log, err := Open(Config{Dir: dir, Classes: []Class{{Name: "process", KeepBytes: 64 << 30}}, Uplinks: map[string][]string{"central": nil},
		CommitDelay: delay})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- log.Run(ctx) }()
	return log, func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
		if err := log.Close(); err != nil {
			b.Error(err)
		}
	}
}

// appendAll appends events one by one, as sources do, and waits until all are durable.
func appendAll(log *Buffer, events []drivers.Event) error {
	durable, left := make(chan error, 1), len(events)
	var failed error
	done := func(err error) { // always called by the one writer
		if err != nil {
			failed = err
		}
		if left--; left == 0 {
			durable <- failed
		}
	}
	for i := range events {
		if err := log.Append(context.Background(), events[i], done); err != nil {
			return err
		}
	}
	return <-durable
}

// usage is what the process has used, or used between two looks.
type usage struct {
	wall, cpu      time.Duration
	dirtied        int64 // bytes of pages made dirty, /proc/self/io
	fetched        int64 // bytes read from the disk
	allocs, memory uint64
}

func look(tb testing.TB) usage {
	tb.Helper()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		tb.Fatal(err)
	}
	return usage{wall: time.Duration(time.Now().UnixNano()), cpu: time.Duration(ru.Utime.Nano() + ru.Stime.Nano()),
		dirtied: procIO(tb, "write_bytes"), fetched: procIO(tb, "read_bytes"), allocs: mem.Mallocs, memory: mem.TotalAlloc}
}

func (u usage) minus(o usage) usage {
	return usage{u.wall - o.wall, u.cpu - o.cpu, u.dirtied - o.dirtied, u.fetched - o.fetched, u.allocs - o.allocs, u.memory - o.memory}
}

// procIO reads a counter of /proc/self/io.
func procIO(tb testing.TB, name string) (n int64) {
	tb.Helper()
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		tb.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\n"+name+": ")
	if _, err = fmt.Sscan(rest, &n); err != nil {
		tb.Fatal("/proc/self/io:", err)
	}
	return n
}

// contender is one way to make a batch durable.
type contender struct {
	name    string
	dir     string
	append  func([]drivers.Event) error
	written func() int64  // bytes handed to the file system so far
	commits func() uint64 // commits so far
	read    func() (events int, err error)

	rounds  []usage
	batches int
}

func (c *contender) events(size int) float64 { return float64(c.batches * size) }

// median of what a round cost.
func (c *contender) median(of func(usage) float64) float64 {
	x := make([]float64, len(c.rounds))
	for i, u := range c.rounds {
		x[i] = of(u)
	}
	slices.Sort(x)
	return x[len(x)/2]
}

func (c *contender) total(of func(usage) float64) (sum float64) {
	for _, u := range c.rounds {
		sum += of(u)
	}
	return sum
}

func wall(u usage) float64 { return float64(u.wall) }
func cpu(u usage) float64  { return float64(u.cpu) }

// over is the median over the rounds of a cost in ratio to another's, so that a
// disturbance that hits one round doesn't count.
func (c *contender) over(other *contender, of func(usage) float64) float64 {
	x := make([]float64, len(c.rounds))
	for i := range x {
		x[i] = of(c.rounds[i]) / of(other.rounds[i])
	}
	slices.Sort(x)
	return x[len(x)/2]
}

func logContender(b *testing.B, name string, delay time.Duration) (*contender, func()) {
	dir := filepath.Join(b.TempDir(), "log")
	log, stop := openBench(b, dir, delay)
	return &contender{name: name, dir: filepath.Join(dir, "classes"),
		append:  appendTo(log),
		written: func() int64 { return log.Stats().WrittenBytes },
		commits: func() uint64 { return log.Stats().Commits }}, stop
}

func appendTo(log *Buffer) func([]drivers.Event) error {
	return func(e []drivers.Event) error { return appendAll(log, e) }
}

func floorContender(b *testing.B, name, dir string, compressed bool) *contender {
	path := filepath.Join(dir, "log")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		b.Fatal(err)
	}
	f, err := newFloor(path, compressed)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.file.Close() })
	c := &contender{name: name, dir: dir, append: f.append, written: func() int64 { return f.written },
		read: func() (int, error) { return readFloor(path, compressed) }}
	c.commits = func() uint64 { return uint64(c.batches) }
	return c
}

// BenchmarkAppend makes batches durable, each waited for before the next, in the
// buffer and in the floor by turns. What the lines call x-… is the buffer's cost
// over that of the compressing floor. The table has the details; the syncs are
// for strace: "strace -f -c -e trace=fdatasync,fsync,pwrite64,write,ftruncate".
func BenchmarkAppend(b *testing.B) {
	var table strings.Builder
	fmt.Fprintf(&table, "%-9s %5s %-14s %8s %8s %8s %8s %8s %7s %7s %6s %6s  %6s %6s %6s\n", "payload", "batch", "log", "µs/ev", "cpuµs/ev",
		"B/ev", "dirtB/ev", "KB/comm", "comm/b", "alloc/e", "diskB", "f/live", "x-time", "x-cpu", "x-byte")
	for _, payload := range []string{"telemetry", "noise"} {
		for _, size := range []int{1, 64, 1024} {
			b.Run(fmt.Sprintf("%s/%d", payload, size), func(b *testing.B) { benchAppend(b, &table, payload, size) })
		}
	}
	fmt.Print(table.String())
}

func benchAppend(b *testing.B, table *strings.Builder, payload string, size int) {
	events := benchEvents(16<<10, payload)
	log, stop := logContender(b, "buffer", 0)
	stops := []func(){stop}
	all := []*contender{log, floorContender(b, "floor zstd", b.TempDir(), true), floorContender(b, "floor raw", b.TempDir(), false)}
	if size == 1024 {
		late, stop := logContender(b, "buffer 20ms", 20*time.Millisecond)
		all, stops = append(all, late), append(stops, stop)
	}
	round, at := 0, 0
	for b.Loop() {
		for i := range all {
			c := all[(round+i)%len(all)]
			runtime.GC()
			before := look(b)
			for range max(8, 64/size) {
				if err := c.append(events[at : at+size]); err != nil {
					b.Fatal(err)
				}
				at = (at + size) % len(events)
				c.batches++
			}
			c.rounds = append(c.rounds, look(b).minus(before))
		}
		round++
	}
	type counts struct {
		written, commits float64
	}
	sums := map[*contender]counts{}
	for _, c := range all {
		sums[c] = counts{float64(c.written()), float64(c.commits())}
	}
	for _, stop := range stops {
		stop()
	}
	floor := all[1]
	for _, c := range all {
		n, sum := c.events(size), sums[c]
		live := 0.0
		if c != all[1] && c != all[2] {
			live = float64(diskBytes(b, c.dir)) / float64(liveBytes(b, c.dir))
		}
		per := float64(len(c.rounds)) / n // per event of a round
		fmt.Fprintf(table, "%-9s %5d %-14s %8.2f %8.2f %8.0f %8.0f %8.1f %7.2f %7.2f %6.0f %6.2f  %6.2f %6.2f %6.2f\n", payload, size, c.name,
			c.median(wall)*per/1e3, c.median(cpu)*per/1e3, sum.written/n,
			c.total(func(u usage) float64 { return float64(u.dirtied) })/n,
			sum.written/sum.commits/1e3, sum.commits/float64(c.batches),
			c.total(func(u usage) float64 { return float64(u.allocs) })/n, float64(diskBytes(b, c.dir))/n, live,
			c.over(floor, wall), c.over(floor, cpu), sum.written/sums[floor].written)
	}
	n := log.events(size)
	b.ReportMetric(log.median(wall)*float64(len(log.rounds))/n, "ns/op")
	b.ReportMetric(log.total(func(u usage) float64 { return float64(u.memory) })/n, "B/op")
	b.ReportMetric(log.total(func(u usage) float64 { return float64(u.allocs) })/n, "allocs/op")
	b.ReportMetric(log.over(floor, wall), "x-time")
	b.ReportMetric(log.over(floor, cpu), "x-cpu")
	b.ReportMetric(sums[log].written/sums[floor].written, "x-bytes")
}

// diskBytes is what the files below dir occupy.
func diskBytes(b *testing.B, dir string) (sum int64) {
	walk(b, dir, func(path string) {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			b.Fatal(err)
		}
		sum += st.Blocks * 512
	})
	return sum
}

// liveBytes is the size of all blocks, headers included, in the segments below dir.
func liveBytes(b *testing.B, dir string) (sum int64) {
	walk(b, dir, func(path string) {
		s := &segment{path: path}
		err := s.view(func(tx *bbolt.Tx) error {
			batches := tx.Bucket(bucketBatches)
			return batches.ForEachBucket(func(k []byte) error {
				sum += int64(len(batches.Bucket(k).Get(keyBlock)))
				return nil
			})
		})
		if err != nil {
			b.Fatal(err)
		}
		if err = s.close(); err != nil {
			b.Fatal(err)
		}
	})
	return sum
}

func walk(b *testing.B, dir string, fn func(path string)) {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			fn(path)
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
}
