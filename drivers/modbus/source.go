// Package modbus reads Modbus devices over TCP, TLS or a serial line: it polls
// their registers, turns them into values and hands readings to a sink.
//
// It never reports a wrong value knowingly: an answer is believed only if
// transaction, unit, function and byte count are those of the request, its check
// sum is right and nothing follows it. On any doubt the connection is closed and
// made anew, or a serial line is emptied for as long as a request may take, so
// that a late answer dies, and the tags are reported as bad with the reason.
//
// The parts, in the order in which a value passes them: schedule.go says which
// group of tags is due; plan.go has merged it into requests; poll.go sends them;
// transport_link.go and the frame files bring the answers; decode.go and number.go make
// values; reading.go leaves out what a deadband suppresses and writes the JSON.
// breaker.go keeps units that don't answer from taking the others' time.
package modbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"sluice/drivers"
)

// Source polls the devices behind one connection. It is a drivers.Driver. One
// goroutine, Run's, owns the connection, however many devices there are.
type Source struct {
	name     string
	retries  int
	limits   Grouping
	sink     drivers.Sink
	observe  func(time.Duration)
	link     *link
	schedule schedule
	stats    stats
	log      calmLog
}

var _ drivers.Driver = (*Source)(nil)

// device is a Device at run time.
type device struct {
	name      string
	unit      byte
	heartbeat time.Duration
	tags      []*tag   // in the order of the config
	classes   [][]*tag // the same tags, those of each class together
	groups    []*group
	breaker   *breaker // shared by the devices of the unit

	reason string    // why it doesn't answer; empty: it does, or wasn't asked yet
	beat   time.Time // while it doesn't: when the next reading says so
}

func (d *device) down() bool { return d.reason != "" }

// New checks the whole Config and returns a Source that is ready to Run. The
// error names every field that is wrong and what is allowed. Nothing is
// connected before Run.
func New(c Config) (*Source, error) {
	c = c.withDefaults()
	var p problems
	checkConfig(&p, c)
	to, err := parseConnection(c.Connection)
	if err != nil {
		p = append(p, err)
	} else {
		checkUnits(&p, to, c.Devices)
	}
	to.tls = c.TLS
	s := &Source{
		name: c.Name, retries: c.Retries, limits: c.Grouping, sink: c.Sink, observe: c.ObservePoll,
		link: newLink(to, c.Timeout, c.FrameGap, c.Breaker.Retry),
		log:  newCalmLog(c.Log),
	}
	s.addDevices(&p, c)
	if len(p) > 0 {
		return nil, fmt.Errorf("modbus source %q: %w", c.Name, errors.Join(p...))
	}
	s.stats.prepare(c.Connection, s.schedule.devices)
	return s, nil
}

// addDevices compiles the devices of the config.
func (s *Source) addDevices(p *problems, c Config) {
	seen := map[string]bool{}
	breakers := map[int]*breaker{}
	for _, d := range c.Devices {
		d.Every, d.Class, d.Heartbeat = or(d.Every, defaultEvery), or(d.Class, defaultClass), or(d.Heartbeat, defaultHeartbeat)
		var own problems
		checkDevice(&own, d, seen)
		if breakers[d.Unit] == nil {
			breakers[d.Unit] = &breaker{openAfter: c.Breaker.OpenAfter, retry: c.Breaker.Retry, max: c.Breaker.Max}
		}
		s.addDevice(&own, d, breakers[d.Unit])
		for _, err := range own {
			p.addf("device %q: %w", d.Name, err)
		}
	}
}

func (s *Source) addDevice(p *problems, d Device, b *breaker) {
	dev := &device{name: d.Name, unit: byte(d.Unit), heartbeat: d.Heartbeat, breaker: b}
	seen := map[string]bool{}
	intervals := map[time.Duration]*group{}
	for _, t := range d.Tags {
		var own problems
		checkTimes(&own, t)
		t = tagDefaults(t, d)
		own.name("name", t.Name, 128, seen)
		checkTag(&own, t, s.limits)
		for _, err := range own {
			p.addf("tag %q: %w", t.Name, err)
		}
		if len(own) > 0 {
			continue
		}
		compiled := newTag(t)
		dev.tags = append(dev.tags, compiled)
		g := intervals[t.Every]
		if g == nil {
			g = &group{device: dev, every: t.Every}
			intervals[t.Every] = g
			dev.groups = append(dev.groups, g)
		}
		g.tags = append(g.tags, compiled)
	}
	dev.classes = byClass(dev.tags)
	for _, g := range dev.groups {
		g.classes = byClass(g.tags)
		g.requests = plan(g.tags, s.limits)
	}
	s.schedule.devices = append(s.schedule.devices, dev)
	s.schedule.groups = append(s.schedule.groups, dev.groups...)
}

// tagDefaults fills in what t takes from its device and its table.
func tagDefaults(t Tag, d Device) Tag {
	t.Every, t.Class, t.Heartbeat = or(t.Every, d.Every), or(t.Class, d.Class), or(t.Heartbeat, d.Heartbeat)
	t.Order, t.Scale = or(t.Order, defaultOrder), or(t.Scale, 1)
	if tables[t.Read].bits() {
		t.Type = or(t.Type, "bool")
	}
	return t
}

// byClass puts the tags of each class together, in the order in which classes
// and tags first come.
func byClass(tags []*tag) [][]*tag {
	var out [][]*tag
	at := map[string]int{}
	for _, t := range tags {
		i, known := at[t.class]
		if !known {
			i, at[t.class] = len(out), len(out)
			out = append(out, nil)
		}
		out[i] = append(out[i], t)
	}
	return out
}

// Run polls until ctx ends, and returns nil then; it reconnects by itself
// whatever breaks. What was read when ctx ends is still recorded. While the sink
// has no room Run blocks: no device is polled, and the slots that pass are
// counted as missed. An error while ctx lives is the sink's. Run may be called
// once.
func (s *Source) Run(ctx context.Context) error {
	defer s.link.close()
	defer s.stats.stopped()
	s.schedule.start(time.Now())
	for ctx.Err() == nil {
		at, g, d := s.schedule.next()
		if wait := time.Until(at); wait > 0 && sleep(ctx, wait) != nil {
			return nil
		}
		var err error
		if d != nil {
			err = s.sayDown(ctx, d, time.Now())
		} else {
			err = s.turn(ctx, g)
		}
		switch {
		case err == nil:
		case ctx.Err() == nil:
			return fmt.Errorf("modbus source %q: %w", s.name, err)
		default:
			s.log.Warn("stopped before the buffer had room for the last reading", slog.Any("error", err))
		}
	}
	return nil
}

// Stats returns the counters so far.
func (s *Source) Stats() drivers.Stats { return s.stats.snapshot() }
