package buffer

import (
	"errors"
	"time"

	"sluice/drivers"
)

// thinner keeps the first event of each key in each interval. What is kept for a
// long interval is among what is kept for one that divides it.
type thinner struct {
	every time.Duration
	last  map[thinKey]int64 // the interval of the last event that was kept
}

// thinKey is what the readings of one signal have in common.
type thinKey struct{ source, device, subject string }

// maxThinKeys bounds the memory of thinning; beyond it more events are kept.
const maxThinKeys = 1 << 16

func (t *thinner) keeps(e *drivers.Event) bool {
	if e.Type != drivers.TypeMQTTMessage && e.Type != drivers.TypeModbusReading {
		return true // gap records, alerts: each says something of its own
	}
	key, interval := thinKey{e.Source, e.Device, e.Subject}, e.Time.UnixNano()/int64(t.every)
	if last, seen := t.last[key]; seen && last == interval {
		return false
	}
	if len(t.last) >= maxThinKeys {
		clear(t.last)
	}
	t.last[key] = interval
	return true
}

// thin returns what is kept of r.
func (t *thinner) thin(r run) run {
	out := run{incarnation: r.incarnation, first: r.first, span: r.span, seqs: make([]uint64, 0, len(r.events))}
	for i := range r.events {
		if t.keeps(&r.events[i]) {
			out.seqs = append(out.seqs, r.seq(i))
			out.events = append(out.events, r.events[i])
		}
	}
	if len(out.events) == out.span {
		out.seqs = nil
	}
	return out
}

// thinNext takes the next step of the class's ladder: the oldest sealed segment
// that a step was not applied to yet. false: there is none.
func (l *lane) thinNext() bool {
	if len(l.class.Thin) > 0 && l.elsewhere() != nil {
		return false
	}
	for _, step := range l.class.Thin {
		for _, s := range l.segments { // only this goroutine adds and removes
			if s == l.active || s.tally.events == 0 || s.keepAsIs || s.thinnedTo() >= step {
				continue
			}
			if err := l.thinOne(s, step); err != nil {
				s.keepAsIs = true
				l.log.Warn("cannot thin a segment; it stays as it is", "file", s.path, "error", err)
				continue
			}
			return true
		}
	}
	return false
}

// thinnedTo is the interval that the segment is thinned to; 0: it is not.
func (s *segment) thinnedTo() time.Duration {
	d, err := time.ParseDuration(s.about.Thinned)
	if err != nil { // empty
		return 0
	}
	return d
}

// thinOne rewrites s with one event per key and interval. A reader that comes to
// the numbers that are missing then makes a gap record for them: the blocks say
// which ones they are.
func (l *lane) thinOne(s *segment, every time.Duration) error {
	a := s.about
	a.Thinned = every.String()
	w, err := newRewriter(l.dir, a, s.gen+1, s.bytes)
	if err != nil {
		return err
	}
	l.mu.Lock()
	want := l.ungiven(1, s.tally.last)
	l.mu.Unlock()
	t, dropped := thinner{every: every, last: map[thinKey]int64{}}, uint64(0)
	err = s.pour(w.codec, func(r run) error {
		kept := t.thin(r)
		for _, m := range holes(r.first, r.last(), kept.numbers()) {
			dropped += overlap(m, want)
		}
		for _, m := range holes(r.first, r.last(), r.numbers()) { // missing before
			dropped -= overlap(m, want)
		}
		return w.put(kept)
	})
	if err != nil {
		return errors.Join(err, w.seg.discard())
	}
	fresh, err := w.finish(s.skips, l.ackedCursors())
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.keepInHand(s, want)
	l.mu.Unlock()
	l.replace(s, fresh)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget(s.tally.last)
	l.dropped[reasonThinned] += dropped
	if dropped > 0 && time.Since(l.saidDrop) > time.Minute {
		l.saidDrop = time.Now()
		l.log.Warn("the class is full; events are thinned, gap records will stand for the others", "one event per key in", every.String(), "missing", dropped)
	}
	return nil
}
