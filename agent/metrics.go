package agent

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"sluice/agent/web"
	"sluice/drivers/mqtt"
)

// Labels that are there from the start, so that a first loss is a step from 0
// and not a series out of nowhere.
var (
	dropReasons   = []string{"drop_oldest", "drop_newest", "expired", "corrupt", "rejected", "thinned", "restart", "not_kept"}
	rejectReasons = mqtt.MessageReasons()
	pollResults   = []string{"ok", "timeout", "connection", "invalid", "exception-1", "exception-2", "exception-3", "exception-4"}
	commitBounds  = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
)

// help says what each metric counts. Everything counts from the start of the process.
var help = map[string]string{
	"sluice_events_taken_total":         "Events that the buffer took from a source.",
	"sluice_events_committed_total":     "Events made durable, gap records included.",
	"sluice_events_delivered_total":     "Records that the uplink's cluster acknowledged.",
	"sluice_events_dropped_total":       "Events that a gap record stands for.",
	"sluice_events_rejected_total":      "Messages refused and acknowledged, not stored.",
	"sluice_buffer_bytes":               "Bytes that the class uses on disk.",
	"sluice_buffer_events":              "Events in the buffer that not every uplink has.",
	"sluice_buffer_oldest_seconds":      "Age of the oldest event that not every uplink has.",
	"sluice_buffer_written_bytes_total": "Bytes that commits handed to the file system.",
	"sluice_buffer_commits_total":       "Commits.",
	"sluice_buffer_commit_seconds":      "Duration of commits.",
	"sluice_uplink_up":                  "1 while the link works and acknowledgements come.",
	"sluice_uplink_open":                "1 while the uplink's schedule and conditions let it send.",
	"sluice_uplink_metered":             "1 while the link is metered, or that is not known.",
	"sluice_uplink_lag_events":          "Stored events that the uplink does not have.",
	"sluice_uplink_sent_bytes_total":    "Bytes written to the sockets, with TLS.",
	"sluice_uplink_failed_over":         "1 while another uplink gets the events of this one.",
	"sluice_source_up":                  "1 while the source is connected and subscribed, or polling.",
	"sluice_modbus_polls_total":         "Polls by result.",
	"sluice_modbus_poll_seconds":        "Duration of polls.",
	"sluice_config_version":             "Version of the config that came over the uplink; 0 for the local file.",
	"sluice_config_info":                "State of the config, always 1.",
}

// meters are the histograms, which the stages feed as they go.
type meters struct {
	set     *metrics.Set
	commits *metrics.PrometheusHistogram
}

func newMeters() *meters {
	metrics.ExposeMetadata(true)
	set := metrics.NewSet()
	return &meters{set: set, commits: set.NewPrometheusHistogramExt("sluice_buffer_commit_seconds", commitBounds)}
}

func (m *meters) commit(took time.Duration) { m.commits.Update(took.Seconds()) }

func (m *meters) poll(source string) func(time.Duration) {
	h := m.set.GetOrCreatePrometheusHistogramExt(fmt.Sprintf(`sluice_modbus_poll_seconds{source=%q}`, source), commitBounds)
	return func(took time.Duration) { h.Update(took.Seconds()) }
}

// sheet collects one scrape.
type sheet struct{ set *metrics.Set }

func (s sheet) count(name string, v uint64)  { s.set.GetOrCreateCounter(name).Set(v) }
func (s sheet) gauge(name string, v float64) { s.set.GetOrCreateGauge(name, nil).Set(v) }
func (s sheet) flag(name string, v bool)     { s.gauge(name, map[bool]float64{true: 1}[v]) }
func labelled(name string, kv ...any) string {
	for i := 0; i < len(kv); i += 2 {
		sep := ","
		if i == 0 {
			sep = "{"
		}
		name += fmt.Sprintf("%s%s=%q", sep, kv[i], kv[i+1])
	}
	return name + "}"
}

