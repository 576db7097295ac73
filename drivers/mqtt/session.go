package mqtt

import (
	"context"
	"crypto/tls"
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
	disconnectWait  = time.Second      // for DISCONNECT to go out, and for the broker's end of the connection; more at a stop
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
	memory   memory     // the filters that the broker may hold for us
}

// errSilent is a broker that leaves a request without an answer.
var errSilent = errors.New("the broker does not answer")

// connect opens a session with the first server that takes it.
func (s *Source) connect(ctx context.Context) (*session, error) {
	var failures []string
	for _, server := range s.servers {
		s.stats.state("connecting to " + server.String())
		ss, err := s.try(ctx, server)
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

// try connects to one server, with TLS settings from files that may be new.
func (s *Source) try(ctx context.Context, server *url.URL) (*session, error) {
	if s.cfg.TLS == nil || !secure(server) {
		ss, err := s.open(ctx, server, nil)
		s.accuse(server.String(), err)
		return ss, err
	}
	config, trouble := s.cfg.TLS()
	if config == nil && trouble != nil {
		return nil, fmt.Errorf("tls: %w", trouble)
	}
	ss, err := s.open(ctx, server, config)
	s.accuse(server.String(), err)
	switch {
	case trouble != nil && err != nil:
		return nil, fmt.Errorf("%s; tls: %w", explain(err), trouble)
	case trouble != nil:
		s.stats.failed(fmt.Sprintf("tls: %v", trouble))
	}
	return ss, err
}

// open connects to one server and returns after CONNACK.
func (s *Source) open(ctx context.Context, server *url.URL, config *tls.Config) (*session, error) {
	o, err := s.options(server)
	if err != nil {
		return nil, err
	}
	ss := &session{server: server.String(), patience: s.subackWait, lost: make(chan error, 1)}
	unhook := func() bool { return true }
	o.SetConnectionLostHandler(func(_ paho.Client, err error) { ss.lost <- err })
	o.SetCustomOpenConnectionFn(func(*url.URL, paho.ClientOptions) (net.Conn, error) {
		nc, err := dial(ctx, server, config)
		if err != nil {
			return nil, err
		}
		c := newConn(nc, server.String(), s.intake)
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
			err = ss.cause(err)
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
	user, password, err := s.cfg.credentials()
	if err != nil {
		return nil, err
	}
	o.SetClientID(s.cfg.ClientID).SetUsername(user).SetPassword(password)
	o.SetProtocolVersion(protocolVersion).SetCleanSession(false).SetStore(noStore{})
	o.SetAutoReconnect(false).SetConnectRetry(false).SetConnectTimeout(connectTimeout)
	o.SetKeepAlive(s.cfg.KeepAlive).SetPingTimeout(min(s.cfg.KeepAlive, maxPingWait)).SetWriteTimeout(handOver)
	return o, nil
}

// end says goodbye if the connection still stands, and waits for the session's
// goroutines. The broker has wait to read what was sent.
func (ss *session) end(wait time.Duration) {
	ss.conn.farewell.Store(int64(wait))
	ss.client.Disconnect(uint(wait / time.Millisecond))
	ss.conn.finish()
}

// cause is the reason for the end of the connection: conn's own, or else err,
// which is paho's.
func (ss *session) cause(err error) error {
	select {
	case <-ss.conn.closed:
		if !errors.Is(ss.conn.cause, net.ErrClosed) {
			return ss.conn.cause
		}
	default:
	}
	return err
}

// why is the same in words.
func (ss *session) why(err error) error {
	return fmt.Errorf("%s: %s", ss.server, explain(ss.cause(err)))
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
		err := ss.await(ctx, token)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		var code byte
		if err == nil {
			code, err = granted(token)
		}
		if err != nil {
			return nil, ss.why(fmt.Errorf("subscribe %q: %w", subs[i].Filter, err))
		}
		grants[i] = grant{subs[i], code}
	}
	return grants, nil
}

// unsubscribe sends one UNSUBSCRIBE for each filter.
func (ss *session) unsubscribe(filters []string) []paho.Token {
	tokens := make([]paho.Token, len(filters))
	for i, filter := range filters {
		tokens[i] = ss.client.Unsubscribe(filter)
	}
	return tokens
}

// await waits for a SUBACK or UNSUBACK. A broker may send thousands of waiting messages
// before it, and those may have to wait for the buffer, so the time only
// counts while nothing comes in.
func (ss *session) await(ctx context.Context, token paho.Token) error {
	tick := time.NewTicker(ss.patience)
	defer tick.Stop()
	for {
		select {
		case <-token.Done():
			return token.Error()
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ss.lost:
			return err
		case <-tick.C:
			if !ss.conn.busy() {
				return errSilent
			}
		}
	}
}

// granted reads the one return code of a SUBACK; token.Error does not show it.
func granted(token paho.Token) (byte, error) {
	if sub, ok := token.(*paho.SubscribeToken); ok {
		for _, code := range sub.Result() {
			return code, nil
		}
	}
	return 0, errors.New("the answer has no return code")
}

// serve unsubscribes what is no longer in the config, subscribes what is, and
// waits for the end of the connection or of ctx. Refused filters are asked for
// again and again; the others work meanwhile.
func (s *Source) serve(ctx context.Context, ss *session) error {
	s.stats.state("connected to " + ss.server + ", subscribing")
	gone := s.leftOver(ss)
	answers := ss.unsubscribe(gone)
	retry := s.newBackoff()
	todo := s.cfg.Subscriptions
	for {
		grants, err := ss.subscribe(ctx, todo)
		if err != nil {
			return err
		}
		todo = s.report(ss.server, grants)
		if err := s.unsubscribed(ctx, ss, gone, answers); err != nil {
			return err
		}
		gone, answers = nil, nil
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

// unsubscribed waits for the answers to unsubscribe and forgets those filters.
// A broker that gives none is asked at the next connect: it costs nothing but
// messages without a route. An error means that the session is over.
func (s *Source) unsubscribed(ctx context.Context, ss *session, filters []string, answers []paho.Token) error {
	if len(filters) == 0 {
		return nil
	}
	var left []string
	for i, token := range answers {
		err := ss.await(ctx, token)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			s.stats.log.Info("unsubscribed a filter that is no longer in the config", "filter", filters[i])
		case errors.Is(err, errSilent):
			left = append(left, filters[i])
			s.stats.failed(fmt.Sprintf("%s: unsubscribe %q: %s; it is asked again at the next connect", ss.server, filters[i], err))
		default:
			return ss.why(fmt.Errorf("unsubscribe %q: %w", filters[i], err))
		}
	}
	s.remember(ss, left)
	return nil
}

// report shows the answers to the subscriptions and returns the refused ones.
func (s *Source) report(server string, grants []grant) (refused []Subscription) {
	for _, g := range grants {
		switch {
		case g.code > maxGranted:
			refused = append(refused, g.Subscription)
			s.refusals.note(Refusal{Reason: reasonFilter, Server: server, QoS: g.QoS}, []byte(g.Filter))
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
