package simulate

import (
	"context"
	"encoding/binary"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"sluice/drivers/loopback"
)

// patience is how long a test waits for what must happen before it gives up.
const patience = 2 * time.Minute

// runIn runs a part until the test ends, and fails the test if that fails.
func runIn(t *testing.T, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run doesn't end")
		}
	})
}

func freeListener(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func startBroker(t *testing.T) *Broker {
	t.Helper()
	b, err := newBroker(freeListener(t))
	if err != nil {
		t.Fatal(err)
	}
	runIn(t, b.Run)
	return b
}

// connect connects a client that keeps its session.
func connect(t *testing.T, b *Broker, id string, handler mqtt.MessageHandler) mqtt.Client {
	t.Helper()
	c := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + b.Addr()).SetClientID(id).
		SetProtocolVersion(4).SetCleanSession(false).SetAutoReconnect(false).SetDefaultPublishHandler(handler))
	must(t, awaitTest(c.Connect()))
	t.Cleanup(func() { c.Disconnect(0) })
	return c
}

// awaitTest is await with the patience of a test on a busy machine.
func awaitTest(token mqtt.Token) error {
	if !token.WaitTimeout(patience) {
		return errNoAck
	}
	return token.Error()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The library by itself drops what is over 8,192, and resends in any order.
func TestBrokerKeepsThousandsOfMessagesForAnAbsentSessionInOrder(t *testing.T) {
	const count = 12_000
	b := startBroker(t)
	first := connect(t, b, "agent", nil)
	must(t, awaitTest(first.Subscribe("t", 1, nil)))
	first.Disconnect(0)

	publisher := connect(t, b, "publisher", nil)
	tokens := make([]mqtt.Token, 0, 500)
	for i := range uint32(count) {
		tokens = append(tokens, publisher.Publish("t", 1, false, binary.BigEndian.AppendUint32(nil, i)))
		if len(tokens) == cap(tokens) {
			for _, token := range tokens {
				must(t, awaitTest(token))
			}
			tokens = tokens[:0]
		}
	}
	// The library acknowledges a message before it gives it to the session.
	absent, _ := b.server.Clients.Get("agent")
	for until := time.Now().Add(patience); absent.State.Inflight.Len() != count; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%d of %d messages wait for the session", absent.State.Inflight.Len(), count)
		}
	}

	var next uint32
	all := make(chan struct{})
	var once sync.Once
	connect(t, b, "agent", func(_ mqtt.Client, m mqtt.Message) {
		if got := binary.BigEndian.Uint32(m.Payload()); got != next {
			once.Do(func() { t.Errorf("message %d came in the place of %d", got, next); close(all) })
			return
		}
		if next++; next == count {
			once.Do(func() { close(all) })
		}
	})
	select {
	case <-all:
	case <-time.After(patience):
		t.Fatalf("not all of %d messages came back", count)
	}
	if n := b.Dropped(); n != 0 {
		t.Errorf("the broker dropped %d messages", n)
	}
}

func TestBrokerCountsWhatItCannotKeep(t *testing.T) {
	b := startBroker(t)
	b.server.Options.Capabilities.MaximumInflight = 10 // before the first client connects
	first := connect(t, b, "agent", nil)
	must(t, awaitTest(first.Subscribe("t", 1, nil)))
	first.Disconnect(0)
	publisher := connect(t, b, "publisher", nil)
	for range 13 {
		must(t, awaitTest(publisher.Publish("t", 1, false, "x")))
	}
	for until := time.Now().Add(patience); b.Dropped() != 3; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("dropped: %d, not 3", b.Dropped())
		}
	}
}

func TestMachinesConfirmExactlyWhatASubscriberReceives(t *testing.T) {
	b := startBroker(t)
	var mu sync.Mutex
	received := make(map[string]uint64) // by topic: the last number
	count := uint64(0)
	subscriber := connect(t, b, "agent", func(_ mqtt.Client, m mqtt.Message) {
		mu.Lock()
		defer mu.Unlock()
		received[m.Topic()]++
		count++
	})
	must(t, awaitTest(subscriber.Subscribe("factory/+/+/+", 1, nil)))
	var ledger Ledger
	m, err := NewMachines(MachinesConfig{Broker: b.Addr(), Count: 7, Rate: 100, Run: "r", Ledger: &ledger})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	for until := time.Now().Add(patience); m.Confirmed() < 300 && time.Now().Before(until); {
		time.Sleep(time.Millisecond)
	}
	cancel()
	must(t, <-done)
	want := m.Confirmed()
	for until := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		mu.Lock()
		got := count
		mu.Unlock()
		if got == want {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("%d messages received, %d confirmed", got, want)
		}
	}
	if ledger.Taken() != want || m.Unconfirmed() != 0 {
		t.Errorf("ledger %d, confirmed %d, unconfirmed %d", ledger.Taken(), want, m.Unconfirmed())
	}
	for topic, entries := range ledger.snapshot() {
		if uint64(len(entries)) != received[topic] {
			t.Errorf("%s: %d in the ledger, %d received", topic, len(entries), received[topic])
		}
	}
	if len(received) < 8 || received["factory/L2/m06/telemetry"] == 0 {
		t.Errorf("topics: %v", received)
	}
}

func TestMachinesGoOnWhenTheBrokerComesBack(t *testing.T) {
	addr := loopback.Addr(t)
	var log lockedBuffer
	m, err := NewMachines(MachinesConfig{Broker: addr, Count: 1, Rate: 100, Run: "r", Log: slog.New(slog.NewTextHandler(&log, nil))})
	must(t, err)
	runIn(t, m.Run) // there is no broker yet
	for until := time.Now().Add(patience); !strings.Contains(log.String(), "a machine lost the broker"); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("nobody said that there is no broker")
		}
	}
	l, err := net.Listen("tcp", addr)
	must(t, err)
	b, err := newBroker(l)
	must(t, err)
	runIn(t, b.Run)
	for until := time.Now().Add(patience); m.Confirmed() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("nothing was published")
		}
	}
}

// TestABrokerEndsWhileClientsLeave: what a client that leaves does to the library's list of
// clients is done all the time here.
func TestABrokerEndsWhileClientsLeave(t *testing.T) {
	for range 20 {
		b, err := newBroker(freeListener(t))
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended, left := make(chan error, 1), make(chan struct{})
		go func() {
			defer close(left)
			for ctx.Err() == nil || len(ended) == 0 {
				b.server.Clients.Delete("nobody")
			}
		}()
		go func() { ended <- b.Run(ctx) }()
		cancel()
		for until := time.Now().Add(patience); len(ended) == 0; time.Sleep(time.Millisecond) {
			if time.Now().After(until) {
				t.Fatal("Run doesn't end")
			}
		}
		<-left
		must(t, <-ended)
	}
}
