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

// How long split requests stay split, and how long one stays whole of which
// every part was refused: a device that starts up refuses everything.
const (
	mergeAfter = time.Hour
	splitAfter = time.Minute
)

// readGroup sends the requests of a group, in the order of their fates,
// and gives each tag its value or the reason why it has none.
func (s *Source) readGroup(ctx context.Context, g *group) outcome {
	o := outcome{result: resultOK, probing: g.device.breaker.open(), budget: splitBudget}
	s.mergeAgain(g, time.Now())
	pending := slices.Clone(g.requests)
	slices.SortStableFunc(pending, func(a, b *request) int { return cmp.Compare(a.last, b.last) })
	g.requests = g.requests[:0]
	for i, r := range pending {
		if ctx.Err() != nil {
			g.requests = append(g.requests, pending[i:]...)
			break
		}
		if o.hopeless() {
			r.last, r.read = untried, false
			r.bad(o.result)
			g.requests = append(g.requests, r)
			continue
		}
		g.requests = append(g.requests, s.readRequest(ctx, g, r, &o)...)
	}
	return o
}

// readRequest sends one request and returns what replaces it in the plan:
// itself, or the parts that it had to be split into.
func (s *Source) readRequest(ctx context.Context, g *group, r *request, o *outcome) []*request {
	data, err := s.exchange(ctx, g.device.unit, r, o)
	if err != nil && ctx.Err() != nil {
		return []*request{r}
	}
	r.read = err == nil
	r.last = answered
	if err != nil && !fromUnit(err) {
		r.last = silent
	}
	switch {
	case r.read:
		o.alive = true
		r.decode(data)
	case refused(err) && len(r.tags) > 1 && o.budget > 0 && !time.Now().Before(r.whole):
		o.fail(err)
		return s.split(ctx, g, r, o)
	default:
		reason := o.fail(err)
		s.logRefused(g.device, r, err, reason)
		r.bad(reason)
	}
	return []*request{r}
}

// split reads the halves of a request that was refused, and theirs, until the
// refused tags stand alone, so that they don't spoil their neighbours. Where no
// part can be read the request stays whole for a while.
func (s *Source) split(ctx context.Context, g *group, r *request, o *outcome) []*request {
	var parts []*request
	for _, half := range r.halves() {
		if ctx.Err() != nil {
			parts = append(parts, half)
			continue
		}
		o.budget--
		parts = append(parts, s.readRequest(ctx, g, half, o)...)
	}
	if !slices.ContainsFunc(parts, func(p *request) bool { return p.read }) {
		r.whole = time.Now().Add(splitAfter)
		return []*request{r}
	}
	if g.mergeAt.IsZero() {
		g.mergeAt = time.Now().Add(mergeAfter)
	}
	return parts
}

// mergeAgain makes the plan anew some time after requests were split: what was
// refused may have been a device that was starting up.
func (s *Source) mergeAgain(g *group, now time.Time) {
	if !g.mergeAt.IsZero() && !now.Before(g.mergeAt) {
		g.requests, g.mergeAt = plan(g.tags, s.limits), time.Time{}
	}
}

// exchange sends a request as often as it takes to be answered, within the
// retries. The bytes are valid until the next request.
func (s *Source) exchange(ctx context.Context, unit byte, r *request, o *outcome) ([]byte, error) {
	for left := o.attempts(s.retries); ; {
		data, err := s.link.read(ctx, unit, r.table, r.at, r.count)
		if err == nil {
			return data, nil
		}
		if left--; left <= 0 || !repeatable(err) || ctx.Err() != nil {
			return nil, fmt.Errorf("read %v %d to %d of unit %d: %w", r.table, r.at, r.at+r.count-1, unit, err)
		}
	}
}

// logRefused says once which tag a device doesn't have.
func (s *Source) logRefused(d *device, r *request, err error, reason string) {
	if t := r.tags[0]; refused(err) && len(r.tags) == 1 && t.sent.bad != reason {
		s.log.Warn("the device refuses the address of a tag", slog.String("device", d.name), slog.String("tag", t.name),
			slog.Any("table", r.table), slog.Int("address", r.at), slog.String("reason", reason))
	}
}
