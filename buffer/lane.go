package buffer

import (
	"cmp"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Limits of what a lane takes in one go.
const (
	commitEvents = 8192
	commitBytes  = 2 << 20
	// Enough company for a commit not to wait any longer: a whole
	// block gains nothing by it.
	enoughEvents = blockEvents
	enoughBytes  = 512 << 10
	// Sealed segments that a lane keeps open for its readers.
	openSegmentsMax = 3
)

// maxSegment keeps the maps of several files within a 32-bit address space.
const maxSegment = 64 << 20 << (strconv.IntSize / 64 * 3)

// keepPerMemory is how many bytes a class keeps for each byte of queue that it can
// make use of.
const keepPerMemory = 16

// lane is one class of the log. Its writer (writer.go) is the only goroutine
// that adds to or removes from the segments; mu guards what others look at.
type lane struct {
	class       Class
	dir         string
	home        *os.File // dir, as it was opened (named.go)
	log         *slog.Logger
	incarnation string
	commitDelay time.Duration
	spillAfter  time.Duration
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
	retiring  bool   // what is left when it is shut is for another buffer
	left      []item // that
	pending   []item
	pendBytes int64         // of pending and of what is being committed
	space     chan struct{} // closed and replaced when the queue shrinks
	blocked   bool          // full, and waiting for cursors
	fault     string        // why the last commit failed; empty: it didn't

	next       uint64 // sequence number of the next event
	reserved   uint64
	stored     uint64         // everything up to here is written, or was never to be
	segments   []*segment     // oldest first
	closing    sync.WaitGroup // of full segments
	active     *segment       // the last of segments, or nil before the first commit
	opened     []*segment     // sealed segments open for reading, oldest use first
	tail       []recent       // the newest batches
	tailSum    int64          // bytes
	held       []held         // the newest of them, as far as they are not written
	heldSum    int64          // bytes
	cursors    map[string]*cursor
	stateSaved time.Time       // when the cursors were last saved
	waiting    []chan struct{} // readers, to be told of new batches
	stopping   bool            // the writer commits what is left and ends
	expired    time.Time       // when the writer last looked for what is too old
	merging    bool            // a segment is being written again with larger blocks
	merges     chan merged     // what came of it
	relieved   *segment        // the active one when the disk's limit last cost a segment
	debts      []debt          // what readers are to be told when they come to it
	debtRoom   int             // bytes that the state file has for debts
	inHand     []span          // dropped while uplinks had them in hand, and not counted as dropped yet; ascending
	saidDrop   time.Time       // when the log last said that events are dropped
	gapsQueued int             // gap records on their way to the disk

	committed uint64
	written   int64
	commits   uint64
	dropped   map[string]uint64
}

// memoryShare is what the queue of a class may hold, and again its tail. A class
// that keeps little needs little; the others share the rest evenly.
func memoryShare(cfg Config, c Class) int64 {
	const least = 256 << 10
	need := func(c Class) int64 { return max(least, c.KeepBytes/keepPerMemory) }
	rest, sharers := cfg.Memory/2, int64(len(cfg.Classes))
	for _, other := range slices.SortedFunc(slices.Values(cfg.Classes), func(a, b Class) int { return cmp.Compare(need(a), need(b)) }) {
		share := min(need(other), rest/sharers)
		if other.Name == c.Name {
			return max(least, share)
		}
		rest, sharers = rest-share, sharers-1
	}
	return least
}

func newLane(b *Buffer, c Class, segs []*segment) (*lane, error) {
	cod, err := newCodec()
	if err != nil {
		return nil, err
	}
	l := &lane{
		class: c, dir: b.classDir(c.Name), log: b.cfg.Log.With("class", c.Name),
		incarnation: b.state.incarnation, commitDelay: b.cfg.CommitDelay, spillAfter: b.cfg.SpillAfter, segLimit: max(256<<10, min(b.cfg.Segment, c.KeepBytes/8, maxSegment)),
		memory: memoryShare(b.cfg, c), codec: cod, disk: b.disk, saveState: b.saveState, observe: b.cfg.ObserveCommit,
		wake: make(chan struct{}, 1), acked: make(chan struct{}, 1), space: make(chan struct{}),
		merges: make(chan merged, 1), debtRoom: b.debtRoom, cursors: map[string]*cursor{}, dropped: map[string]uint64{},
	}
	saved := b.state.found.Classes[c.Name]
	lost := l.adopt(segs, saved, b.state.found.Clean, b.state.drawn)
	l.stored = l.next - 1
	if err := l.restoreCursors(b.cfg.Uplinks, b.cfg.Removed, saved); err != nil {
		return nil, err
	}
	now := time.Now()
	l.debts = saved.Debts
	l.inHand = inHandOf(saved)
	if b.state.drawn && l.next > 1 { // for the new incarnation all numbers before are missing, and were never used
		l.queueGap(newGap(1, l.next-1, reasonRestart, now, now), nil)
		return l, nil
	}
	for _, g := range l.worthOwing(lost) {
		if g.First = max(g.First, l.minAcked()+1); g.First <= g.Last {
			l.owe(debt{gap: newGap(g.First, g.Last, g.Reason, now, now)})
			l.dropped[g.Reason] += g.Last - g.First + 1
		}
	}
	return l, nil
}

// worthOwing leaves out of lost, where the state file has no room for all of it,
// the holes in what is stored: readers find these, and say the same of them.
func (l *lane) worthOwing(lost []gap) []gap {
	size := sizeOf(l.debts)
	for _, g := range lost {
		size += debt{gap: g}.size()
	}
	if size <= l.debtRoom/2 || len(l.segments) == 0 {
		return lost
	}
	first := l.segments[0].about.First
	return slices.DeleteFunc(lost, func(g gap) bool { return g.Reason == reasonCorrupt && g.First > first })
}

// shut refuses new events and fails what is still queued.
func (l *lane) shut() {
	l.mu.Lock()
	left := l.pending
	l.pending, l.gapsQueued, l.closed = nil, 0, true // nobody waits for gap records any more
	if l.retiring {
		var events []item
		events, left = l.bequeath(left)
		l.left = append(l.left, events...)
	}
	close(l.space)
	l.space = make(chan struct{})
	for _, c := range l.waiting {
		signal(c)
	}
	l.mu.Unlock()
	fail(left)
}

// close closes the files. The writer must have ended.
func (l *lane) close() {
	l.shut()
	l.closing.Wait()
	for _, s := range l.segments {
		if err := s.close(); err != nil {
			l.log.Warn("close a segment", "file", s.path, "error", err)
		}
	}
	_ = l.home.Close() // read only; closed before where this is called again
}
