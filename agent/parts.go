package agent

import (
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
	before  buffer.Stats // what buffers before it have counted
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

// destination is an uplink that runs.
type destination struct {
	name   string
	key    string
	kafka  *uplink.Kafka
	reader *buffer.Reader
	before uplink.Stats
	member *member
}

// uplink is one by its name, nil if it does not run.
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
		if !u.kafka.Stats().Up {
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

// stats are the uplink's, with those of the uplinks before it.
func (d *destination) stats() uplink.Stats { return addUplink(d.kafka.Stats(), d.before) }
