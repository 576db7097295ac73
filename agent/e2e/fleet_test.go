//go:build e2e && fleet

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/twmb/franz-go/pkg/kgo"

	product "sluice/agent"
	"sluice/agent/cli"
	"sluice/agent/config"
	"sluice/agent/remote"
	"sluice/agent/web"
)

// fleetOf is how many agents there are; FLEET makes it another number.
const fleetOf = 1000

const fleetOutage = time.Minute

// fleetWatched is how long connections are counted after it.
const fleetWatched = 200 * time.Second

// fleetRig is a Kafka, a Mosquitto, the link, and the agents.
type fleetRig struct {
	*testing.T
	dir    string
	agents int
	kafka  *kafka
	mqtt   *mosquitto
	in     io.Writer
	out    *bufio.Scanner

	mu    sync.Mutex
	last  map[string]remote.StatusRecord
	heard map[string]time.Time
}

func (f *fleetRig) path(name string) string { return filepath.Join(f.dir, name) }

// startLink puts the link in the place of the rig's own.
func (f *fleetRig) startLink() {
	f.kafka.link.set(f, refuse)
	cmd := exec.Command(os.Args[0], "-test.run", "TestFleetLink$")
	cmd.Env = append(os.Environ(), linkEnv+"="+f.kafka.link.addr+" "+f.kafka.link.target)
	in, err := cmd.StdinPipe()
	if err != nil {
		f.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		f.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { in.Close(); _ = cmd.Process.Kill(); _ = cmd.Wait() })
	f.in, f.out = in, bufio.NewScanner(out)
	f.say("")
}

// say gives the link an order and returns what it answers to it.
func (f *fleetRig) say(order string) string {
	fmt.Fprintln(f.in, order)
	for f.out.Scan() {
		if text, ok := strings.CutPrefix(f.out.Text(), "LINK "); ok {
			return text
		}
	}
	f.Fatal("the link has ended")
	return ""
}

// config is the text of an agent's file, or without an id what a document holds.
func (f *fleetRig) config(id, filter, key string) string {
	who := fmt.Sprintf("{ memory_limit: 64GiB, id: %s, labels: { ring: r%d }, data_dir: %s }", id, len(id), f.path("data/"+id))
	tail := fmt.Sprintf("remote: { uplink: central, trust: [ %q ] }\n", key)
	if id == "" {
		who, tail = "{ memory_limit: 64GiB }", ""
	}
	return fmt.Sprintf(`version: 1
agent: %s
sources: { line: { mqtt: { servers: [ %q ], subscribe: [ { filter: %q } ] } } }
uplinks: { central: { kafka: { brokers: [ %q ], topic: "fleet.{class}" } } }
observe: { http: "" }
%s`, who, f.mqtt.url(), filter, f.kafka.link.addr, tail)
}

// untold is told how an agent is, and tells nobody.
type untold struct{}

func (untold) Ready()               {}
func (untold) Reloading()           {}
func (untold) Stopping()            {}
func (untold) Alive(web.Status)     {}
func (untold) Every() time.Duration { return time.Minute }

// run runs an agent as sluice run does, until ctx ends.
func (f *fleetRig) run(ctx context.Context, id, key string) error {
	text := []byte(f.config(id, "first/#", key))
	none := func(string) (string, bool) { return "", false }
	parse := func(text []byte) (*config.Config, error) {
		return config.Parse("fleet.yaml", text, config.Options{Env: none})
	}
	log, err := os.Create(f.path("log-" + strings.TrimPrefix(id, "gw-")))
	if err != nil {
		return err
	}
	defer log.Close()
	s := product.Supervisor{File: "fleet.yaml", Version: "test", Out: log, Notify: untold{}, Parse: parse,
		Load: func() (*config.Config, error) { return parse(text) }}
	return s.Run(ctx)
}

