package mqtt

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"sluice/drivers"
)

// Limits of Probe.
const (
	probeTime    = 10 * time.Second    // for one server
	expiresSoon  = 30 * 24 * time.Hour // a certificate's end that is worth a warning
	probeSuffix  = "-probe"            // of the client id, and of the group of a shared subscription
	notGranted   = -1                  // FilterProbe.Granted of a filter that was refused or not answered
	maxBrokerTag = 128                 // bytes of what a broker says of itself
)

// ProbeResult is what Probe found out. It holds no secret.
type ProbeResult struct {
	ClientID string        `json:"client_id"`       // the one that was used, not the source's own
	Error    string        `json:"error,omitempty"` // why nothing could be tried: the config is invalid
	Servers  []ServerProbe `json:"servers"`         // in the order of the config
}

// ServerProbe is one server.
type ServerProbe struct {
	Server     string        `json:"server"`
	Reachable  bool          `json:"reachable"` // something took the connection
	TLS        *TLSProbe     `json:"tls,omitempty"`
	Authorised bool          `json:"authorised"` // the broker took client id, user and password
	Broker     string        `json:"broker,omitempty"`
	Filters    []FilterProbe `json:"filters,omitempty"`  // in the order of the config, once authorised
	Warnings   []string      `json:"warnings,omitempty"` // what works and may lose messages
	Error      string        `json:"error,omitempty"`    // what does not work, and what to look at
}

// TLSProbe is the server's certificate; also of one that is not trusted.
type TLSProbe struct {
	OK      bool      `json:"ok"` // it is trusted, or insecure_skip_verify is set
	Version string    `json:"version,omitempty"`
	Subject string    `json:"subject,omitempty"`
	Issuer  string    `json:"issuer,omitempty"`
	Names   []string  `json:"names,omitempty"` // DNS names and addresses it is for
	Expires time.Time `json:"expires,omitzero"`
}

// FilterProbe is the answer to one subscription.
type FilterProbe struct {
	Filter  string `json:"filter"`
	Class   string `json:"class"`
	Asked   byte   `json:"asked"`   // QoS
	Granted int    `json:"granted"` // QoS; -1: refused, or no answer
}

// OK says whether every server can be read with every filter. Warnings do not
// count.
func (r ProbeResult) OK() bool {
	if r.Error != "" || len(r.Servers) == 0 {
		return false
	}
	for _, s := range r.Servers {
		if s.Error != "" {
			return false
		}
	}
	return true
}

// Probe connects once to each server of cfg and asks for each filter. It uses
// a clean session under another client id (that of cfg and "-probe"), and another
// group for shared subscriptions, so that it takes neither the session nor
// a message from a source that runs; what it is sent is thrown away, and cfg.Sink
// may be nil. A server takes 10 s at most, one comes after the other. A broker
// that ties rights to the client id may refuse the probe and allow the source.
func Probe(ctx context.Context, cfg Config) ProbeResult {
	cfg = cfg.withDefaults()
	if cfg.Sink == nil {
		cfg.Sink = noSink{}
	}
	r := ProbeResult{ClientID: cfg.ClientID + probeSuffix, Servers: []ServerProbe{}}
	if err := cfg.validate(); err != nil {
		r.Error = err.Error()
		return r
	}
	cfg.ClientID = r.ClientID
	for _, server := range cfg.Servers {
		u, err := parseServer(server)
		if err != nil { // validate has seen to it
			r.Error = err.Error()
			return r
		}
		r.Servers = append(r.Servers, probeServer(ctx, cfg, u))
	}
	return r
}

// noSink stands in for a sink that is never used.
type noSink struct{}

func (noSink) Append(context.Context, drivers.Event, func(error)) error {
	return errors.New("a probe stores nothing")
}

func probeServer(ctx context.Context, cfg Config, server *url.URL) ServerProbe {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	p := ServerProbe{Server: server.String()}
	config, err := p.tlsConfig(cfg, server)
	if err == nil {
		err = p.talk(ctx, cfg, server, config)
	}
	if err != nil {
		p.Error = explain(err)
	}
	for _, f := range p.Filters {
		if f.Granted == notGranted && p.Error == "" {
			p.Error = fmt.Sprintf("the broker refuses the filter %q: may this user read it?", f.Filter)
		}
	}
	p.warn(time.Now())
	return p
}

