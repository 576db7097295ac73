package buffer

import (
	"slices"
	"time"
)

// Reading ahead: an uplink with a live share gets new events beside a backlog,
// which it reads in order. What it got of them is a run of numbers that lies
// ahead of its cursor:
//
//	1        acked        main          from 1,001 on, as they came
//	|-delivered-|-in flight-|--backlog--|==delivered==|-in flight-|  not read
//	                                  1,000         acked       read
//
// The cursor stays where everything before it is delivered, and holds back what
// is not; the state file has the delivered parts of runs, so that only those are
// left out after a crash. When all before a run is delivered it is not ahead any
// more: its reading goes on as the one in order.

const (
	// maxAhead is how many runs an uplink may have ahead in a class. With more it
	// reads in order what comes.
	maxAhead = 3
	// lateAfter is how old an event must be that is next in order for the newer
	// ones to be read ahead of it.
	lateAfter = 10 * time.Second
	// againAfter is how old the next one of a run may become before it counts as
	// backlog itself, and a new run begins: the link went away again.
	againAfter = time.Minute
)

// ahead is a run that an uplink was given before what stands before it.
type ahead struct {
	id    uint32 // of its reading
	first uint64
	read  uint64 // given up to here; first-1: nothing
	acked uint64 // delivered or accounted for up to here
	open  bool   // it is still read; only the last run is
}

// settle moves the cursor as far as everything before it is delivered. Without a run
// ahead only acknowledgements move it.
func (c *cursor) settle() {
	if len(c.ahead) > 0 && c.main >= c.read { // nothing of it is in flight
		c.main = max(c.main, c.past)
	}
	for len(c.ahead) > 0 && c.ahead[0].first <= c.main+1 {
		a := c.ahead[0]
		if a.open { // all before it is delivered
			c.id, c.main, c.read, c.ahead = a.id, max(c.main, a.acked), a.read, nil
			break
		}
		if a.acked < a.read { // in flight
			c.acked = max(c.acked, a.acked)
			return
		}
		c.main, c.ahead = max(c.main, a.read), c.ahead[1:]
	}
	c.acked = max(c.acked, c.main)
}

// take notes what a reading has delivered.
func (c *cursor) take(id uint32, seq uint64) {
	if id == c.id {
		c.main = max(c.main, seq)
		c.moved = c.moved || len(c.ahead) > 0
		c.settle()
		return
	}
	if a := c.run(id); a != nil {
		a.acked = max(a.acked, min(seq, a.read))
		c.moved = true
		c.settle()
	}
}

// run is the run of a reading, nil if it has none any more.
func (c *cursor) run(id uint32) *ahead {
	if i := slices.IndexFunc(c.ahead, func(a ahead) bool { return a.id == id && id > 0 }); i >= 0 {
		return &c.ahead[i]
	}
	return nil
}

// reach is the highest number that its readings were given, or moved past because a
// gap record stands for it. Such a record must not go unsaid before they come to it.
func (c *cursor) reach() uint64 {
	at := max(c.acked, c.read, c.sure)
	if n := len(c.ahead); n > 0 {
		at = max(at, c.ahead[n-1].read)
	}
	return at
}

// delivered lists what is delivered behind the cursor, ascending.
func (c *cursor) delivered() []span {
	return c.beyond(c.main, func(a ahead) uint64 { return a.acked })
}

// given lists what its readings have in hand or delivered behind the cursor.
func (c *cursor) given() []span {
	return c.beyond(max(c.acked, c.read), func(a ahead) uint64 { return a.read })
}

// beyond lists the numbers behind the cursor up to main that are in no run, and
// the first ones of each run.
func (c *cursor) beyond(main uint64, upTo func(ahead) uint64) (out []span) {
	add := func(first, last uint64) {
		if first = max(first, c.acked+1); first > last {
			return
		}
		if n := len(out); n > 0 && out[n-1].last+1 >= first {
			out[n-1].last = max(out[n-1].last, last)
			return
		}
		out = append(out, span{first, last})
	}
	at := c.acked
	for _, a := range c.ahead {
		add(at+1, min(main, a.first-1))
		add(a.first, upTo(a))
		at = max(at, a.read)
	}
	add(at+1, main)
	return out
}

