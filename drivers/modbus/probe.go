package modbus

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// PlannedRequest is one read that a source sends again and again.
type PlannedRequest struct {
	Device       string   `json:"device"`
	Unit         int      `json:"unit"`
	Table        string   `json:"table"` // holding, input, coil or discrete
	First        int      `json:"first"` // address on the wire, from 0
	Count        int      `json:"count"` // registers or bits
	Tags         []string `json:"tags"`  // by address
	EverySeconds float64  `json:"every_seconds"`
}

// DeviceProbe is what one device said to each of its planned requests.
type DeviceProbe struct {
	Device       string     `json:"device"`
	Unit         int        `json:"unit"`
	Answers      bool       `json:"answers"`         // to anything, if only with an exception
	Error        string     `json:"error,omitempty"` // the first one
	Requests     int        `json:"requests"`        // planned
	RoundSeconds float64    `json:"round_seconds"`   // that all of them took, with those that split them
	Tags         []TagProbe `json:"tags"`            // in the order of the config
}

// TagProbe is one tag: it has a value, or is bad.
type TagProbe struct {
	Tag     string          `json:"tag"`
	Table   string          `json:"table"`
	Address int             `json:"address"` // on the wire, from 0
	Count   int             `json:"count"`
	Value   json.RawMessage `json:"value,omitempty"` // as in a reading
	Bad     string          `json:"bad,omitempty"`   // as in a reading
	Unit    string          `json:"unit,omitempty"`  // of measure
}

// Plan returns the requests by which the source reads its devices, as they follow
// from the config; what it has learned of a device may part them further. It
// may be called at any time, from any goroutine.
func (s *Source) Plan() []PlannedRequest {
	var out []PlannedRequest
	for _, d := range s.schedule.devices {
		for _, g := range d.groups {
			for _, r := range plan(g.tags, d.limits, nil) {
				p := PlannedRequest{Device: d.name, Unit: int(d.unit), Table: r.table.String(), First: r.at, Count: r.count, EverySeconds: g.every.Seconds()}
				for _, t := range r.tags {
					p.Tags = append(p.Tags, t.name)
				}
				out = append(out, p)
			}
		}
	}
	return out
}

// Probe reads each planned request once, and parts of those that are refused, so
// that each tag is known to be readable or not. It connects by itself, blocks for
// all time-outs of devices that don't answer (a breaker doesn't spare them, but a
// device is given up after two) or until ctx ends, and returns ctx's error then
// with the devices that it got to. It records nothing, learns nothing, and may not
// be called while Run runs.
func (s *Source) Probe(ctx context.Context) ([]DeviceProbe, error) {
	if !s.owned.CompareAndSwap(false, true) {
		return nil, fmt.Errorf("modbus source %q: %w", s.name, errOwned)
	}
	defer s.owned.Store(false)
	defer s.link.close()
	var out []DeviceProbe
	for _, d := range s.schedule.devices {
		p := s.probe(ctx, d)
		if err := ctx.Err(); err != nil {
			return out, fmt.Errorf("modbus source %q: %w", s.name, err)
		}
		out = append(out, p)
	}
	return out, nil
}

// probe reads one device, through a copy that knows nothing of it.
func (s *Source) probe(ctx context.Context, d *device) DeviceProbe {
	begin := time.Now()
	fresh := &device{name: d.name, unit: d.unit, breaker: &breaker{}, limits: d.limits}
	g := &group{device: fresh, stale: true}
	p := DeviceProbe{Device: d.name, Unit: int(d.unit), Tags: []TagProbe{}}
	o := outcome{result: resultOK, budget: splitBudget}
	for _, original := range d.groups {
		g.requests = plan(original.tags, d.limits, nil)
		p.Requests += len(g.requests)
		for _, r := range g.requests {
			s.readInTurn(ctx, g, r, &o)
		}
	}
	p.Answers, p.RoundSeconds = o.alive, time.Since(begin).Seconds()
	if o.err != nil {
		p.Error = o.err.Error()
	}
	for _, t := range d.tags {
		one := TagProbe{Tag: t.name, Table: t.table.String(), Address: t.at, Count: t.count, Bad: t.now.bad, Unit: t.measure}
		if t.now.known && t.now.bad == "" {
			one.Value = slices.Clone(t.now.value.text)
		}
		t.now.known = false
		p.Tags = append(p.Tags, one)
	}
	return p
}