// listen collects statuses until the test ends.
func (f *fleetRig) listen() {
	client := f.kafka.client(f, kgo.ConsumeTopics("sluice.status"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	go func() { // ends with the client
		for {
			fetches := client.PollFetches(context.Background())
			if fetches.IsClientClosed() {
				return
			}
			now := time.Now()
			f.mu.Lock()
			fetches.EachRecord(func(r *kgo.Record) {
				var st remote.StatusRecord
				if json.Unmarshal(r.Value, &st) == nil {
					f.last[string(r.Key)], f.heard[string(r.Key)] = st, now
				}
			})
			f.mu.Unlock()
		}
	}()
}

// until waits until all agents are so, and returns how long the last one took.
func (f *fleetRig) until(what string, within time.Duration, is func(st remote.StatusRecord, heard time.Time) bool) time.Duration {
	f.Helper()
	began := time.Now()
	for shown := began; ; time.Sleep(100 * time.Millisecond) {
		f.mu.Lock()
		n := 0
		for id, st := range f.last {
			if is(st, f.heard[id]) {
				n++
			}
		}
		f.mu.Unlock()
		took := time.Since(began)
		if n == f.agents {
			f.Logf("%s: all %d after %s", what, n, took.Round(100*time.Millisecond))
			return took
		}
		if time.Since(shown) > 10*time.Second {
			shown = time.Now()
			f.Logf("%s: %d of %d after %s", what, n, f.agents, took.Round(time.Second))
		}
		if took > within {
			files, _ := os.ReadDir("/proc/self/fd")
			f.Logf("%d files are open, %d goroutines", len(files), runtime.NumGoroutine())
			for id := range f.agents {
				if st, ok := f.last[fmt.Sprintf("gw-%d", id)]; !ok || !is(st, f.heard[st.Agent]) {
					b, _ := os.ReadFile(f.path(fmt.Sprintf("log-%d", id)))
					f.Logf("gw-%d: %s", id, b)
					break
				}
			}
			f.Fatalf("%s: %d of %d after %s", what, n, f.agents, took)
		}
	}
}

// sluice runs a command of the operator.
func (f *fleetRig) sluice(args ...string) string {
	f.Helper()
	var out bytes.Buffer
	env := func(key string) (string, bool) { return f.path("ops.yaml"), key == "SLUICE_CONFIG" }
	if code := cli.Main(f.Context(), cli.Process{Args: args, Out: &out, Err: &out, Env: env}); code != 0 {
		f.Fatalf("sluice %s: exit status %d\n%s", strings.Join(args, " "), code, out.String())
	}
	return out.String()
}

func resident() float64 {
	b, _ := os.ReadFile("/proc/self/statm")
	if f := strings.Fields(string(b)); len(f) > 1 {
		n, _ := strconv.Atoi(f[1])
		return float64(n*os.Getpagesize()) / (1 << 20)
	}
	return 0
}

// TestFleet runs a thousand agents: a rollout reaches all of them; they lose their
// cluster for a minute and come back spread.
func TestFleet(t *testing.T) {
	dir := t.TempDir()
	f := &fleetRig{T: t, dir: dir, agents: fleetOf, last: map[string]remote.StatusRecord{}, heard: map[string]time.Time{}}
	if n, err := strconv.Atoi(os.Getenv("FLEET")); err == nil {
		f.agents = n
	}
	f.kafka, f.mqtt = startKafka(t, dir), startMosquitto(t, dir)
	f.startLink()
	f.sluice("config", "keygen", f.path("op"), "--no-passphrase")
	public, err := os.ReadFile(f.path("op.pub"))
	if err != nil {
		t.Fatal(err)
	}
	key := strings.TrimSpace(string(public))
	writeFile(t, f.path("ops.yaml"), strings.Replace(f.config("ops", "x", key), f.kafka.link.addr, f.kafka.internal, 1))
	writeFile(t, f.path("first.yaml"), f.config("", "first/#", key))
	writeFile(t, f.path("second.yaml"), f.config("", "second/#", key))
	f.sluice("config", "sign", f.path("first.yaml"), "--target", "all", "--version", "1", "--key", f.path("op"), "-o", f.path("first.json"))
	f.sluice("config", "push", f.path("first.json"), "--create")
	f.kafka.createTopic(t, "fleet.process")
	f.kafka.createTopic(t, "fleet.security")
	f.listen()

	runtime.GC()
	before := resident()
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	for i := range f.agents {
		wg.Go(func() {
			if err := f.run(ctx, fmt.Sprintf("gw-%d", i), key); err != nil && ctx.Err() == nil {
				t.Errorf("gw-%d: %v", i, err)
			}
		})
		time.Sleep(20 * time.Millisecond) // more is too much for two cores
	}
	applied := func(version uint64) func(remote.StatusRecord, time.Time) bool {
		return func(st remote.StatusRecord, _ time.Time) bool {
			return st.Config.Running == version && st.Config.State == remote.StateApplied
		}
	}
	f.until("version 1 applied", 2*time.Minute, applied(1))
	f.memory(before)
	began := time.Now()
	t.Logf("rollout:\n%s", f.sluice("fleet", "rollout", f.path("second.yaml"), "--target", "all", "--steps", "1,10,50,100", "--settle", "5s", "--key", f.path("op")))
	t.Logf("the rollout took %s", time.Since(began).Round(time.Second))
	f.until("version 6 applied", time.Minute, applied(6))
	f.outage()
	f.memory(before)
}

// memory prints what an agent costs in this process.
func (f *fleetRig) memory(before float64) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	live := float64(m.HeapAlloc)
	runtime.GC()
	runtime.ReadMemStats(&m)
	n := float64(f.agents)
	files, _ := os.ReadDir("/proc/self/fd")
	kinds := map[string]int{}
	for _, e := range files {
		to, _ := os.Readlink("/proc/self/fd/" + e.Name())
		kinds[strings.TrimRight(filepath.Base(strings.SplitN(to, ":", 2)[0]), "0123456789")]++
	}
	f.Logf("%d files are open: %v", len(files), kinds)
	f.Logf("memory of an agent: %.2f MiB resident, heap %.2f MiB (%.2f MiB live), %.0f goroutines, stacks %.2f MiB", (resident()-before)/n, live/n/(1<<20), float64(m.HeapAlloc)/n/(1<<20),
		float64(runtime.NumGoroutine())/n, float64(m.StackInuse)/n/(1<<20))
}

// outage has all agents send, cuts the link for a minute, gives them something to send
// meanwhile, and looks how they come back.
func (f *fleetRig) outage() {
	data := f.kafka.client(f, kgo.ConsumeTopics("fleet.process"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	f.publish("second/before")
	f.Logf("an event of each agent was there after %s", f.delivered(data, "second/before", time.Now()).Round(100*time.Millisecond))
	fmt.Fprintln(f.in, "cut")
	f.Logf("the link is cut for %s", fleetOutage)
	cut := time.Now()
	f.publish("second/during")
	time.Sleep(time.Until(cut.Add(fleetOutage)))
	fmt.Fprintln(f.in, "heal")
	healed := time.Now()
	var still stalls
	stop := make(chan struct{})
	defer close(stop)
	go still.watch(healed, stop)
	events := make(chan time.Duration, 1)
	go func() { events <- f.delivered(data, "second/during", healed) }()
	f.until("reported after the outage", 2*time.Minute, func(_ remote.StatusRecord, heard time.Time) bool { return heard.After(healed) })
	f.judge(healed, &still, time.Since(healed), <-events)
}

// judge looks at how the link saw the agents come back. reported is after how long the
// last of them was heard of, delivered when its event was there.
func (f *fleetRig) judge(healed time.Time, still *stalls, reported, delivered time.Duration) {
	time.Sleep(time.Until(healed.Add(fleetWatched)))
	var seen fleetSeen
	if err := json.Unmarshal([]byte(f.say("count")), &seen); err != nil {
		f.Fatal(err)
	}
	f.Logf("agents that came back, by second: %s", seconds(seen.First))
	f.Logf("connections, by second: %s", seconds(seen.Took))
	rest, out := still.without(seen.Took)
	all, peak, bound := busiest(seen.Took), busiest(rest), f.agents/20
	f.Logf("in any second at most %d agents and %d TCP connections (bound: %d), %d with the %s in which and after which the machine stood still; %d connections of %d agents in %s, %d are open; all reported within %s, the events of the outage were there within %s",
		busiest(seen.First), peak, bound, all, out.Round(100*time.Millisecond), len(seen.Took), len(seen.Made), fleetWatched, seen.Open, reported.Round(100*time.Millisecond), delivered.Round(100*time.Millisecond))
	if out > fleetWatched/4 {
		f.Errorf("the machine is too busy to judge by")
	}
	if peak > bound && f.agents >= 500 { // of fewer, chance brings more than a twentieth
		f.Errorf("%d connections in a second (at most %d)", peak, bound)
	}
	if reported > time.Minute || delivered > time.Minute {
		f.Errorf("the last agent reported after %s, the last event came after %s (at most %s)", reported, delivered, time.Minute)
	}
}

// publish gives each agent an event.
func (f *fleetRig) publish(topic string) {
	client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker(f.mqtt.url()).SetClientID("plant"))
	if token := client.Connect(); !token.WaitTimeout(patience) || token.Error() != nil {
		f.Fatalf("connect to mosquitto: %v", token.Error())
	}
	defer client.Disconnect(100)
	if token := client.Publish(topic, 1, false, "x"); !token.WaitTimeout(patience) || token.Error() != nil {
		f.Fatalf("publish: %v", token.Error())
	}
}

// delivered returns how long after since an event of each agent was there.
func (f *fleetRig) delivered(client *kgo.Client, topic string, since time.Time) time.Duration {
	ctx, stop := context.WithTimeout(f.Context(), 2*time.Minute)
	defer stop()
	for from := map[string]bool{}; len(from) < f.agents && ctx.Err() == nil; {
		client.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
			for _, h := range r.Headers {
				if h.Key == "ce_source" && string(r.Key) == topic {
					from[string(h.Value)] = true
				}
			}
		})
	}
	return time.Since(since)
}
