package buffer

import "time"

// Write-behind: with spill_after an event is numbered and given to the readers
// without being written. When every uplink has it within that time its source is
// acknowledged, and it never touches the disk. Otherwise it is written like any
// other, and its source is acknowledged then. While an uplink does not keep up,
// events are written at once: holding them would only make their sources wait.
//
// The numbers of events that are held are set aside durably before a reader sees
// one. After a crash the sources send again what was not acknowledged, and a gap
// record with the reason "restart" stands for all numbers that were set aside.

// held is a batch that readers have and the disk has not.
type held struct {
	batch Batch
	done  []func(error) // for each event, may be nil
	bytes int64
	since time.Time
}

// mayHold reports whether items need not be written now.
func (l *lane) mayHold(items []item) bool {
	if l.spillAfter == 0 || l.stopping || len(items) == 0 {
		return false
	}
	var bytes int64
	for i := range items {
		if items[i].gap != nil { // somebody waits for it to be durable
			return false
		}
		bytes += cost(&items[i].event)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.heldSum+bytes <= l.memory && l.keepsUp()
}

// keepsUp reports whether every uplink that is routed to the class got what it
// has not acknowledged less than half of spill_after ago; false without an
// uplink. The caller holds the lock.
func (l *lane) keepsUp() bool {
	low, routed := l.liveAcked()
	switch {
	case !routed:
		return false
	case low+1 >= l.next:
		return true
	}
	i := l.recentAt(low + 1)
	return i < len(l.tail) && l.tail[i].First <= low+1 && time.Since(l.tail[i].since) < l.spillAfter/2
}

// hold numbers items and gives them to the readers; false when their numbers
// could not be set aside.
func (l *lane) hold(items []item) bool {
	if err := l.reserve(uint64(len(items))); err != nil {
		return false // the commit, which comes next, says so
	}
	batches, _ := l.number(items)
	now, n := time.Now(), 0
	l.mu.Lock()
	for _, b := range batches {
		h := held{batch: b, done: make([]func(error), len(b.Events)), since: now}
		for i := range h.done {
			h.done[i] = items[n].done
			n++
		}
		h.bytes = l.push(b, now)
		l.heldSum += h.bytes
		l.held = append(l.held, h)
	}
	l.next += uint64(n)
	l.shortenTail()
	l.tellReaders()
	l.mu.Unlock()
	l.drained(items)
	return true
}

// release acknowledges, in order, the held events that every uplink has.
func (l *lane) release() {
	var done []func(error)
	l.mu.Lock()
	low, _ := l.liveAcked()
	for len(l.held) > 0 && l.held[0].batch.First <= low {
		h := &l.held[0]
		n := min(uint64(len(h.done)), low-h.batch.First+1)
		done = append(done, h.done[:n]...)
		h.batch, h.done = cut(h.batch, h.batch.First+n), h.done[n:]
		if len(h.done) == 0 {
			l.heldSum -= h.bytes
			l.held = l.held[1:]
		}
	}
	if len(l.held) == 0 {
		l.held = nil
	}
	l.mu.Unlock()
	tell(done)
}

// spillDue reports whether what is held must be written now.
func (l *lane) spillDue() bool {
	return len(l.held) > 0 && (l.stopping || time.Since(l.held[0].since) >= l.spillAfter)
}

// unstored is what is held, as the first part of a commit.
func (l *lane) unstored() (batches []Batch) {
	for _, h := range l.held { // only this goroutine changes it
		batches = append(batches, h.batch)
	}
	return batches
}

// spilled acknowledges what was held: it is durable. The caller holds the lock;
// the sources are told by what it returns.
func (l *lane) spilled() (done []func(error)) {
	for _, h := range l.held {
		done = append(done, h.done...)
	}
	l.held, l.heldSum = nil, 0
	return done
}

func tell(done []func(error)) {
	for _, f := range done {
		if f != nil {
			f(nil)
		}
	}
}

// front is the first number that is not written and may be, and so the first
// that a new segment can hold.
func (l *lane) front() uint64 {
	if len(l.held) > 0 {
		return l.held[0].batch.First
	}
	return l.next
}
