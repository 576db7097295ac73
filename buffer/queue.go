package buffer

import (
	"context"
	"sluice/drivers"
)

// item is an event on its way into the log.
type item struct {
	event drivers.Event
	done  func(error) // may be nil
	gap   *gap        // set for gap records
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

// take moves the front of the queue out. Its bytes stay counted until it is
// committed: it is still in memory.
func (l *lane) take() []item {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, bytes := 0, int64(0)
	for n < len(l.pending) && n < commitEvents && (n == 0 || bytes < commitBytes) {
		bytes += cost(&l.pending[n].event)
		n++
	}
	items := l.pending[:n:n]
	l.pending = l.pending[n:]
	if len(l.pending) == 0 {
		l.pending = nil // the array belongs to items now
	}
	return items
}

// putBack returns events to the front of the queue, and gives gap records,
// which are written whatever the limits.
func (l *lane) putBack(items []item) (gaps []item) {
	gaps, events := split(items)
	l.putBackAll(events)
	return gaps
}

// split tells gap records from events.
func split(items []item) (gaps, events []item) {
	for _, it := range items {
		if it.gap != nil {
			gaps = append(gaps, it)
		} else {
			events = append(events, it)
		}
	}
	return gaps, events
}

func (l *lane) putBackAll(items []item) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending = append(items[:len(items):len(items)], l.pending...)
}

// drained makes room in the queue for what was in items.
func (l *lane) drained(items []item) {
	var bytes int64
	gaps := 0
	for i := range items {
		if items[i].gap != nil {
			gaps++
		}
		bytes += cost(&items[i].event)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gapsQueued -= gaps
	clear(items) // the array may be part of the queue's
	l.pendBytes -= bytes
	close(l.space)
	l.space = make(chan struct{})
}
