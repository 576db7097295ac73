package modbus

import (
	"slices"
	"time"
)

// How long what a device refused is left alone: a device that starts up refuses
// what it has a moment later, one that lacks an address lacks it for good. The
// wait doubles from first to longest.
const (
	firstRetry   = time.Second
	longestRetry = 24 * time.Hour
	cutsKept     = 24 * time.Hour // then merging is tried again
	restAfterAll = time.Hour      // between two times that a device's return has everything tried again
)

// lessons are what a device has taught about its addresses. A nil *lessons knows
// nothing and learns nothing. One goroutine uses it.
type lessons struct {
	refused map[*tag]*refusal
	cuts    map[cut]time.Time // until when each holds
	allAt   time.Time         // when everything was tried again last
	changed bool              // since it was saved
}

// refusal is a tag that the device refuses while it answers others.
type refusal struct {
	reason string // exception-2 or exception-3
	wait   time.Duration
	next   time.Time // it isn't asked before
}

// cut is an address before which a request must end or at which it must begin:
// both sides can be read, the two together cannot.
type cut struct {
	table table
	at    int
}

func newLessons() *lessons {
	return &lessons{refused: map[*tag]*refusal{}, cuts: map[cut]time.Time{}}
}

// refusal returns what is known against a tag; nil: nothing.
func (l *lessons) refusal(t *tag) *refusal {
	if l == nil {
		return nil
	}
	return l.refused[t]
}

// parts says that r and t, which begins no lower, can't be read together: a
// refused tag lies in the gap between them, or a cut was found there.
func (l *lessons) parts(r *request, t *tag) bool {
	if l == nil {
		return false
	}
	for c := range l.cuts {
		if c.table == r.table && r.at < c.at && c.at <= t.at {
			return true
		}
	}
	end := r.at + r.count
	for x := range l.refused {
		if x.table == r.table && x.at < t.at && x.at+x.count > end && t.at > end {
			return true
		}
	}
	return false
}

// refuse notes that the device refused a tag, once more or for the first time,
// and says whether it is the first time.
func (l *lessons) refuse(t *tag, reason string, now time.Time) (news bool) {
	if l == nil {
		return false
	}
	r := l.refused[t]
	if news = r == nil; news {
		r = &refusal{wait: firstRetry / 2}
		l.refused[t] = r
	}
	r.reason, r.wait = reason, min(2*r.wait, longestRetry)
	r.next = now.Add(r.wait)
	l.changed = true
	return news
}

// allow forgets what is known against a tag, and says whether that is news.
func (l *lessons) allow(t *tag) bool {
	if l.refusal(t) == nil {
		return false
	}
	delete(l.refused, t)
	l.changed = true
	return true
}

// separate notes that requests have to end at c.
func (l *lessons) separate(c cut, now time.Time) {
	if l != nil {
		l.cuts[c] = now.Add(cutsKept)
		l.changed = true
	}
}

// expire forgets the cuts whose time is over, and says whether there were any.
func (l *lessons) expire(now time.Time) (some bool) {
	if l == nil {
		return false
	}
	for c, until := range l.cuts {
		if !now.Before(until) {
			delete(l.cuts, c)
			l.changed, some = true, true
		}
	}
	return some
}

// due returns those of the tags that are refused and may be tried again.
func (l *lessons) due(tags []*tag, now time.Time) (out []*tag) {
	if l == nil || len(l.refused) == 0 {
		return nil
	}
	for _, t := range tags {
		if r := l.refused[t]; r != nil && !now.Before(r.next) {
			out = append(out, t)
		}
	}
	return out
}

// postpone puts off those of the tried tags whose try came to nothing, such as a
// time-out.
func (l *lessons) postpone(tried []*tag, now time.Time) {
	for _, t := range tried {
		if r := l.refusal(t); r != nil && !now.Before(r.next) {
			r.next = now.Add(r.wait)
		}
	}
}

// tryAll has every refused tag tried at once: the device was away, and may have
// come back as another one.
func (l *lessons) tryAll(now time.Time) {
	if l == nil || now.Sub(l.allAt) < restAfterAll {
		return
	}
	l.allAt = now
	for _, r := range l.refused {
		r.next = now
	}
}

// mark gives each refused tag that isn't asked in this poll its reason.
func (l *lessons) mark(tags []*tag, except []*tag) {
	if l == nil || len(l.refused) == 0 {
		return
	}
	for _, t := range tags {
		if r := l.refused[t]; r != nil && !slices.Contains(except, t) {
			t.now.set(r.reason)
		}
	}
}
