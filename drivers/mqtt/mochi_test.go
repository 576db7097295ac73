package mqtt

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
)

// newMochi starts a real broker in this process. It returns its host:port.
func newMochi(t *testing.T, ledger *auth.Ledger, listen func(id string) listeners.Listener) (*mochi.Server, string) {
	t.Helper()
	server := mochi.New(&mochi.Options{InlineClient: true, Logger: slog.New(slog.DiscardHandler)})
	if ledger == nil {
		ledger = &auth.Ledger{Auth: auth.AuthRules{{Allow: true}}}
	}
	if err := server.AddHook(new(auth.Hook), &auth.Options{Ledger: ledger}); err != nil {
		t.Fatal(err)
	}
	if listen == nil {
		listen = func(id string) listeners.Listener {
			return listeners.NewTCP(listeners.Config{ID: id, Address: "127.0.0.1:0"})
		}
	}
	l := &countingListener{Listener: listen("l")}
	if err := server.AddListener(l); err != nil {
		t.Fatal(err)
	}
	if err := server.Serve(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Close of this broker races with the end of connections, as the race detector sees it.
		for deadline := time.Now().Add(10 * time.Second); l.open.Load() > 0 && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		_ = server.Close()
	})
	return server, l.Address()
}

// countingListener knows how many connections are open.
type countingListener struct {
	listeners.Listener
	open atomic.Int64
}

func (l *countingListener) Serve(establish listeners.EstablishFn) {
	l.Listener.Serve(func(id string, c net.Conn) error {
		l.open.Add(1)
		defer l.open.Add(-1)
		return establish(id, c)
	})
}

// inflight is the number of messages that the broker waits to see acknowledged.
func inflight(server *mochi.Server, client string) int {
	cl, ok := server.Clients.Get(client)
	if !ok {
		return 0
	}
	return cl.State.Inflight.Len()
}

func send(t *testing.T, server *mochi.Server, topic, payload string, qos byte) {
	t.Helper()
	if err := server.Publish(topic, []byte(payload), false, qos); err != nil {
		t.Fatal(err)
	}
}

func TestBrokerKeepsWhatIsNotCommitted(t *testing.T) {
	for _, qos := range []byte{1, 2} {
		t.Run(fmt.Sprintf("QoS %d", qos), func(t *testing.T) {
			t.Parallel()
			server, addr := newMochi(t, nil, nil)
			sink := &testSink{hold: true}
			cfg := baseConfig(sink, "tcp://"+addr)
			cfg.Subscriptions[0].QoS = 2
			src, err := New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			src.stopGrace = 50 * time.Millisecond
			stop := run(t, src)
			waitUp(t, src)
			for i := range 10 {
				send(t, server, "plant/a", fmt.Sprint(i), qos)
			}
			eventually(t, "appended", func() bool { return len(sink.taken()) == 10 })
			if n := inflight(server, "gw-1"); n != 10 {
				t.Fatalf("in flight before the commit: %d", n)
			}
			sink.commit(4, nil)
			eventually(t, "four acknowledged", func() bool { return inflight(server, "gw-1") == 6 })
			stop() // and the other six are not

			second := &testSink{}
			again, _ := start(t, baseConfig(second, "tcp://"+addr)) // a new process
			waitUp(t, again)
			eventually(t, "the rest came again", func() bool { return len(second.taken()) == 6 })
			got := second.payloads()
			slices.Sort(got) // this broker sends them again in any order
			if want := []string{"4", "5", "6", "7", "8", "9"}; !reflect.DeepEqual(got, want) {
				t.Errorf("came again: %v, want %v", got, want)
			}
			eventually(t, "all acknowledged", func() bool { return inflight(server, "gw-1") == 0 })
		})
	}
}

func TestReconnectWhileCommitsArePending(t *testing.T) {
	t.Parallel()
	server, addr := newMochi(t, nil, nil)
	sink := &testSink{hold: true}
	src, _ := start(t, baseConfig(sink, "tcp://"+addr))
	waitUp(t, src)
	const n = 50
	for i := range n {
		send(t, server, "plant/a", fmt.Sprint(i), 1)
	}
	eventually(t, "appended", func() bool { return len(sink.taken()) == n })
	sink.commit(20, nil)
	eventually(t, "acknowledged", func() bool { return inflight(server, "gw-1") == n-20 })
	for range 3 {
		cl, _ := server.Clients.Get("gw-1")
		before := src.conns.Load()
		cl.Stop(io.EOF)
		eventually(t, "connected again", func() bool { return src.conns.Load() > before && src.Stats().Up })
	}
	send(t, server, "plant/a", "last", 1)
	eventually(t, "the new one appended", func() bool { return len(sink.taken()) > n })
	sink.commit(n-20+1, nil)
	eventually(t, "everything acknowledged", func() bool { return inflight(server, "gw-1") == 0 })
	got := sink.payloads()
	if len(got) != n+1 || got[n] != "last" {
		t.Errorf("stored %d messages, want %d: %v", len(got), n+1, got)
	}
}

