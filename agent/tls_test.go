package agent

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice/agent/config"
)

// identity is a certificate that signs itself, in PEM.
type identity struct{ cert, key []byte }

func newIdentity(t *testing.T, name string) identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return identity{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})}
}

// tlsDir holds the files of one connection.
type tlsDir struct {
	t *testing.T
	config.TLS
}

func newTLSDir(t *testing.T, id identity) *tlsDir {
	dir := t.TempDir()
	d := &tlsDir{t, config.TLS{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}}
	d.put(d.CA, id.cert)
	d.put(d.Cert, id.cert)
	d.put(d.Key, id.key)
	return d
}

func (d *tlsDir) put(path string, text []byte) {
	d.t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// wantTLS requires the authority and the client certificate.
func wantTLS(t *testing.T, got *tls.Config, ca, cert identity) {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.cert)
	if !got.RootCAs.Equal(roots) {
		t.Error("the authorities are not those wanted")
	}
	pair, err := got.GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	if block, _ := pem.Decode(cert.cert); !bytes.Equal(pair.Certificate[0], block.Bytes) {
		t.Error("the client certificate is not the one wanted")
	}
}

func TestExchangedCertificatesAreUsedAtTheNextConnect(t *testing.T) {
	old, fresh := newIdentity(t, "old"), newIdentity(t, "new")
	for _, c := range []struct {
		name     string
		exchange func(d *tlsDir)
		ca, cert identity
		says     []string // parts of the complaint; none: all is well
	}{
		{"nothing", func(*tlsDir) {}, old, old, nil},
		{"all of them", func(d *tlsDir) { d.put(d.CA, fresh.cert); d.put(d.Cert, fresh.cert); d.put(d.Key, fresh.key) }, fresh, fresh, nil},
		{"the authority alone", func(d *tlsDir) { d.put(d.CA, fresh.cert) }, fresh, old, nil},
		{"the authority, by garbage", func(d *tlsDir) { d.put(d.CA, []byte("garbage")) }, old, old, []string{"ca: ", "ca.pem holds no PEM certificate", "read before stays in use"}},
		{"the authority, by nothing", func(d *tlsDir) { _ = os.Remove(d.CA) }, old, old, []string{"ca: open", "ca.pem: no such file"}},
		{"the certificate, by garbage", func(d *tlsDir) { d.put(d.Cert, []byte("garbage")) }, old, old, []string{"cert.pem", "failed to find any PEM data"}},
		{"the certificate, the key not yet", func(d *tlsDir) { d.put(d.CA, fresh.cert); d.put(d.Cert, fresh.cert) }, fresh, old, []string{"private key does not match"}},
		{"all of them, by nothing", func(d *tlsDir) { d.put(d.CA, nil); d.put(d.Cert, nil); d.put(d.Key, nil) }, old, old, []string{"ca.pem", "cert.pem"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newTLSDir(t, old)
			f, err := clientTLS(&d.TLS, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			c.exchange(d)
			got, err := f.connect()
			if (err != nil) != (c.says != nil) {
				t.Fatalf("error %v", err)
			}
			for _, want := range c.says {
				if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
					t.Errorf("%q lacks %q, or is not one line", err, want)
				}
			}
			wantTLS(t, got, c.ca, c.cert)
			now, err := f.current()
			if err != nil {
				t.Fatal(err)
			}
			wantTLS(t, now, c.ca, c.cert)
		})
	}
}

func TestABadCertificateIsSaidOnce(t *testing.T) {
	old := newIdentity(t, "old")
	d := newTLSDir(t, old)
	var log bytes.Buffer
	f, err := clientTLS(&d.TLS, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	want := func(ca, cert identity) {
		t.Helper()
		now, err := f.current()
		if err != nil {
			t.Fatal(err)
		}
		wantTLS(t, now, ca, cert)
	}
	d.put(d.Cert, []byte("garbage"))
	for range 3 {
		want(old, old)
	}
	if got := log.String(); strings.Count(got, "what was read before stays in use") != 1 || !strings.Contains(got, "cert.pem") {
		t.Errorf("the log says %q", got)
	}
	fresh := newIdentity(t, "new")
	d.put(d.Cert, fresh.cert)
	d.put(d.Key, fresh.key)
	want(old, fresh)
}

func TestBadCertificatesAtTheStartAreAnError(t *testing.T) {
	d := newTLSDir(t, newIdentity(t, "old"))
	d.put(d.Key, []byte("garbage"))
	if _, err := clientTLS(&d.TLS, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "key.pem") {
		t.Errorf("error %v", err)
	}
	d.Key = ""
	if _, err := clientTLS(&d.TLS, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "one of them is missing") {
		t.Errorf("error %v", err)
	}
	if f, err := TLS(nil, nil); f != nil || err != nil {
		t.Errorf("settings for no TLS (%v)", err)
	}
}
