package buffer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sort"
	"sync"
	"time"

	"sluice/drivers"
)

// Limits of what a lane takes in one go.
const (
	commitEvents = 8192
	commitBytes  = 2 << 20
	// Enough company for a commit not to wait any longer: beyond it the cost of
	// a commit no longer matters.
	enoughEvents = 512
	enoughBytes  = 128 << 10
	// Sealed segments that a lane keeps open for its readers.
	openSegmentsMax = 3
)

// item is an event on its way into the log.
type item struct {
	event drivers.Event
	done  func(error) // may be nil
	gap   *gap        // set for gap records
}

// lane is one class of the log. Its writer (writer.go) is the only goroutine
// that adds to or removes from the segments; mu guards what others look at.
type lane struct {
	class       Class
	dir         string
	log         *slog.Logger
	incarnation string
	commitDelay time.Duration
	segLimit    int64
	memory      int64 // bound of the queue and, again, of the tail
	codec       *codec
	disk        *disk
	saveState   func(clean bool) error
	observe     func(time.Duration)

	wake  chan struct{} // the queue has something, or enough
	acked chan struct{} // a cursor moved far enough to free something

	mu        sync.Mutex
	closed    bool
	pending   []item
	pendBytes int64         // of pending and of what is being committed
	space     chan struct{} // closed and replaced when the queue shrinks
	blocked   bool          // full, and waiting for cursors
	fault     string        // why the last commit failed; empty: it didn't

	next       uint64 // sequence number of the next event
	reserved   uint64
	segments   []*segment // oldest first
	active     *segment   // the last of segments, or nil before the first commit
	opened     []*segment // sealed segments open for reading, oldest use first
	tail       []Batch    // the newest batches, contiguous up to next-1
	tailBytes  []int64
	tailSum    int64
	cursors    map[string]*cursor
	waiting    []chan struct{} // readers, to be told of new batches
	stopping   bool            // the writer commits what is left and ends
	expired    time.Time       // when the writer last looked for what is too old
	relieved   *segment        // the active one when the disk's limit last cost a segment
	debts      []debt          // what readers are to be told when they come to it
	saidDrop   time.Time       // when the log last said that events are dropped
	gapsQueued int             // gap records on their way to the disk

	committed uint64
	written   int64
	commits   uint64
	dropped   map[string]uint64
}

// cursor is how far an uplink has got in a lane.
type cursor struct {
	acked uint64 // everything up to here is delivered or accounted for
	saved uint64 // what is durable
	read  uint64 // what its reader was given, up to here; 0: nothing yet
	live  bool   // the uplink is in the config and reads this class
}

func (c *cursor) isLive() bool { return c != nil && c.live }

func newLane(b *Buffer, c Class, segs []*segment) (*lane, error) {
	cod, err := newCodec()
	if err != nil {
		return nil, err
	}
	l := &lane{
		class: c, dir: filepath.Join(b.cfg.Dir, "classes", c.Name), log: b.cfg.Log.With("class", c.Name),
		incarnation: b.state.incarnation, commitDelay: b.cfg.CommitDelay, segLimit: max(256<<10, min(b.cfg.Segment, c.KeepBytes/8)),
		memory: max(256<<10, b.cfg.Memory/int64(2*len(b.cfg.Classes))), codec: cod, disk: b.disk, saveState: b.saveState, observe: b.cfg.ObserveCommit,
		wake: make(chan struct{}, 1), acked: make(chan struct{}, 1), space: make(chan struct{}),
		cursors: map[string]*cursor{}, dropped: map[string]uint64{},
	}
	saved := b.state.found.Classes[c.Name]
	lost := l.adopt(segs, saved, b.state.found.Clean)
	if err := l.restoreCursors(b.cfg.Uplinks, saved.Cursors); err != nil {
		return nil, err
	}
	now := time.Now()
	l.debts = saved.Debts
	if b.state.drawn && l.next > 1 { // for the new incarnation all numbers before are missing, and were never used
		l.queueGap(newGap(1, l.next-1, reasonRestart, now, now), nil)
		return l, nil
	}
	for _, g := range lost {
		if g.First = max(g.First, l.minAcked()+1); g.First <= g.Last {
			l.owe(debt{gap: newGap(g.First, g.Last, reasonCorrupt, now, now)})
			l.dropped[reasonCorrupt] += g.Last - g.First + 1
		}
	}
	return l, nil
}

