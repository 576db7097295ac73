package agent

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"sluice/agent/config"
	"sluice/agent/web"
	"sluice/drivers/loopback"
)

// beats counts signs of life.
type beats struct{ n atomic.Int64 }

func (b *beats) Ready()               {}
func (b *beats) Reloading()           {}
func (b *beats) Stopping()            {}
func (b *beats) Alive(web.Status)     { b.n.Add(1) }
func (b *beats) Every() time.Duration { return 100 * time.Millisecond }

// TestALinkThatMakesNoProgressStopsTheWatchdog has the cluster leave records without
// an answer while it answers all else. A cluster that is away is nothing of that kind.
func TestALinkThatMakesNoProgressStopsTheWatchdog(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	var swallow atomic.Bool
	p.kafka.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		p.kafka.KeepControl()
		return nil, nil, swallow.Load()
	})
	text := fmt.Sprintf(`
version: 1
agent: { id: gw-1, data_dir: %s }
sources: { line: { mqtt: { servers: [ "tcp://%s" ], subscribe: [ { filter: "factory/#" } ] } } }
uplinks:
  central: { kafka: { brokers: [ %q ] } }
  away: { kafka: { brokers: [ %q ] } }
observe: { http: %q }
`, filepath.Join(p.dir, "data"), p.mqtt, p.kafka.ListenAddrs()[0], loopback.Addr(t), p.http)
	alive := &beats{}
	s := &Supervisor{File: "test.yaml", Out: io.Discard, Notify: alive, stallLimit: 11 * time.Second,
		Load: func() (*config.Config, error) { return config.Parse("test.yaml", []byte(text), config.Options{}) }}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	base := "http://" + p.http
	waitPage(t, base+"/readyz", "ok")
	p.publish(t, "factory/m1", "a")
	waitPage(t, base+"/metrics", `sluice_events_delivered_total{uplink="central",class="process"} 1`)
	swallow.Store(true)
	p.publish(t, "factory/m1", "b")
	body := waitPage(t, base+"/healthz", "uplink central: 1 records have no answer for")
	if strings.Contains(body, "away") {
		t.Errorf("one that is away counts as unhealthy: %s", body)
	}
	waitPage(t, base+"/api/v1/status", `"stalled": true`)
	before := alive.n.Load()
	time.Sleep(time.Second)
	if after := alive.n.Load(); after > before+1 || before == 0 { // one may have been on its way
		t.Errorf("%d signs of life while it is stalled, %d before", after-before, before)
	}
	swallow.Store(false)
	waitPage(t, base+"/healthz", "ok\n")
	waitPage(t, base+"/metrics", `sluice_events_delivered_total{uplink="central",class="process"} 2`)
	before = alive.n.Load()
	for end := time.Now().Add(patience); alive.n.Load() == before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no sign of life")
		}
	}
}
