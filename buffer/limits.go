package buffer

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// disk watches the file system's free space.
type disk struct {
	dir     string
	minFree float64

	mu    sync.Mutex
	asked time.Time
	low   bool
}

// short reports whether less than minFree of the file system is free, as of at
// most a second ago.
func (d *disk) short() bool {
	if d.minFree <= 0 {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.asked) < time.Second {
		return d.low
	}
	d.asked = time.Now()
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil {
		d.low = false // a disk that can't be asked shows in the commit
		return false
	}
	d.low = float64(st.Bavail) < d.minFree*float64(st.Blocks)
	return d.low
}

// full says whether n more bytes go over the class's limits, and which one.
func (l *lane) full(n int64) (why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	sum := n
	for _, s := range l.segments {
		sum += s.bytes
	}
	switch {
	case sum > l.class.KeepBytes:
		return fmt.Sprintf("keep.bytes (%d) is used up", l.class.KeepBytes)
	case l.disk.short():
		return "the disk is nearly full (buffer.min_free)"
	}
	return ""
}

// makeRoom reports whether items may be stored, dropping the oldest segments
// for them where the class says so.
func (l *lane) makeRoom(items []item) bool {
	var n int64
	for i := range items {
		n += cost(&items[i].event)
	}
	// The queue's bytes are before compression; only what is surely too much counts.
	n /= 8
	why := l.full(n)
	if why != "" {
		l.reclaim()
		l.trim(0) // what is only retained makes way for what is new
		why = l.full(n)
	}
	for why != "" && l.class.WhenFull == DropOldest && l.dropOldest(reasonDropOldest) {
		why = l.full(n)
	}
	l.setBlocked(why)
	return why == "" || l.class.WhenFull == DropOldest
}

func (l *lane) setBlocked(why string) {
	l.mu.Lock()
	was := l.blocked
	l.blocked = why != "" && l.class.WhenFull == Block
	is := l.blocked
	l.mu.Unlock()
	switch {
	case is && !was:
		l.log.Warn("the class is full; sources wait", "reason", why)
	case was && !is:
		l.log.Info("the class has room again")
	}
}

// reclaim frees an active segment that is delivered as a whole.
func (l *lane) reclaim() {
	l.mu.Lock()
	delivered := l.active != nil && l.active.tally.events > 0 && l.minAcked() >= l.active.tally.last
	l.mu.Unlock()
	if !delivered {
		return
	}
	if err := l.roll(); err != nil {
		l.failed(err)
	}
}

// trim removes the segments that every uplink has and whose newest event is
// older than retain.
func (l *lane) trim(retain time.Duration) {
	for {
		l.mu.Lock()
		var s *segment
		if len(l.segments) > 1 && l.segments[0] != l.active {
			if c := l.segments[0]; c.tally.last <= l.minAcked() && (retain == 0 || time.Since(c.tally.to) >= retain) {
				s = c
				l.segments = l.segments[1:]
			}
		}
		l.mu.Unlock()
		if s == nil {
			return
		}
		l.unlink(s)
	}
}

// unlink removes a segment's file; a damaged one is kept for people to look at.
func (l *lane) unlink(s *segment) {
	end := s.remove
	if s.damaged.Load() {
		end = s.setAside
	}
	if err := end(); err != nil {
		l.log.Warn("remove a segment", "file", s.path, "error", err)
	}
}

// expire drops the segments whose newest event is older than keep.age. An
// active one that is an eighth of that old is sealed, so that it can expire.
func (l *lane) expire() {
	age := l.class.KeepAge
	if age <= 0 {
		return
	}
	l.mu.Lock()
	seal := l.active != nil && l.active.tally.events > 0 && time.Since(l.active.tally.from) > age/8
	l.mu.Unlock()
	if seal {
		if err := l.roll(); err != nil {
			l.failed(err)
			return
		}
	}
	for {
		l.mu.Lock()
		old := len(l.segments) > 1 && l.segments[0].tally.events > 0 && time.Since(l.segments[0].tally.to) > age
		l.mu.Unlock()
		if !old || !l.dropOldest(reasonExpired) {
			return
		}
	}
}