// adopt takes over the segments found on disk, finds the number to go on with,
// and returns the ranges that are lost. No number that may have been used is
// used again: where the newest file cannot be trusted all that were set aside
// count as used.
func (l *lane) adopt(segs []*segment, saved savedClass, clean bool) (lost []gap) {
	l.next = 1
	doubt := saved.Newest > 0
	for i, s := range segs {
		newest := i == len(segs)-1
		doubt = doubt && s.about.First != saved.Newest
		end := ^uint64(0)
		if !newest {
			end = segs[i+1].about.First
		}
		switch {
		case !s.bad:
			s.clamp(end)
			l.next = max(l.next, s.about.First, s.tally.last+1)
			l.segments = append(l.segments, s)
			doubt = doubt || newest && !s.metasValid()
		case newest:
			l.next = max(l.next, s.about.First)
			doubt = true
		case end > s.about.First:
			lost = append(lost, gap{First: s.about.First, Last: end - 1})
		}
	}
	// Numbers that were refused are used without being stored.
	slices.SortFunc(saved.Debts, func(a, b debt) int { return cmp.Compare(a.First, b.First) })
	for _, d := range saved.Debts {
		if d.At == 0 && d.First <= l.next {
			l.next = max(l.next, d.Last+1)
		}
	}
	used := saved.Next
	if !clean && (doubt || saved.Next > l.next) {
		used = saved.Reserved + 1
	}
	if used > l.next {
		lost = append(lost, gap{First: l.next, Last: used - 1})
		l.next = used
	}
	return lost
}

// clamp leaves out what a later file, which begins with end, holds instead: it
// took over after a commit whose outcome was unknown.
func (s *segment) clamp(end uint64) {
	if s.tally.last < end {
		return
	}
	s.tally.events -= min(s.tally.events, s.tally.last-end+1)
	s.tally.last = end - 1
	s.gaps = slices.DeleteFunc(s.gaps, func(g gapAt) bool { return g.seq >= end })
}

