package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"sluice/agent/config"
	"sluice/agent/web"
	"sluice/drivers/loopback"
)

// TestFailoverIsTold runs an agent whose first cluster is away and looks at
// everything that says where events go.
func TestFailoverIsTold(t *testing.T) {
	p := newPlant(t)
	away := loopback.Addr(t)
	cfg, err := config.Parse("test.yaml", fmt.Appendf(nil, `
version: 1
agent: { id: gw-1, data_dir: %s }
sources: { line: { mqtt: { servers: [ "tcp://%s" ], subscribe: [ { filter: "factory/#" } ] } } }
uplinks:
  central: { kafka: { brokers: [ "%s" ], classes: [ process ] }, failover: dr, failover_after: 1s, failback_after: 1s }
  dr: { kafka: { brokers: [ "%s" ] } }
observe: { http: "%s" }
`, filepath.Join(p.dir, "data"), p.mqtt, away, p.kafka.ListenAddrs()[0], p.http), config.Options{})
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
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	base := "http://" + p.http
	waitPage(t, base+"/readyz", "ok")
	if st := a.Status(); st.Uplinks["central"].Failover.To != "central" || !reflect.DeepEqual(st.Uplinks["dr"].StandsIn, []string{"central"}) {
		t.Errorf("at the start: %+v", st.Uplinks)
	}
	p.publish(t, "factory/m1", "a", "b", "c")
	waitPage(t, base+"/metrics", `sluice_uplink_failed_over{uplink="central"} 1`)
	metrics := waitPage(t, base+"/metrics", `sluice_events_delivered_total{uplink="dr",class="process"} 3`)
	for _, want := range []string{`sluice_uplink_up{uplink="central"} 0`, `sluice_uplink_up{uplink="dr"} 1`, `sluice_uplink_lag_events{uplink="central",class="process"} 0`,
		`sluice_uplink_lag_events{uplink="dr",class="process"} 0`, `sluice_events_delivered_total{uplink="central",class="process"} 0`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics without %s", want)
		}
	}
	waitPage(t, base+"/healthz", "ok")
	var st web.Status
	if err := json.Unmarshal([]byte(waitPage(t, base+"/api/v1/status", "failover")), &st); err != nil {
		t.Fatal(err)
	}
	central, dr := st.Uplinks["central"], st.Uplinks["dr"]
	if f := central.Failover; f == nil || f.To != "dr" || f.Moves != 1 || f.Since.IsZero() || !strings.Contains(central.State, "; events go to dr since 20") {
		t.Errorf("central: %+v, %+v", central, f)
	}
	if !reflect.DeepEqual(dr.Carries, []string{"central"}) || !strings.Contains(dr.State, ", in place of central") || dr.Failover != nil {
		t.Errorf("dr: %+v", dr)
	}
	if len(st.Reasons) != 1 || !strings.HasPrefix(st.Reasons[0], "uplink central: ") || !strings.Contains(st.Reasons[0], "connection refused") {
		t.Errorf("reasons %q", st.Reasons)
	}

	_, port, err := net.SplitHostPort(away)
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	k, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(number), kfake.DefaultNumPartitions(1), kfake.AllowAutoTopicCreation())
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	waitPage(t, base+"/metrics", `sluice_uplink_failed_over{uplink="central"} 0`)
	p.publish(t, "factory/m1", "d")
	waitPage(t, base+"/metrics", `sluice_events_delivered_total{uplink="central",class="process"} 1`)
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		st := a.Status()
		if len(st.Reasons) == 0 && st.Uplinks["dr"].State == "reachable, stands by for central" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("after the return: reasons %q, dr %+v", st.Reasons, st.Uplinks["dr"])
		}
	}
}

// TestAnUplinkThatBecomesAStandIn gives up what waited for it, and says so.
func TestAnUplinkThatBecomesAStandIn(t *testing.T) {
	p := newPlant(t)
	text := func(more string) string {
		return fmt.Sprintf(`
version: 1
agent: { id: gw-1, data_dir: %s }
sources: { line: { mqtt: { servers: [ "tcp://%s" ], subscribe: [ { filter: "factory/#" } ] } } }
uplinks:
  central: { kafka: { brokers: [ "%s" ] }%s }
  dr: { kafka: { brokers: [ "%s" ] } }
observe: { http: "%s" }
`, filepath.Join(p.dir, "data"), p.mqtt, p.kafka.ListenAddrs()[0], more, loopback.Addr(t), p.http)
	}
	run := func(text string) {
		cfg, err := config.Parse("test.yaml", []byte(text), config.Options{})
		if err != nil {
			t.Fatal(err)
		}
		a, err := New(cfg, Options{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- a.Run(ctx) }()
		waitPage(t, "http://"+p.http+"/readyz", "ok")
		p.publish(t, "factory/m1", "a", "b")
		waitPage(t, "http://"+p.http+"/metrics", `sluice_events_delivered_total{uplink="central",class="process"} 2`)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	run(text(""))
	cfg, err := config.Parse("test.yaml", []byte(text(", failover: dr")), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	const want = `uplink "dr" only stands in for central now: 2 events of class process that it has not got will be given up`
	if lines := Stranded(cfg); len(lines) != 1 || lines[0] != want {
		t.Errorf("check says %q, want %q", lines, want)
	}
	run(text(", failover: dr"))
	if lines := Stranded(cfg); len(lines) != 0 {
		t.Errorf("then check says %q", lines)
	}
}
