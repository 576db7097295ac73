// Package buffer is the log of Sluice: every event is written here before its
// source is acknowledged, and every uplink reads it from here.
//
// A class of events is a lane: a directory of append-only bbolt files
// (segments), written by one goroutine with group commit. Each uplink has a
// cursor per lane. Files are trimmed, dropped or expired as a whole, and
// whatever was not delivered then is accounted for by a gap record.
//
//	buffer.go   Open, Append, Run, Close     lane.go     one class of the log
//	queue.go    events on their way in       writer.go   group commit and failed commits
//	hold.go     write-behind                 tail.go     the newest batches, in memory
//	reader.go   Next, Ack, Reject            bridge.go   past numbers that are not there
//	cursors.go  how far each uplink is       ahead.go    new events beside a backlog
//	tracks.go   which event is next          replay.go   readers of a range of time
//	limits.go   full, drop, expire, trim     thin.go     fewer events instead of none
//	debts.go    gap records that are owed    gap.go      gap records
//	segment.go  one bbolt file               rewrite.go  a segment made anew
//	block.go    the stored batch             event.go    the stored event
//	state.go    incarnation and cursors      slots.go    the state file
//	scan.go     what a start finds           salvage.go  blocks out of a damaged file
//	pages.go    is a file fit for bbolt      offline.go  looking in without an agent
//	repair.go   mend and compact without an agent
//	formats.go  what newer versions wrote    named.go    is the file still where it was
//	rejected.go copies of what was refused       rewind.go  send again
package buffer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"sluice/drivers"
)

var (
	// ErrClosed is given to every event that was queued but not committed when
	// the buffer stopped, and returned by calls after that.
	ErrClosed = errors.New("the buffer is closed")
	// ErrInUse is returned by Open when another process has the directory.
	ErrInUse = errors.New("in use")
	// ErrClass is returned by Append for a class that Open was not told of.
	ErrClass = errors.New("unknown class")
)

// WhenFull says what a class does when it has used up its limits.
type WhenFull string

// The rules of a full class.
const (
	Block      WhenFull = "block"       // Append blocks: MQTT acks are withheld, polls slow down
	DropNewest WhenFull = "drop_newest" // the new event is dropped and accounted for by a gap record
	DropOldest WhenFull = "drop_oldest" // the oldest segment is dropped and accounted for
)

// Class is one lane of the log: own sequence, own limits.
type Class struct {
	Name      string        // [A-Za-z0-9._-]{1,64}; the name of its folder
	Priority  int           // a reader gets batches of a higher priority first
	KeepBytes int64         // bytes on disk, at least 1 MiB; 0: 1 GiB
	KeepAge   time.Duration // older events expire with a gap record; 0: never
	Retain    time.Duration // delivered events are kept this long for replay; 0: not at all
	WhenFull  WhenFull      // empty: Block; what is done when Thin no longer helps
	// Thin is a ladder of growing intervals, 100 ms to 24 h. A full class first keeps
	// one event of each key (source and subject) per interval, oldest segments
	// first, and takes the next step when all were thinned.
	Thin []time.Duration

	former bool // no longer declared: only what it holds is delivered
}

// Config configures Open. Dir and one class are needed.
type Config struct {
	Dir           string              // owned by this buffer alone; created with mode 0700
	Classes       []Class             // every class that will be appended to
	Uplinks       map[string][]string // the readers: by name, the classes they read (nil: all). Their cursors hold events back from trimming
	Removed       []string            // former uplinks that need not get what waits for them
	SpillAfter    time.Duration       // write-behind, up to 1 min: an event that all uplinks of its class take within it is never written. 0: every event is
	CommitDelay   time.Duration       // longest wait for company before a commit; 0: as soon as the disk is free
	Segment       int64               // bytes of a segment file, 1 MiB to 512 MiB; 0: 16 MiB. A class never uses more than an eighth of its KeepBytes
	MinFree       float64             // share of the file system that stays free, 0 to 0.9: below it every class counts as full, from the commit on that comes next
	Memory        int64               // bound of what queues and hot tails hold, all classes together; 0: 16 MiB
	Log           *slog.Logger        // nil: discarded
	ObserveCommit func(time.Duration) // called after each commit, from the writers; may be nil
}

// Batch is a run of events of one class with contiguous sequence numbers: the
// event at i has First+i. It is read-only: other readers may hold it too.
type Batch struct {
	Class       string
	Incarnation string // 8 hex digits
	First       uint64
	Events      []drivers.Event

	Run  uint32 // for Ack: which of the reader's readings returned it
	Late bool   // it is of a backlog, and newer events are returned beside it
}

