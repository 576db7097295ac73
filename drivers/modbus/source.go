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
// group of tags is due; plan.go has merged it into requests, by what lessons.go
// knows of the device and notebook.go keeps over restarts; poll.go and read.go send
// them; transport_link.go and the frame files bring the answers; decode.go and
// number.go make values; reading.go leaves out what a deadband suppresses and writes
// the JSON; outlet.go hands it to the sink. breaker.go keeps units that don't answer
// from taking the others' time. write.go and encode.go are the way back, probe.go
// looks at everything once.
package modbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"sluice/drivers"
)

// Source polls the devices behind one connection. It is a drivers.Driver. One
// goroutine, Run's, owns the connection, however many devices there are.
type Source struct {
	name     string
	retries  int
	limits   Grouping
	observe  func(time.Duration)
	link     *link
	schedule schedule
	notes    notebook
	outlets  map[string]*outlet // by class
	roomy    drivers.Roomy      // nil: the sink can't say
	held     []string           // classes without room, sorted; never changed in place
	scratch  []byte             // the reading that is being made
	stats    stats
	log      calmLog

	owned  atomic.Bool // Run or Probe has the connection
	jobs   chan job    // writes that wait for the bus
	end    sync.Once
	ended  chan struct{} // closed when Run has ended: nobody does jobs any more
	broken chan error    // the sink's, late
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
	limits    Grouping
	lessons   *lessons

	reason string      // why it doesn't answer; empty: it does, or wasn't asked yet
	beats  []time.Time // while it doesn't: when the next reading of each class says so
	beat   time.Time   // the first of them
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
		name: c.Name, retries: c.Retries, limits: c.Grouping, observe: c.ObservePoll,
		link: newLink(to, c.Timeout, c.FrameGap, c.Breaker.Retry),
		log:  newCalmLog(c.Log), outlets: map[string]*outlet{},
		jobs: make(chan job), ended: make(chan struct{}), broken: make(chan error, 1),
	}
	s.addDevices(&p, c)
	if len(p) > 0 {
		return nil, fmt.Errorf("modbus source %q: %w", c.Name, errors.Join(p...))
	}
	s.stats.prepare(c.Connection, s.schedule.devices)
	s.notes = newNotebook(c.StateDir, c.Name, c.Connection, c.Log)
	s.roomy, _ = c.Sink.(drivers.Roomy)
	for _, d := range s.schedule.devices {
		for _, tags := range d.classes {
			class := tags[0].class
			s.outlets[class] = &outlet{class: class, sink: c.Sink, stats: &s.stats, log: c.Log, broken: s.broken}
		}
	}
	return s, nil
}

// addDevices compiles the devices of the config.
func (s *Source) addDevices(p *problems, c Config) {
	seen := map[string]bool{}
	breakers, known := map[int]*breaker{}, specs{}
	for _, d := range c.Devices {
		d.Every, d.Class, d.Heartbeat = or(d.Every, defaultEvery), or(d.Class, defaultClass), or(d.Heartbeat, defaultHeartbeat)
		var own problems
		if d.Grouping != (Grouping{}) {
			checkGrouping(&own, d.Grouping.or(Grouping{defaultMaxGap, defaultMaxRegisters, defaultMaxBits}))
		}
		d.Grouping = d.Grouping.or(c.Grouping)
		checkDevice(&own, d, seen)
		if breakers[d.Unit] == nil {
			breakers[d.Unit] = &breaker{openAfter: c.Breaker.OpenAfter, retry: c.Breaker.Retry, max: c.Breaker.Max}
		}
		s.addDevice(&own, d, breakers[d.Unit], known)
		for _, err := range own {
			p.addf("device %q: %w", d.Name, err)
		}
	}
}

func (s *Source) addDevice(p *problems, d Device, b *breaker, known specs) {
	dev := &device{name: d.Name, unit: byte(d.Unit), heartbeat: d.Heartbeat, breaker: b, limits: d.Grouping, lessons: newLessons()}
	seen := map[string]bool{}
	intervals := map[time.Duration]*group{}
	for _, t := range d.Tags {
		var own problems
		checkTimes(&own, t)
		t = tagDefaults(t, d)
		own.name("name", t.Name, 128, seen)
		checkTag(&own, t, d.Grouping)
		for _, err := range own {
			p.addf("tag %q: %w", t.Name, err)
		}
		if len(own) > 0 {
			continue
		}
		compiled := known.tag(t)
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
	dev.beats = make([]time.Time, len(dev.classes))
	for _, g := range dev.groups {
		g.classes = byClass(g.tags)
		g.stale = true
	}
	s.schedule.devices = append(s.schedule.devices, dev)
	s.schedule.groups = append(s.schedule.groups, dev.groups...)
}

// tagDefaults fills in what t takes from its device and its table.
func tagDefaults(t Tag, d Device) Tag {
	t.Every, t.Class, t.Heartbeat = or(t.Every, d.Every), or(t.Class, d.Class), or(t.Heartbeat, d.Heartbeat)
	t.Order, t.Scale = or(t.Order, defaultOrder), or(t.Scale, 1)
	switch {
	case tables[t.Read].bits():
		t.Type = or(t.Type, "bool")
	case t.Bit != nil && t.Type == "bool":
		t.Type = "uint16"
	case t.Bit != nil || t.Bits != nil:
		t.Type = or(t.Type, "uint16")
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
// whatever breaks. What was read when ctx ends is still recorded. Tags of a class
// for which the sink has no room are not polled, and their slots are counted as
// held; the other classes go on. An error while ctx lives is the sink's. Run may
// be called once, and not beside Probe.
func (s *Source) Run(ctx context.Context) error {
	if !s.owned.CompareAndSwap(false, true) {
		return fmt.Errorf("modbus source %q: %w", s.name, errOwned)
	}
	defer s.owned.Store(false)
	defer s.end.Do(func() { close(s.ended) })
	defer s.link.close()
	s.link.dialed = s.stats.dialed
	defer s.stats.stopped()
	s.notes.load(s.schedule.devices)
	s.schedule.start(time.Now())
	err := s.loop(ctx)
	for _, o := range s.outlets {
		o.wg.Wait() // stopTime at most
	}
	s.notes.end(s.schedule.devices)
	return err
}

// errOwned is what Run and Probe get while the other one has the connection.
var errOwned = errors.New("it runs already")

// loop does what is due, until ctx ends or the sink breaks.
func (s *Source) loop(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		at, g, d := s.schedule.next()
		if due, err := s.pause(ctx, timer, time.Until(at)); err != nil || !due {
			if err != nil {
				return fmt.Errorf("modbus source %q: %w", s.name, err)
			}
			continue
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
		s.notes.keep(s.schedule.devices, time.Now())
	}
	return nil
}

// pause waits until the next turn is due and does the writes that come meanwhile,
// one at least also if there is nothing to wait for. due is false when ctx has
// ended or a write took the time.
func (s *Source) pause(ctx context.Context, timer *time.Timer, wait time.Duration) (due bool, err error) {
	if wait <= 0 {
		select {
		case j := <-s.jobs:
			j.answer <- s.write(ctx, j)
		case err := <-s.broken:
			return false, err
		default:
		}
		return ctx.Err() == nil, nil
	}
	timer.Reset(wait)
	select {
	case <-timer.C:
		return true, nil
	case j := <-s.jobs:
		j.answer <- s.write(ctx, j)
		return false, nil
	case err := <-s.broken:
		return false, err
	case <-ctx.Done():
		return false, nil
	}
}

// Stats returns the counters so far.
func (s *Source) Stats() drivers.Stats { return s.stats.snapshot() }