// tlsConfig gives settings that note the server's certificate; nil without TLS.
func (p *ServerProbe) tlsConfig(cfg Config, server *url.URL) (*tls.Config, error) {
	if !secure(server) {
		if cfg.TLS != nil {
			p.Warnings = append(p.Warnings, "tls has no effect on "+server.Scheme+"://: what is sent, the password too, can be read on the way (ssl:// and wss:// have TLS)")
		}
		return nil, nil
	}
	p.TLS = &TLSProbe{}
	config := &tls.Config{}
	if cfg.TLS != nil {
		given, err := cfg.TLS()
		if given == nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
		if err != nil {
			p.Warnings = append(p.Warnings, fmt.Sprintf("tls: %v", err))
		}
		config = given.Clone()
	}
	config.VerifyConnection = func(state tls.ConnectionState) error {
		p.TLS.OK, p.TLS.Version = true, tls.VersionName(state.Version)
		if len(state.PeerCertificates) > 0 {
			p.TLS.show(state.PeerCertificates[0])
		}
		if config.InsecureSkipVerify {
			p.Warnings = append(p.Warnings, "insecure_skip_verify is set: anybody can stand in for this broker")
		}
		return nil
	}
	return config, nil
}

func (t *TLSProbe) show(cert *x509.Certificate) {
	t.Subject, t.Issuer, t.Expires = cert.Subject.String(), cert.Issuer.String(), cert.NotAfter
	t.Names = append([]string(nil), cert.DNSNames...)
	for _, ip := range cert.IPAddresses {
		t.Names = append(t.Names, ip.String())
	}
}

// talk connects, subscribes and looks around. What it found before an error is in p.
func (p *ServerProbe) talk(ctx context.Context, cfg Config, server *url.URL, config *tls.Config) error {
	nc, err := dial(ctx, server, config)
	if err != nil {
		var untrusted *tls.CertificateVerificationError
		if errors.As(err, &untrusted) && len(untrusted.UnverifiedCertificates) > 0 {
			p.TLS.show(untrusted.UnverifiedCertificates[0])
		}
		var socket *net.OpError
		p.Reachable = !errors.As(err, &socket) || socket.Op != "dial" // it failed later
		return err
	}
	defer nc.Close()
	defer context.AfterFunc(ctx, func() { _ = nc.Close() })()
	p.Reachable = true
	v := newVisit(nc)
	defer v.leave()
	if err = v.connect(cfg); err == nil {
		p.Authorised = true
		err = p.look(v, cfg.Subscriptions)
	}
	if ctx.Err() != nil {
		return ctx.Err() // it closed the connection
	}
	if code := explainConnack(err); err != nil && code != "" {
		return fmt.Errorf("%s (the probe uses the client_id %q)", code, cfg.ClientID)
	}
	return err
}

// look asks for each filter, and for what a broker says of itself.
func (p *ServerProbe) look(v *visit, subs []Subscription) error {
	for _, sub := range subs {
		p.Filters = append(p.Filters, FilterProbe{Filter: sub.Filter, Class: sub.Class, Asked: sub.QoS, Granted: notGranted})
	}
	for i := range p.Filters {
		code, err := v.subscribe(probeFilter(p.Filters[i].Filter), p.Filters[i].Asked)
		if err != nil {
			return fmt.Errorf("subscribe %q: %w", p.Filters[i].Filter, err)
		}
		if code <= maxGranted {
			p.Filters[i].Granted = int(code)
		}
	}
	if err := v.readSys(); err != nil {
		p.Warnings = append(p.Warnings, "the broker's own figures below $SYS cannot be read: "+explain(err))
	}
	p.Broker = v.sys[sysVersion]
	p.warnOfMosquitto(v.sys)
	return nil
}

// probeFilter is a filter under which a probe takes nothing from a group that
// shares its messages.
func probeFilter(filter string) string {
	if group, rest, ok := strings.Cut(strings.TrimPrefix(filter, "$share/"), "/"); ok && strings.HasPrefix(filter, "$share/") {
		return "$share/" + group + probeSuffix + "/" + rest
	}
	return filter
}
