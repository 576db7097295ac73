package channel

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// The bound of the issue: what reading a topic with the keys of 10,000 agents may
// cost one agent.
const (
	fleetSize = 10_000
	extra     = 8 << 20
)

// childEnv makes the test binary an agent's process: it holds the addresses of the
// cluster and, behind a space, "producer" or "channel".
const childEnv = "SLUICE_CHANNEL_CHILD"

func TestMain(m *testing.M) {
	if job := os.Getenv(childEnv); job != "" {
		child(job)
		return
	}
	os.Exit(m.Run())
}

// child has a producer, as each agent does, and with "channel" reads the topics to
// their end and then waits. It prints the peaks of heap and of resident memory.
func child(job string) {
	addrs, what, _ := strings.Cut(job, " ")
	seeds := kgo.SeedBrokers(strings.Split(addrs, ",")...)
	producer, err := kgo.NewClient(seeds)
	if err == nil {
		err = producer.Ping(context.Background())
	}
	if err != nil {
		fmt.Println("error", err)
		return
	}
	peak := make(chan uint64)
	done := make(chan struct{})
	go func() { // ends with done
		var most uint64
		var m runtime.MemStats
		for tick := time.NewTicker(2 * time.Millisecond); ; {
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
			select {
			case <-tick.C:
			case <-done:
				peak <- most
				return
			}
		}
	}()
	if what == "channel" {
		c, err := New(Config{Client: []kgo.Opt{seeds}, ConfigTopic: configs, CommandTopic: commands, StatusTopic: statuses,
			Wanted: func(key string) bool { return key == "agent:gw-777" || key == "all" }})
		if err != nil {
			fmt.Println("error", err)
			return
		}
		s := newSeen()
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() { defer close(ended); _ = c.Run(ctx, s) }()
		for {
			s.mu.Lock()
			n, lines := len(s.states), len(s.lines)
			s.mu.Unlock()
			if n > 0 {
				fmt.Println("lines", lines)
				break
			}
			time.Sleep(time.Millisecond)
		}
		stop()
		<-ended
	}
	close(done)
	fmt.Println("heap", <-peak)
	fmt.Println("resident", peakResident())
}

// peakResident is VmHWM, in bytes; 0 where there is no /proc.
func peakResident() int {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(b) {
		if f := strings.Fields(string(line)); len(f) == 3 && f[0] == "VmHWM:" {
			n, _ := strconv.Atoi(f[1])
			return n << 10
		}
	}
	return 0
}

// measure runs a child and returns what it printed.
func (r *rig) measure(what string) map[string]int {
	r.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+strings.Join(r.cluster.ListenAddrs(), ",")+" "+what)
	out, err := cmd.Output()
	if err != nil {
		r.Fatalf("%v: %s", err, out)
	}
	got := map[string]int{}
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		key, value, _ := strings.Cut(s.Text(), " ")
		n, err := strconv.Atoi(value)
		if err != nil {
			r.Fatalf("%s", out)
		}
		got[key] = n
	}
	return got
}

// envelope is like a signed config of n bytes: JSON around base64 of YAML, most of
// which does not compress.
func envelope(random *rand.ChaCha8, n int) []byte {
	raw := make([]byte, n*3/4-150)
	_, _ = io.ReadFull(random, raw) // it always gives
	return fmt.Appendf(nil, `{"payload":"%s","payloadType":"application/vnd.sluice.config.v1+yaml","signatures":[{"keyid":"56475aa75463474c","sig":"%s"}]}`,
		base64.StdEncoding.EncodeToString(raw), base64.StdEncoding.EncodeToString(make([]byte, 64)))
}

// An agent that reads the keys of ten thousand from the start needs at most 8 MiB
// more than one that reads nothing, its client included: as sluice config push
// writes them, one in a batch, and as a tool that copies topics may, in batches
// of up to 1 MB.
func TestReadingTheKeysOfTenThousandAgentsCostsLittle(t *testing.T) {
	for name, batch := range map[string]int32{"one in a batch": 6000, "large batches": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 1)
			r.topics(1)
			r.fill(fleetSize, batch)
			without, with := r.measure("producer"), r.measure("channel")
			if with["lines"] != 2 { // its own config, and the end
				t.Errorf("the handler was called %d times", with["lines"])
			}
			heap, resident := with["heap"]-without["heap"], with["resident"]-without["resident"]
			t.Logf("%d keys of 4 KiB: peak of the heap +%.1f MiB, of resident memory +%.1f MiB", fleetSize, float64(heap)/(1<<20), float64(resident)/(1<<20))
			if heap > extra {
				t.Errorf("heap +%d bytes (at most %d)", heap, extra)
			}
			if !raceDetector && resident > extra {
				t.Errorf("resident memory +%d bytes (at most %d)", resident, extra)
			}
		})
	}
}

// fill writes a config for each of n agents, in batches of up to so many bytes.
func (r *rig) fill(n int, batch int32) {
	r.Helper()
	producer, err := kgo.NewClient(kgo.SeedBrokers(r.cluster.ListenAddrs()...), kgo.ProducerBatchMaxBytes(batch))
	if err != nil {
		r.Fatal(err)
	}
	defer producer.Close()
	random, left := rand.NewChaCha8([32]byte{1}), make(chan error, n)
	for i := range n {
		producer.Produce(r.Context(), rec(configs, fmt.Sprintf("agent:gw-%d", i), envelope(random, 4096)), func(_ *kgo.Record, err error) { left <- err })
	}
	for range n {
		if err := <-left; err != nil {
			r.Fatal(err)
		}
	}
}
