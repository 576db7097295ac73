package buffer

import (
	"context"
	"slices"
	"time"
)

// bridge moves past the numbers up to last, which are not there to be read. Those
// that no gap record stands for yet get one first, with the reason that is owed
// for them; without one they are damaged.
func (p *place) bridge(ctx context.Context, last uint64, cause error) error {
	err := p.account(ctx, func() ([]chan error, bool) { return p.lane.explain(p.cursor, p.next, last, cause) })
	if err == nil {
		p.next = last + 1
	}
	return err
}

// thinned takes up what thinning left of a block, once a gap record stands for
// the rest.
func (p *place) thinned(ctx context.Context, r *run) error {
	if r.first > p.next { // as in read: look again after that
		return p.bridge(ctx, r.first-1, nil)
	}
	err := p.account(ctx, func() ([]chan error, bool) { return p.lane.explainThinned(p.cursor, p.next, r) })
	if err == nil {
		p.rest = r
	}
	return err
}

// account has gap records made until explain finds nothing to explain any more.
func (p *place) account(ctx context.Context, explain func() (done []chan error, queued bool)) error {
	for {
		done, queued := explain()
		if len(done) == 0 && !queued {
			return nil
		}
		for _, durable := range done {
			select {
			case err := <-durable:
				if err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if queued { // one of those may be the explanation
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
}

// explainThinned queues a gap record for what is missing from r from pos on, as
// explain does.
func (l *lane) explainThinned(c *cursor, pos uint64, r *run) (done []chan error, queued bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gapsQueued > 0 {
		return nil, true
	}
	missing := subtract(holes(pos, r.last(), r.seqs), l.recordedSpans(pos, r.last()))
	if len(missing) == 0 {
		c.sure = max(c.sure, r.last())
		return nil, false
	}
	from, to := r.times()
	for _, g := range gapsOf(missing, reasonThinned, from, to) {
		done = append(done, l.tellGap(g))
	}
	return done, false
}

// tellGap queues a gap record; the channel gets nil when it is durable. The
// caller holds the lock.
func (l *lane) tellGap(g gap) chan error {
	durable := make(chan error, 1)
	if l.closed {
		durable <- ErrClosed
	} else {
		l.pushGap(g, func(err error) { durable <- err })
	}
	return durable
}

// recordedSpans lists the numbers between first and last that durable gap
// records stand for, ascending. The caller holds the lock.
func (l *lane) recordedSpans(first, last uint64) (known []span) {
	for _, s := range l.segments {
		for _, g := range s.gaps {
			if g.gap.Last >= first && g.gap.First <= last {
				known = append(known, g.gap.spans()...)
			}
		}
	}
	return sortSpans(known)
}

// neverWritten reports whether all of first to last are known not to have been
// written. The caller holds the lock.
func (l *lane) neverWritten(first, last uint64) bool {
	for _, s := range l.segments {
		if slices.ContainsFunc(s.skips, func(k span) bool { return k.first <= first && last <= k.last }) {
			return true
		}
	}
	return false
}

// explain queues gap records for the parts of first to last that no durable one
// stands for, and returns what tells when they are; queued says that records are
// on their way already and nothing was done. What gap records in that range had
// said is said again, since they can't be read either. When there is nothing more to
// be said c is past these numbers, under the same lock: the records that stand for
// them may be dropped right after it.
func (l *lane) explain(c *cursor, first, last uint64, cause error) (done []chan error, queued bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gapsQueued > 0 {
		return nil, true
	}
	for _, g := range inFew(l.unexplained(first, last)) {
		log := l.log
		if cause != nil {
			log = log.With("error", cause)
		}
		log.Warn("events are not there to be sent; a gap record stands for them", "first", g.First, "last", g.Last, "reason", g.Reason)
		done = append(done, l.tellGap(g))
	}
	if len(done) == 0 {
		c.sure = max(c.sure, last)
	}
	return done, false
}

// unexplained lists the parts of first to last that no durable gap record stands
// for, by reason, and what gap records that were there had said.
func (l *lane) unexplained(first, last uint64) (parts, again []gap) {
	for _, m := range subtract([]span{{first, last}}, l.recordedSpans(first, last)) {
		reason := reasonCorrupt
		if len(l.segments) > 0 && last < l.segments[0].about.First || l.neverWritten(m.first, m.last) {
			reason = reasonNotKept
		}
		found, unowed := l.reasons(m.first, m.last, reason)
		parts = append(parts, found...)
		l.dropped[reason] += unowed
	}
	within := func(seq uint64) bool {
		return slices.ContainsFunc(parts, func(p gap) bool { return p.First <= seq && seq <= p.Last })
	}
	for _, s := range l.segments {
		for _, g := range s.gaps {
			if within(g.seq) {
				again = append(again, g.gap)
			}
		}
	}
	var told []span
	for _, p := range parts {
		told = append(told, span{p.First, p.Last})
	}
	for _, d := range l.debts {
		if d.At == 0 || d.At < first || d.At > last {
			continue
		}
		if missing := subtract(subtract(d.spans(), l.recordedSpans(d.First, d.Last)), sortSpans(told)); len(missing) > 0 {
			again = append(again, gapsOf(missing, d.Reason, d.From, d.To)...)
			told = append(told, missing...)
		}
	}
	return parts, again
}
