package agent

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"sluice/agent/config"
)

// tlsFiles are the TLS settings of a connection, whose files may be exchanged
// while the agent runs. A file that cannot be used does no harm: what was read
// before stays in use. It may be used by many goroutines.
type tlsFiles struct {
	cfg *config.TLS
	log *slog.Logger

	mu    sync.Mutex
	said  string           // the last complaint in the log
	roots *x509.CertPool   // nil: the system's
	pair  *tls.Certificate // nil: no client certificate
}

// clientTLS reads the files of a connection's TLS settings; nil for none. Here
// all of them must be good. log gets what current can't return.
func clientTLS(c *config.TLS, log *slog.Logger) (*tlsFiles, error) {
	if c == nil {
		return nil, nil
	}
	if (c.Cert == "") != (c.Key == "") {
		return nil, errors.New("cert and key belong together: one of them is missing")
	}
	f := &tlsFiles{cfg: c, log: log}
	return f, f.read()
}

// connect reads the files again and returns the settings for one connection. With
// an error, which names the file, they hold what was read before in its place.
func (f *tlsFiles) connect() (*tls.Config, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.read()
	if err != nil {
		err = fmt.Errorf("%w (the one read before stays in use)", err)
	}
	return f.config(), err
}

// TLS returns settings that are read again at each call, for each connect; nil
// where c is. Here all files must be good; what is wrong with a later one is logged,
// and what was read before stays in use.
func TLS(c *config.TLS, log *slog.Logger) (func() (*tls.Config, error), error) {
	f, err := clientTLS(c, log)
	if f == nil || err != nil {
		return nil, err
	}
	return f.current, nil
}

// current is connect for who has nowhere to show the error: what is wrong with a
// file is logged, once until it is another thing.
func (f *tlsFiles) current() (*tls.Config, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.complain(f.read())
	return f.config(), nil
}

// complain logs what is wrong with a file, once until it is another thing.
func (f *tlsFiles) complain(err error) {
	if err == nil {
		f.said = ""
	} else if said := err.Error(); said != f.said {
		f.said = said
		f.log.Warn("tls: what was read before stays in use", "error", err)
	}
}

// config makes settings of what was read. The certificate is sent whatever
// authorities the server names, so that it is the server that says why it
// refuses one.
func (f *tlsFiles) config() *tls.Config {
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: f.cfg.ServerName, InsecureSkipVerify: f.cfg.InsecureSkipVerify, RootCAs: f.roots}
	if pair := f.pair; pair != nil {
		t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair, nil }
	}
	return t
}

// read takes what is good in the files; its error, of one line, names the others.
func (f *tlsFiles) read() error {
	roots, pair := f.readRoots(), f.readPair()
	if roots != nil && pair != nil {
		return fmt.Errorf("%w; %w", roots, pair)
	}
	return errors.Join(roots, pair)
}

func (f *tlsFiles) readRoots() error {
	if f.cfg.CA == "" {
		return nil
	}
	pem, err := os.ReadFile(f.cfg.CA)
	if err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("ca: %s holds no PEM certificate", f.cfg.CA)
	}
	f.roots = roots
	return nil
}

func (f *tlsFiles) readPair() error {
	if f.cfg.Cert == "" {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(f.cfg.Cert, f.cfg.Key)
	if err != nil {
		return fmt.Errorf("cert %s, key %s: %w", f.cfg.Cert, f.cfg.Key, err)
	}
	f.pair = &pair
	return nil
}
