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
	limits.MaximumMessageExpiryInterval = 0 // off: see ordering, which changes the creation times
	server := mochi.New(&mochi.Options{Capabilities: limits, Logger: slog.New(slog.DiscardHandler)})
	if err := server.AddHook(new(auth.AllowHook), nil); err != nil {
		return nil, fmt.Errorf("mqtt broker: %w", err)
	}
	if err := server.AddHook(&ordering{server: server}, nil); err != nil {
		return nil, fmt.Errorf("mqtt broker: %w", err)
	}
	if err := server.AddListener(NewDoor(server, "mqtt", l)); err != nil {
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

// Door is a listener of a mochi server that closes its clients by itself. The library's
// way, Clients.GetByListener, takes a lock for reading twice over, and hangs for ever if a
// client that leaves at that moment waits for the same lock in between.
type Door struct {
	*listeners.Net
	server *mochi.Server
}

// NewDoor takes over l, which ends with the server. id tells its clients from those of
// other listeners.
func NewDoor(server *mochi.Server, id string, l net.Listener) *Door {
	return &Door{listeners.NewNet(id, l), server}
}

// Close implements listeners.Listener.
func (d *Door) Close(listeners.CloseFn) {
	d.Net.Close(func(id string) {
		for _, c := range d.server.Clients.GetAll() {
			if c.Net.Listener == id && !c.Closed() {
				_ = d.server.DisconnectClient(c, packets.ErrServerShuttingDown) // it is gone, then
			}
		}
	})
}

// ordering makes the broker redeliver in order, as MQTT 3.1.1 §4.6 wants it.
// The library sorts what it resends by the lowest 16 bits of its creation time
// in seconds. So each message gets a number where the library keeps its origin
// (which it uses for "no local" alone, and doesn't send), and when a client
// comes back, what waits for it gets creation times in the order of the
// numbers.
//
// Until then all creation times are equal. The library sorts what waits for each
// session once a second too, to no purpose here; with 50,000 messages in random
// order that alone takes it longer than a second.
type ordering struct {
	mochi.HookBase
	server *mochi.Server
	last   atomic.Uint64
}

// ID names the hook for the library's log.
func (o *ordering) ID() string { return "order-of-redelivery" }

// Provides tells the library which methods to call.
func (o *ordering) Provides(b byte) bool {
	return bytes.IndexByte([]byte{mochi.OnPublish, mochi.OnSessionEstablish}, b) >= 0
}

// OnPublish numbers a message as it comes in.
func (o *ordering) OnPublish(_ *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	pk.Origin = fmt.Sprintf("%020d", o.last.Add(1))
	pk.Created = 1
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
	order := make([]int, len(waiting)) // sorted in place of the large packets
	for i := range order {
		order[i] = i
	}
	sort.Slice(order, func(i, j int) bool { return waiting[order[i]].Origin < waiting[order[j]].Origin })
	for place, i := range order {
		waiting[i].Created = int64(place + 1)
		before.State.Inflight.Set(waiting[i])
	}
}
