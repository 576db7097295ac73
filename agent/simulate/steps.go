package simulate

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// pollEvery is the pace at which the steps look whether they are done.
const pollEvery = 100 * time.Millisecond

// live is the middle of a demonstration, while the agent runs: the plant works,
// the link is cut and healed, the backlog drains, the plant stops, and all that
// it sent arrives.
func (d *Demo) live(ctx context.Context) (err error) {
	work, workCtx := newCrew(ctx)
	work.start(workCtx, d.machines.Run)
	stopMachines := func() { err = errors.Join(err, work.stop()) }
	stopped := false
	defer func() {
		if !stopped {
			stopMachines()
		}
	}()

	d.setPhase("the plant works, the link is up")
	if err := wait(ctx, d.cfg.Before); err != nil {
		return err
	}
	if err := d.outage(ctx); err != nil {
		return err
	}
	if err := d.drain(ctx); err != nil {
		return err
	}
	d.setPhase("the plant works, the link is up again")
	if err := wait(ctx, d.cfg.After); err != nil {
		return err
	}
	d.setPhase("the plant stops")
	stopped = true
	if stopMachines(); err != nil {
		return err
	}
	if err := d.freeze(ctx); err != nil {
		return err
	}
	return d.settle(ctx)
}

// outage cuts the link for a while.
func (d *Demo) outage(ctx context.Context) error {
	d.setPhase("the link to Kafka is cut: the plant works on, the buffer fills")
	d.setCut(time.Now().Add(d.cfg.Outage))
	d.link.Cut()
	err := wait(ctx, d.cfg.Outage)
	d.setCut(time.Time{})
	return errors.Join(err, d.link.Heal())
}

// drain waits until the agent has no more than what is always on its way. That
// it takes long is no failure here: what counts is what has arrived in the end.
func (d *Demo) drain(ctx context.Context) error {
	d.setPhase("the link is healed: the backlog drains")
	healed := time.Now()
	usual := uint64(10 + d.cfg.Rate*float64(d.cfg.Machines)/2)
	return poll(ctx, drainLimit, func() bool {
		v := d.watch.latest()
		if !v.fresh(healed) || v.backlog() > usual {
			return false
		}
		d.watch.drained(time.Since(healed))
		return true
	})
}

// freeze ends the counting of the meters and waits until no counted answer is
// on its way.
func (d *Demo) freeze(ctx context.Context) error {
	for _, m := range d.plant.Meters {
		m.Freeze()
	}
	return poll(ctx, freezeLimit, func() bool {
		for _, m := range d.plant.Meters {
			if !m.Settled() {
				return false
			}
		}
		return true
	})
}

// settle waits until Kafka holds as many records as the plant counted and the
// agent says that it has nothing left. If that doesn't happen in time, the
// comparison will say what is missing.
func (d *Demo) settle(ctx context.Context) error {
	d.setPhase("the plant stands: the last events arrive")
	taken := int64(d.ledger.Taken())
	since := time.Now()
	return poll(ctx, settleLimit, func() bool {
		v := d.watch.latest()
		return v.fresh(since) && v.Stored >= taken && v.backlog() == 0
	})
}

// compare reads the topics and reports.
func (d *Demo) compare(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, compareLimit, fmt.Errorf("%s are over", compareLimit))
	defer cancel()
	records, err := d.topics.ReadAll(ctx)
	if err != nil {
		return err
	}
	want := expectation{agent: d.agentID(), run: d.run, mqtt: mqttSource, meters: make(map[string]string)}
	for i, m := range d.plant.Meters {
		want.meters[m.Name()] = busName(i)
	}
	d.report = compare(&d.ledger, want, records)
	d.tell(len(records))
	if lost := d.plant.Broker.Dropped(); lost > 0 {
		return fmt.Errorf("the simulated MQTT broker dropped %d messages: the agent took too long to acknowledge", lost)
	}
	if !d.report.OK() {
		return errors.New("what Kafka holds isn't what the plant sent")
	}
	return nil
}

// tell describes the result for people.
func (d *Demo) tell(records int) {
	out, r := d.cfg.Out, d.report
	peak, drained := d.watch.outcome()
	fmt.Fprintf(out, "The link was cut for %s; %s events waited at most", d.cfg.Outage, thousands(peak))
	if drained > 0 {
		fmt.Fprintf(out, ", and %.1f s after it healed they were delivered", drained.Seconds())
	}
	fmt.Fprintf(out, ".\nPlant: %s MQTT messages acknowledged to %d machines, %s Modbus answers served by %d meters.\n",
		thousands(d.machines.Confirmed()), d.cfg.Machines, thousands(d.answers()), len(d.plant.Meters))
	if n := d.machines.Unconfirmed(); n > 0 {
		fmt.Fprintf(out, "%d more were published, but not acknowledged to the machine; they don't count.\n", n)
	}
	fmt.Fprintf(out, "Kafka: %s records; out of order %d, altered %d, foreign %d, wrong key or headers %d, missing sequence numbers %d.\n",
		thousands(uint64(records)), r.Reordered, r.Altered, r.Foreign, r.Headers, r.Gaps)
	for _, n := range r.Notes {
		fmt.Fprintln(out, "  "+n)
	}
}

// answers is what all meters served.
func (d *Demo) answers() (n uint64) {
	for _, m := range d.plant.Meters {
		n += m.Answers()
	}
	return n
}

func (d *Demo) setPhase(phase string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.phase = phase
}

func (d *Demo) setCut(till time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cutTill = till
}

// now is what the steps are at: for the monitor.
func (d *Demo) now() (phase string, cut bool, heals time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cutTill.IsZero() {
		return d.phase, false, 0
	}
	return d.phase, true, max(0, time.Until(d.cutTill))
}

// wait pauses for d; an error says why ctx ended before.
func wait(ctx context.Context, d time.Duration) error {
	pause(ctx, d)
	return context.Cause(ctx)
}

// poll asks until done says yes or the limit is over, which is no error; an
// error says why ctx ended before.
func poll(ctx context.Context, limit time.Duration, done func() bool) error {
	until := time.Now().Add(limit)
	for ctx.Err() == nil && time.Now().Before(until) && !done() {
		pause(ctx, pollEvery)
	}
	return context.Cause(ctx)
}