// Metrics implements web.View: Prometheus text, made from one Status.
func (a *Agent) Metrics(w io.Writer) {
	st := a.Status()
	s := sheet{metrics.NewSet()}
	for name, src := range st.Sources {
		if running := a.parts().source(name); running != nil { // it may have been taken away since
			sourceMetrics(s, name, running.classes, src)
		}
	}
	for name, c := range st.Classes {
		classMetrics(s, name, c)
	}
	for name, u := range st.Uplinks {
		s.flag(labelled("sluice_uplink_up", "uplink", name), u.Up)
		s.flag(labelled("sluice_uplink_open", "uplink", name), !u.Closed)
		s.flag(labelled("sluice_uplink_metered", "uplink", name), u.Metered)
		s.count(labelled("sluice_uplink_sent_bytes_total", "uplink", name), u.SentBytes)
		if u.Failover != nil {
			s.flag(labelled("sluice_uplink_failed_over", "uplink", name), u.Failover.To != name)
		}
		for class, lag := range u.Lag {
			s.gauge(labelled("sluice_uplink_lag_events", "uplink", name, "class", class), float64(lag))
			s.count(labelled("sluice_events_delivered_total", "uplink", name, "class", class), u.Delivered[class])
		}
	}
	log := a.parts().logStats()
	s.count("sluice_buffer_written_bytes_total", uint64(log.WrittenBytes))
	s.count("sluice_buffer_commits_total", log.Commits)
	s.gauge("sluice_config_version", float64(st.Config.Version))
	s.gauge(labelled("sluice_config_info", "state", st.Config.State), 1)
	var page bytes.Buffer
	s.set.WritePrometheus(&page)
	a.meters.set.WritePrometheus(&page)
	for line := range bytes.Lines(page.Bytes()) {
		_, _ = w.Write(explain(line)) // the reader went away: nobody to tell
	}
	metrics.WriteProcessMetrics(w)
}

// explain adds the help text to a line that has room for one.
func explain(line []byte) []byte {
	name, ok := strings.CutPrefix(strings.TrimSpace(string(line)), "# HELP ")
	if !ok || help[name] == "" {
		return line
	}
	return fmt.Appendf(nil, "# HELP %s %s\n", name, help[name])
}

func sourceMetrics(s sheet, name string, classes []string, src web.Source) {
	s.flag(labelled("sluice_source_up", "source", name), src.Up)
	for _, class := range classes {
		s.count(labelled("sluice_events_taken_total", "source", name, "class", class), src.Taken[class])
	}
	each(rejectReasons, src.Rejected, func(reason string, n uint64) {
		s.count(labelled("sluice_events_rejected_total", "source", name, "reason", reason), n)
	})
	for device, d := range src.Devices {
		each(pollResults, d.Polls, func(result string, n uint64) {
			s.count(labelled("sluice_modbus_polls_total", "source", name, "device", device, "result", result), n)
		})
	}
}

func classMetrics(s sheet, name string, c web.Class) {
	s.count(labelled("sluice_events_committed_total", "class", name), c.Committed)
	s.gauge(labelled("sluice_buffer_bytes", "class", name), float64(c.Bytes))
	s.gauge(labelled("sluice_buffer_events", "class", name), float64(c.Events))
	s.gauge(labelled("sluice_buffer_oldest_seconds", "class", name), c.OldestSeconds)
	each(dropReasons, c.Dropped, func(reason string, n uint64) {
		s.count(labelled("sluice_events_dropped_total", "class", name, "reason", reason), n)
	})
}

// each visits the labels that are always there and those that have occurred.
func each(always []string, counts map[string]uint64, visit func(string, uint64)) {
	for _, label := range always {
		visit(label, counts[label])
	}
	for _, label := range slices.Sorted(maps.Keys(counts)) {
		if !slices.Contains(always, label) {
			visit(label, counts[label])
		}
	}
}
