package uplink

import (
	"crypto/tls"
	"strings"
	"testing"
	"time"
)

func validConfig() Config {
	return Config{Name: "central", Agent: "gw-17", Brokers: []string{"127.0.0.1:9092"}, Reader: newMemLog()}
}

func TestNewSaysWhatIsWrong(t *testing.T) {
	password := func() (string, error) { return "geheim", nil }
	tests := []struct {
		name   string
		change func(*Config)
		want   string // empty: accepted
	}{
		{"defaults", func(*Config) {}, ""},
		{"tls", func(c *Config) { c.TLS = fixedTLS(&tls.Config{MinVersion: tls.VersionTLS12}) }, ""},
		{"login", func(c *Config) { c.SASL = SASL{Mechanism: "plain", Username: "gw", Password: password} }, ""},
		{"smallest window", func(c *Config) { c.WindowBytes, c.WindowRecords = 64<<10, 1 }, ""},
		{"all placeholders", func(c *Config) {
			c.Labels = map[string]string{"site": "p7"}
			c.Topic = "{agent}.{class}.{source}.{device}.{label.site}.{mqtt.topic}.{mqtt.topic.2}"
		}, ""},
		{"no name", func(c *Config) { c.Name = "" }, "name is empty"},
		{"agent with a slash", func(c *Config) { c.Agent = "a/b" }, `agent "a/b" is not allowed`},
		{"no reader", func(c *Config) { c.Reader = nil }, "reader is missing"},
		{"no brokers", func(c *Config) { c.Brokers = nil }, "brokers is empty"},
		{"broker without a port", func(c *Config) { c.Brokers = []string{"kafka"} }, `brokers[0] "kafka": not host:port`},
		{"broker with a bad port", func(c *Config) { c.Brokers = []string{"a:1", "kafka:99999"} }, `brokers[1] "kafka:99999": port "99999"`},
		{"a rate of a few bytes", func(c *Config) { c.MaxRate = 100 }, "max rate 100 is out of range (1024 to"},
		{"a negative rate", func(c *Config) { c.MaxRate = -1 }, "max rate -1 is out of range"},
		{"unknown compression", func(c *Config) { c.Compression = "brotli" }, "(none, gzip, snappy, lz4, zstd)"},
		{"window too small", func(c *Config) { c.WindowBytes = 1000 }, "window bytes 1000 are out of range (65536 to"},
		{"negative window", func(c *Config) { c.WindowRecords = -1 }, "window records -1 are out of range (1 to 1000000)"},
		{"oauthbearer", func(c *Config) { c.SASL = SASL{Mechanism: "oauthbearer"} }, "sasl.token is missing"},
		{"unknown mechanism", func(c *Config) { c.SASL = SASL{Mechanism: "gssapi", Username: "gw", Password: password} }, `sasl.mechanism "gssapi" is unknown (plain`},
		{"user without mechanism", func(c *Config) { c.SASL = SASL{Mechanism: "", Username: "gw", Password: password} }, "sasl.mechanism is missing"},
		{"mechanism without user", func(c *Config) { c.SASL = SASL{Mechanism: "plain", Username: "", Password: password} }, "sasl.username is empty"},
		{"mechanism without password", func(c *Config) { c.SASL = SASL{Mechanism: "plain", Username: "gw", Password: nil} }, "sasl.password is missing"},
		{"unknown placeholder", func(c *Config) { c.Topic = "a.{host}" }, `topic "a.{host}": {host} is unknown (allowed: {agent} {class}`},
		{"label that is not set", func(c *Config) { c.Key = "{label.site}" }, `key "{label.site}": {label.site}: the agent has no label "site"`},
		{"level zero", func(c *Config) { c.Topic = "{mqtt.topic.0}" }, `"0" is not a level (1 to 128)`},
		{"open brace", func(c *Config) { c.Topic = "a.{class" }, "a { without a } after it"},
		{"closing brace", func(c *Config) { c.Topic = "a.}class" }, "a } without a { before it"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := validConfig()
			tt.change(&cfg)
			_, err := New(cfg)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error %v, want %q", err, tt.want)
			case err != nil && strings.Contains(err.Error(), "geheim"):
				t.Errorf("the password is in %v", err)
			}
		})
	}
}

func TestNewSaysEverythingAtOnce(t *testing.T) {
	_, err := New(Config{Topic: "{x}", Key: "{y}", Compression: "z", WindowBytes: 1, WindowRecords: -1, SASL: SASL{Mechanism: "m"}})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"name", "agent", "reader", "brokers", "{x}", "{y}", "compression", "bytes", "records", "mechanism"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
}

func TestBackoffStaysInItsBounds(t *testing.T) {
	for n := range 100 {
		if d := backoff(n, time.Second, 10*time.Second); d < time.Second/2 || d > 10*time.Second {
			t.Errorf("attempt %d: %s", n, d)
		}
		if d := jitter(8 * time.Second); d < 6*time.Second || d > 10*time.Second {
			t.Errorf("jitter: %s", d)
		}
	}
}
