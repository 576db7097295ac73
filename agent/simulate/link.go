package simulate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"
)

// The ports that a Link listens on. They lie below the range from which Linux
// takes ports for outgoing connections (net.ipv4.ip_local_port_range), so that
// none of them is taken by somebody else while the link is cut.
const (
	firstLinkPort = 20_000
	lastLinkPort  = 30_000
)

// Link is a TCP link to Kafka that can be cut: new connections are then refused
// and those that exist are closed. It understands enough of the Kafka protocol
// to put its own addresses in the place of the brokers' where Kafka tells a
// client whom to talk to (see rewrite), and opens one address for each broker
// it learns of: so nothing finds a way past it, whatever the brokers advertise.
type Link struct {
	seed string // the address that stands for the first broker

	mu     sync.Mutex
	fronts map[string]*front // by the broker's address
	conns  map[net.Conn]struct{}
	cut    bool
	ended  bool
	wg     sync.WaitGroup // accept loops and connections
}

// front is one address of the link.
type front struct {
	broker   string // host:port behind it
	addr     string // our own
	listener net.Listener
}

// NewLink makes a link to the Kafka broker at host:port. It listens, but
// forwards nothing before Run. A link that is never run must be closed.
func NewLink(broker string) (*Link, error) {
	l := &Link{fronts: make(map[string]*front), conns: make(map[net.Conn]struct{})}
	f, err := newFront(broker)
	if err != nil {
		return nil, err
	}
	l.seed = f.addr
	l.fronts[broker] = f
	return l, nil
}

// Addr is the address to give to the client, in place of the broker's.
func (l *Link) Addr() string { return l.seed }

// Close frees the addresses of a link that was never run.
func (l *Link) Close() error {
	l.end()
	return nil
}

// Run forwards until ctx ends and all connections are closed.
func (l *Link) Run(ctx context.Context) error {
	l.mu.Lock()
	for _, f := range l.fronts {
		l.serve(f)
	}
	l.mu.Unlock()
	<-ctx.Done()
	l.end()
	l.wg.Wait()
	return nil
}

// Cut breaks the link until Heal.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	l.drop()
}

// Heal opens the link again, at the same addresses.
func (l *Link) Heal() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.cut || l.ended {
		return nil
	}
	for _, f := range l.fronts {
		listener, err := net.Listen("tcp", f.addr)
		if err != nil {
			return fmt.Errorf("heal the link: %w", err)
		}
		f.listener = listener
		l.serve(f)
	}
	l.cut = false
	return nil
}

func (l *Link) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.drop()
}

// drop closes everything. l.mu is held. Listeners and connections may be closed
// twice; what that returns tells nothing.
func (l *Link) drop() {
	for _, f := range l.fronts {
		_ = f.listener.Close()
	}
	for c := range l.conns {
		_ = c.Close()
	}
}

// serve accepts at one address until its listener is closed. l.mu is held.
func (l *Link) serve(f *front) {
	listener := f.listener
	l.wg.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			l.wg.Go(func() { l.forward(client, f.broker) })
		}
	})
}

// adopt notes a connection, so that Cut closes it; false if it is too late.
func (l *Link) adopt(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut || l.ended {
		return false
	}
	l.conns[c] = struct{}{}
	return true
}

func (l *Link) release(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	_ = c.Close()
}

// forward carries one connection until either side closes it.
func (l *Link) forward(client net.Conn, broker string) {
	defer l.release(client)
	if !l.adopt(client) {
		return
	}
	server, err := net.DialTimeout("tcp", broker, 5*time.Second)
	if err != nil {
		return // the client sees a closed connection, as it would through a router
	}
	defer l.release(server)
	if !l.adopt(server) {
		return
	}
	var asked questions
	var both sync.WaitGroup
	both.Go(func() {
		defer server.Close()
		_ = asked.forward(server, client)
	})
	both.Go(func() {
		defer client.Close()
		_ = asked.answer(client, server, l.address)
	})
	both.Wait()
}

// address returns the link's own address for a broker, opening one for a broker
// that it hears of for the first time.
func (l *Link) address(host string, port int32) (string, int32, error) {
	broker := net.JoinHostPort(host, strconv.Itoa(int(port)))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut || l.ended {
		return "", 0, io.ErrClosedPipe
	}
	f, known := l.fronts[broker]
	if !known {
		var err error
		if f, err = newFront(broker); err != nil {
			return "", 0, err
		}
		l.fronts[broker] = f
		l.serve(f)
	}
	at := f.listener.Addr().(*net.TCPAddr)
	return at.IP.String(), int32(at.Port), nil
}

func newFront(broker string) (*front, error) {
	listener, err := listenStable()
	if err != nil {
		return nil, fmt.Errorf("link to %s: %w", broker, err)
	}
	return &front{broker: broker, addr: listener.Addr().String(), listener: listener}, nil
}

var errNoPort = errors.New("no port from 20000 to 30000 is free on 127.0.0.1")

// listenStable takes an address that will still be free after it was closed.
func listenStable() (net.Listener, error) {
	start := rand.IntN(lastLinkPort - firstLinkPort)
	for i := range lastLinkPort - firstLinkPort {
		port := firstLinkPort + (start+i)%(lastLinkPort-firstLinkPort)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return l, nil
		}
	}
	return nil, errNoPort
}
