package modbus

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// splitBudget bounds the requests that finding illegal addresses may take in one
// poll; 256 isolate more than ten tags among 2,000.
const splitBudget = 256

// splitAfter is how long a request stays whole of which every part was refused:
// a device that starts up refuses everything.
const splitAfter = time.Minute

// readGroup sends the requests of a group, in the order of their fates,
// and gives each tag its value or the reason why it has none. Requests that read
// nothing but tags of held classes are left out.
func (s *Source) readGroup(ctx context.Context, g *group) outcome {
	o := outcome{result: resultOK, probing: g.device.breaker.open(), budget: splitBudget}
	now := time.Now()
	known := g.device.lessons
	if known.expire(now) {
		for _, other := range g.device.groups {
			other.stale = true
		}
	}
	if g.stale {
		g.requests, g.stale = plan(g.tags, g.device.limits, known), false
	}
	if slices.ContainsFunc(g.requests, func(r *request) bool { return r.last != answered }) {
		slices.SortStableFunc(g.requests, func(a, b *request) int { return cmp.Compare(a.last, b.last) })
	}
	again := known.due(g.tags, now)
	for _, r := range g.requests {
		s.readInTurn(ctx, g, r, &o)
	}
	for _, t := range again { // after what is known to work
		s.readInTurn(ctx, g, cover([]*tag{t}), &o)
	}
	if ctx.Err() == nil {
		known.mark(g.tags, again)
		s.learn(g, &o)
		known.postpone(again, time.Now())
	}
	return o
}

// letRest notes which requests a unit kept silent to while it answered others: they
// are sent less often then, as if they were a unit of their own, since each takes
// a time-out of the bus.
func (g *group) letRest(o *outcome, now time.Time) {
	if o.lost >= mostLost || o.noLink {
		return // it has died, or its line has
	}
	b := g.device.breaker
	for _, r := range o.mute {
		r.rest.openAfter, r.rest.retry, r.rest.max = b.openAfter, b.retry, b.max
		r.rest.failed(now, r.rest.reason)
	}
}

// readInTurn sends a request unless there is a reason to leave it out.
func (s *Source) readInTurn(ctx context.Context, g *group, r *request, o *outcome) {
	switch {
	case ctx.Err() != nil || s.holds(r):
	case !r.rest.allows(time.Now()) && !g.device.down():
		if o.rested = true; o.err == nil {
			o.result = r.rest.reason
		}
		r.bad(r.rest.reason)
	case o.hopeless():
		r.last = untried
		r.bad(o.result)
	default:
		if s.readRequest(ctx, g, r, o) == withheld {
			s.split(ctx, g, r, o)
		}
	}
}

// verdict is what a device said to a request.
type verdict uint8

const (
	failed   verdict = iota // no data; the tags are bad
	gotData                 // the tags have their values
	withheld                // refused because of some address in it; the tags are as before
)

// readRequest sends one request. Only one with several tags is withheld; what
// is refused alone is noted in o.
func (s *Source) readRequest(ctx context.Context, g *group, r *request, o *outcome) verdict {
	o.asked = true
	data, err := s.exchange(ctx, g.device.unit, r, o)
	if err == nil {
		r.last = answered
		r.rest.succeeded()
		o.alive, o.data, o.lost = true, true, 0
		r.decode(data)
		for _, t := range r.tags {
			g.stale = g.device.lessons.allow(t) || g.stale
		}
		return gotData
	}
	if ctx.Err() != nil {
		return failed
	}
	reason := o.fail(err)
	if fromUnit(err) {
		r.last = answered
		r.rest.succeeded()
	} else {
		if r.last == answered {
			o.lost++
		}
		r.last, r.rest.reason = silent, reason
		o.mute = append(o.mute, r)
	}
	switch {
	case !refused(err):
	case len(r.tags) == 1:
		o.alone = append(o.alone, r)
	case o.budget > 0 && !time.Now().Before(r.whole):
		return withheld
	}
	r.bad(reason)
	return failed
}

// split reads the halves of a request that was refused, and theirs, until the
// refused tags stand alone, so that they don't spoil their neighbours. Where no
// part can be read the request stays whole for a while.
func (s *Source) split(ctx context.Context, g *group, r *request, o *outcome) {
	if !s.readHalves(ctx, g, r, o) {
		r.whole = time.Now().Add(splitAfter)
	}
}

// readHalves says whether some part of r could be read.
func (s *Source) readHalves(ctx context.Context, g *group, r *request, o *outcome) (some bool) {
	halves, whole := r.halves(), 0
	for _, half := range halves {
		if ctx.Err() != nil {
			return some
		}
		o.budget--
		switch s.readRequest(ctx, g, half, o) {
		case gotData:
			some = true
			whole++
		case withheld:
			some = s.readHalves(ctx, g, half, o) || some
		}
	}
	if whole == len(halves) {
		o.cuts = append(o.cuts, cut{r.table, halves[1].at})
	}
	return some
}

// learn keeps what a poll found, if the device gave data at all: one that starts
// up refuses everything.
func (s *Source) learn(g *group, o *outcome) {
	known, now := g.device.lessons, time.Now()
	if known == nil || !o.data {
		return
	}
	for _, r := range o.alone {
		t, reason := r.tags[0], r.tags[0].now.bad
		g.stale = true
		if known.refuse(t, reason, now) {
			s.log.Warn("the device refuses the address of a tag", slog.String("device", g.device.name), slog.String("tag", t.name),
				slog.Any("table", r.table), slog.Int("address", r.at), slog.String("reason", reason))
		}
	}
	for _, c := range o.cuts {
		g.stale = true
		known.separate(c, now)
	}
}

// exchange sends a request as often as it takes to be answered, within the
// retries. The bytes are valid until the next request.
func (s *Source) exchange(ctx context.Context, unit byte, r *request, o *outcome) ([]byte, error) {
	left := o.attempts(s.retries)
	if r.rest.open() {
		left = 1
	}
	for {
		data, err := s.link.read(ctx, unit, r.table, r.at, r.count)
		if err == nil {
			return data, nil
		}
		if left--; left <= 0 || !repeatable(err) || ctx.Err() != nil {
			return nil, &requestError{fmt.Sprintf("read %v %d to %d of unit %d", r.table, r.at, r.at+r.count-1, unit), err}
		}
	}
}
