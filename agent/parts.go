package agent

import (
	"context"
	"slices"

	"sluice/agent/config"
	"sluice/agent/web"
	"sluice/buffer"
	"sluice/drivers"
	"sluice/uplink"
)

// parts is what runs, as others see it. It is never changed: another takes its
// place, so that whoever looks sees a whole.
type parts struct {
	cfg     *config.Config
	buffer  *buffer.Buffer
	opened  buffer.Config // what it was opened with
	before  buffer.Stats  // what buffers before it have counted
	sources []source
	uplinks []destination
	web     *web.Server // nil: switched off
	addr    string      // that it was asked to serve
	pages   *member     // that serves web
	log     *member     // that runs buffer
}

// source is one that runs.
type source struct {
	name, kind string
	key        string // another one means that it has to be made anew
	driver     drivers.Driver
	classes    []string
	before     drivers.Stats // what drivers of this name before it have counted
	member     *member
}

// destination is an uplink with a place in the log that runs.
type destination struct {
	name   string
	key    string
	legs   []leg         // clusters that its events may go to, the first is its own
	chain  *uplink.Chain // nil: there is only one
	run    func(context.Context) error
	reader *buffer.Reader
	member *member
}

// leg is a client of an uplink's cluster, for its own events or in place of
// another uplink.
type leg struct {
	uplink string
	kafka  *uplink.Kafka
	before uplink.Stats // what clients before it have counted
}

// stats are the client's, with those of the clients before it.
func (l *leg) stats() uplink.Stats { return addUplink(l.kafka.Stats(), l.before) }

// active is the leg that gets the events now.
func (d *destination) active() int {
	if d.chain == nil {
		return 0
	}
	at, _, _ := d.chain.Active()
	return at
}

// names are those of all uplinks, in the order in which they appear.
func (p *parts) names() (list []string) {
	for i := range p.uplinks {
		for _, l := range p.uplinks[i].legs {
			if !slices.Contains(list, l.uplink) {
				list = append(list, l.uplink)
			}
		}
	}
	return list
}

// legsOf are the clients of an uplink's cluster.
func (p *parts) legsOf(name string) (list []*leg) {
	for i := range p.uplinks {
		for j := range p.uplinks[i].legs {
			if l := &p.uplinks[i].legs[j]; l.uplink == name {
				list = append(list, l)
			}
		}
	}
	return list
}

// uplink is one with a place in the log, nil if it does not run or has none.
func (p *parts) uplink(name string) *destination {
	if i := slices.IndexFunc(p.uplinks, func(d destination) bool { return d.name == name }); i >= 0 {
		return &p.uplinks[i]
	}
	return nil
}

// source is one by its name, nil if it does not run.
func (p *parts) source(name string) *source {
	if i := slices.IndexFunc(p.sources, func(s source) bool { return s.name == name }); i >= 0 {
		return &p.sources[i]
	}
	return nil
}

// waiting reports whether uplinks that work have not got everything.
func (p *parts) waiting() bool {
	st := p.buffer.Stats()
	for _, u := range p.uplinks {
		if !u.legs[u.active()].kafka.Stats().Up {
			continue
		}
		for _, c := range st.Classes {
			if c.Uplinks[u.name].Lag > 0 || c.Queued > 0 {
				return true
			}
		}
	}
	return false
}

// logStats are the buffer's, with those of the buffers before it.
func (p *parts) logStats() buffer.Stats { return addLog(p.buffer.Stats(), p.before) }

// stats are the driver's, with those of the drivers before it.
func (s *source) stats() drivers.Stats { return addSource(s.driver.Stats(), s.before) }
