package mqtt

import (
	"crypto/tls"
	"os"
	"strings"
	"testing"
	"time"
)

func TestNewNamesTheFieldAndTheBound(t *testing.T) {
	cases := []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"no name", func(c *Config) { c.Name = "" }, "name: is empty"},
		{"no sink", func(c *Config) { c.Sink = nil }, "sink: is nil"},
		{"no client id", func(c *Config) { c.ClientID = "" }, "client_id: 0 bytes (1 to 65535"},
		{"client id with NUL", func(c *Config) { c.ClientID = "a\x00" }, "client_id: 2 bytes"},
		{"password without user", func(c *Config) { c.Password = func() (string, error) { return "", nil } }, "password: needs a username"},
		{"no server", func(c *Config) { c.Servers = nil }, "servers: is empty"},
		{"unknown scheme", func(c *Config) { c.Servers = []string{"http://h:1"} }, `servers[0]: scheme "http" is unknown (tcp, ssl, ws, wss)`},
		{"no port", func(c *Config) { c.Servers = []string{"tcp://h"} }, "servers[0]: has no port"},
		{"no host", func(c *Config) { c.Servers = []string{"tcp://:1883"} }, "servers[0]: has no host"},
		{"path with tcp", func(c *Config) { c.Servers = []string{"tcp://h:1/x"} }, "servers[0]: has a path"},
		{"no URL", func(c *Config) { c.Servers = []string{"tcp://h:1", "tcp://h:port"} }, "servers[1]: is not a URL"},
		{"secret in the URL", func(c *Config) { c.Servers = []string{"tcp://u:geheim@h:1"} }, "servers[0]: holds a user name"},
		{"TLS that nothing uses", func(c *Config) { c.TLS = always(&tls.Config{}) }, "tls: is set, but no server uses it"},
		{"keep-alive too long", func(c *Config) { c.KeepAlive = 20 * time.Hour }, "keep_alive: 20h0m0s is out of range (1s to 18h12m15s)"},
		{"keep-alive negative", func(c *Config) { c.KeepAlive = -time.Second }, "keep_alive: -1s is out of range"},
		{"payload too large", func(c *Config) { c.MaxPayload = 1 << 28 }, "max_payload: 268435456 bytes is out of range (1 to 268435455)"},
		{"queue smaller than a payload", func(c *Config) { c.QueueBytes = 10 }, "queue bytes: 10 is less than max_payload"},
		{"negative queue", func(c *Config) { c.QueueCount = -1 }, "queue count: -1"},
		{"retry backwards", func(c *Config) { c.RetryMin, c.RetryMax = 2, 1 }, "retry: 2ns to 1ns"},
		{"unknown decode", func(c *Config) { c.Decode = "xml" }, `decode: "xml" is unknown (raw, json, sparkplug_b)`},
		{"a part of Sparkplug", func(c *Config) {
			c.Decode, c.Subscriptions[0].Filter = DecodeSparkplug, "$share/g/spBv1.0/#"
		}, `subscribe[0].filter: "$share/g/spBv1.0/#" is shared`},
		{"negative names", func(c *Config) { c.NameBytes = -1 }, "name bytes: -1 is out of range"},
		{"no subscription", func(c *Config) { c.Subscriptions = nil }, "subscribe: is empty"},
		{"QoS 3", func(c *Config) { c.Subscriptions[0].QoS = 3 }, "subscribe[0].qos: 3 is out of range"},
		{"no class", func(c *Config) { c.Subscriptions[0].Class = "" }, "subscribe[0].class: is empty"},
		{"filter twice", func(c *Config) { c.Subscriptions = append(c.Subscriptions, c.Subscriptions[0]) }, "subscribe[1].filter: \"plant/#\" is subscribe[0] again"},
		{"empty filter", func(c *Config) { c.Subscriptions[0].Filter = "" }, "subscribe[0].filter: is empty"},
		{"# not last", func(c *Config) { c.Subscriptions[0].Filter = "a/#/b" }, "# must be the last level"},
		{"# within a level", func(c *Config) { c.Subscriptions[0].Filter = "a/b#" }, "a wildcard must be a level of its own"},
		{"+ within a level", func(c *Config) { c.Subscriptions[0].Filter = "a/b+" }, "a wildcard must be a level of its own"},
		{"share without filter", func(c *Config) { c.Subscriptions[0].Filter = "$share/g" }, "is not a shared subscription"},
		{"share with empty filter", func(c *Config) { c.Subscriptions[0].Filter = "$share/g/" }, "subscribe[0].filter: is empty"},
		{"share with wildcard group", func(c *Config) { c.Subscriptions[0].Filter = "$share/+/a" }, "is not a shared subscription"},
		{"filter not UTF-8", func(c *Config) { c.Subscriptions[0].Filter = "\xff" }, "bytes of UTF-8"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			cfg := baseConfig(&testSink{}, "tcp://127.0.0.1:1883")
			tc.change(&cfg)
			_, err := New(cfg)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error %v, want %q", err, tc.want)
			}
			if strings.Contains(err.Error(), "geheim") {
				t.Error("the error shows the password")
			}
		})
	}
}

