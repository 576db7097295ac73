package mqtt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
)

// Limits of one session.
const (
	maxPingWait     = 10 * time.Second // for a PINGRESP
	handOver        = time.Second      // for paho to take a SUBSCRIBE
	subackWait      = 10 * time.Second // for a SUBACK, or for something else to come in
	disconnectWait  = time.Second      // for DISCONNECT to go out, and for the broker's end of the connection
	maxGranted      = 2                // above it a return code means refused (0x80) or is reserved, MQTT 3.1.1 §3.9.3
	protocolVersion = 4                // MQTT 3.1.1; unpinned, paho retries each failure with 3.1
)

// session is one connection with its client. A client is used once, since paho
// may end one later than it says.
type session struct {
	server   string
	patience time.Duration // subackWait
	client   paho.Client
	conn     *conn
	lost     chan error // gets the end of the connection once
}

// connect opens a session with the first server that takes it.
func (s *Source) connect(ctx context.Context) (*session, error) {
	var failures []string
	for _, server := range s.servers {
		s.stats.state("connecting to " + server.String())
		ss, err := s.open(ctx, server)
		if err == nil {
			return ss, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		failures = append(failures, fmt.Sprintf("%s: %s", server, explain(err)))
	}
	return nil, errors.New(strings.Join(failures, "; "))
}

// open connects to one server and returns after CONNACK.
func (s *Source) open(ctx context.Context, server *url.URL) (*session, error) {
	o, err := s.options(server)
	if err != nil {
		return nil, err
	}
	ss := &session{server: server.String(), patience: s.subackWait, lost: make(chan error, 1)}
	unhook := func() bool { return true }
	o.SetConnectionLostHandler(func(_ paho.Client, err error) { ss.lost <- err })
	o.SetCustomOpenConnectionFn(func(*url.URL, paho.ClientOptions) (net.Conn, error) {
		nc, err := dial(ctx, server, s.cfg.TLS)
		if err != nil {
			return nil, err
		}
		c := newConn(nc, s.intake)
		unhook = context.AfterFunc(ctx, func() { c.fail(ctx.Err()) }) // a stop ends the handshake
		ss.conn = c
		return c, nil
	})
	ss.client = paho.NewClient(o)
	token := ss.client.Connect()
	<-token.Done() // bounded by the limits of dial and connectTimeout, and ended by ctx
	unhook()
	if err := token.Error(); err != nil {
		if ss.conn != nil {
			ss.conn.finish()
		}
		return nil, err
	}
	return ss, nil
}

// options are paho's for one connect. Reconnecting is ours: paho's has no jitter
// and can not be stopped in its sleep. No handler for messages is set, because
// conn takes them before paho sees them.
func (s *Source) options(server *url.URL) (*paho.ClientOptions, error) {
	o := paho.NewClientOptions()
	o.Servers = []*url.URL{server}
	o.SetClientID(s.cfg.ClientID).SetUsername(s.cfg.Username)
	if s.cfg.Password != nil {
		password, err := s.cfg.Password()
		if err != nil {
			return nil, fmt.Errorf("read the password: %w", err)
		}
		o.SetPassword(password)
	}
	o.SetProtocolVersion(protocolVersion).SetCleanSession(false).SetStore(noStore{})
	o.SetAutoReconnect(false).SetConnectRetry(false).SetConnectTimeout(connectTimeout)
	o.SetKeepAlive(s.cfg.KeepAlive).SetPingTimeout(min(s.cfg.KeepAlive, maxPingWait)).SetWriteTimeout(handOver)
	return o, nil
}

// end says goodbye if the connection still stands, and waits for the session's
// goroutines.
func (ss *session) end() {
	ss.client.Disconnect(uint(disconnectWait / time.Millisecond))
	ss.conn.finish()
}

// why is the reason for the end of the connection: conn's own, or else paho's.
func (ss *session) why(err error) error {
	select {
	case <-ss.conn.closed:
		if !errors.Is(ss.conn.cause, net.ErrClosed) {
			err = ss.conn.cause
		}
	default:
	}
	return fmt.Errorf("%s: %s", ss.server, explain(err))
}

// grant is the broker's answer to one subscription.
type grant struct {
	Subscription
	code byte // the QoS granted, or above maxGranted
}

// subscribe sends one SUBSCRIBE for each filter (some brokers bound the number
// of filters in one) and returns the answers in the same order.
func (ss *session) subscribe(ctx context.Context, subs []Subscription) ([]grant, error) {
	tokens := make([]paho.Token, len(subs))
	for i, sub := range subs {
		tokens[i] = ss.client.Subscribe(sub.Filter, sub.QoS, nil)
	}
	grants := make([]grant, len(subs))
	for i, token := range tokens {
		code, err := ss.await(ctx, token)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			return nil, ss.why(fmt.Errorf("subscribe %q: %w", subs[i].Filter, err))
		}
		grants[i] = grant{subs[i], code}
	}
	return grants, nil
}

