package buffer

// Retire says that another buffer will take this one's place in the same
// directory: what is queued and cannot be committed when Run ends is not given
// ErrClosed but kept for Inherit. It is called while Run runs.
func (b *Buffer) Retire() {
	for _, l := range b.lanes {
		l.mu.Lock()
		l.retiring = true
		l.mu.Unlock()
	}
}

// Inherit queues what a buffer had taken and could not commit before it was
// closed, in its order and past the limits of the queues; its sources are told
// by this one. Events of a class that is not here any more get ErrClosed. It is
// called before Run, once.
func (b *Buffer) Inherit(from *Buffer) {
	for name, old := range from.lanes {
		old.mu.Lock()
		left := old.left
		old.left = nil
		old.mu.Unlock()
		l := b.lanes[name]
		if l == nil {
			fail(left)
			continue
		}
		l.mu.Lock()
		for _, it := range left {
			l.pending = append(l.pending, it)
			l.pendBytes += cost(&it.event)
		}
		if len(left) > 0 {
			signal(l.wake)
		}
		l.mu.Unlock()
	}
}

// bequeath parts what a lane leaves behind when it is shut: events, those that
// were held first, and the rest. The caller holds the lock.
func (l *lane) bequeath(pending []item) (events, rest []item) {
	for _, h := range l.held {
		for i, e := range h.batch.Events {
			events = append(events, item{event: e, done: h.done[i]})
		}
	}
	l.held, l.heldSum = nil, 0
	for _, it := range pending {
		if it.gap != nil {
			rest = append(rest, it)
		} else {
			events = append(events, it)
		}
	}
	return events, rest
}

// fail tells sources that their events were not taken after all.
func fail(items []item) {
	for _, it := range items {
		if it.done != nil {
			it.done(ErrClosed)
		}
	}
}
