package simulate

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math"
	"net"
	"sort"
	"sync/atomic"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

// maxUnacknowledged is how many messages the broker keeps for one session. MQTT
// has 16 bits for a packet identifier, and 0 is not one (MQTT 3.1.1 §2.3.1).
const maxUnacknowledged = math.MaxUint16

// Broker is an MQTT broker (3.1.1 and 5) in this process. It lets everybody in
// and keeps everything in memory: up to 65,535 messages for each persistent
// session whose client is away or doesn't acknowledge. What goes over that is
// lost at the broker, as with any broker, and counted in Dropped.
type Broker struct {
	server   *mochi.Server
	listener net.Listener
}

// newBroker takes over the listener; it is closed at the end of Run or by Close.
func newBroker(l net.Listener) (*Broker, error) {
	limits := mochi.NewDefaultServerCapabilities()
	limits.MaximumInflight = maxUnacknowledged
	limits.MaximumClientWritesPending = maxUnacknowledged + 1
	limits.ReceiveMaximum = maxUnacknowledged
	limits.MaximumMessageExpiryInterval = 0 // off: ordering uses the creation times for its own numbers
	server := mochi.New(&mochi.Options{Capabilities: limits, Logger: slog.New(slog.DiscardHandler)})
	if err := server.AddHook(new(auth.AllowHook), nil); err != nil {
		return nil, fmt.Errorf("mqtt broker: %w", err)
	}
	if err := server.AddHook(&ordering{server: server}, nil); err != nil {
		return nil, fmt.Errorf("mqtt broker: %w", err)
	}
	if err := server.AddListener(listeners.NewNet("mqtt", l)); err != nil {
		return nil, fmt.Errorf("mqtt broker: %w", err)
	}
	return &Broker{server: server, listener: l}, nil
}

// Addr is where the broker listens, "127.0.0.1:1883" for example.
func (b *Broker) Addr() string { return b.listener.Addr().String() }

// Dropped counts messages that the broker lost, because a session's client took
// too long to acknowledge.
func (b *Broker) Dropped() int64 {
	return atomic.LoadInt64(&b.server.Info.MessagesDropped) + atomic.LoadInt64(&b.server.Info.InflightDropped)
}

// Close frees the address of a broker that was never run.
func (b *Broker) Close() error { return b.listener.Close() }

// Run serves until ctx ends and all connections are closed.
func (b *Broker) Run(ctx context.Context) error {
	if err := b.server.Serve(); err != nil {
		return fmt.Errorf("mqtt broker: %w", err)
	}
	<-ctx.Done()
	if err := b.server.Close(); err != nil {
		return fmt.Errorf("mqtt broker: %w", err)
	}
	return nil
}

// ordering makes the broker redeliver in order, as MQTT 3.1.1 §4.6 wants it.
// The library sorts what it resends by creation time in whole seconds, and by
// the lowest 16 bits of that; so each message gets a number of its own in place
// of the time, and what waits for a session is numbered from 1 when its client
// comes back.
type ordering struct {
	mochi.HookBase
	server *mochi.Server
	last   atomic.Int64
}

// ID names the hook for the library's log.
func (o *ordering) ID() string { return "order-of-redelivery" }

// Provides tells the library which methods to call.
func (o *ordering) Provides(b byte) bool {
	return bytes.IndexByte([]byte{mochi.OnPublish, mochi.OnSessionEstablish}, b) >= 0
}

// OnPublish numbers a message as it comes in.
func (o *ordering) OnPublish(_ *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	pk.Created = o.last.Add(1)
	return pk, nil
}

// OnSessionEstablish runs before the messages of an earlier connection are
// handed to the new one and resent.
func (o *ordering) OnSessionEstablish(_ *mochi.Client, pk packets.Packet) {
	before, ok := o.server.Clients.Get(pk.Connect.ClientIdentifier)
	if !ok {
		return
	}
	waiting := before.State.Inflight.GetAll(false)
	sort.SliceStable(waiting, func(i, j int) bool { return waiting[i].Created < waiting[j].Created })
	for i, m := range waiting {
		m.Created = int64(i + 1)
		before.State.Inflight.Set(m)
	}
}
