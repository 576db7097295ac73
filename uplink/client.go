package uplink

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"
)

// ClientOptions returns what a Kafka client of another purpose needs to reach the
// cluster of the uplink in the same way: brokers, TLS, login. Of c it looks at
// Name, Agent, Brokers, TLS and SASL, and says everything that is wrong with
// them. It connects to nothing.
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
	if c.TLS != nil {
		opts = append(opts, kgo.DialTLSConfig(c.TLS.Clone()))
	}
	if c.SASL.Mechanism != "" {
		opts = append(opts, kgo.SASL(c.SASL.mechanism()))
	}
	return opts, nil
}

// Explain says an error of a Kafka client in the words of somebody who can do
// something about it, in one line. The topic may be empty.
func Explain(err error, topic string) string { return explain(err, topic) }