// dropOldest removes the oldest segment, whatever was delivered of it, after
// gap records for the rest are durable. false: there was nothing to remove, or
// the gap records could not be written.
func (l *lane) dropOldest(reason string) bool {
	l.mu.Lock()
	if len(l.segments) == 0 {
		l.mu.Unlock()
		return false
	}
	s := l.segments[0]
	sole := s == l.active
	low := l.minAcked()
	l.mu.Unlock()
	if sole {
		if s.tally.events == uint64(len(s.gaps)) { // nothing but gap records: nothing to gain
			return false
		}
		if err := l.roll(); err != nil {
			l.failed(err)
			return false
		}
	}
	if err := l.writeGaps(l.missing(s, low, reason)); err != nil {
		l.failed(err)
		return false
	}
	l.mu.Lock()
	l.segments = l.segments[1:]
	l.forget(s.tally.last)
	l.mu.Unlock()
	l.unlink(s)
	return true
}

// missing lists what is lost with s for an uplink that has everything up to
// low: its events, and what gap records in it had said.
func (l *lane) missing(s *segment, low uint64, reason string) []gap {
	first := max(s.about.First, low+1)
	if s.tally.events == 0 || first > s.tally.last {
		return nil
	}
	var gaps []gap
	for _, g := range s.gaps {
		if g.seq > low {
			gaps = append(gaps, g.gap)
		}
	}
	from, to := s.tally.from, s.tally.to
	runs, err := s.runs(first)
	if err != nil {
		l.log.Warn("a segment that is dropped can't be read; it is accounted for as a whole", "file", s.path, "error", err)
		runs = []header{{first: first, count: int(s.tally.last - first + 1), from: from, to: to}}
	}
	for _, r := range runs {
		gaps = append(gaps, newGap(r.first, r.last(), reason, r.from, r.to))
	}
	return mergeGaps(gaps)
}

// writeGaps commits gap records now, past all limits.
func (l *lane) writeGaps(gaps []gap) error {
	if len(gaps) == 0 {
		return nil
	}
	items := make([]item, len(gaps))
	for i := range gaps {
		items[i] = item{event: gaps[i].event(l.class.Name), gap: &gaps[i]}
	}
	if err := l.commit(items); err != nil {
		return fmt.Errorf("write gap records: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range gaps {
		l.dropped[g.Reason] += g.Count
	}
	return nil
}

// restBetweenRefusals bounds how many gap records a full drop_newest class writes.
const restBetweenRefusals = 200 * time.Millisecond

// rest waits until the next refusal is due, room may have been made, or ctx ends.
func (l *lane) rest(ctx context.Context) {
	t := time.NewTimer(restBetweenRefusals)
	defer t.Stop()
	select {
	case <-t.C:
	case <-l.acked:
	case <-ctx.Done():
	}
}

// refuse numbers the events among items without storing them and gives the gap
// record that takes their place; gap records among items stay.
func (l *lane) refuse(items []item) []item {
	var lost, kept []item
	for _, it := range items {
		if it.gap != nil {
			kept = append(kept, it)
		} else {
			lost = append(lost, it)
		}
	}
	if len(lost) == 0 {
		return kept
	}
	l.mu.Lock()
	first := l.next
	l.next += uint64(len(lost))
	l.dropped[reasonDropNewest] += uint64(len(lost))
	l.mu.Unlock()
	g := newGap(first, first+uint64(len(lost))-1, reasonDropNewest, lost[0].event.Time, lost[len(lost)-1].event.Time)
	// The record stands for all of them: it is their commit.
	var bytes int64
	for i := range lost {
		bytes += cost(&lost[i].event)
	}
	done := func(err error) {
		for i := range lost {
			if lost[i].done != nil {
				lost[i].done(err)
			}
		}
	}
	e := g.event(l.class.Name)
	l.mu.Lock()
	l.pendBytes += cost(&e) - bytes
	l.gapsQueued++
	l.mu.Unlock()
	return append(kept, item{event: e, done: done, gap: &g})
}
