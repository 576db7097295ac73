package modbus

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	a.cert, a.key = a.sign(t, "authority", nil)
	a.pool.AddCert(a.cert)
	return a
}

// sign makes a certificate; the first one signs itself.
func (a *authority) sign(t *testing.T, name string, ips []net.IP) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	want := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IPAddresses: ips, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true, IsCA: a.cert == nil,
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = want, key
	}
	der, err := x509.CreateCertificate(rand.Reader, want, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (a *authority) pair(t *testing.T, name string) tls.Certificate {
	t.Helper()
	cert, key := a.sign(t, name, []net.IP{net.IPv4(127, 0, 0, 1)})
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// securePeer is a Modbus/TCP Security server that wants a client certificate.
func securePeer(t *testing.T, a *authority, answer func(c net.Conn, n int, req []byte), change func(*tls.Config)) (*peer, string) {
	t.Helper()
	config := &tls.Config{Certificates: []tls.Certificate{a.pair(t, "plc")}, ClientCAs: a.pool, ClientAuth: tls.RequireAndVerifyClientCert}
	if change != nil {
		change(config)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	p := newPeerOn(t, listener, answer, nil)
	return p, schemeTLS + "://" + listener.Addr().String()
}

func answerGood(c net.Conn, _ int, req []byte) { c.Write(good(req)) }

func (p *peer) connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

func TestTLSWithClientCertificate(t *testing.T) {
	a := newAuthority(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		p, url := securePeer(t, a, answerGood, func(c *tls.Config) { c.MinVersion, c.MaxVersion = version, version })
		l := linkTo(t, url, patience)
		var asked atomic.Int64
		l.peer.tls = func() (*tls.Config, error) {
			asked.Add(1)
			return &tls.Config{RootCAs: a.pool, Certificates: []tls.Certificate{a.pair(t, "gateway")}}, nil
		}
		for range 20 { // session tickets come in between and are no reason for doubt
			if err := readPair(t, l); err != nil {
				t.Fatal(err)
			}
		}
		if p.connections() != 1 || asked.Load() != 1 {
			t.Errorf("%#x: %d connections, settings asked for %d times", version, p.connections(), asked.Load())
		}
		l.close()
		if err := readPair(t, l); err != nil || asked.Load() != 2 {
			t.Errorf("%#x: %v, settings asked for %d times, want 2", version, err, asked.Load())
		}
	}
}

func TestTLSThatCannotBeTrusted(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	mine := func(c *tls.Config) *tls.Config {
		c.Certificates = []tls.Certificate{a.pair(t, "gateway")}
		return c
	}
	for name, test := range map[string]struct {
		server func(*tls.Config)
		client func() (*tls.Config, error)
		want   string
	}{
		"authority of another one": {nil, func() (*tls.Config, error) { return mine(&tls.Config{RootCAs: other.pool}), nil }, "unknown authority"},
		"no authority":             {nil, nil, "unknown authority"},
		"no settings":              {nil, func() (*tls.Config, error) { return nil, nil }, "unknown authority"},
		"another name":             {nil, func() (*tls.Config, error) { return mine(&tls.Config{RootCAs: a.pool, ServerName: "plc-2"}), nil }, "plc-2"},
		"TLS 1.1": {func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 },
			func() (*tls.Config, error) {
				return mine(&tls.Config{RootCAs: a.pool, MinVersion: tls.VersionTLS10}), nil
			}, "protocol version"},
		"a file that is gone": {nil, func() (*tls.Config, error) { return nil, errors.New("ca: no such file") }, "tls: ca: no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			_, url := securePeer(t, a, answerGood, test.server)
			l := linkTo(t, url, patience)
			l.peer.tls = test.client
			if err := readPair(t, l); !errors.Is(err, errDial) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
	t.Run("no client certificate", func(t *testing.T) {
		_, url := securePeer(t, a, answerGood, nil)
		l := linkTo(t, url, patience)
		l.peer.tls = func() (*tls.Config, error) { return &tls.Config{RootCAs: a.pool}, nil }
		if err := readPair(t, l); reasonOf(err) != badConnection || !strings.Contains(err.Error(), "certificate required") {
			t.Errorf("error %v", err)
		}
	})
}

func TestHostileAnswersOverTLSNeverBecomeValues(t *testing.T) {
	a := newAuthority(t)
	for _, h := range hostileAnswers() {
		if h.warm || h.answer == nil || h.reason == badTimeout || strings.Contains(h.name, "reset") || strings.Contains(h.name, "next") {
			continue // about time and sockets, which are the same without TLS
		}
		t.Run(h.name, func(t *testing.T) {
			t.Parallel()
			_, url := securePeer(t, a, func(c net.Conn, n int, req []byte) {
				if n == 0 {
					h.answer(c, req)
					return
				}
				c.Write(good(req))
			}, nil)
			l := linkTo(t, url, patience)
			l.peer.tls = func() (*tls.Config, error) {
				return &tls.Config{RootCAs: a.pool, Certificates: []tls.Certificate{a.pair(t, "gateway")}}, nil
			}
			err := readPair(t, l)
			if h.reason == "" && err != nil || h.reason != "" && (err == nil || reasonOf(err) != h.reason) {
				t.Errorf("error %v, want %q", err, h.reason)
			}
			for range 3 {
				if err := readPair(t, l); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
