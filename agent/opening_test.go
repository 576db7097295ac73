package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice/agent/config"
)

// TestAClosedUplinkIsTold runs an agent with an uplink that its schedule keeps closed
// and one that a file opens, and looks at everything that says so.
func TestAClosedUplinkIsTold(t *testing.T) {
	p := newPlant(t)
	flag := filepath.Join(p.dir, "metered")
	if err := os.WriteFile(flag, []byte("yes"), 0o600); err != nil {
		t.Fatal(err)
	}
	another := time.Now().UTC().AddDate(0, 0, 3).Format("Mon")
	broker := p.kafka.ListenAddrs()[0]
	cfg, err := config.Parse("test.yaml", fmt.Appendf(nil, `
version: 1
agent: { id: gw-1, data_dir: %s }
sources: { line: { mqtt: { servers: [ "tcp://%s" ], subscribe: [ { filter: "factory/#" } ] } } }
uplinks:
  weekly: { kafka: { brokers: [ %q ], topic: "weekly.{class}", schedule: [ "%s 10:00-11:00" ], always: [ process ] } }
  never:  { kafka: { brokers: [ %q ], topic: "never.{class}", schedule: [ %s ] } }
  mobile: { kafka: { brokers: [ %q ], topic: "mobile.{class}", metered: { file: %s, every: 1s }, only_if: { metered: false } } }
observe: { http: %q }
`, filepath.Join(p.dir, "data"), p.mqtt, broker, another, broker, another, broker, flag, p.http), config.Options{})
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
	p.publish(t, "factory/m1", "a", "b", "c")
	metrics := waitPage(t, base+"/metrics", `sluice_events_delivered_total{uplink="weekly",class="process"} 3`)
	for _, want := range []string{`sluice_uplink_open{uplink="weekly"} 0`, `sluice_uplink_up{uplink="never"} 0`, `sluice_uplink_lag_events{uplink="never",class="process"} 3`,
		`sluice_uplink_sent_bytes_total{uplink="never"} 0`, `sluice_uplink_sent_bytes_total{uplink="mobile"} 0`, `sluice_uplink_metered{uplink="mobile"} 1`, `sluice_uplink_metered{uplink="never"} 0`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics without %s", want)
		}
	}
	waitPage(t, base+"/healthz", "ok")
	waitPage(t, base+"/", "All well.")
	st := a.Status()
	for name, want := range map[string]string{"never": "closed by its schedule until " + another + " 00:00 UTC", "weekly": "closed by its schedule until " + another + " 10:00 UTC; sent all the same: process",
		"mobile": "closed while the link is metered (file " + flag + ")"} {
		if u := st.Uplinks[name]; !u.Closed || u.Up || u.State != want {
			t.Errorf("%s: %+v", name, u)
		}
	}
	if link, ok := a.Link("mobile"); !ok || link.Open || !link.Metered || link.Unknown != "" {
		t.Errorf("mobile: %+v", link)
	}
	if _, ok := a.Link("none"); ok {
		t.Error("there is an uplink none")
	}
	probed, err := Probe(ctx, cfg, []string{"never", "mobile"})
	if err != nil || !probed[0].OK || !probed[1].OK || probed[0].Checks[0].Detail != "closed by its schedule until "+another+" 00:00 UTC" ||
		probed[1].Checks[0].Detail != "closed while the link is metered (file "+flag+")" || !probed[1].Checks[0].Warning {
		t.Errorf("probe: %+v, %v", probed, err)
	}
	if err := os.WriteFile(flag, []byte("no"), 0o600); err != nil {
		t.Fatal(err)
	}
	metrics = waitPage(t, base+"/metrics", `sluice_events_delivered_total{uplink="mobile",class="process"} 3`)
	for _, want := range []string{`sluice_uplink_open{uplink="mobile"} 1`, `sluice_uplink_metered{uplink="mobile"} 0`, `sluice_uplink_lag_events{uplink="never",class="process"} 3`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics without %s", want)
		}
	}
}
