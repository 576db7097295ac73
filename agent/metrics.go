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

	"sluice/agent/remote"
	"sluice/agent/web"
	"sluice/drivers/modbus"
	"sluice/drivers/mqtt"
)

// Labels that are there from the start, so that a first loss is a step from 0
// and not a series out of nowhere.
var (
	dropReasons   = []string{"drop_oldest", "drop_newest", "expired", "corrupt", "rejected", "thinned", "restart", "not_kept"}
	rejectReasons = mqtt.MessageReasons()
	pollResults   = modbus.PollResults()
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
	"sluice_source_up":                  "1 while the source is connected and subscribed, or polls and a device answers.",
	"sluice_modbus_polls_total":         "Polls by result.",
	"sluice_modbus_poll_seconds":        "Duration of polls.",
	"sluice_config_version":             "Version of the config that came over the uplink; 0 for the local file.",
	"sluice_config_info":                "1 for the state that the config is in, 0 for the others.",
}

// processHelp lists the metrics of the runtime and the process that are passed on.
// The library has more; those break Prometheus's rules (promtool check metrics).
var processHelp = map[string]string{
	"go_info":                            "Version of Go.",
	"go_goroutines":                      "Goroutines.",
	"go_threads":                         "Threads that the runtime has made.",
	"go_gc_duration_seconds":             "Pauses of garbage collections.",
	"go_memlimit_bytes":                  "Soft limit of the runtime, from agent.memory_limit.",
	"go_memstats_alloc_bytes":            "Bytes of live and not yet collected objects.",
	"go_memstats_alloc_bytes_total":      "Bytes allocated, freed ones included.",
	"go_memstats_frees_total":            "Objects freed.",
	"go_memstats_heap_idle_bytes":        "Bytes of the heap that wait to be used.",
	"go_memstats_heap_inuse_bytes":       "Bytes of the heap in use.",
	"go_memstats_heap_objects":           "Objects on the heap.",
	"go_memstats_heap_released_bytes":    "Bytes of the heap that the system has back.",
	"go_memstats_heap_sys_bytes":         "Bytes of the heap, from the system.",
	"go_memstats_last_gc_time_seconds":   "When the last garbage collection ended, in seconds since 1970.",
	"go_memstats_mallocs_total":          "Objects allocated.",
	"go_memstats_next_gc_bytes":          "Size of the heap at which the next garbage collection begins.",
	"go_memstats_stack_inuse_bytes":      "Bytes of stacks.",
	"go_memstats_sys_bytes":              "Bytes from the system.",
	"process_cpu_seconds_total":          "CPU time, of user and system.",
	"process_major_pagefaults_total":     "Page faults that read from a disk.",
	"process_max_fds":                    "File descriptors that may be open.",
	"process_num_threads":                "Threads.",
	"process_open_fds":                   "File descriptors that are open.",
	"process_resident_memory_anon_bytes": "Bytes of memory in use that no file stands behind.",
	"process_resident_memory_bytes":      "Bytes of memory in use.",
	"process_resident_memory_file_bytes": "Bytes of memory in use that files stand behind: the program and segments that are read.",
	"process_resident_memory_peak_bytes": "The most that process_resident_memory_bytes has been.",
	"process_start_time_seconds":         "When the process was started, in seconds since 1970.",
	"process_virtual_memory_bytes":       "Bytes of address space.",
}

// configStates are the labels of sluice_config_info.
var configStates = []remote.State{remote.StateApplied, remote.StateApplying, remote.StateTrial, remote.StateRolledBack, remote.StateRejected}

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
	for _, state := range configStates {
		s.flag(labelled("sluice_config_info", "state", state), st.Config.State == string(state))
	}
	var page bytes.Buffer
	s.set.WritePrometheus(&page)
	a.meters.set.WritePrometheus(&page)
	explain(w, page.Bytes(), help)
	page.Reset()
	metrics.WriteProcessMetrics(&page)
	metrics.WriteFDMetrics(&page)
	explain(w, page.Bytes(), processHelp)
}

// explain writes the metrics of page that texts has a help text for, with it. Each
// begins with a line of its own that has room for one.
func explain(w io.Writer, page []byte, texts map[string]string) {
	known := false
	for line := range bytes.Lines(page) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(string(line)), "# HELP "); ok {
			known = texts[name] != ""
			line = fmt.Appendf(nil, "# HELP %s %s\n", name, texts[name])
		}
		if known {
			_, _ = w.Write(line) // the reader went away: nobody to tell
		}
	}
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