// rewind has all readings begin anew: what is delivered stays so, and the rest is
// read in order. Acknowledgements of readings before that had something in flight
// count no more, since what they mean is not what is read next.
func (c *cursor) rewind() {
	for _, a := range c.ahead {
		if a.open || a.acked < a.read {
			c.ids++
			c.id = c.ids
			break
		}
	}
	done := c.delivered()
	c.main, c.past, c.read, c.sure, c.ahead = c.acked, c.acked, c.acked, c.acked, nil
	for _, s := range done {
		c.ahead = append(c.ahead, ahead{first: s.first, read: s.last, acked: s.last})
	}
}

// saveAhead is what the state file keeps of the runs.
func (c *cursor) saveAhead() (out [][2]uint64) {
	for _, s := range c.delivered() {
		if len(out) < maxAhead {
			out = append(out, [2]uint64{s.first, s.last})
		}
	}
	return out
}

// restoreAhead takes over what the state file has of runs; end is the last number
// that is used.
func (c *cursor) restoreAhead(saved [][2]uint64, end uint64) {
	at := c.acked
	for _, s := range saved {
		if first, last := max(s[0], at+1), min(s[1], end); first <= last && len(c.ahead) < maxAhead {
			c.ahead = append(c.ahead, ahead{first: first, read: last, acked: last})
			at = last
		}
	}
	c.settle()
}

// split begins to read ahead of what was read up to last. It returns the id of the
// reading and where it begins; 0: there is nothing ahead, or too much.
func (c *cursor) split(last, newest uint64) (id uint32, first uint64) {
	if last >= newest || len(c.ahead) >= maxAhead {
		return 0, 0
	}
	c.ids++
	c.ahead = append(c.ahead, ahead{id: c.ids, first: newest + 1, read: newest, acked: newest, open: true})
	return c.ids, newest + 1
}

// resplit ends the run that is read, and begins another one; last is what that
// reading has moved past.
func (c *cursor) resplit(id uint32, last, newest uint64) (next uint32, first uint64) {
	n := len(c.ahead)
	if n == 0 || c.ahead[n-1].id != id || n >= maxAhead || last >= newest {
		return 0, 0
	}
	a := &c.ahead[n-1]
	if a.open = false; a.read < a.first {
		c.ahead = c.ahead[:n-1]
	}
	next, first = c.split(last, newest)
	c.settle()
	return next, first
}

// union lists, ascending, the numbers from first to last that at least one of
// the uplinks that hold something back lacks, by what it has.
func (l *lane) union(first, last uint64, has func(*cursor) (upTo uint64, beyond []span)) (out []span) {
	var all []span
	for _, c := range l.cursors {
		upTo, beyond := has(c)
		if from := max(first, upTo+1); from <= last && (c.live || upTo < c.until) {
			all = append(all, subtract([]span{{from, last}}, beyond)...)
		}
	}
	for _, s := range sortSpans(all) {
		if n := len(out); n > 0 && out[n-1].last+1 >= s.first {
			out[n-1].last = max(out[n-1].last, s.last)
		} else {
			out = append(out, s)
		}
	}
	return out
}

// ungiven lists the numbers from first to last that some uplink was not given.
func (l *lane) ungiven(first, last uint64) []span {
	return l.union(first, last, func(c *cursor) (uint64, []span) { return max(c.acked, c.read), c.given() })
}

// undelivered lists the numbers that some uplink has not got.
func (l *lane) undelivered() []span {
	return l.union(1, l.next-1, func(c *cursor) (uint64, []span) { return c.acked, c.delivered() })
}

// within counts the stored or held events among spans.
func (l *lane) within(spans []span) (n uint64) {
	for _, s := range spans {
		n += l.toDeliver(s.first-1) - l.toDeliver(s.last)
	}
	return n
}

// overlap counts the numbers of s that are in spans.
func overlap(s span, spans []span) (n uint64) {
	for _, o := range spans {
		if first, last := max(s.first, o.first), min(s.last, o.last); first <= last {
			n += last - first + 1
		}
	}
	return n
}

// isBehind reports whether b is old enough for newer events not to wait for it. A
// time that cannot be right says nothing.
func isBehind(b Batch, limit time.Duration) bool {
	at := b.Events[0].Time
	return ClockSet(at) && time.Since(at) > limit
}
