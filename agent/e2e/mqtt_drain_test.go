//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"

	"sluice/buffer"
	"sluice/drivers"
	driver "sluice/drivers/mqtt"
)

// drained is how many messages wait in each session of TestMosquittoDrain.
const drained = 200_000

// What taking in 100,000 messages may cost, in CPU time, where a bare reader of the
// same socket takes some time: 0.5 s where that takes 0.3. The bare reader's time
// depends on how Mosquitto's writes happen to come together, so it is a ratio or
// a difference, whichever allows more.
const (
	intakeRatio = 5.0 / 3
	intakeMore  = 0.2 // s
)

// TestMosquittoDrain empties sessions of 200,000 QoS 1 messages that wait in a
// Mosquitto: by a bare reader that allocates nothing (the floor), by the MQTT
// source into a sink that does nothing, and by the source into a real buffer,
// which commits before anything is acknowledged. CPU time is that of the reader
// alone. Figures in events/s depend on the machine and what else runs there.
func TestMosquittoDrain(t *testing.T) {
	broker := startMosquittoWith(t, "")
	ways := []struct {
		name  string
		drain func(t *testing.T, broker *mosquitto, id string)
	}{{"floor", drainBare}, {"intake", drainIntake}, {"buffer", drainBuffer}}
	for _, way := range ways {
		subscribeAndLeave(t, broker, "drain-"+way.name)
	}
	publish(t, broker, 1, 0, drained)
	perEvent := make(map[string]float64)
	for _, way := range ways {
		cpu, start := cpuSeconds(t), time.Now()
		way.drain(t, broker, "drain-"+way.name)
		took := time.Since(start).Seconds()
		perEvent[way.name] = (cpuSeconds(t) - cpu) / drained * 100_000
		fmt.Printf("E2E mqtt-drain %s events_per_s=%.0f cpu_s_per_100k=%.3f of_floor=%.2f\n",
			way.name, drained/took, perEvent[way.name], perEvent[way.name]/perEvent["floor"])
	}
	if floor := perEvent["floor"]; perEvent["intake"] > max(intakeRatio*floor, floor+intakeMore) {
		t.Errorf("taking in 100,000 messages costs %.3f CPU s, and a bare reader %.3f", perEvent["intake"], floor)
	}
}

// subscribeAndLeave makes a session for which the broker keeps messages.
func subscribeAndLeave(t *testing.T, m *mosquitto, id string) {
	t.Helper()
	client := connectTo(t, m, id)
	if token := client.Subscribe("factory/#", 1, nil); !token.WaitTimeout(patience) || token.Error() != nil {
		t.Fatalf("subscribe: %v", token.Error())
	}
	client.Disconnect(100)
}

// cpuSeconds is what this process has used; Mosquitto is another one.
func cpuSeconds(t *testing.T) float64 {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// drainBare acknowledges what each read brought in one write, and looks at nothing
// but the packet ids.
func drainBare(t *testing.T, m *mosquitto, id string) {
	nc, err := net.Dial("tcp", loopback(m.port))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	c := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	c.ProtocolName, c.ProtocolVersion, c.ClientIdentifier, c.Keepalive = "MQTT", 4, id, 60
	if err := c.Write(nc); err != nil {
		t.Fatal(err)
	}
	_ = nc.SetDeadline(time.Now().Add(patience))
	in, acks := bufio.NewReaderSize(nc, 64<<10), make([]byte, 0, 64<<10)
	for seen := 0; seen < drained; {
		first, err := in.Peek(2)
		if err != nil {
			t.Fatalf("after %d messages: %v", seen, err)
		}
		length, head := int(first[1]), 2
		if length >= 0x80 {
			more, err := in.Peek(3)
			if err != nil || more[2] >= 0x80 {
				t.Fatalf("a length that the plant does not send: % x (%v)", more, err)
			}
			length, head = length&0x7f|int(more[2])<<7, 3
		}
		packet, err := in.Peek(head + length)
		if err != nil {
			t.Fatal(err)
		}
		if packet[0]>>4 == packets.Publish {
			at := head + 2 + int(binary.BigEndian.Uint16(packet[head:]))
			acks = append(acks, packets.Puback<<4, 2, packet[at], packet[at+1])
			seen++
		}
		_, _ = in.Discard(head + length)
		if in.Buffered() == 0 && len(acks) > 0 || seen == drained {
			if _, err := nc.Write(acks); err != nil {
				t.Fatal(err)
			}
			acks = acks[:0]
		}
	}
	_, _ = nc.Write([]byte{packets.Disconnect << 4, 0})
	_, _ = io.Copy(io.Discard, nc) // Mosquitto has read everything when it ends the connection
}

// countSink ends a drain: it closes full when it has taken everything.
type countSink struct {
	drivers.Sink // nil: taken at once
	left         int
	full         chan struct{}
	mu           sync.Mutex
}

func (s *countSink) Append(ctx context.Context, e drivers.Event, done func(error)) error {
	counted := func(err error) {
		done(err)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.left--; s.left == 0 {
			close(s.full)
		}
	}
	if s.Sink != nil {
		return s.Sink.Append(ctx, e, counted)
	}
	counted(nil)
	return nil
}

func drainIntake(t *testing.T, m *mosquitto, id string) { drainInto(t, m, id, nil) }

func drainBuffer(t *testing.T, m *mosquitto, id string) {
	log, err := buffer.Open(buffer.Config{Dir: t.TempDir(), Classes: []buffer.Class{{Name: className}}, Uplinks: map[string][]string{"central": nil}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- log.Run(ctx) }()
	drainInto(t, m, id, log)
	if got := log.Stats().Classes[className].Committed; got != drained {
		t.Errorf("%d events are committed of %d", got, drained)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := log.Close(); err != nil {
		t.Error(err)
	}
}

// drainInto runs a source until it has taken and acknowledged everything.
func drainInto(t *testing.T, m *mosquitto, id string, sink drivers.Sink) {
	t.Helper()
	all := &countSink{Sink: sink, left: drained, full: make(chan struct{})}
	src, err := driver.New(driver.Config{Name: mqttName, Servers: []string{m.url()}, ClientID: id, Sink: all,
		Subscriptions: []driver.Subscription{{Filter: "factory/#", QoS: 1, Class: className}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- src.Run(ctx) }()
	select {
	case <-all.full:
	case <-time.After(patience):
		t.Errorf("%d messages are still there", all.left)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
