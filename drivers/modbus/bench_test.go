package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sluice/drivers"
)

// The load of BenchmarkPlant: devices × registers, each device once a second.
const (
	plantDevices   = 200
	plantRegisters = 100
	plantTime      = 10 * time.Second
)

// counting is a sink that takes everything and keeps nothing.
type counting struct{ events, bytes atomic.Int64 }

func (c *counting) Append(_ context.Context, e drivers.Event, _ func(error)) error {
	c.events.Add(1)
	c.bytes.Add(int64(len(e.Payload)))
	return nil
}

// plantConfig has 50 float32 in 100 registers for each device.
func plantConfig(url string, units []int, sink drivers.Sink) Config {
	c := Config{Name: "bus", Connection: url, Sink: sink}
	for _, unit := range units {
		d := Device{Name: fmt.Sprintf("meter-%d", unit), Unit: unit % 256}
		for i := range plantRegisters / 2 {
			d.Tags = append(d.Tags, Tag{Name: fmt.Sprintf("value-%d", i), Read: "holding", At: 2 * i, Type: "float32"})
		}
		c.Devices = append(c.Devices, d)
	}
	return c
}

// TestHelperServer is no test: BenchmarkPlant runs it as a process of its own, so
// that the devices' time isn't counted. It says where it listens.
func TestHelperServer(t *testing.T) {
	if os.Getenv("MODBUS_BENCH_SERVER") == "" {
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("listening on %s\n", l.Addr())
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serveFloats(c)
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent is gone
}

// serveFloats answers each request to read with changing values.
func serveFloats(c net.Conn) {
	defer c.Close()
	req, n := make([]byte, 12), uint32(0)
	for {
		if _, err := io.ReadFull(c, req); err != nil {
			return
		}
		data := make([]byte, 2*binary.BigEndian.Uint16(req[10:]))
		for i := 0; i+3 < len(data); i += 4 {
			n++
			binary.BigEndian.PutUint32(data[i:], 0x41000000+n%0x400000)
		}
		if _, err := c.Write(dataOf(req, data...)); err != nil {
			return
		}
	}
}

// used returns the time of all processors that this process has used.
func used() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// resident returns the memory of this process in MiB.
func resident() float64 {
	runtime.GC()
	data, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(data), "VmRSS:")
	text, _, _ := strings.Cut(rest, "kB")
	kib, _ := strconv.Atoi(strings.TrimSpace(text))
	return float64(kib) / 1024
}

// BenchmarkPlant polls 200 devices of 100 registers at 1 Hz for ten seconds: behind one
// gateway, and each with a connection of its own. The floor is a bare loop that
// sends the same requests at the same times and looks at nothing.
func BenchmarkPlant(b *testing.B) {
	for _, sources := range []int{1, plantDevices} {
		b.Run(fmt.Sprintf("connections=%d", sources), func(b *testing.B) {
			for range b.N {
				url := benchServer(b)
				floor := floorOf(b, strings.TrimPrefix(url, "tcp://"), sources)
				benchPlant(b, url, sources, floor)
			}
		})
	}
}