func TestNewReportsEverythingAtOnce(t *testing.T) {
	_, err := New(Config{Decode: "xml"})
	for _, want := range []string{"name:", "sink:", "client_id:", "servers:", "decode:", "subscribe:"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v lacks %q", err, want)
		}
	}
}

func TestDefaults(t *testing.T) {
	src, err := New(baseConfig(&testSink{}, "tcp://127.0.0.1:1883"))
	if err != nil {
		t.Fatal(err)
	}
	c := src.cfg
	if c.KeepAlive != 30*time.Second || c.MaxPayload != 1<<20 || c.QueueCount != 4096 || c.QueueBytes != 4<<20 || c.Decode != DecodeRaw {
		t.Errorf("defaults: %+v", c)
	}
	st := src.Stats()
	if st.Up || st.State != "not started" {
		t.Errorf("before Run: %+v", st)
	}
	if _, ok := st.Taken["process"]; !ok || len(st.Rejected) != 7 {
		t.Errorf("not all counters are there from the start: %+v", st)
	}
}

func TestMostSpecificFilterDecides(t *testing.T) {
	routes := newTopics([]Subscription{
		{Filter: "#", Class: "all"},
		{Filter: "plant/#", Class: "plant"},
		{Filter: "plant/+/alarm", Class: "alarm"},
		{Filter: "plant/m1/#", Class: "m1"},
		{Filter: "plant/m1/data", Class: "data"},
		{Filter: "$share/g/line/+", Class: "shared"},
		{Filter: "+/+/+/+", Class: "deep"},
		{Filter: "$SYS/broker/#", Class: "sys"},
		{Filter: "/", Class: "slash"},
	})
	cases := []struct{ topic, class string }{
		{"x", "all"},
		{"x/y", "all"},
		{"plant", "plant"},
		{"plant/m2/data", "plant"},
		{"plant/m2/alarm", "alarm"},
		{"plant/m1/alarm", "m1"},
		{"plant/m1", "m1"},
		{"plant/m1/data", "data"},
		{"plant/m1/data/x", "m1"},
		{"line/a", "shared"},
		{"line/a/b", "all"},
		{"a/b/c/d", "deep"},
		{"a/b/c/d/e", "all"},
		{"/", "slash"},
		{"$SYS/broker/load", "sys"},
	}
	for _, tc := range cases {
		for range 2 { // found, then remembered
			got, reason := routes.resolve([]byte(tc.topic))
			if reason != "" || got.class != tc.class || got.name != tc.topic {
				t.Errorf("%s: %+v %s, want class %s", tc.topic, got, reason, tc.class)
			}
		}
	}
	if _, reason := routes.resolve([]byte("$SYS/other")); reason != reasonRoute {
		t.Errorf("a wildcard took a $ topic: %q", reason)
	}
}

func TestReadmeShowsTheSample(t *testing.T) {
	sample, err := os.ReadFile("sample.yaml")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), "```yaml\n"+string(sample)+"```") {
		t.Error("README.md does not show sample.yaml as it is")
	}
}