func TestManyMessagesArriveOnceAndInOrder(t *testing.T) {
	t.Parallel()
	server, addr := newMochi(t, nil, nil)
	sink := &testSink{}
	cfg := baseConfig(sink, "tcp://"+addr)
	cfg.Subscriptions = []Subscription{
		{Filter: "plant/#", QoS: 2, Class: "process"},
		{Filter: "plant/+/alarm", QoS: 2, Class: "alarm"},
	}
	src, _ := start(t, cfg)
	waitUp(t, src)
	const n = 2000
	for i := range n {
		topic := "plant/m/data"
		if i%10 == 0 {
			topic = "plant/m/alarm"
		}
		send(t, server, topic, fmt.Sprint(i), byte(i%3))
	}
	eventually(t, "all taken", func() bool { return len(sink.taken()) >= n })
	for i, e := range sink.taken() {
		want := "process"
		if i%10 == 0 {
			want = "alarm"
		}
		if string(e.Payload) != fmt.Sprint(i) || e.Class != want {
			t.Fatalf("event %d is %s of class %s", i, e.Payload, e.Class)
		}
	}
	eventually(t, "nothing in flight", func() bool { return inflight(server, "gw-1") == 0 })
}

func TestFilterThatWasRemovedDoesNotStall(t *testing.T) {
	t.Parallel()
	server, addr := newMochi(t, nil, nil)
	cfg := baseConfig(&testSink{}, "tcp://"+addr)
	cfg.Subscriptions = append(cfg.Subscriptions, Subscription{Filter: "old/#", QoS: 1, Class: "process"})
	src, stop := start(t, cfg)
	waitUp(t, src)
	stop()
	for i := range 30 {
		send(t, server, "old/a", fmt.Sprint(i), 1)
	}
	send(t, server, "plant/a", "good", 1)
	sink := &testSink{}
	src, _ = start(t, baseConfig(sink, "tcp://"+addr))
	eventually(t, "the good one", func() bool { return len(sink.taken()) == 1 })
	eventually(t, "nothing in flight", func() bool { return inflight(server, "gw-1") == 0 })
	if got := src.Stats().Rejected[reasonRoute]; got != 30 {
		t.Errorf("no-route: %d, want 30", got)
	}
}

func TestRotatedPassword(t *testing.T) {
	t.Parallel()
	_, addr := newMochi(t, &auth.Ledger{Auth: auth.AuthRules{
		{Username: "u", Password: "new", Allow: true},
	}}, nil)
	var password atomic.Value
	password.Store("old")
	cfg := baseConfig(&testSink{}, "tcp://"+addr)
	cfg.Username = word("u")
	cfg.Password = func() (string, error) { return password.Load().(string), nil }
	src, _ := start(t, cfg)
	eventually(t, "words", func() bool {
		return strings.Contains(src.Stats().LastError, "not authorised: check username and password")
	})
	if src.Stats().Up {
		t.Error("up with a wrong password")
	}
	password.Store("new")
	waitUp(t, src)
}

func TestFilterThatTheBrokerDenies(t *testing.T) {
	t.Parallel()
	_, addr := newMochi(t, &auth.Ledger{
		Auth: auth.AuthRules{{Allow: true}},
		ACL:  auth.ACLRules{{Filters: auth.Filters{"plant/#": auth.Deny}}},
	}, nil)
	src, _ := start(t, baseConfig(&testSink{}, "tcp://"+addr))
	eventually(t, "words", func() bool {
		return strings.Contains(src.Stats().LastError, `refuses 1 filter, the first is "plant/#"`)
	})
	if src.Stats().Up {
		t.Error("up without its only filter")
	}
}

func TestServersAreTriedInOrder(t *testing.T) {
	t.Parallel()
	_, addr := newMochi(t, nil, nil)
	src, _ := start(t, baseConfig(&testSink{}, "tcp://"+freeAddress(t), "tcp://"+addr))
	waitUp(t, src)
	if got, want := src.Stats().State, "connected to tcp://"+addr+", 1 filter"; got != want {
		t.Errorf("state %q, want %q", got, want)
	}
}

