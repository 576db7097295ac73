package buffer

import (
	"maps"
	"time"
)

// Stats is what the log knows of itself. Counters start at 0 with the process.
type Stats struct {
	Incarnation  string
	WrittenBytes int64  // handed to the file system by commits
	Commits      uint64 // transactions
	Classes      map[string]ClassStats
}

// ClassStats is one class.
type ClassStats struct {
	Committed uint64            // events made durable, gap records included
	First     uint64            // the oldest stored sequence number; 0: nothing is stored
	Next      uint64            // the number of the next event
	Events    uint64            // stored or held, and not yet delivered by every uplink
	Queued    int               // taken, waiting for their commit
	Bytes     int64             // used by the segments
	Oldest    time.Duration     // age of the oldest undelivered event; 0: there is none. From a segment on disk it may be too high by what the segment spans
	Dropped   map[string]uint64 // events that a gap record stands for, by reason
	Blocked   bool              // full: sources wait
	Fault     string            // why nothing can be written now; empty: it can
	Uplinks   map[string]UplinkStats
}

// UplinkStats is one uplink's place in a class.
type UplinkStats struct {
	Acked uint64 // delivered or accounted for up to this number
	Lag   uint64 // events after it, stored or held, that it has not got
	Ahead bool   // it gets new events beside a backlog
}

// Stats may be called at any time; it does not touch the disk.
func (b *Buffer) Stats() Stats {
	st := Stats{Incarnation: b.state.incarnation, Classes: make(map[string]ClassStats, len(b.lanes))}
	for name, l := range b.lanes {
		l.mu.Lock()
		st.Classes[name] = l.stats()
		st.WrittenBytes += l.written
		st.Commits += l.commits
		l.mu.Unlock()
	}
	return st
}

func (l *lane) stats() ClassStats {
	low := l.minAcked()
	c := ClassStats{Committed: l.committed, Next: l.next, Queued: len(l.pending), Dropped: maps.Clone(l.dropped),
		Events: l.within(l.undelivered()), Blocked: l.blocked, Fault: l.fault, Uplinks: map[string]UplinkStats{}}
	for _, s := range l.segments {
		c.Bytes += s.bytes
		if c.First == 0 && s.tally.events > 0 {
			c.First = s.about.First
		}
	}
	if c.Events > 0 {
		c.Oldest = max(0, time.Since(l.timeAt(low+1)))
	}
	for name, cur := range l.cursors {
		if cur.live {
			c.Uplinks[name] = UplinkStats{Acked: cur.acked, Lag: l.toDeliver(cur.acked) - l.within(cur.delivered()), Ahead: len(cur.ahead) > 0}
		}
	}
	return c
}

// toDeliver counts the events after seq.
func (l *lane) toDeliver(seq uint64) uint64 {
	n := l.storedAfter(seq)
	for _, h := range l.held {
		if last := h.batch.Last(); last > seq {
			n += last - max(seq, h.batch.First-1)
		}
	}
	return n
}

// storedAfter counts the stored events after seq.
func (l *lane) storedAfter(seq uint64) (n uint64) {
	for _, s := range l.segments {
		switch {
		case s.tally.events == 0 || s.tally.last <= seq:
		case s.about.First > seq:
			n += s.tally.events
		default:
			n += min(s.tally.events, s.tally.last-seq)
		}
	}
	return n
}

// timeAt is about when the event seq was taken.
func (l *lane) timeAt(seq uint64) time.Time {
	if b, ok := l.find(seq); ok {
		return b.Events[0].Time
	}
	for _, s := range l.segments {
		if s.tally.events > 0 && s.tally.last >= seq {
			return s.tally.from
		}
	}
	return time.Now()
}
