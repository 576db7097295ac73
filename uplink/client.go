package uplink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// ClientOptions returns what a Kafka client of another purpose needs to reach the
// cluster of the uplink in the same way: brokers, TLS, login. Of c it looks at
// Name, Agent, Brokers, TLS, SASL and Spread (nil: none), and says everything that is
// wrong with them. It connects to nothing.
func (c Config) ClientOptions() ([]kgo.Opt, error) {
	var errs []error
	if len(c.Brokers) == 0 {
		errs = append(errs, errors.New("brokers is empty (host:port of at least one)"))
	}
	for i, b := range c.Brokers {
		if err := checkBroker(b); err != nil {
			errs = append(errs, fmt.Errorf("brokers[%d] %q: %w", i, b, err))
		}
	}
	if err := errors.Join(append(errs, c.SASL.validate())...); err != nil {
		return nil, fmt.Errorf("uplink %q: %w", c.Name, err)
	}
	opts := []kgo.Opt{kgo.SeedBrokers(c.Brokers...), kgo.ClientID("sluice-" + c.Agent), kgo.DialTimeout(dialTimeout), kgo.DisableClientMetrics()}
	switch {
	case c.Spread != nil:
		opts = append(opts, kgo.Dialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
			return c.Spread.Dial(ctx, addr, func(ctx context.Context) (net.Conn, error) { return c.dialPlain(ctx, network, addr) })
		}))
	case c.TLS != nil:
		opts = append(opts, kgo.Dialer(c.dialPlain))
	}
	if c.SASL.Mechanism != "" {
		opts = append(opts, kgo.SASL(c.SASL.mechanism()))
	}
	return opts, nil
}

// dialPlain opens a connection, with TLS where that is asked for.
func (c Config) dialPlain(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	plain := net.Dialer{KeepAlive: 15 * time.Second}
	if c.TLS == nil {
		return plain.DialContext(ctx, network, addr)
	}
	config, err := c.tlsFor(addr)
	if err != nil {
		return nil, err
	}
	secure := tls.Dialer{NetDialer: &plain, Config: config}
	return secure.DialContext(ctx, network, addr)
}

// Explain says an error of a Kafka client in the words of somebody who can do
// something about it, in one line. The topic may be empty.
func Explain(err error, topic string) string { return explain(err, topic) }
