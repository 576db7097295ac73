package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	sim "github.com/simonvetter/modbus"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/agent/config"
	"sluice/drivers/loopback"
)

// counted is a TCP proxy that counts connections.
type counted struct {
	addr  string
	conns atomic.Int32
}

func newCounted(t *testing.T, target string) *counted {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	c := &counted{addr: ln.Addr().String()}
	go func() { // ends with ln
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			c.conns.Add(1)
			go func() {
				defer in.Close()
				out, err := net.Dial("tcp", target)
				if err != nil {
					return
				}
				defer out.Close()
				go func() { _, _ = io.Copy(out, in); out.Close() }()
				_, _ = io.Copy(in, out)
			}()
		}
	}()
	return c
}

// zeros answers every request of holding registers.
type zeros struct{ sim.RequestHandler }

func (zeros) HandleHoldingRegisters(r *sim.HoldingRegistersRequest) ([]uint16, error) {
	return make([]uint16, r.Quantity), nil
}

// changed is a plant whose agent gets other configs while it runs.
type changed struct {
	*plant
	mqtt, modbus *counted
	agent        *Agent
	logs         *Logs
}

// settings are what the tests change.
type settings struct{ filter, level, every, keep, extra, brokers, http, id string }

func (c *changed) config(t *testing.T, s settings) *config.Config {
	t.Helper()
	or := func(a *string, b string) {
		if *a == "" {
			*a = b
		}
	}
	or(&s.filter, `{ filter: "factory/#" }`)
	or(&s.level, "info")
	or(&s.every, "50ms")
	or(&s.keep, "64MiB")
	or(&s.brokers, c.kafka.ListenAddrs()[0])
	or(&s.http, c.http)
	or(&s.id, "gw-1")
	cfg, err := config.Parse("test.yaml", fmt.Appendf(nil, `
version: 1
agent: { id: %s, data_dir: %s }
sources:
  line: { mqtt: { servers: [ "tcp://%s" ], subscribe: [ %s ] } }
  bus: { modbus: { connection: "tcp://%s", timeout: 30s, devices: { m: { unit: 1, every: %s, class: meter, tags: { t: { read: holding, at: 0, type: int16 } } } } } }
classes: { process: { keep: { bytes: %s } }%s }
uplinks: { central: { kafka: { brokers: [ "%s" ], topic: "p.{class}" } } }
observe: { http: "%s" }
log: { level: %s }
`, s.id, filepath.Join(c.dir, "data"), c.mqtt.addr, s.filter, c.modbus.addr, s.every, s.keep, s.extra, s.brokers, s.http, s.level), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func newChanged(t *testing.T) *changed {
	t.Helper()
	c := &changed{plant: newPlant(t)}
	addr := loopback.Addr(t)
	server, err := sim.NewServer(&sim.ServerConfiguration{URL: "tcp://" + addr, MaxClients: 8}, zeros{})
	if err == nil {
		err = server.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() })
	c.mqtt, c.modbus = newCounted(t, c.plant.mqtt), newCounted(t, addr)
	cfg := c.config(t, settings{})
	c.logs = NewLogs(t.Output(), cfg.Log)
	if c.agent, err = New(cfg, Options{Version: "test", Logs: c.logs}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.agent.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	waitPage(t, "http://"+c.http+"/readyz", "ok")
	return c
}

func (c *changed) apply(t *testing.T, s settings) {
	t.Helper()
	if err := c.agent.Apply(t.Context(), c.config(t, s)); err != nil {
		t.Fatal(err)
	}
}

// TestOnlyWhatChangesStartsAnew counts connections, and the events of a machine
// that publishes all the time.
func TestOnlyWhatChangesStartsAnew(t *testing.T) {
	c := newChanged(t)
	machine := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + c.plant.mqtt).SetClientID("machine"))
	if tok := machine.Connect(); !tok.WaitTimeout(patience) || tok.Error() != nil {
		t.Fatal(tok.Error())
	}
	defer machine.Disconnect(0)
	stop, told := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for ; ; n++ {
			select {
			case <-stop:
				told <- n
				return
			case <-time.After(2 * time.Millisecond):
			}
			if tok := machine.Publish("factory/1/t", 1, false, fmt.Sprint(n)); !tok.WaitTimeout(patience) || tok.Error() != nil {
				t.Error("publish:", tok.Error())
			}
		}
	}()
	expect := func(what string, mqtt, modbus int32, s settings) {
		t.Helper()
		m, b := c.mqtt.conns.Load(), c.modbus.conns.Load()
		c.apply(t, s)
		waitPage(t, "http://"+c.agent.HTTP()+"/readyz", "ok")
		for end := time.Now().Add(patience); (c.mqtt.conns.Load() < m+mqtt || c.modbus.conns.Load() < b+modbus) && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond) // a bus that polls is ready, connected or not
		}
		if m, b = c.mqtt.conns.Load()-m, c.modbus.conns.Load()-b; m != mqtt || b != modbus {
			t.Errorf("%s: %d MQTT and %d Modbus connections were made, want %d and %d", what, m, b, mqtt, modbus)
		}
	}
	before := c.agent.parts()
	expect("the level of the log", 0, 0, settings{level: "debug"})
	if p := c.agent.parts(); p.buffer != before.buffer || p.uplinks[0].legs[0].kafka != before.uplinks[0].legs[0].kafka || !c.agent.log.Enabled(t.Context(), slog.LevelDebug) {
		t.Error("a level restarted something, or was not set")
	}
	expect("a filter", 1, 0, settings{filter: `{ filter: "factory/#" }, { filter: "more/#" }`})
	if p := c.agent.parts(); p.buffer != before.buffer || p.uplinks[0].legs[0].kafka != before.uplinks[0].legs[0].kafka {
		t.Error("a filter restarted the buffer or the uplink")
	}
	expect("an interval", 0, 1, settings{filter: `{ filter: "factory/#" }, { filter: "more/#" }`, every: "100ms"})
	expect("a class's limit and a new class", 0, 0, settings{filter: `{ filter: "factory/#" }, { filter: "more/#" }`, every: "100ms", keep: "32MiB", extra: ", spare: {}"})
	if c.agent.parts().buffer == before.buffer {
		t.Error("the limit is not in force")
	}
	other := loopback.Addr(t)
	expect("the address of the pages", 0, 0, settings{filter: `{ filter: "factory/#" }, { filter: "more/#" }`, every: "100ms", keep: "32MiB", extra: ", spare: {}", http: other})
	if conn, err := net.Dial("tcp", c.http); err == nil {
		conn.Close()
		t.Error("the old address is still served")
	}
	close(stop)
	n := <-told
	c.consumeAll(t, "p.process", n)
	if page := waitPage(t, "http://"+other+"/metrics", "sluice_events_taken_total"); strings.Contains(page, `sluice_events_taken_total{source="line",class="process"} 0`+"\n") {
		t.Error("the counters began anew with the source")
	}
}