// Last is the sequence number of the last event.
func (b Batch) Last() uint64 { return b.First + uint64(len(b.Events)) - 1 }

// Buffer is an open log. All methods may be called by many goroutines at once.
type Buffer struct {
	cfg   Config
	lock  *os.File
	lanes map[string]*lane
	state *stateFile
	disk  *disk

	debtRoom int // bytes of the state file that a lane's debts may take

	mu      sync.Mutex
	readers map[string]bool

	rejectedMu sync.Mutex // one copy of a rejected event at a time
}

// Open opens the log in cfg.Dir, or creates it. Damaged segments are set aside
// as *.corrupt-TIME and accounted for by gap records; they never keep the log
// from opening. It returns an error for an invalid Config, for a directory that
// cannot be written, ErrInUse when another process has it, and ErrNewer when a
// newer version has written in it.
func Open(cfg Config) (*Buffer, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the buffer's directory: %w", err)
	}
	if err := syncDir(filepath.Dir(filepath.Clean(cfg.Dir))); err != nil { // the folder's own name; its parent may be closed to us
		cfg.Log.Debug("cannot sync the folder that holds the buffer's", "dir", cfg.Dir, "error", err)
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	b := &Buffer{cfg: cfg, lock: lock, lanes: map[string]*lane{}, readers: map[string]bool{}, disk: newDisk(cfg.Dir, cfg.MinFree)}
	if err := b.openLanes(); err != nil {
		b.closeLanes()
		if b.state != nil {
			b.state.close()
		}
		lock.Close()
		return nil, err
	}
	return b, nil
}

func (c *Config) check() error {
	if c.Dir == "" {
		return errors.New("Dir is empty")
	}
	if len(c.Classes) == 0 {
		return errors.New("Classes is empty: at least one class is needed")
	}
	if c.Segment == 0 {
		c.Segment = 16 << 20
	}
	if c.Segment < 1<<20 || c.Segment > 512<<20 {
		return fmt.Errorf("Segment is %d bytes (1 MiB to 512 MiB)", c.Segment)
	}
	if c.MinFree < 0 || c.MinFree > 0.9 {
		return fmt.Errorf("MinFree is %g (0 to 0.9)", c.MinFree)
	}
	if c.SpillAfter < 0 || c.SpillAfter > time.Minute {
		return fmt.Errorf("SpillAfter is %s (0 to 1m)", c.SpillAfter)
	}
	if c.CommitDelay < 0 || c.CommitDelay > time.Minute {
		return fmt.Errorf("CommitDelay is %s (0 to 1m)", c.CommitDelay)
	}
	if c.Memory == 0 {
		c.Memory = 16 << 20
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Classes = slices.Clone(c.Classes)
	for i := range c.Classes {
		if err := c.Classes[i].check(); err != nil {
			return err
		}
	}
	if n := c.stateSize(); n > slotSize-slotHeader-len(c.Classes)*leastDebtRoom {
		return fmt.Errorf("%d classes and %d uplinks need %d bytes in the state file, which has room for %d (fewer, or shorter names)", len(c.Classes), len(c.Uplinks), n, slotSize-slotHeader-len(c.Classes)*leastDebtRoom)
	}
	return nil
}

func (c *Class) check() error {
	if !validName(c.Name) {
		return fmt.Errorf("class name %q ([A-Za-z0-9._-]{1,64}, not . or ..)", c.Name)
	}
	if c.KeepBytes == 0 {
		c.KeepBytes = 1 << 30
	}
	if c.KeepBytes < 1<<20 {
		return fmt.Errorf("class %s: KeepBytes is %d (at least 1 MiB)", c.Name, c.KeepBytes)
	}
	switch c.WhenFull {
	case "":
		c.WhenFull = Block
	case Block, DropNewest, DropOldest:
	default:
		return fmt.Errorf("class %s: WhenFull is %q (%s, %s or %s)", c.Name, c.WhenFull, Block, DropNewest, DropOldest)
	}
	for i, step := range c.Thin {
		if step < 100*time.Millisecond || step > 24*time.Hour || i > 0 && step <= c.Thin[i-1] {
			return fmt.Errorf("class %s: Thin is %v (growing, each 100ms to 24h)", c.Name, c.Thin)
		}
	}
	return nil
}

// validName reports whether s may name a folder of the buffer.
func validName(s string) bool {
	if s == "" || len(s) > 64 || s == "." || s == ".." {
		return false
	}
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-') {
			return false
		}
	}
	return true
}

