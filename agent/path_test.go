package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/agent/config"
	"sluice/agent/simulate"
	"sluice/drivers/loopback"
)

// plant is a broker and a cluster, in this process.
type plant struct {
	mqtt  string
	kafka *kfake.Cluster
	http  string
	dir   string

	retain string // of class process
}

func newPlant(t *testing.T) *plant {
	t.Helper()
	p := &plant{retain: "0s", dir: t.TempDir(), http: loopback.Addr(t), mqtt: loopback.Addr(t)}
	server := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler)})
	if err := server.AddHook(new(auth.AllowHook), nil); err != nil {
		t.Fatal(err)
	}
	if err := server.AddHook(&takeovers{}, nil); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", p.mqtt)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.AddListener(simulate.NewDoor(server, "t", ln)); err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve() }() // ends with Close
	t.Cleanup(func() { _ = server.Close() })
	if p.kafka, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.DefaultNumPartitions(3), kfake.AllowAutoTopicCreation()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kafka.Close)
	return p
}

// start runs an agent until the returned function is called.
func (p *plant) start(t *testing.T) (stop func()) {
	t.Helper()
	text := fmt.Sprintf(`
version: 1
agent: { id: gw-1, data_dir: %s, labels: { site: p7 } }
sources: { line: { mqtt: { servers: [ "tcp://%s" ], subscribe: [ { filter: "factory/#" }, { filter: "factory/+/alarm", class: alarm } ] } } }
classes: { alarm: { priority: 100 }, process: { retain: %s } }
uplinks: { central: { kafka: { brokers: [ "%s" ], topic: "{label.site}.{class}" } } }
observe: { http: "%s" }
`, filepath.Join(p.dir, "data"), p.mqtt, p.retain, p.kafka.ListenAddrs()[0], p.http)
	cfg, err := config.Parse("test.yaml", []byte(text), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(cfg, Options{Version: "test", Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	waitPage(t, "http://"+p.http+"/readyz", "ok")
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func waitPage(t *testing.T, url, text string) string {
	t.Helper()
	var body []byte
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		resp, err := http.Get(url)
		if err != nil {
			continue
		}
		body, _ = io.ReadAll(resp.Body)
		resp.Body.Close()
		if strings.Contains(string(body), text) {
			return string(body)
		}
	}
	t.Fatalf("%s never said %q; last: %s", url, text, body)
	return ""
}

// publish sends payloads with QoS 1 and waits for each PUBACK.
func (p *plant) publish(t *testing.T, topic string, payloads ...string) {
	t.Helper()
	c := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + p.mqtt).SetClientID("machine"))
	if tok := c.Connect(); !tok.WaitTimeout(patience) || tok.Error() != nil {
		t.Fatal("connect:", tok.Error())
	}
	defer c.Disconnect(100)
	for _, payload := range payloads {
		if tok := c.Publish(topic, 1, false, payload); !tok.WaitTimeout(patience) || tok.Error() != nil {
			t.Fatal("publish:", tok.Error())
		}
	}
}

// consume reads n records of a topic, in the order of their partitions.
func (p *plant) consume(t *testing.T, topic string, n int) []*kgo.Record {
	t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(p.kafka.ListenAddrs()...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out []*kgo.Record
	for len(out) < n && ctx.Err() == nil {
		out = append(out, c.PollFetches(ctx).Records()...)
	}
	if len(out) != n {
		t.Fatalf("%s holds %d records, want %d", topic, len(out), n)
	}
	return out
}

func headers(r *kgo.Record) map[string]string {
	m := map[string]string{}
	for _, h := range r.Headers {
		m[h.Key] = string(h.Value)
	}
	return m
}

func TestAMessageBecomesACloudEvent(t *testing.T) {
	p := newPlant(t)
	defer p.start(t)()
	p.publish(t, "factory/m1/telemetry", `{"t":21.5}`, "", "plain")
	p.publish(t, "factory/m1/alarm", `[1]`)
	want := []struct{ value, content string }{{`{"t":21.5}`, "application/json"}, {"", "application/octet-stream"}, {"plain", "application/octet-stream"}}
	incarnation := ""
	for i, r := range p.consume(t, "p7.process", 3) {
		h := headers(r)
		id := regexp.MustCompile(`^gw-1/process/([0-9a-f]{8})/([0-9]+)$`).FindStringSubmatch(h["ce_id"])
		if id == nil || id[2] != fmt.Sprint(i+1) || incarnation != "" && id[1] != incarnation {
			t.Errorf("ce_id %q", h["ce_id"])
		} else {
			incarnation = id[1]
		}
		if r.Value == nil || string(r.Value) != want[i].value || string(r.Key) != "factory/m1/telemetry" {
			t.Errorf("record %d: key %q, value %q", i, r.Key, r.Value)
		}
		at, err := time.Parse(time.RFC3339Nano, h["ce_time"])
		if err != nil || at.UnixMilli() != r.Timestamp.UnixMilli() || time.Since(at) > time.Minute {
			t.Errorf("ce_time %q, timestamp %s", h["ce_time"], r.Timestamp)
		}
		for key, value := range map[string]string{"ce_specversion": "1.0", "ce_source": "/gw-1/line", "ce_type": "sluice.mqtt.message.v1",
			"ce_subject": "factory/m1/telemetry", "content-type": want[i].content} {
			if h[key] != value {
				t.Errorf("record %d: %s is %q, want %q", i, key, h[key], value)
			}
		}
	}
	alarm := p.consume(t, "p7.alarm", 1)[0]
	if id := headers(alarm)["ce_id"]; id != "gw-1/alarm/"+incarnation+"/1" || string(alarm.Value) != "[1]" {
		t.Errorf("alarm %q %q", id, alarm.Value)
	}
	page := waitPage(t, "http://"+p.http+"/metrics", `sluice_events_delivered_total{uplink="central",class="process"} 3`)
	for _, line := range []string{`sluice_events_taken_total{source="line",class="process"} 3`, `sluice_events_committed_total{class="alarm"} 1`,
		`sluice_uplink_up{uplink="central"} 1`, `sluice_source_up{source="line"} 1`, `sluice_events_dropped_total{class="process",reason="expired"} 0`,
		`sluice_events_rejected_total{source="line",reason="too-large"} 0`, "# TYPE sluice_buffer_commit_seconds histogram"} {
		if !strings.Contains(page, line) {
			t.Errorf("/metrics lacks %s", line)
		}
	}
}

func TestARestartNeitherLosesNorDoubles(t *testing.T) {
	p := newPlant(t)
	for life := range 3 {
		stop := p.start(t)
		var payloads []string
		for i := range 200 {
			payloads = append(payloads, fmt.Sprint(life*200+i))
		}
		p.publish(t, "factory/m2/telemetry", payloads...)
		// This broker sends what is not acknowledged again in any order: not our matter here.
		waitPage(t, "http://"+p.http+"/metrics", `sluice_events_committed_total{class="process"} 200`)
		stop()
	}
	stop := p.start(t)
	records := p.consume(t, "p7.process", 600)
	stop()
	for i, r := range records {
		if string(r.Value) != fmt.Sprint(i) || !strings.HasSuffix(headers(r)["ce_id"], fmt.Sprintf("/%d", i+1)) {
			t.Fatalf("record %d: %s %q", i, headers(r)["ce_id"], r.Value)
		}
	}
}
