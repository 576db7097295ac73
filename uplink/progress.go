package uplink

import (
	"maps"
	"time"
)

// progress is what the window knows of the link.
type progress struct {
	delivered map[string]uint64
	total     uint64
	inFlight  int
	lastAck   time.Time
	stalled   time.Duration // how long something is in flight without any of it being acknowledged
}

func (w *window) progress() progress {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := progress{delivered: map[string]uint64{}, total: w.delivered, inFlight: w.records, lastAck: w.lastAck}
	for class, n := range w.counts {
		p.delivered[class] = n.Load()
	}
	if w.records > 0 {
		since := w.busySince
		if w.lastAck.After(since) {
			since = w.lastAck
		}
		p.stalled = time.Since(since)
	}
	maps.DeleteFunc(p.delivered, func(_ string, n uint64) bool { return n == 0 })
	return p
}