// consumeAll reads a topic until the values 0 to n-1 have come, in whatever order: what the
// broker sends again may be behind what is newer.
func (c *changed) consumeAll(t *testing.T, topic string, n int) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(c.kafka.ListenAddrs()...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	missing := map[string]bool{}
	for i := range n {
		missing[fmt.Sprint(i)] = true
	}
	for len(missing) > 0 && ctx.Err() == nil {
		for _, r := range client.PollFetches(ctx).Records() {
			delete(missing, string(r.Value))
		}
	}
	if len(missing) > 0 {
		t.Errorf("%d of %d messages are lost: %v", len(missing), n, slices.Sorted(maps.Keys(missing)))
	}
}

func TestWhatCannotBeAppliedChangesNothing(t *testing.T) {
	c := newChanged(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	before := *c.agent.parts()
	if err := c.agent.Apply(t.Context(), c.config(t, settings{http: taken.Addr().String(), every: "1s"})); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Error(err)
	}
	if err := c.agent.Apply(t.Context(), c.config(t, settings{id: "gw-2"})); !errors.Is(err, ErrOther) {
		t.Error(err)
	}
	if after := c.agent.parts(); after.sources[0].driver != before.sources[0].driver || after.sources[1].driver != before.sources[1].driver || after.web != before.web {
		t.Error("something was made anew")
	}
	c.publish(t, "factory/1/t", "still here")
	c.consume(t, "p.process", 1)
}
