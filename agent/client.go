package agent

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/agent/config"
	"sluice/uplink"
	"sluice/uplink/oauth"
)

// Login is what the config says about the login at a cluster; a nil s has none.
// Secrets are read when they are needed, and tokens are kept as long as they are
// good. log gets what goes wrong meanwhile.
func Login(s *config.SASL, log *slog.Logger) (uplink.SASL, error) {
	switch {
	case s == nil:
		return uplink.SASL{}, nil
	case s.Mechanism != "oauthbearer":
		return uplink.SASL{Mechanism: s.Mechanism, Username: s.Username, Password: s.Password.Value}, nil
	}
	l := uplink.SASL{Mechanism: s.Mechanism, Extensions: s.Extensions}
	if s.Token.IsSet() {
		l.Token = func(context.Context) (string, error) {
			text, err := s.Token.Value()
			if err == nil {
				err = oauth.Check(text)
			}
			if err != nil {
				return "", fmt.Errorf("sasl.token: %w", err)
			}
			return text, nil
		}
		return l, nil
	}
	tls, err := TLS(s.TLS, log)
	if err != nil {
		return uplink.SASL{}, fmt.Errorf("tls: %w", err)
	}
	tokens, err := oauth.New(oauth.Config{URL: s.TokenURL, ClientID: s.ClientID, Secret: s.ClientSecret.Value, Scope: s.Scope, TLS: tls, Log: log})
	if err != nil {
		return uplink.SASL{}, err
	}
	l.Token = tokens.Token
	return l, nil
}

// KafkaOptions are the options of a Kafka client that reaches the cluster of an
// uplink of the config, for tools beside the agent. The error names the key that
// is wrong.
func KafkaOptions(cfg *config.Config, name string) ([]kgo.Opt, error) {
	return kafkaOptions(cfg, name, nil)
}

// kafkaOptions are those of a client that shares a spread with the agent's others;
// nil: of one that tries as often as it likes.
func kafkaOptions(cfg *config.Config, name string, spreads *spreads) ([]kgo.Opt, error) {
	u := cfg.Uplink(name)
	if u == nil || u.Kafka == nil {
		return nil, fmt.Errorf("uplinks.%s is not there", name)
	}
	c, err := uplinkConfig(cfg, u, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, fmt.Errorf("uplinks.%s.%w", name, err)
	}
	if spreads != nil {
		c.Spread = spreads.of(u)
	}
	return c.ClientOptions()
}

// spreads are those of the clusters that uplinks go to. They outlive uplinks, which
// are made anew when the config changes. Any goroutine may use them.
type spreads struct {
	mu  sync.Mutex
	all map[string]*uplink.Spread
}

// of is the spread of the cluster of an uplink. Other brokers have another one: that
// those before are away says nothing of them.
func (g *spreads) of(u *config.Uplink) *uplink.Spread {
	g.mu.Lock()
	defer g.mu.Unlock()
	key := u.Name + " " + strings.Join(u.Kafka.Brokers, " ")
	if g.all[key] == nil {
		if g.all == nil {
			g.all = map[string]*uplink.Spread{}
		}
		g.all[key] = &uplink.Spread{Brokers: len(u.Kafka.Brokers)}
	}
	return g.all[key]
}