func benchPlant(b *testing.B, url string, sources int, floor time.Duration) {
	before, sink := resident(), &counting{}
	ctx, cancel := context.WithCancel(context.Background())
	var all []*Source
	ended := make(chan error)
	for i := range sources {
		var units []int
		for unit := i; unit < plantDevices; unit += sources {
			units = append(units, unit)
		}
		s, err := New(plantConfig(url, units, sink))
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, s)
		go func() { ended <- s.Run(ctx) }()
	}
	time.Sleep(2 * time.Second) // the first polls come at once
	var m0, m1 runtime.MemStats
	runtime.ReadMemStats(&m0)
	start, events, begin := used(), sink.events.Load(), time.Now()
	time.Sleep(plantTime)
	cost, polls := used()-start, sink.events.Load()-events
	share := 100 * cost.Seconds() / time.Since(begin).Seconds()
	runtime.ReadMemStats(&m1)
	more := resident() - before
	cancel()
	var missed uint64
	for range all {
		if err := <-ended; err != nil {
			b.Error(err)
		}
	}
	for _, s := range all {
		for _, d := range s.Stats().Devices {
			missed += d.Polls[resultMissed]
		}
	}
	// What the source promises on the machine that it was made on (2 cores). The floor
	// says whether it is the source or the machine that is slow.
	if share > 5 && cost > floor {
		b.Errorf("%.1f %% of a core, and a bare loop takes %v where this takes %v (5 %% at most)", share, floor, cost)
	}
	if missed > 0 {
		b.Errorf("%d ticks were missed", missed)
	}
	if more > 20 {
		b.Errorf("%.1f MiB more memory (20 at most)", more)
	}
	b.ReportMetric(share, "%core")
	b.ReportMetric(float64(cost)/float64(floor), "x-floor")
	b.ReportMetric(more, "MiB")
	b.ReportMetric(float64(missed), "missed")
	b.ReportMetric(float64(polls)/plantTime.Seconds(), "polls/s")
	b.ReportMetric(float64(m1.Mallocs-m0.Mallocs)/float64(polls), "allocs/poll")
}

// floorOf sends the requests of the same plant in bare loops, and returns the
// processor time of plantTime.
func floorOf(b *testing.B, address string, connections int) time.Duration {
	stop := make(chan struct{})
	for i := range connections {
		c, err := net.Dial("tcp", address)
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		go func() {
			time.Sleep(time.Duration(i) * time.Second / plantDevices)
			req := []byte{0, 1, 0, 0, 0, 6, 1, 3, 0, 0, 0, plantRegisters}
			answer := make([]byte, 9+2*plantRegisters)
			tick := time.NewTicker(time.Second * time.Duration(connections) / plantDevices)
			defer tick.Stop()
			for {
				if _, err := c.Write(req); err != nil {
					return
				}
				if _, err := io.ReadFull(c, answer); err != nil {
					return
				}
				select {
				case <-tick.C:
				case <-stop:
					return
				}
			}
		}()
	}
	time.Sleep(2 * time.Second)
	start := used()
	time.Sleep(plantTime)
	cost := used() - start
	close(stop)
	return cost
}

// benchServer starts the devices as a process of their own and returns their URL.
func benchServer(b *testing.B) string {
	b.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelperServer$", "-test.count=1")
	cmd.Env = append(os.Environ(), "MODBUS_BENCH_SERVER=1")
	stdin, err1 := cmd.StdinPipe()
	stdout, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait()
	})
	var address string
	if _, err := fmt.Fscanf(stdout, "listening on %s\n", &address); err != nil {
		b.Fatal(err)
	}
	return "tcp://" + address
}

// BenchmarkReading makes one reading of 50 float32, from the bytes to the JSON.
func BenchmarkReading(b *testing.B) {
	s, err := New(plantConfig("tcp://127.0.0.1", []int{1}, &counting{}))
	if err != nil {
		b.Fatal(err)
	}
	d := s.schedule.devices[0]
	r := plan(d.tags, d.limits, nil)[0]
	data := make([]byte, 2*plantRegisters)
	for i := range data {
		data[i] = byte(i) | 0x40
	}
	b.ReportAllocs()
	for b.Loop() {
		r.decode(data)
		if err := s.record(context.Background(), d, d.classes, time.Unix(1_000_000, 0)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSchedule finds what is due among 200 devices.
func BenchmarkSchedule(b *testing.B) {
	every := make([]time.Duration, plantDevices)
	for i := range every {
		every[i] = time.Second
	}
	s := groupsOf(every...)
	s.start(time.Unix(1_000_000, 0))
	b.ReportAllocs()
	for b.Loop() {
		at, g, _ := s.next()
		g.advance(at)
	}
}
