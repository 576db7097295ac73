package agent

import (
	"fmt"
	"log/slog"

	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/agent/config"
)

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
