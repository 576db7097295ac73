package agent

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"sluice/agent/web"
	"sluice/buffer"
	"sluice/drivers"
	"sluice/uplink"
)

// stallLimit is how long records may be without an answer on a link that works
// before the agent calls itself unhealthy. The uplink tries a new client first.
const stallLimit = 3 * time.Minute

// Status implements web.View.
func (a *Agent) Status() web.Status {
	p := a.parts()
	st := web.Status{
		Agent: p.cfg.Agent.ID, Version: a.opt.Version, Labels: p.cfg.Agent.Labels, UptimeSeconds: time.Since(a.started).Seconds(),
		Reasons: []string{}, Unhealthy: []string{}, Unready: []string{}, Config: *a.config.Load(),
		Sources: map[string]web.Source{}, Classes: map[string]web.Class{}, Uplinks: map[string]web.Uplink{},
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	st.Memory = web.Memory{LimitBytes: int64(p.cfg.Agent.MemoryLimit), HeapBytes: m.HeapAlloc}
	if c := st.Config; c.Code != "" {
		st.Reasons = append(st.Reasons, fmt.Sprintf("config: %s, %s: %s", c.State, c.Code, c.Reason))
	}
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
		if why := fmt.Sprintf("source %s: %s", s.name, withError(d.State, d.LastError)); !d.Ready {
			st.Unready = append(st.Unready, why)
		} else if !d.Up {
			st.Reasons = append(st.Reasons, why)
		}
	}
	for _, name := range p.names() {
		p.addUplinkStatus(&st, name, log, cmp.Or(a.opt.stallLimit, stallLimit))
	}
	st.Healthy, st.Ready = len(st.Unhealthy) == 0, len(st.Unready) == 0
	st.Reasons = slices.Sorted(slices.Values(slices.Concat(st.Reasons, st.Unhealthy, st.Unready)))
	if st.Reasons == nil {
		st.Reasons = []string{}
	}
	return st
}

func (p *parts) addUplinkStatus(st *web.Status, name string, log buffer.Stats, patience time.Duration) {
	k := together(p.legsOf(name))
	out := web.Uplink{Up: k.Up, State: k.State, LastError: k.LastError, ErrorAge: ago(k.LastErrAt),
		Delivered: map[string]uint64{}, Lag: map[string]uint64{},
		InFlight: k.InFlight, SentBytes: k.SentBytes, Closed: k.Closed, Metered: k.Metered}
	for class, c := range log.Classes {
		if at, reads := c.Uplinks[name]; reads {
			out.Lag[class], out.Delivered[class] = at.Lag, k.Delivered[class]
			if at.Ahead {
				out.Late = append(out.Late, class)
			}
		} else if u := p.cfg.Uplink(name); u != nil && p.uplink(name) == nil && p.cfg.Gets(u, class) {
			out.Lag[class], out.Delivered[class] = 0, k.Delivered[class]
		}
	}
	if slices.Sort(out.Late); len(out.Late) > 0 {
		out.State += ", a backlog beside new events of " + strings.Join(out.Late, ", ")
	}
	then, elsewhere := p.sayFailover(&out, name)
	st.Uplinks[name] = out
	switch {
	case k.Fenced: // nothing that a restart mends
		st.Unhealthy = append(st.Unhealthy, fmt.Sprintf("uplink %s: %s", name, k.State))
	case k.Stuck > patience:
		st.Stalled = true
		st.Unhealthy = append(st.Unhealthy, fmt.Sprintf("uplink %s: %d records have no answer for %s on a link that works", name, k.InFlight, k.Stuck.Round(time.Second)))
	case k.Closed: // as it is meant to be
	case !k.Up || elsewhere:
		st.Reasons = append(st.Reasons, fmt.Sprintf("uplink %s: %s; %s", name, withError(k.State, k.LastError), then))
	}
}

// sayFailover adds where events go. It returns what it means in words that the
// uplink is away, and whether its events go elsewhere.
func (p *parts) sayFailover(out *web.Uplink, name string) (then string, elsewhere bool) {
	then = "events are buffered"
	for i := range p.uplinks {
		u := &p.uplinks[i]
		for j, l := range u.legs {
			if l.uplink != name || u.name == name {
				continue
			}
			out.StandsIn = append(out.StandsIn, u.name)
			if u.active() == j {
				out.Carries = append(out.Carries, u.name)
			}
		}
	}
	u := p.uplink(name)
	switch {
	case len(out.Carries) > 0:
		out.State += ", in place of " + strings.Join(out.Carries, ", ")
	case u == nil:
		out.State += " for " + strings.Join(out.StandsIn, ", ")
		then = "it could not take over from " + strings.Join(out.StandsIn, ", ")
	case u.chain != nil:
		at, since, moves := u.chain.Active()
		out.Failover = &web.Failover{To: u.legs[at].uplink, Since: since, Moves: moves}
		if at > 0 {
			then = fmt.Sprintf("events go to %s since %s", out.Failover.To, since.UTC().Format(time.RFC3339))
			out.State += "; " + then
			return then, true
		}
	}
	return then, false
}

// ago is how long ago something was, in seconds; 0: it never was. It does not
// go by the wall clock, which a gateway may set after its start.
func ago(at time.Time) float64 {
	if at.IsZero() {
		return 0
	}
	return time.Since(at).Seconds()
}

// together adds up what the clients of one cluster know. It is up if all are; the last
// error is that of one that is not, or the latest.
func together(legs []*leg) uplink.Stats {
	all := legs[0].stats()
	for _, l := range legs[1:] {
		s := l.stats()
		if all.Up && !s.Up {
			all.State = s.State
		}
		if all.Up && (!s.Up || s.LastErrAt.After(all.LastErrAt)) {
			all.LastError, all.LastErrAt = s.LastError, s.LastErrAt
		}
		all.Up = all.Up && s.Up
		all.Closed, all.Metered = all.Closed || s.Closed, all.Metered || s.Metered
		all.Stuck = max(all.Stuck, s.Stuck)
		all.InFlight += s.InFlight
		all = addUplink(all, s)
	}
	return all
}

func classStatus(c buffer.ClassStats) web.Class {
	return web.Class{Committed: c.Committed, Events: c.Events, Bytes: c.Bytes, OldestSeconds: c.Oldest.Seconds(), First: c.First, Next: c.Next,
		Queued: c.Queued, Blocked: c.Blocked, Fault: c.Fault, Dropped: c.Dropped}
}

func sourceStatus(kind string, d drivers.Stats) web.Source {
	s := web.Source{Type: kind, Up: d.Up, State: d.State, LastError: d.LastError, ErrorAge: ago(d.LastErrAt), Taken: d.Taken, Rejected: d.Rejected}
	for _, dev := range d.Devices {
		if s.Devices == nil {
			s.Devices = map[string]web.Device{}
		}
		s.Devices[dev.Name] = web.Device{Up: dev.Up, LastError: dev.LastError, ErrorAge: ago(dev.LastErrAt), Polls: dev.Polls}
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
