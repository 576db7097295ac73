package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"sluice/agent/config"
	"sluice/drivers/loopback"
)

// bus is an agent with one Modbus source, whose uplink is away from the start. It
// returns the agent and the address of its pages.
func bus(t *testing.T, server string) (a *Agent, url string) {
	t.Helper()
	http := loopback.Addr(t)
	cfg, err := config.Parse("test.yaml", fmt.Appendf(nil, `
version: 1
agent: { id: gw-1, data_dir: %s }
sources: { bus: { modbus: { connection: "tcp://%s", timeout: 1m, devices: { m: { unit: 1, tags: { t: { read: holding, at: 0, type: int16 } } } } } } }
uplinks: { central: { kafka: { brokers: [ "%s" ] } } }
observe: { http: "%s" }
`, filepath.Join(t.TempDir(), "data"), server, loopback.Addr(t), http), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if a, err = New(cfg, Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return a, "http://" + http
}

// silence takes connections and never answers.
func silence(t *testing.T) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln.Addr().String() // the system takes the connections
}

// TestReadyBeforeADeviceAnswers has a server that is connected to and keeps silent:
// the agent is ready, and says all the same that the source is not up.
func TestReadyBeforeADeviceAnswers(t *testing.T) {
	a, url := bus(t, silence(t))
	waitPage(t, url+"/readyz", "ok")
	waitPage(t, url+"/metrics", `sluice_source_up{source="bus"} 0`)
	st := a.Status()
	if !st.Ready || len(st.Unready) > 0 || st.Sources["bus"].Up || !strings.Contains(strings.Join(st.Reasons, "\n"), "0 of 1 devices answer") {
		t.Errorf("ready %v, not for %q, source %+v, reasons %q", st.Ready, st.Unready, st.Sources["bus"], st.Reasons)
	}
}

func TestNotReadyWithoutAConnection(t *testing.T) {
	a, url := bus(t, loopback.Addr(t))
	waitPage(t, url+"/readyz", "source bus: not connected to tcp://")
	if st := a.Status(); st.Ready || st.Sources["bus"].Up {
		t.Errorf("ready %v, source %+v", st.Ready, st.Sources["bus"])
	}
}

// TestMetricsAreThereFromTheStart looks for the series whose labels are known before
// anything has happened.
func TestMetricsAreThereFromTheStart(t *testing.T) {
	_, url := bus(t, silence(t))
	page := waitPage(t, url+"/metrics", `sluice_source_up{source="bus"} 0`)
	want := []string{
		`sluice_events_taken_total{source="bus",class="process"}`, `sluice_events_committed_total{class="process"}`,
		`sluice_events_delivered_total{uplink="central",class="process"}`, `sluice_events_rejected_total{source="bus",reason="too-large"}`,
		`sluice_buffer_events{class="process"}`, `sluice_buffer_oldest_seconds{class="process"}`, `sluice_buffer_commit_seconds_count`,
		`sluice_uplink_up{uplink="central"}`, `sluice_uplink_lag_events{uplink="central",class="process"}`, `sluice_uplink_sent_bytes_total{uplink="central"}`,
		`sluice_modbus_poll_seconds_count{source="bus"}`, `sluice_config_version`, `sluice_config_info{state="rejected"}`,
	}
	for _, result := range strings.Fields("ok timeout connection invalid missed breaker-open held 1 2 3 4 5 6 8 10 11") {
		if strings.Trim(result, "0123456789") == "" { // Modbus Application Protocol V1.1b3 §7
			result = "exception-" + result
		}
		want = append(want, fmt.Sprintf(`sluice_modbus_polls_total{source="bus",device="m",result=%q}`, result))
	}
	for _, reason := range []string{"drop_oldest", "drop_newest", "expired", "corrupt", "rejected", "thinned", "restart", "not_kept"} {
		want = append(want, fmt.Sprintf(`sluice_events_dropped_total{class="process",reason=%q}`, reason))
	}
	for _, series := range want {
		if !strings.Contains(page, "\n"+series+" 0\n") {
			t.Errorf("there is no line %s 0", series)
		}
	}
}