// await waits for a SUBACK. A broker may send thousands of waiting messages
// before it, and those may have to wait for the buffer, so the time only
// counts while nothing comes in.
func (ss *session) await(ctx context.Context, token paho.Token) (byte, error) {
	tick := time.NewTicker(ss.patience)
	defer tick.Stop()
	for {
		select {
		case <-token.Done():
			return granted(token)
		case <-ctx.Done():
			return 0, ctx.Err()
		case err := <-ss.lost:
			return 0, err
		case <-tick.C:
			if !ss.conn.busy() {
				return 0, errors.New("the broker does not answer")
			}
		}
	}
}

// granted reads the one return code of a SUBACK; token.Error does not show it.
func granted(token paho.Token) (byte, error) {
	if err := token.Error(); err != nil {
		return 0, err
	}
	if sub, ok := token.(*paho.SubscribeToken); ok {
		for _, code := range sub.Result() {
			return code, nil
		}
	}
	return 0, errors.New("the answer has no return code")
}

// serve subscribes and waits for the end of the connection or of ctx. Refused
// filters are asked for again and again; the others work meanwhile.
func (s *Source) serve(ctx context.Context, ss *session) error {
	s.stats.state("connected to " + ss.server + ", subscribing")
	retry := s.newBackoff()
	todo := s.cfg.Subscriptions
	for {
		grants, err := ss.subscribe(ctx, todo)
		if err != nil {
			return err
		}
		todo = s.report(ss.server, grants)
		again := make(<-chan time.Time)
		if len(todo) > 0 {
			timer := time.NewTimer(retry.next())
			defer timer.Stop()
			again = timer.C
		}
		select {
		case <-again:
		case err := <-ss.lost:
			return ss.why(err)
		case <-ctx.Done():
			return nil
		}
	}
}

// report shows the answers to the subscriptions and returns the refused ones.
func (s *Source) report(server string, grants []grant) (refused []Subscription) {
	for _, g := range grants {
		switch {
		case g.code > maxGranted:
			refused = append(refused, g.Subscription)
		case g.code < g.QoS:
			s.stats.log.Warn("broker grants less than asked for", "filter", g.Filter, "asked", g.QoS, "granted", g.code)
		}
	}
	if len(refused) == 0 {
		s.stats.up(fmt.Sprintf("connected to %s, %s", server, count(len(s.cfg.Subscriptions), "filter")))
		return nil
	}
	what := fmt.Sprintf("%s: the broker refuses %s, the first is %q: may this user read it?",
		server, count(len(refused), "filter"), refused[0].Filter)
	s.stats.state(fmt.Sprintf("connected to %s, %d of %s refused", server, len(refused), count(len(s.cfg.Subscriptions), "filter")))
	s.stats.failed(what)
	return refused
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// noStore keeps nothing: what is not acknowledged is kept by the broker, and what
// is published has QoS 0.
type noStore struct{}

func (noStore) Open()                             {}
func (noStore) Put(string, packets.ControlPacket) {}
func (noStore) Get(string) packets.ControlPacket  { return nil }
func (noStore) All() []string                     { return nil }
func (noStore) Del(string)                        {}
func (noStore) Close()                            {}
func (noStore) Reset()                            {}
