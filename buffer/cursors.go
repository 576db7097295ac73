package buffer

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// cursor is how far an uplink has got in a lane.
type cursor struct {
	acked uint64 // everything up to here is delivered or accounted for
	saved uint64 // what is durable
	read  uint64 // what its reader was given in order, up to here; 0: nothing yet
	sure  uint64 // up to here a reading found gap records for what is not there, or told of it, and will not look again
	live  bool   // the uplink is in the config and reads this class
	until uint64 // not in the config any more: it was to get everything up to here

	// ahead.go
	main  uint64  // the reading in order has delivered everything up to here, but what runs have of it
	past  uint64  // and has moved past these: given, in a run, or not there
	id    uint32  // of the reading in order
	ids   uint32  // the highest id
	ahead []ahead // runs that were read before what stands before them, ascending
	moved bool    // something of them since the cursors were saved
}

func (c *cursor) isLive() bool { return c != nil && c.live }

// restoreCursors sets each uplink's cursor to the furthest that the state file
// and the segments know. A new uplink begins with the oldest stored event; where the
// state and all cursors are lost each begins before the first number, and is told what is
// not there any more. One that is not configured any more keeps what it was to get until
// it is declared as removed.
func (l *lane) restoreCursors(uplinks map[string][]string, removed []string, saved savedClass) error {
	known := maps.Clone(saved.Cursors)
	if known == nil {
		known = map[string]uint64{}
	}
	for i := len(l.segments) - 1; i >= 0; i-- {
		m, err := l.segments[i].cursors()
		if err = errors.Join(err, l.segments[i].close()); err != nil {
			l.log.Warn("cannot read the cursors of a segment", "file", l.segments[i].path, "error", err)
			continue
		}
		for name, seq := range m {
			if _, ok := known[name]; ok || saved.Cursors == nil { // the state knows which were removed
				known[name] = max(known[name], seq)
			}
		}
		if len(m) > 0 { // older segments only know less
			break
		}
	}
	for name, seq := range known {
		if _, configured := uplinks[name]; !configured && slices.Contains(removed, name) {
			continue // Stranded says what is given up
		}
		seq = min(seq, l.next-1)
		c := &cursor{acked: seq, saved: seq, main: seq}
		c.restoreAhead(saved.Ahead[name], l.next-1)
		l.cursors[name] = c
	}
	start := l.next - 1
	switch {
	case len(l.segments) > 0 && (len(known) > 0 || saved.Cursors != nil):
		start = l.segments[0].about.First - 1
	case len(l.segments) > 0:
		start = 0
	}
	for name, classes := range uplinks {
		if len(name) == 0 || len(name) > 64 {
			return fmt.Errorf("uplink name %q (1 to 64 bytes)", name)
		}
		begun := l.cursors[name] != nil
		if classes != nil && !slices.Contains(classes, l.class.Name) && !(l.class.former && begun) {
			continue
		}
		if l.cursors[name] == nil {
			l.cursors[name] = &cursor{acked: start, saved: start, main: start}
		}
		l.cursors[name].live = true
	}
	l.keepStranded(uplinks, saved.Until)
	if l.class.former {
		l.log.Warn("this class is no longer configured; what it holds is still delivered", "events", l.storedAfter(l.minAcked()))
	}
	return nil
}

// keepStranded holds what uplinks that vanished from the config have not got. One
// that only reads this class no more is remembered, and holds nothing back.
func (l *lane) keepStranded(uplinks map[string][]string, until map[string]uint64) {
	for name, c := range l.cursors {
		if _, configured := uplinks[name]; configured || c.live {
			continue
		}
		if c.until = until[name]; c.until == 0 {
			c.until = l.next - 1
		}
	}
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

// lowest is the lowest place of all cursors that hold something back, the end of
// the log without any.
func (l *lane) lowest(place func(*cursor) uint64) uint64 {
	low := l.next - 1
	for _, c := range l.cursors {
		if at := place(c); c.live || at < c.until {
			low = min(low, at)
		}
	}
	return low
}

// liveAcked is minAcked of the uplinks that are configured; routed says whether
// there is one.
func (l *lane) liveAcked() (low uint64, routed bool) {
	low = l.next - 1
	for _, c := range l.cursors {
		if c.live {
			low, routed = min(low, c.acked), true
		}
	}
	return low, routed
}

func (l *lane) ackedCursors() map[string]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := make(map[string]uint64, len(l.cursors))
	for name, c := range l.cursors {
		m[name] = c.acked
	}
	return m
}

// ack moves a cursor forward and wakes the writer when that can free a segment.
func (l *lane) ack(uplink string, id uint32, seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.cursors[uplink]
	if c == nil || seq <= c.acked {
		return
	}
	before := c.acked
	if c.take(id, min(seq, l.next-1)); c.acked == before {
		return
	}
	if l.blocked || len(l.held) > 0 || (len(l.segments) > 1 && c.acked >= l.segments[0].tally.last) {
		signal(l.acked)
	}
}

// restBetweenCursors is how often the cursors are saved that only passed what
// was never written: after a crash they only tell how much of it was delivered.
const restBetweenCursors = time.Minute

// cursorsMoved reports whether the cursors are worth being saved.
func (l *lane) cursorsMoved() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.cursors {
		if c.moved || c.acked > c.saved && (l.storedAfter(c.saved) > 0 || time.Since(l.stateSaved) > restBetweenCursors) {
			return true
		}
	}
	return false
}

// snapshot is what the state file keeps of this lane; saved confirms it.
func (l *lane) snapshot() savedClass {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := savedClass{Next: l.next, Reserved: max(l.reserved, l.next+reserveAhead), Volatile: l.spillAfter > 0, Cursors: map[string]uint64{}}
	for name, c := range l.cursors {
		s.Cursors[name] = c.acked
		if list := c.saveAhead(); len(list) > 0 {
			if s.Ahead == nil {
				s.Ahead = map[string][][2]uint64{}
			}
			s.Ahead[name] = list
		}
		c.moved = false
		if c.until > 0 {
			if s.Until == nil {
				s.Until = map[string]uint64{}
			}
			s.Until[name] = c.until
		}
	}
	l.forgive()
	s.Debts = slices.Clone(l.debts)
	for _, m := range l.inHand {
		s.InHand = append(s.InHand, [2]uint64{m.first, m.last})
	}
	if n := len(l.segments); n > 0 {
		s.Newest = l.segments[n-1].about.First
	}
	return s
}

func (l *lane) saved(s savedClass) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reserved = max(l.reserved, s.Reserved)
	l.stateSaved = time.Now()
	l.cursorsSaved(s.Cursors)
}

func (l *lane) cursorsSaved(m map[string]uint64) {
	for name, seq := range m {
		if c := l.cursors[name]; c != nil {
			c.saved = max(c.saved, seq)
		}
	}
}
