package buffer

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// disk watches the file system's free space.
type disk struct {
	minFree float64
	space   func() (free, all float64, err error) // of the file system, in bytes

	mu      sync.Mutex
	refused time.Time // when it last had no space for a class
}

func newDisk(dir string, minFree float64) *disk {
	return &disk{minFree: minFree, space: func() (free, all float64, err error) {
		var st unix.Statfs_t
		err = unix.Statfs(dir, &st)
		return float64(st.Bavail) * float64(st.Bsize), float64(st.Blocks) * float64(st.Bsize), err
	}}
}

// starve notes that a class could not be written for want of space.
func (d *disk) starve() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refused = time.Now()
}

// starving reports whether some class could not be written lately. All give what
// they need not hold then.
func (d *disk) starving() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.refused.IsZero() && time.Since(d.refused) < 5*time.Second
}

// short reports whether less than minFree of the file system would be free with n
// more bytes. It is asked anew before each commit: what an answer of a moment ago
// allows may be all that was left. That costs nothing beside a commit.
func (d *disk) short(n int64) bool {
	if d.minFree <= 0 {
		return false
	}
	free, all, err := d.space()
	return err == nil && free-float64(n) < d.minFree*all // a disk that can't be asked shows in the commit
}

// limit is what a class has used up.
type limit int

const (
	roomy    limit = iota
	overKeep       // keep.bytes
	lowDisk        // buffer.min_free
)

func (f limit) String() string {
	return [...]string{"there is room", "keep.bytes is used up", "the disk is nearly full (buffer.min_free)"}[f]
}

// full says which limit n more bytes go over. What the disk lacks may be others'
// doing, so one segment may always be held: a class goes on, however little.
func (l *lane) full(n int64) limit {
	sum := n
	l.mu.Lock()
	for _, s := range l.segments {
		sum += s.bytes
	}
	l.mu.Unlock()
	switch {
	case sum > l.class.KeepBytes:
		return overKeep
	case sum > l.segLimit && l.disk.short(n):
		return lowDisk
	}
	return roomy
}

// makeRoom reports whether items may be stored, dropping the oldest segments
// for them where the class says so.
func (l *lane) makeRoom(items []item) bool {
	var n int64
	for i := range items {
		n += cost(&items[i].event)
	}
	n += l.heldSum // only this goroutine changes it
	// The queue's bytes are before compression; only what is surely too much counts.
	n /= 8
	is := l.full(n)
	if is != roomy && l.class.WhenFull != Block && l.elsewhere() != nil { // nothing can be stored: nothing makes way for it
		return true
	}
	if is != roomy {
		l.reclaim()
	}
	for is != roomy && l.trimOne(0) { // what is only retained makes way for what is new
		is = l.full(n)
	}
	for is != roomy && l.thinNext() {
		is = l.full(n)
	}
	for is == overKeep && l.class.WhenFull == DropOldest && l.dropOldest(reasonDropOldest) {
		is = l.full(n)
	}
	// Others may have filled the disk: our backlog makes way no faster than it grows.
	if is == lowDisk && l.class.WhenFull == DropOldest && (l.relieved == nil || l.relieved != l.active) && l.dropOldest(reasonDropOldest) {
		l.relieved = l.active
	}
	l.setBlocked(is)
	return is == roomy || l.class.WhenFull == DropOldest
}

// giveWay drops the oldest segments after there was no space to write items and
// what is held, where the class says so, and returns how many bytes that gave back;
// freed is what it has dropped for the same items before. It drops no more than they
// can need: what takes the space again is somebody else, to whom the whole backlog
// would not be enough.
func (l *lane) giveWay(items []item, freed int64) (more int64) {
	if l.class.WhenFull != DropOldest {
		return 0
	}
	need := growStep + 2*l.heldSum // only this goroutine changes it
	for i := range items {
		need += 2 * cost(&items[i].event)
	}
	for freed+more < need {
		l.mu.Lock()
		several, n := len(l.segments) > 1, int64(0)
		if several && !l.segments[0].damaged.Load() { // a damaged one is set aside, and gives nothing back
			n = l.segments[0].bytes
		}
		l.mu.Unlock()
		if !several || !l.dropOldest(reasonDropOldest) {
			break
		}
		more += n
	}
	return more
}

