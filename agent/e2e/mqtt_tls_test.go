//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority signs the certificates of a test.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  string
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "a CA of the test"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.cert, a.pem = a.sign(t, template, template, &a.key.PublicKey)
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) sign(t testing.TB, template, parent *x509.Certificate, public *ecdsa.PublicKey) (*x509.Certificate, string) {
	t.Helper()
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, a.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// issue writes NAME.pem and NAME.key for a server or client on this machine.
func (a *authority) issue(t testing.TB, dir, name string) {
	t.Helper()
	key := newKey(t)
	_, cert := a.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, &key.PublicKey)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, name+".pem"), cert)
	writeFile(t, filepath.Join(dir, name+".key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})))
}

// secureBroker is a Mosquitto with a second listener that wants a client
// certificate and a password; the files of both sides are in dir.
type secureBroker struct {
	*mosquitto
	dir  string
	port int // of the second listener
}

func startSecureBroker(t testing.TB) *secureBroker {
	t.Helper()
	s := &secureBroker{mosquitto: &mosquitto{port: freePort(t)}, dir: t.TempDir(), port: freePort(t)}
	s.identify(t, newAuthority(t), "first")
	conf := filepath.Join(s.dir, "mosquitto.conf")
	writeFile(t, conf, "per_listener_settings true\n"+s.config(s.dir)+fmt.Sprintf(`listener %d 127.0.0.1
allow_anonymous false
password_file %[2]s/passwd
cafile %[2]s/broker-ca.pem
certfile %[2]s/broker.pem
keyfile %[2]s/broker.key
require_certificate true
`, s.port, s.dir))
	s.launch(t, s.dir, []string{mosquittoPath(t), "-c", conf})
	return s
}

// identify gives broker and agent new certificates of an authority, and a new
// password.
func (s *secureBroker) identify(t testing.TB, a *authority, password string) {
	t.Helper()
	a.issue(t, s.dir, "broker")
	a.issue(t, s.dir, "agent")
	writeFile(t, filepath.Join(s.dir, "broker-ca.pem"), a.pem)
	writeFile(t, filepath.Join(s.dir, "agent-ca.pem"), a.pem)
	writeFile(t, filepath.Join(s.dir, "password"), password+"\n")
	_ = os.Remove(filepath.Join(s.dir, "passwd"))
	if out, err := exec.Command("mosquitto_passwd", "-c", "-b", filepath.Join(s.dir, "passwd"), "gw", password).CombinedOutput(); err != nil {
		t.Fatalf("mosquitto_passwd: %v: %s", err, out)
	}
}

// source is the agent's side.
func (s *secureBroker) source() mqttSource {
	file := func(name string) string { return filepath.Join(s.dir, name) }
	return mqttSource{server: "ssl://" + loopback(s.port), extra: fmt.Sprintf("username: gw\npassword: %q\ntls: { ca: %q, cert: %q, key: %q }\n",
		"${file:"+file("password")+"}", file("agent-ca.pem"), file("agent.pem"), file("agent.key"))}
}

// mqttCertificates exchanges certificates and password under a running agent:
// by garbage, which must change nothing, and by those of another authority, the
// only one that the broker then trusts.
func mqttCertificates(t *testing.T, k *kafka) {
	broker := startSecureBroker(t)
	p := newMQTTPlant(t, k, broker.mosquitto, broker.source())
	p.agent.startReady(t)
	publish(t, p.broker, 1, 0, 1000)

	writeFile(t, filepath.Join(broker.dir, "agent.pem"), "garbage")
	writeFile(t, filepath.Join(broker.dir, "agent-ca.pem"), "")
	p.reconnect(t)
	if s := p.status(t); !s.Up || !strings.Contains(s.LastError, "the one read before stays in use") || !strings.Contains(s.LastError, "agent.pem") {
		t.Errorf("with a bad file: %+v", s)
	}
	publish(t, p.broker, 1, 1000, 2000)

	broker.identify(t, newAuthority(t), "second")
	p.reconnect(t)
	publish(t, p.broker, 1, 2000, 3000)
	wantOnce(t, p.settle(t, 3000))
	if log := p.agent.proc.log(); strings.Contains(log, "second") || strings.Contains(log, "PRIVATE KEY") {
		t.Error("the agent's log shows a secret")
	}
	p.wantNothingWaiting(t)
}

// reconnect restarts the broker and waits until the agent reads it again.
func (p *plant) reconnect(t testing.TB) {
	t.Helper()
	before := p.broker.connects(clientID)
	p.broker.stop(t)
	p.broker.again(t)
	p.awaitConnect(t, before)
	waitFor(t, "the agent's /readyz", func() bool { return p.agent.get("/readyz") == nil }, p.agent.proc)
}
