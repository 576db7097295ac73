package agent

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"sluice/agent/web"
	"sluice/buffer"
	"sluice/drivers"
)

// stallLimit is how long records may be without an answer on a link that works
// before the agent calls itself unhealthy. The uplink tries a new client first.
const stallLimit = 3 * time.Minute

// Status implements web.View.
func (a *Agent) Status() web.Status {
	p := a.parts()
	st := web.Status{
		Agent: p.cfg.Agent.ID, Version: a.opt.Version, Labels: p.cfg.Agent.Labels, UptimeSeconds: time.Since(a.started).Seconds(),
		Reasons: []string{}, Unhealthy: []string{}, Unready: []string{}, Config: web.Config{File: a.opt.File, State: "applied"},
		Sources: map[string]web.Source{}, Classes: map[string]web.Class{}, Uplinks: map[string]web.Uplink{},
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	st.Memory = web.Memory{LimitBytes: int64(p.cfg.Agent.MemoryLimit), HeapBytes: m.HeapAlloc}
	log := p.logStats()
	st.Incarnation = log.Incarnation
	for name, c := range log.Classes {
		st.Classes[name] = classStatus(c)
		switch {
		case c.Fault != "":
			st.Unhealthy = append(st.Unhealthy, fmt.Sprintf("buffer, class %s: cannot be written: %s", name, c.Fault))
		case c.Blocked:
			st.Unhealthy = append(st.Unhealthy, fmt.Sprintf("buffer, class %s: full, its sources wait", name))
		}
	}
	for _, s := range p.sources {
		d := s.stats()
		st.Sources[s.name] = sourceStatus(s.kind, d)
		if !d.Up {
			st.Unready = append(st.Unready, fmt.Sprintf("source %s: %s", s.name, withError(d.State, d.LastError)))
		}
	}
	for _, u := range p.uplinks {
		addUplinkStatus(&st, u, log)
	}
	st.Healthy, st.Ready = len(st.Unhealthy) == 0, len(st.Unready) == 0
	st.Reasons = slices.Sorted(slices.Values(slices.Concat(st.Reasons, st.Unhealthy, st.Unready)))
	if st.Reasons == nil {
		st.Reasons = []string{}
	}
	return st
}

func addUplinkStatus(st *web.Status, u destination, log buffer.Stats) {
	k := u.stats()
	out := web.Uplink{Up: k.Up, State: k.State, LastError: k.LastError, Delivered: map[string]uint64{}, Lag: map[string]uint64{},
		InFlight: k.InFlight, SentBytes: k.SentBytes}
	for class, c := range log.Classes {
		if at, reads := c.Uplinks[u.name]; reads {
			out.Lag[class], out.Delivered[class] = at.Lag, k.Delivered[class]
		}
	}
	st.Uplinks[u.name] = out
	switch {
	case k.Fenced: // nothing that a restart mends
		st.Unhealthy = append(st.Unhealthy, fmt.Sprintf("uplink %s: %s", u.name, k.State))
	case k.Stuck > stallLimit:
		st.Stalled = true
		st.Unhealthy = append(st.Unhealthy, fmt.Sprintf("uplink %s: %d records have no answer for %s on a link that works", u.name, k.InFlight, k.Stuck.Round(time.Second)))
	case !k.Up:
		st.Reasons = append(st.Reasons, fmt.Sprintf("uplink %s: %s; events are buffered", u.name, withError(k.State, k.LastError)))
	}
}

func classStatus(c buffer.ClassStats) web.Class {
	return web.Class{Committed: c.Committed, Events: c.Events, Bytes: c.Bytes, OldestSeconds: c.Oldest.Seconds(), First: c.First, Next: c.Next,
		Queued: c.Queued, Blocked: c.Blocked, Fault: c.Fault, Dropped: c.Dropped}
}

func sourceStatus(kind string, d drivers.Stats) web.Source {
	s := web.Source{Type: kind, Up: d.Up, State: d.State, LastError: d.LastError, Taken: d.Taken, Rejected: d.Rejected}
	for _, dev := range d.Devices {
		if s.Devices == nil {
			s.Devices = map[string]web.Device{}
		}
		s.Devices[dev.Name] = web.Device{Up: dev.Up, LastError: dev.LastError, Polls: dev.Polls}
	}
	return s
}

// withError adds the last error to a state that doesn't say it.
func withError(state, lastError string) string {
	if lastError == "" || strings.Contains(state, lastError) {
		return state
	}
	return state + ": " + lastError
}