func (l *lane) setBlocked(is limit) {
	l.mu.Lock()
	was := l.blocked
	l.blocked = is != roomy && l.class.WhenFull == Block
	now := l.blocked
	l.mu.Unlock()
	switch {
	case now && !was:
		l.log.Warn("the class is full; sources wait", "reason", is.String())
	case was && !now:
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
	for l.trimOne(retain) {
	}
}

// yield gives an active segment up that is delivered as a whole.
func (l *lane) yield() {
	l.mu.Lock()
	delivered := l.active != nil && l.active.tally.events > 0 && l.minAcked() >= l.active.tally.last
	l.mu.Unlock()
	if delivered {
		l.abandon()
	}
}

// trimOne removes the oldest segment if it is delivered. The cursors that allow
// it are made durable first. The last one goes, too, where this class or another
// cannot be written: it may hold the space that is missing.
func (l *lane) trimOne(retain time.Duration) bool {
	l.mu.Lock()
	var s *segment
	durable, starving := false, l.disk.starving()
	sole := len(l.segments) == 1
	if len(l.segments) > 0 && l.segments[0] != l.active && (!sole || l.fault != "" || starving) {
		if c := l.segments[0]; c.tally.last <= l.minAcked() && (retain == 0 || time.Since(c.tally.to) >= retain) {
			s, durable = c, c.tally.last <= l.minSaved() && !sole
			l.segments = l.segments[1:]
		}
	}
	l.mu.Unlock()
	if s == nil {
		return false
	}
	if !durable { // the state no longer names the last one, either
		if err := l.saveState(false); err != nil {
			l.log.Warn("cannot save the cursors; delivered segments stay", "error", err)
			l.mu.Lock()
			l.segments = append([]*segment{s}, l.segments...)
			l.mu.Unlock()
			return false
		}
	}
	l.unlink(s)
	return true
}

// unlink removes a segment's file; a damaged one is kept for people to look at, and one
// that is away with its folder stays there.
func (l *lane) unlink(s *segment) {
	end := s.remove
	switch {
	case l.elsewhere() != nil:
		end = s.leave
	case s.damaged.Load():
		end = s.setAside
	}
	if err := end(); err != nil {
		l.log.Warn("remove a segment", "file", s.path, "error", err)
	}
}

// clockIsSet is a time before which no gateway runs: events that claim to be
// older come from a clock that was not set, and their age is unknown.
var clockIsSet = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// ClockSet says whether a time can be that of a clock that was set.
func ClockSet(t time.Time) bool { return t.After(clockIsSet) }

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
		old := len(l.segments) > 1 && l.segments[0].tally.events > 0 && time.Since(l.segments[0].tally.to) > age &&
			ClockSet(l.segments[0].tally.to)
		l.mu.Unlock()
		if !old || !l.dropOldest(reasonExpired) {
			return
		}
	}
}

// dropOldest removes the oldest segment, whatever was delivered of it, once it is
// durable that the rest is owed an explanation. false: there was nothing to
// remove, or that could not be made durable.
func (l *lane) dropOldest(reason string) bool {
	l.mu.Lock()
	if len(l.segments) == 0 {
		l.mu.Unlock()
		return false
	}
	s, sole := l.segments[0], len(l.segments) == 1
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
	l.mu.Lock()
	low := l.minSaved()
	l.mu.Unlock()
	from := l.timeFrom(s, low+1)
	l.mu.Lock()
	debts := l.missing(s, low, from, reason)
	n, fits := l.unread(s, debts), l.fits(debts)
	if s.tally.events == s.tally.last-s.about.First+1 { // of one with holes a gap record spans what was counted before
		l.keepInHand(s, l.ungiven(s.about.First, s.tally.last))
	}
	l.mu.Unlock()
	if !fits { // then it is told in the log, before anything is dropped
		if err := l.writeDebts(debts); err != nil {
			l.failed(err)
			return false
		}
		debts = nil
	}
	l.mu.Lock()
	l.segments = l.segments[1:] // what it says no longer counts as said,
	l.forget(s.tally.last)      // and nobody reads it any more
	l.owe(debts...)
	l.mu.Unlock()
	if err := l.saveState(false); err != nil {
		l.mu.Lock()
		l.segments = append([]*segment{s}, l.segments...)
		l.mu.Unlock()
		l.failed(err)
		return false
	}
	l.mu.Lock()
	l.dropped[reason] += n
	say := n > 0 && time.Since(l.saidDrop) > time.Minute
	if say {
		l.saidDrop = time.Now()
	}
	l.mu.Unlock()
	if say {
		l.log.Warn("events are dropped; gap records will stand for them", "reason", reason, "events", n)
	}
	l.unlink(s)
	return true
}

