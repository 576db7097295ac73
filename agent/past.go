package agent

import (
	"maps"

	"sluice/buffer"
	"sluice/drivers"
	"sluice/uplink"
)

// past is what parts have counted that were replaced: counters run from the
// start of the process, whatever restarts within it.
type past struct {
	log     buffer.Stats
	sources map[string]drivers.Stats
	uplinks map[string]uplink.Stats
}

func newPast() past {
	return past{sources: map[string]drivers.Stats{}, uplinks: map[string]uplink.Stats{}}
}

// addCounts is the sum of two maps of counters, the first of which is its own.
func addCounts[K comparable](now, before map[K]uint64) map[K]uint64 {
	if len(before) == 0 {
		return now
	}
	sum := maps.Clone(before)
	for k, n := range now {
		sum[k] += n
	}
	return sum
}

func addLog(now, before buffer.Stats) buffer.Stats {
	now.WrittenBytes += before.WrittenBytes
	now.Commits += before.Commits
	for name, c := range now.Classes {
		c.Committed += before.Classes[name].Committed
		c.Dropped = addCounts(c.Dropped, before.Classes[name].Dropped)
		now.Classes[name] = c
	}
	return now
}

// keepLog remembers what a buffer has counted that is closed, also of classes
// that come back later.
func (p *past) keepLog(st buffer.Stats) {
	for name, c := range p.log.Classes {
		if _, there := st.Classes[name]; !there {
			st.Classes[name] = c
		}
	}
	p.log = st
}

func addSource(now, before drivers.Stats) drivers.Stats {
	now.Taken = addCounts(now.Taken, before.Taken)
	now.Rejected = addCounts(now.Rejected, before.Rejected)
	if len(before.Devices) == 0 {
		return now
	}
	polls := map[string]map[string]uint64{}
	for _, d := range before.Devices {
		polls[d.Name] = d.Polls
	}
	devices := make([]drivers.DeviceStats, len(now.Devices))
	for i, d := range now.Devices {
		d.Polls = addCounts(d.Polls, polls[d.Name])
		devices[i] = d
	}
	now.Devices = devices
	return now
}

// takeUplink gives what is remembered of an uplink to one that counts on from it.
func (p *past) takeUplink(name string) uplink.Stats {
	st := p.uplinks[name]
	delete(p.uplinks, name)
	return st
}

// keepUplink remembers what the clients of an uplink have counted that is stopped.
func (p *past) keepUplink(d *destination) {
	for i := range d.legs {
		l := &d.legs[i]
		p.uplinks[l.uplink] = addUplink(l.stats(), p.uplinks[l.uplink])
	}
}

func addUplink(now, before uplink.Stats) uplink.Stats {
	now.Delivered = addCounts(now.Delivered, before.Delivered)
	now.SentBytes += before.SentBytes
	return now
}
