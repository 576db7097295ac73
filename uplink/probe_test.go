package uplink

import (
	"crypto/tls"
	"crypto/x509"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"sluice/drivers"
)

// probed runs Probe and returns its checks by what they are about.
func probed(t *testing.T, cfg Config, largest int64) map[string]Check {
	t.Helper()
	cfg.Name, cfg.Agent = "central", "gw"
	checks, err := Probe(t.Context(), cfg, []drivers.Event{
		{Class: "process", Source: "line", Type: drivers.TypeMQTTMessage}, {Class: "alarm", Source: "bus", Device: "meter", Type: drivers.TypeModbusReading},
	}, largest)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]Check{}
	for _, c := range checks {
		out[c.What] = c
	}
	return out
}

// check asks for one check's verdict and words.
func (c Check) is(t *testing.T, ok, warning bool, detail string) {
	t.Helper()
	if c.OK != ok || c.Warning != warning || !strings.Contains(c.Detail, detail) {
		t.Errorf("%+v, want ok %v, warning %v, %q", c, ok, warning, detail)
	}
}

func TestProbe(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(2, "sluice.process"), kfake.NumBrokers(3))
	got := probed(t, Config{Brokers: append(c.ListenAddrs()[:1:1], "127.0.0.1:1")}, 0)
	got["broker "+c.ListenAddrs()[0]].is(t, true, false, "3 brokers in the cluster")
	got["broker 127.0.0.1:1"].is(t, false, false, "connection refused: is Kafka running there?")
	got["producer"].is(t, true, false, "may write")
	got["topic sluice.process"].is(t, true, true, "2 partitions, 3 copies; min.insync.replicas is 1")
	got["topic sluice.alarm"].is(t, true, true, "does not exist")
	if info := c.TopicInfo("sluice.alarm"); info != nil {
		t.Error("the probe made a topic")
	}

	got = probed(t, Config{Brokers: c.ListenAddrs(), Topic: "x.{mqtt.topic.1}.{device}"}, 0)
	got["topics"].is(t, true, false, "those that are not known yet")
	got["topic x..meter"].is(t, true, true, "does not exist")
	if len(got) != 3+3 {
		t.Errorf("%+v", got)
	}
}

func TestProbeOfALoginWithoutRights(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.EnableSASL(), kfake.EnableACLs(), kfake.User("PLAIN", "gw", "pw"),
		kfake.Superuser("PLAIN", "root", "pw"), kfake.SeedTopics(1, "sluice.process", "sluice.alarm"))
	allow(t, c, "gw", "sluice.alarm")
	cfg := Config{Brokers: c.ListenAddrs(), SASL: SASL{Mechanism: "plain", Username: "gw", Password: func() (string, error) { return "pw", nil }}}
	got := probed(t, cfg, 0)
	got["topic sluice.process"].is(t, false, false, "no permission to write")
	got["topic sluice.alarm"].is(t, true, false, "1 partition, 1 copy")

	cfg.SASL.Password = func() (string, error) { return "wrong", nil }
	got = probed(t, cfg, 0)
	got["broker "+c.ListenAddrs()[0]].is(t, false, false, "refused the login: check sasl.username/password")
	if len(got) != 1 {
		t.Errorf("%+v", got)
	}
}

func TestProbeTellsWhenACertificateEnds(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS()
	defer server.Close()
	c := cluster(t, kfake.TLS(server.TLS.Clone()), kfake.SeedTopics(1, "sluice.process", "sluice.alarm"))
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	got := probed(t, Config{Brokers: c.ListenAddrs(), TLS: fixedTLS(&tls.Config{RootCAs: pool})}, 0)
	got["broker "+c.ListenAddrs()[0]].is(t, true, false, "certificate until "+server.Certificate().NotAfter.UTC().Format(time.DateOnly))
	got = probed(t, Config{Brokers: c.ListenAddrs(), TLS: fixedTLS(&tls.Config{})}, 0)
	got["broker "+c.ListenAddrs()[0]].is(t, false, false, "check tls.ca")
}

func TestProbeReadsTheTopicsLimits(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(1, "sluice.alarm"))
	if err := c.CreateTopic("sluice.process", 1, map[string]string{"max.message.bytes": "5000", "cleanup.policy": "compact"}); err != nil {
		t.Fatal(err)
	}
	got := probed(t, Config{Brokers: c.ListenAddrs()}, 1<<20)
	got["topic sluice.process"].is(t, true, true, "max.message.bytes is 5000 and sources let 1048576 through: larger ones are set aside, with a gap record; cleanup.policy is compact")
}