// timeFrom is the time of the first event of s from the number seq on, or where that cannot
// be read of its first one.
func (l *lane) timeFrom(s *segment, seq uint64) time.Time {
	if seq <= s.about.First || seq > s.tally.last {
		return s.tally.from
	}
	_, r, err := s.read(seq, l.codec)
	if err != nil {
		return s.tally.from
	}
	for i := range r.events {
		if r.seq(i) >= seq && !r.events[i].Time.After(s.tally.to) {
			return r.events[i].Time
		}
	}
	return s.tally.from
}

// missing lists what is lost with s for an uplink that has everything up to low, from a
// time on: its events, and what gap records among them had said.
func (l *lane) missing(s *segment, low uint64, from time.Time, reason string) (debts []debt) {
	first := max(s.about.First, low+1)
	if s.tally.events == 0 || first > s.tally.last {
		return nil
	}
	for _, g := range s.gaps {
		if g.seq >= first {
			debts = append(debts, debt{gap: g.gap, At: g.seq})
		}
	}
	// Holes in it have debts or records of their own already; a range that
	// spans them is right, too: none of those numbers is there.
	return append(debts, debt{gap: newGap(first, s.tally.last, reason, from, s.tally.to)})
}

// unread counts the events of s that debts stand for and that some uplink has not
// been given yet; what an uplink was given it still has in hand.
func (l *lane) unread(s *segment, debts []debt) uint64 {
	want, records := l.ungiven(1, s.tally.last), uint64(0)
	for _, d := range debts {
		switch {
		case d.At > 0:
			records += overlap(span{d.At, d.At}, want)
		default:
			n := min(s.tally.events, overlap(span{d.First, d.Last}, want))
			return n - min(n, records)
		}
	}
	return 0
}

// restBetweenRefusals bounds how often a full drop_newest class saves the state.
const restBetweenRefusals = 500 * time.Millisecond

// rest waits until the next refusal is due or room may have been made; false:
// ctx has ended.
func (l *lane) rest(ctx context.Context) bool {
	t := time.NewTimer(restBetweenRefusals)
	defer t.Stop()
	select {
	case <-t.C:
	case <-l.acked:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// refuse numbers the events among items without storing them, and acknowledges
// them once it is durable that they are owed an explanation. It gives back the
// gap records among items, and false when ctx ended before that.
func (l *lane) refuse(ctx context.Context, items []item) (gaps []item, ok bool) {
	var lost []item
	for _, it := range items {
		if it.gap != nil {
			gaps = append(gaps, it)
		} else {
			lost = append(lost, it)
		}
	}
	if len(lost) == 0 {
		return gaps, true
	}
	n := uint64(len(lost))
	l.mu.Lock()
	l.owe(debt{gap: newGap(l.next, l.next+n-1, reasonDropNewest, lost[0].event.Time, lost[n-1].event.Time)})
	l.next += n
	l.mu.Unlock()
	for err := l.saveState(false); err != nil; err = l.saveState(false) {
		l.failed(err)
		if !l.rest(ctx) {
			l.putBackAll(lost)
			return gaps, false
		}
	}
	l.mu.Lock()
	l.mended()
	l.dropped[reasonDropNewest] += n
	for _, c := range l.waiting {
		signal(c)
	}
	l.mu.Unlock()
	l.acknowledge(lost)
	return gaps, true
}