// adoptClasses adds the classes that have a folder here and are not declared any
// more: what they hold was acknowledged and is still to be delivered.
func (b *Buffer) adoptClasses() error {
	entries, err := os.ReadDir(filepath.Join(b.cfg.Dir, "classes"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		declared := slices.ContainsFunc(b.cfg.Classes, func(c Class) bool { return c.Name == e.Name() })
		if declared || !e.IsDir() || !validName(e.Name()) {
			continue
		}
		c := Class{Name: e.Name(), former: true}
		if err := c.check(); err != nil {
			return err
		}
		b.cfg.Classes = append(b.cfg.Classes, c)
	}
	return nil
}

func (b *Buffer) classDir(class string) string { return filepath.Join(b.cfg.Dir, "classes", class) }

func (b *Buffer) openLanes() error {
	if err := checkFormats(b.cfg.Dir); err != nil {
		return err
	}
	if err := b.adoptClasses(); err != nil {
		return err
	}
	b.debtRoom = max(leastDebtRoom, (slotSize-slotHeader-b.cfg.stateSize())/len(b.cfg.Classes))
	found := make(map[string][]*segment, len(b.cfg.Classes))
	for _, c := range b.cfg.Classes {
		if _, twice := found[c.Name]; twice {
			return fmt.Errorf("class %s is declared twice", c.Name)
		}
		segs, err := openSegments(b.classDir(c.Name), c.Name, b.cfg.Log)
		if err != nil {
			return fmt.Errorf("class %s: %w", c.Name, err)
		}
		found[c.Name] = segs
	}
	for name := range found { // now that no newer version is known to have written here
		if err := removeLeftOvers(b.classDir(name)); err != nil {
			return fmt.Errorf("class %s: %w", name, err)
		}
	}
	var err error
	if b.state, err = openState(b.cfg.Dir, found, b.cfg.Log); err != nil {
		return err
	}
	for _, c := range b.cfg.Classes {
		if !b.state.found.Clean {
			syncSegments(found[c.Name], b.cfg.Log)
		}
		found[c.Name] = rescueSegments(found[c.Name], c.Name, b.state.ours, b.cfg.Log)
		l, err := newLane(b, c, found[c.Name])
		if err != nil {
			return fmt.Errorf("class %s: %w", c.Name, err)
		}
		if c.former && l.gapsQueued == 0 && len(l.debts) == 0 && l.storedAfter(l.minAcked()) == 0 {
			b.state.keep[c.Name] = l.snapshot() // nothing left to deliver; its numbers stay taken
			continue
		}
		b.lanes[c.Name] = l
		if l.home, err = os.Open(l.dir); err != nil {
			return fmt.Errorf("class %s: %w", c.Name, err)
		}
	}
	if err = b.saveState(false); err != nil {
		// Not a reason to stay down: sending the backlog may be what makes room.
		// No lane commits before its numbers are set aside durably.
		b.cfg.Log.Error("cannot save the state; nothing new is taken until it works", "error", err)
		return nil
	}
	for _, segs := range found {
		tidySegments(segs, b.cfg.Log)
	}
	return nil
}

// Run writes what Append queues until ctx ends, then commits what is still
// queued and returns. Events that cannot be committed then get ErrClosed.
func (b *Buffer) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, l := range b.lanes {
		wg.Go(func() { l.run(ctx) })
	}
	wg.Go(func() { b.keepState(ctx) })
	wg.Wait()
	return nil
}

// keepState saves cursors that moved without a commit to ride on, so that a
// crash doesn't repeat more than a few seconds of deliveries.
func (b *Buffer) keepState(ctx context.Context) {
	tick := time.NewTicker(3 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !b.cursorsMoved() {
			continue
		}
		if err := b.saveState(false); err != nil {
			b.cfg.Log.Warn("cannot save the cursors; after a crash some events would be sent twice", "error", err)
		}
	}
}

// Append implements drivers.Sink. It returns ErrClass for a class that the
// buffer does not have, ErrClosed after Run has ended, or ctx's error.
func (b *Buffer) Append(ctx context.Context, e drivers.Event, done func(error)) error {
	l := b.lanes[e.Class]
	if l == nil || l.class.former {
		return fmt.Errorf("class %q: %w", e.Class, ErrClass)
	}
	return l.append(ctx, e, done)
}

// Incarnation is the 8 hex digits drawn when this buffer was created. Together
// with class and sequence number it names an event for ever.
func (b *Buffer) Incarnation() string { return b.state.incarnation }

// Close saves the cursors and closes all files. Run must have returned.
func (b *Buffer) Close() error {
	b.closeLanes()
	err := b.saveState(true)
	return errors.Join(err, b.state.close(), b.lock.Close())
}

func (b *Buffer) closeLanes() {
	for _, l := range b.lanes {
		l.close()
	}
}
