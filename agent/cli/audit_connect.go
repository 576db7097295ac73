package cli

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"

	"sluice/agent"
	"sluice/agent/config"
	"sluice/uplink/audit"
)

// auditLogin are the flags that say how to connect.
type auditLogin struct {
	tls                           bool
	ca, cert, key, serverName     string
	mechanism, username, password string // password: the file
	token                         string // the file
}

func (l *auditLogin) define(f *flag.FlagSet) {
	f.BoolVar(&l.tls, "tls", false, "connect by TLS, with the authorities of this machine")
	f.StringVar(&l.ca, "tls-ca", "", "PEM `file` of the authorities to trust; implies --tls")
	f.StringVar(&l.cert, "tls-cert", "", "PEM `file` of the client's certificate, with --tls-key")
	f.StringVar(&l.key, "tls-key", "", "PEM `file` of the client's key")
	f.StringVar(&l.serverName, "tls-server-name", "", "`name` that the brokers' certificates hold (default: each broker's host)")
	f.StringVar(&l.mechanism, "sasl-mechanism", "", "`mechanism`: plain, scram-sha-256, scram-sha-512 or oauthbearer")
	f.StringVar(&l.username, "username", "", "`name` to log in with")
	f.StringVar(&l.password, "password-file", "", "`file` with the password; it is read at each login")
	f.StringVar(&l.token, "token-file", "", "`file` with the token of oauthbearer; it is read at each login")
}

// sources are the clusters that the flags name, and those of the uplinks of the
// config. Without --topic the uplinks' topics become patterns.
func (o *auditOptions) sources(c *call, topics *[]string) (all []audit.Cluster, err error) {
	usage := func(err error) error { return usageError{fmt.Errorf("audit: %w", err)} }
	if len(o.uplinks) > 0 {
		if all, err = o.fromConfig(c, topics); err != nil {
			return nil, err
		}
	}
	t, err := o.login.tlsConfig()
	if err != nil {
		return nil, usage(err)
	}
	login, err := o.login.sasl()
	if err != nil {
		return nil, usage(err)
	}
	if len(o.clusters) == 0 && (t != nil || login.Mechanism != "") {
		return nil, usage(errors.New("--tls… and --sasl… go with --brokers; an uplink of the config has its own"))
	}
	for _, brokers := range o.clusters {
		var list listFlag
		if err := list.Set(brokers); err != nil {
			return nil, usage(fmt.Errorf("--brokers %q: %w", brokers, err))
		}
		for _, b := range list {
			if host, port, err := net.SplitHostPort(b); err != nil || host == "" || port == "" {
				return nil, usage(fmt.Errorf("--brokers %q is not host:port", b))
			}
		}
		all = append(all, audit.Cluster{Brokers: list, TLS: t, Login: login})
	}
	return all, nil
}

func (o *auditOptions) fromConfig(c *call, topics *[]string) (all []audit.Cluster, err error) {
	cfg, err := config.Load(c.file, config.Options{Env: c.Env, Tool: true})
	if err != nil {
		return nil, err
	}
	for _, name := range o.uplinks {
		u := cfg.Uplink(name)
		if u == nil || u.Kafka == nil {
			var names []string
			for _, u := range cfg.Uplinks {
				names = append(names, u.Name)
			}
			return nil, usageError{fmt.Errorf("audit: %s has no uplink %q (%s)", c.file, name, strings.Join(names, ", "))}
		}
		cluster := audit.Cluster{Brokers: u.Kafka.Brokers}
		if u.Kafka.TLS != nil {
			if cluster.TLS, err = auditTLS(u.Kafka.TLS); err != nil {
				return nil, fmt.Errorf("uplinks.%s.kafka.tls: %w", name, err)
			}
		}
		l, err := agent.Login(u.Kafka.SASL, slog.New(slog.DiscardHandler))
		if err != nil {
			return nil, fmt.Errorf("uplinks.%s.kafka.sasl.%w", name, err)
		}
		cluster.Login = audit.Login{Mechanism: l.Mechanism, Username: l.Username, Password: l.Password, Token: l.Token, Extensions: l.Extensions}
		all = append(all, cluster)
		if len(o.topics) == 0 && !slices.Contains(*topics, u.Kafka.Topic) { // it is a pattern, so that other agents' topics are found, too
			*topics = append(*topics, u.Kafka.Topic)
		}
	}
	return all, nil
}

func (l *auditLogin) tlsConfig() (*tls.Config, error) {
	if !l.tls && cmp.Or(l.ca, l.cert, l.key, l.serverName) == "" {
		return nil, nil
	}
	return auditTLS(&config.TLS{CA: l.ca, Cert: l.cert, Key: l.key, ServerName: l.serverName})
}

// auditTLS reads the files of a connection's TLS settings once: an audit lives
// shorter than a certificate.
func auditTLS(c *config.TLS) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.ServerName, InsecureSkipVerify: c.InsecureSkipVerify}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fmt.Errorf("authorities: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no PEM certificate", c.CA)
		}
	}
	if c.Cert != "" || c.Key != "" {
		pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, fmt.Errorf("client certificate %q, key %q: %w", c.Cert, c.Key, err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

func (l *auditLogin) sasl() (audit.Login, error) {
	switch {
	case l.mechanism == "" && cmp.Or(l.username, l.password, l.token) == "":
		return audit.Login{}, nil
	case l.mechanism == "oauthbearer" && l.token != "" && cmp.Or(l.username, l.password) == "":
		if _, err := readSecret(l.token); err != nil {
			return audit.Login{}, fmt.Errorf("--token-file: %w", err)
		}
		return audit.Login{Mechanism: l.mechanism, Token: func(context.Context) (string, error) { return readSecret(l.token) }}, nil
	case l.mechanism == "oauthbearer" || l.token != "":
		return audit.Login{}, errors.New("a login with oauthbearer needs --token-file; client credentials are for uplinks of a config (-c, --uplink)")
	case l.mechanism == "" || l.username == "" || l.password == "":
		return audit.Login{}, errors.New("a login needs --sasl-mechanism, --username and --password-file")
	}
	if _, err := readSecret(l.password); err != nil {
		return audit.Login{}, fmt.Errorf("--password-file: %w", err)
	}
	return audit.Login{Mechanism: l.mechanism, Username: l.username, Password: func() (string, error) { return readSecret(l.password) }}, nil
}
