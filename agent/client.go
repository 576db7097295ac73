package agent

import (
	"context"
	"fmt"
	"log/slog"

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
	u := cfg.Uplink(name)
	if u == nil || u.Kafka == nil {
		return nil, fmt.Errorf("uplinks.%s is not there", name)
	}
	c, err := uplinkConfig(cfg, u, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, fmt.Errorf("uplinks.%s.%w", name, err)
	}
	return c.ClientOptions()
}
