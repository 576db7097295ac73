package simulate

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Pace of the monitor.
const (
	sampleEvery = 250 * time.Millisecond
	rateWindow  = 2 * time.Second // rates are means over so long
)

// monitor looks at the plant, the agent and Kafka a few times a second, and
// shows what it sees.
type monitor struct {
	demo   *Demo
	screen *screen
	title  string
	rates  map[string]*rate // by counter; the run goroutine alone uses it

	mu        sync.Mutex
	last      sighting
	peak      uint64        // the largest backlog seen
	drainTime time.Duration // 0: it didn't drain in time
}

// sighting is a view and when all of it was up to date.
type sighting struct {
	view
	at       time.Time
	complete bool // the agent and Kafka both answered
}

// fresh says whether everything in it was asked after t.
func (s sighting) fresh(t time.Time) bool { return s.complete && s.at.After(t) }

func newMonitor(d *Demo) *monitor {
	kafka := "an embedded Kafka"
	if d.cfg.Kafka != "" {
		kafka = "Kafka at " + d.cfg.Kafka
	}
	return &monitor{
		demo: d, screen: newScreen(d.cfg.Out, d.cfg.Env), rates: make(map[string]*rate),
		title: fmt.Sprintf("Sluice: %d machines over MQTT and %d Modbus meters to %s", d.cfg.Machines, len(d.plant.Meters), kafka),
	}
}

// run shows a view each quarter of a second until ctx ends, and then a last one.
func (m *monitor) run(ctx context.Context) error {
	defer m.screen.close()
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		s := m.sample(ctx)
		select {
		case <-ctx.Done():
			return nil // what was asked after ctx ended isn't worth showing
		default:
		}
		m.keep(s)
		m.screen.show(s.view)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (m *monitor) keep(s sighting) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = s
	m.peak = max(m.peak, s.backlog())
}

// latest returns the last sighting. Any goroutine may call it.
func (m *monitor) latest() sighting {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last
}

func (m *monitor) drained(after time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drainTime = after
}

// outcome returns the largest backlog, and how long it took to drain.
func (m *monitor) outcome() (peak uint64, drained time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.peak, m.drainTime
}

// sample asks everybody.
func (m *monitor) sample(ctx context.Context) sighting {
	d := m.demo
	s := sighting{at: time.Now()}
	s.Title = m.title
	status, agentErr := d.agent.status(ctx)
	counts, kafkaErr := d.topics.Count(ctx)
	s.complete = agentErr == nil && kafkaErr == nil
	for _, n := range counts {
		s.Stored += n
	}
	s.Elapsed = time.Since(d.started)
	s.Phase, s.Cut, s.Heals = d.now()
	s.Sources = append(s.Sources, m.source(s.at, mqttSource, d.machines.Confirmed(), status))
	for i, meter := range d.plant.Meters {
		s.Sources = append(s.Sources, m.source(s.at, busName(i), meter.Answers(), status))
	}
	full := uint64(d.cfg.Outage.Seconds() * d.cfg.Rate * float64(d.cfg.Machines))
	for _, name := range []string{classAlarm, classProcess} {
		c := status.Classes[name]
		s.Classes = append(s.Classes, classRow{Name: "class " + name, Backlog: c.Events, Bytes: c.Bytes, Oldest: c.OldestSeconds, Full: full})
	}
	up := status.Uplinks[uplinkName]
	s.Uplink = uplinkRow{Name: uplinkName, Up: up.Up, Delivered: sum(up.Delivered), Rate: m.rate(s.at, "stored", uint64(s.Stored))}
	if !up.Up {
		s.Uplink.Error = up.LastError
	}
	return s
}

func (m *monitor) source(at time.Time, name string, sent uint64, status agentStatus) sourceRow {
	s := status.Sources[name]
	return sourceRow{Name: name, Up: s.Up, Sent: sent, Taken: sum(s.Taken), Rate: m.rate(at, name, sent)}
}

func sum(counters map[string]uint64) (n uint64) {
	for _, v := range counters {
		n += v
	}
	return n
}

// rate is the mean growth of a counter over the rateWindow.
type rate struct {
	at    []time.Time
	value []uint64
}

func (m *monitor) rate(at time.Time, counter string, value uint64) float64 {
	r := m.rates[counter]
	if r == nil {
		r = &rate{}
		m.rates[counter] = r
	}
	return r.add(at, value)
}

// add notes a value of the counter and returns its growth a second.
func (r *rate) add(at time.Time, value uint64) float64 {
	r.at, r.value = append(r.at, at), append(r.value, value)
	for len(r.at) > 2 && at.Sub(r.at[1]) >= rateWindow {
		r.at, r.value = r.at[1:], r.value[1:]
	}
	seconds := at.Sub(r.at[0]).Seconds()
	if seconds <= 0 || value < r.value[0] {
		return 0
	}
	return float64(value-r.value[0]) / seconds
}
