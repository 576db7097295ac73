package buffer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
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
	enoughEvents = 256
	enoughBytes  = 64 << 10
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
	damaged := l.adopt(segs, saved, b.state.found.Clean)
	if err := l.restoreCursors(b.cfg.Uplinks, saved.Cursors); err != nil {
		return nil, err
	}
	for _, g := range damaged {
		l.accountDamaged(g)
	}
	return l, nil
}

// adopt takes over the segments found on disk and returns the ranges of the
// ones that were set aside.
func (l *lane) adopt(segs []*segment, saved savedClass, clean bool) []gap {
	var damaged []gap
	l.next = max(1, saved.Next)
	if len(segs) == 0 && !clean && saved.Next > 1 {
		// The files are gone: no number that they may have used is used again.
		l.next = saved.Reserved + 1
		damaged = append(damaged, gap{First: saved.Next, Last: saved.Reserved, Reason: reasonCorrupt})
	}
	for i, s := range segs {
		if !s.gone {
			l.next = max(l.next, s.about.First, s.tally.last+1)
			l.segments = append(l.segments, s)
			continue
		}
		g := gap{First: s.about.First, Reason: reasonCorrupt}
		if i+1 < len(segs) {
			g.Last = segs[i+1].about.First - 1
		} else if g.Last = saved.Reserved; saved.Reserved == 0 {
			g.Last = s.about.First
		}
		if g.Last < g.First { // its successor starts with the same number: nothing is missing
			continue
		}
		l.next = max(l.next, g.Last+1)
		damaged = append(damaged, g)
	}
	l.reserved = max(saved.Reserved, l.next)
	return damaged
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
		l.cursors[name] = &cursor{acked: min(seq, l.next-1), saved: seq}
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
			l.cursors[name] = &cursor{acked: start}
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

// accountDamaged queues a gap record for the part of g that was not delivered.
func (l *lane) accountDamaged(g gap) {
	if g.First = max(g.First, l.minAcked()+1); g.First > g.Last {
		return
	}
	now := time.Now()
	l.queueGap(newGap(g.First, g.Last, g.Reason, now, now), nil)
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
	e := g.event(l.class.Name)
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		if done != nil {
			done(ErrClosed)
		}
		return
	}
	l.pending = append(l.pending, item{event: e, done: done, gap: &g})
	l.pendBytes += cost(&e)
	l.dropped[g.Reason] += g.Count
	l.gapsQueued++
	l.mu.Unlock()
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
	low := l.next - 1
	for _, c := range l.cursors {
		if c.live {
			low = min(low, c.acked)
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
		if c.acked != c.saved {
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