// restoreCursors sets each uplink's cursor to the furthest that the state file
// and the segments know. A new uplink begins with the oldest stored event.
func (l *lane) restoreCursors(uplinks map[string][]string, saved map[string]uint64) error {
	known := map[string]uint64{}
	for name, seq := range saved {
		known[name] = seq
	}
	for i := len(l.segments) - 1; i >= 0; i-- {
		m, err := l.segments[i].cursors()
		if err = errors.Join(err, l.segments[i].close()); err != nil {
			l.log.Warn("cannot read the cursors of a segment", "file", l.segments[i].path, "error", err)
			continue
		}
		for name, seq := range m {
			known[name] = max(known[name], seq)
		}
		if len(m) > 0 { // older segments only know less
			break
		}
	}
	for name, seq := range known {
		seq = min(seq, l.next-1)
		l.cursors[name] = &cursor{acked: seq, saved: seq}
	}
	start := l.next - 1
	if len(l.segments) > 0 {
		start = l.segments[0].about.First - 1
	}
	for name, classes := range uplinks {
		if len(name) == 0 || len(name) > 64 {
			return fmt.Errorf("uplink name %q (1 to 64 bytes)", name)
		}
		begun := l.cursors[name] != nil
		if classes != nil && !contains(classes, l.class.Name) && !(l.class.former && begun) {
			continue
		}
		if l.cursors[name] == nil {
			l.cursors[name] = &cursor{acked: start, saved: start}
		}
		l.cursors[name].live = true
	}
	for name, c := range l.cursors {
		if n := l.storedAfter(c.acked); !c.live && n > 0 {
			l.log.Warn("an uplink that is no longer configured for this class has not got everything; its place is remembered, and holds nothing back",
				"uplink", name, "events", n)
		}
	}
	if l.class.former {
		l.log.Warn("this class is no longer configured; what it holds is still delivered", "events", l.storedAfter(l.minAcked()))
	}
	return nil
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// append queues an event, waiting while the queue is full.
func (l *lane) append(ctx context.Context, e drivers.Event, done func(error)) error {
	size := cost(&e)
	l.mu.Lock()
	for !l.closed && l.pendBytes > 0 && l.pendBytes+size > l.memory {
		space := l.space
		l.mu.Unlock()
		select {
		case <-space:
		case <-ctx.Done():
			return ctx.Err()
		}
		l.mu.Lock()
	}
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	l.pending = append(l.pending, item{event: e, done: done})
	before := l.pendBytes
	l.pendBytes += size
	n, bytes := len(l.pending), l.pendBytes
	l.mu.Unlock()
	if n == 1 || n == enoughEvents || (before < enoughBytes && bytes >= enoughBytes) {
		signal(l.wake)
	}
	return nil
}

// queueGap queues a gap record past all limits: it is small, and nothing that
// is missing may go unsaid.
func (l *lane) queueGap(g gap, done func(error)) {
	l.mu.Lock()
	closed := l.closed
	if !closed {
		l.pushGap(g, done)
	}
	l.mu.Unlock()
	if closed && done != nil {
		done(ErrClosed)
	}
}

// pushGap is queueGap under the lock.
func (l *lane) pushGap(g gap, done func(error)) {
	e := g.event(l.class.Name)
	l.pending = append(l.pending, item{event: e, done: done, gap: &g})
	l.pendBytes += cost(&e)
	l.gapsQueued++
	signal(l.wake)
}

// signal wakes the one goroutine that waits on c, now or when it next does.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// find returns what the tail holds from pos on.
func (l *lane) find(pos uint64) (Batch, bool) {
	if len(l.tail) == 0 || pos < l.tail[0].First {
		return Batch{}, false
	}
	i := sort.Search(len(l.tail), func(i int) bool { return l.tail[i].Last() >= pos })
	if i == len(l.tail) {
		return Batch{}, false
	}
	return cut(l.tail[i], pos), true
}

// cut leaves out what comes before pos.
func cut(b Batch, pos uint64) Batch {
	if pos > b.First {
		b.Events = b.Events[pos-b.First:]
		b.First = pos
	}
	return b
}

// minAcked is the number up to which every uplink of this class has everything.
func (l *lane) minAcked() uint64 {
	return l.lowest(func(c *cursor) uint64 { return c.acked })
}

// minSaved is minAcked as far as it is durable: only what lies before it may be
// removed, or a crash would look for what is gone.
func (l *lane) minSaved() uint64 {
	return l.lowest(func(c *cursor) uint64 { return c.saved })
}

// minRead is the number up to which every uplink was given everything.
func (l *lane) minRead() uint64 {
	return l.lowest(func(c *cursor) uint64 { return max(c.acked, c.read) })
}

// lowest is the lowest place of all live cursors, the end of the log without any.
func (l *lane) lowest(place func(*cursor) uint64) uint64 {
	low := l.next - 1
	for _, c := range l.cursors {
		if c.live {
			low = min(low, place(c))
		}
	}
	return low
}

// ack moves a cursor forward and wakes the writer when that can free a segment.
func (l *lane) ack(uplink string, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.cursors[uplink]
	if c == nil || seq <= c.acked {
		return
	}
	c.acked = min(seq, l.next-1)
	if l.blocked || (len(l.segments) > 1 && c.acked >= l.segments[0].tally.last) {
		signal(l.acked)
	}
}

func (l *lane) cursorsMoved() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.cursors {
		if c.acked > c.saved {
			return true
		}
	}
	return false
}

// snapshot is what the state file keeps of this lane; saved confirms it.
func (l *lane) snapshot() savedClass {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := savedClass{Next: l.next, Reserved: max(l.reserved, l.next+reserveAhead), Cursors: map[string]uint64{}}
	for name, c := range l.cursors {
		s.Cursors[name] = c.acked
	}
	l.forgive()
	s.Debts = slices.Clone(l.debts)
	if n := len(l.segments); n > 0 {
		s.Newest = l.segments[n-1].about.First
	}
	return s
}

func (l *lane) saved(s savedClass) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reserved = max(l.reserved, s.Reserved)
	l.cursorsSaved(s.Cursors)
}

func (l *lane) cursorsSaved(m map[string]uint64) {
	for name, seq := range m {
		if c := l.cursors[name]; c != nil {
			c.saved = max(c.saved, seq)
		}
	}
}

// shut refuses new events and fails what is still queued.
func (l *lane) shut() {
	l.mu.Lock()
	left := l.pending
	l.pending, l.closed = nil, true
	close(l.space)
	l.space = make(chan struct{})
	for _, c := range l.waiting {
		signal(c)
	}
	l.mu.Unlock()
	for _, it := range left {
		if it.done != nil {
			it.done(ErrClosed)
		}
	}
}

// close closes the files. The writer must have ended.
func (l *lane) close() {
	l.shut()
	for _, s := range l.segments {
		if err := s.close(); err != nil {
			l.log.Warn("close a segment", "file", s.path, "error", err)
		}
	}
}
