package mqtt

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sluice/buffer"
	"sluice/drivers"
)

// Drains of BenchmarkDrain.
const (
	drainMessages = 200_000
	drainTopics   = 20
	drainWindow   = 1000 // messages without PUBACK
	drainEnv      = "SLUICE_MQTT_BENCH_BROKER"
)

func TestMain(m *testing.M) {
	if together := os.Getenv(drainEnv); together != "" {
		if err := serveDrains(together); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serveDrains is a broker with a preloaded session, in a process of its own so
// that its CPU is not that of the source. To each client it sends all messages
// as fast as the window lets it, some together in one write, and prints a line
// when all are acknowledged.
func serveDrains(together string) error {
	var batch int64
	if _, err := fmt.Sscan(together, &batch); err != nil {
		return err
	}
	var all []byte
	var ends []int
	for i := range drainMessages {
		topic := fmt.Sprintf("factory/hall-1/m%02d/telemetry", i%drainTopics)
		all = append(all, publishFrame(qos1, uint16(i%65535+1), topic, drainPayload(i))...)
		ends = append(ends, len(all))
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	for {
		nc, err := ln.Accept()
		if err != nil {
			return err
		}
		if err := drainTo(nc, all, ends, batch); err != nil {
			return err
		}
	}
}

// drainPayload is a reading of about 190 bytes.
func drainPayload(n int) string {
	return fmt.Sprintf(`{"machine":%d,"n":%d,"temperature":%.2f,"vibration":%.4f,"pressure":%.3f,"running":%t,`+
		`"operator":"shift-%d","recipe":"R-%05d","note":"the quick brown press stamps over the lazy sheet"}`,
		n%drainTopics, n, 40+float64(n%600)/10, float64(n%97)/1000, 5+float64(n%31)/100, n%17 != 0, n%3, n%1000)
}

// drainTo serves one client: CONNECT, SUBSCRIBE, then nothing but PUBACKs and
// pings come from it.
func drainTo(nc net.Conn, all []byte, ends []int, together int64) error {
	defer nc.Close()
	r := bufio.NewReaderSize(nc, 64<<10)
	for _, answer := range [][]byte{{0x20, 2, 1, 0}, {0x90, 3, 0, 1, 1}} {
		h, err := readHeader(r)
		if err == nil {
			_, err = r.Discard(h.length)
		}
		if err != nil {
			return err
		}
		_, _ = nc.Write(answer)
	}
	var acked atomic.Int64
	more := make(chan struct{}, 1)
	go func() {
		for sent := int64(0); sent < drainMessages; {
			next := min(sent+together, acked.Load()+drainWindow, drainMessages)
			if next == sent {
				<-more
				continue
			}
			from := 0
			if sent > 0 {
				from = ends[sent-1]
			}
			if _, err := nc.Write(all[from:ends[next-1]]); err != nil {
				return
			}
			sent = next
		}
	}()
	for {
		h, err := readHeader(r)
		if err == nil {
			_, err = r.Discard(h.length)
		}
		if err != nil {
			return nil // the client has what it wanted
		}
		if h.kind == typePuback && acked.Add(1) == drainMessages {
			fmt.Println("all acknowledged")
		}
		signal(more)
	}
}

// drainBroker is the child that serves drains.
type drainBroker struct {
	addr  string
	lines *bufio.Scanner
}

func startDrainBroker(b *testing.B, together int) *drainBroker {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", drainEnv, together))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	broker := &drainBroker{lines: bufio.NewScanner(out)}
	broker.addr = broker.line(b)
	return broker
}

// line waits for the next line that the broker prints.
func (d *drainBroker) line(b *testing.B) string {
	b.Helper()
	if !d.lines.Scan() {
		b.Fatal("the broker has ended")
	}
	return d.lines.Text()
}

// BenchmarkDrain empties a preloaded session of 200,000 QoS 1 messages in three
// ways: by a bare reader that allocates nothing (the floor), by the source into
// a sink that does nothing, and by the source into a real buffer, which commits
// before anything is acknowledged. One operation is all messages. A broker that
// writes each message by itself, as mosquitto does, costs its readers the most.
func BenchmarkDrain(b *testing.B) {
	for _, together := range []int{1, 256} {
		var floor float64
		for _, way := range []struct {
			name  string
			drain func(b *testing.B, broker *drainBroker)
		}{{"floor", drainBare}, {"intake", drainIntake}, {"buffer", drainBuffer}} {
			b.Run(fmt.Sprintf("together=%d/%s", together, way.name), func(b *testing.B) {
				broker := startDrainBroker(b, together)
				cpu := cpuSeconds(b)
				for b.Loop() {
					way.drain(b, broker)
				}
				events := float64(b.N) * drainMessages
				per := (cpuSeconds(b) - cpu) / events * 100_000
				if floor == 0 {
					floor = per
				}
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(events/b.Elapsed().Seconds(), "events/s")
				b.ReportMetric(per, "CPU-s/100k")
				b.ReportMetric(per/floor, "CPU/floor")
			})
		}
	}
}

// cpuSeconds is what this process has used, its broker not included.
func cpuSeconds(b *testing.B) float64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// drainBare reads packets, looks at their ids and acknowledges what each read
// brought in one write.
func drainBare(b *testing.B, broker *drainBroker) {
	b.Helper()
	nc, err := net.Dial("tcp", broker.addr)
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	_, _ = nc.Write(frameOf(0x10, make([]byte, 10)))
	_, _ = nc.Write(frameOf(0x82, make([]byte, 10)))
	in, acks := make([]byte, 64<<10), make([]byte, 0, 16<<10)
	have, seen := 0, 0
	for seen < drainMessages {
		n, err := nc.Read(in[have:])
		if err != nil {
			b.Fatal(err)
		}
		have += n
		out, used, got := bareAcks(in[:have], acks[:0])
		seen += got
		have = copy(in, in[used:have])
		if _, err := nc.Write(out); err != nil {
			b.Fatal(err)
		}
	}
	broker.line(b)
}

// bareAcks appends an acknowledgement for each whole PUBLISH in the buffer.
func bareAcks(in, acks []byte) (out []byte, used, n int) {
	for {
		length, head := binary.Uvarint(in[min(used+1, len(in)):]) // the same code as MQTT's
		if head <= 0 || used+1+head+int(length) > len(in) {
			return acks, used, n
		}
		if in[used]>>4 == typePublish {
			topic := used + 1 + head
			id := topic + 2 + int(binary.BigEndian.Uint16(in[topic:]))
			acks = append(acks, typePuback<<4, 2, in[id], in[id+1])
			n++
		}
		used += 1 + head + int(length)
	}
}

// drainIntake stops the clock when the broker has all acknowledgements.
func drainIntake(b *testing.B, broker *drainBroker) {
	b.Helper()
	drainInto(b, broker, discard{})
}

type discard struct{}

func (discard) Append(_ context.Context, _ drivers.Event, done func(error)) error {
	done(nil)
	return nil
}

func drainBuffer(b *testing.B, broker *drainBroker) {
	b.Helper()
	b.StopTimer()
	dir, err := os.MkdirTemp("", "drain-*")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	log, err := buffer.Open(buffer.Config{Dir: dir, Classes: []buffer.Class{{Name: "process"}}, Uplinks: map[string][]string{"central": nil}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- log.Run(ctx) }()
	b.StartTimer()
	drainInto(b, broker, log)
	b.StopTimer()
	if got := log.Stats().Classes["process"].Committed; got != drainMessages {
		b.Errorf("%d events are committed of %d that are acknowledged", got, drainMessages)
	}
	cancel()
	if err := <-ended; err != nil {
		b.Error(err)
	}
	if err := log.Close(); err != nil {
		b.Error(err)
	}
	b.StartTimer()
}

// drainInto runs a source until the broker has all acknowledgements.
func drainInto(b *testing.B, broker *drainBroker, sink drivers.Sink) {
	b.Helper()
	cfg := baseConfig(sink, "tcp://"+broker.addr)
	cfg.Subscriptions[0].Filter = "factory/#"
	src, err := New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- src.Run(ctx) }()
	said := broker.line(b)
	b.StopTimer()
	cancel()
	if err := <-ended; err != nil || !strings.HasPrefix(said, "all") {
		b.Errorf("%s (%v)", said, err)
	}
	b.StartTimer()
}