func TestTransports(t *testing.T) {
	cert, roots := selfSigned(t, time.Now().Add(time.Hour))
	secure := &tls.Config{Certificates: []tls.Certificate{cert}}
	cases := []struct {
		scheme string
		server *tls.Config
		client *tls.Config
		ws     bool
	}{
		{"ssl", secure, &tls.Config{RootCAs: roots}, false},
		{"ws", nil, nil, true},
		{"wss", secure, &tls.Config{RootCAs: roots}, true},
	}
	for _, tc := range cases {
		t.Run(tc.scheme, func(t *testing.T) {
			t.Parallel()
			addr := freeAddress(t) // mochi's websocket listener does not tell its own
			server, _ := newMochi(t, nil, func(id string) listeners.Listener {
				if tc.ws {
					return listeners.NewWebsocket(listeners.Config{ID: id, Address: addr, TLSConfig: tc.server.Clone()})
				}
				return listeners.NewTCP(listeners.Config{ID: id, Address: addr, TLSConfig: tc.server.Clone()})
			})
			sink := &testSink{}
			cfg := baseConfig(sink, tc.scheme+"://"+addr)
			cfg.TLS = always(tc.client)
			src, _ := start(t, cfg)
			waitUp(t, src)
			for i := range 100 {
				send(t, server, "plant/a", fmt.Sprint(i, strings.Repeat(" x", 5000)), 1)
			}
			eventually(t, "taken", func() bool { return len(sink.taken()) == 100 })
			eventually(t, "acknowledged", func() bool { return inflight(server, "gw-1") == 0 })
			nc, err := dial(t.Context(), src.servers[0], tc.client)
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			if tcpOf(nc) == nil {
				t.Errorf("no TCP below a %T", nc)
			}
		})
	}
}

// freeAddress returns an address that is free, below those that the kernel gives
// to whoever asks for any at the same time.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 1000 {
		addr := fmt.Sprint("127.0.0.1:", 10_000+mathrand.IntN(20_000))
		if ln, err := net.Listen("tcp", addr); err == nil {
			_ = ln.Close()
			return addr
		}
	}
	t.Fatal("no free address")
	return ""
}

func TestTLSFailuresAreSaidInWords(t *testing.T) {
	good, roots := selfSigned(t, time.Now().Add(time.Hour))
	old, oldRoots := selfSigned(t, time.Now().Add(-time.Minute))
	cases := []struct {
		name           string
		server, client *tls.Config
		want           string
	}{
		{"unknown authority", &tls.Config{Certificates: []tls.Certificate{good}}, nil, "unknown authority: check tls.ca"},
		{"another name", &tls.Config{Certificates: []tls.Certificate{good}}, &tls.Config{RootCAs: roots, ServerName: "other"}, `not for "other"`},
		{"expired", &tls.Config{Certificates: []tls.Certificate{old}}, &tls.Config{RootCAs: oldRoots}, "expired or not valid yet"},
		{
			"client certificate missing",
			&tls.Config{Certificates: []tls.Certificate{good}, ClientAuth: tls.RequireAnyClientCert},
			&tls.Config{RootCAs: roots}, "check tls.cert and tls.key",
		},
		{"plain port", nil, &tls.Config{RootCAs: roots}, "does not speak TLS on this port"},
	}
	for _, tc := range cases {
		for _, scheme := range []string{"ssl", "wss"} {
			t.Run(tc.name+" with "+scheme, func(t *testing.T) {
				t.Parallel()
				ln, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = ln.Close() })
				go shakeHands(ln, tc.server)
				cfg := baseConfig(&testSink{}, scheme+"://"+ln.Addr().String())
				cfg.TLS = always(tc.client)
				src, _ := start(t, cfg)
				// At some connect: the server's reset may overtake what it said.
				defer func() { t.Logf("last error %q", src.Stats().LastError) }()
				eventually(t, tc.want, func() bool { return strings.Contains(src.Stats().LastError, tc.want) })
			})
		}
	}
}

// shakeHands is a server that gets no further than TLS, or answers as something
// else when config is nil.
func shakeHands(ln net.Listener, config *tls.Config) {
	for {
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		if config == nil {
			_, _ = nc.Write([]byte("220 mail.example ESMTP\r\n"))
		} else {
			_ = tls.Server(nc, config).Handshake()
		}
		_ = nc.Close()
	}
}

// always gives the same settings at each connect; nil for nil.
func always(config *tls.Config) func() (*tls.Config, error) {
	if config == nil {
		return nil
	}
	return func() (*tls.Config, error) { return config, nil }
}

func selfSigned(t *testing.T, until time.Time) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "broker"},
		NotBefore:    until.Add(-24 * time.Hour),
		NotAfter:     until,
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:         true,

		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}
