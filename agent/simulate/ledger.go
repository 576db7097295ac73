package simulate

import (
	"hash/fnv"
	"sync"
)

// Ledger is what the plant knows to have been taken from it. A stream is one
// ordered run of numbered events, 1, 2, 3 …: an MQTT topic, or a meter.
//
// The zero value is empty and ready. A nil *Ledger records nothing, for plants
// that run for days. All methods may be called by many goroutines at once.
type Ledger struct {
	mu      sync.Mutex
	streams map[string][]entry // by stream; event n stands at n-1
}

// entry is one event of a stream.
type entry struct {
	sum       uint64 // of the payload; 0: the payload is not known, as with Modbus
	confirmed bool   // acknowledged, so it must arrive; else it may
}

// Sent notes that event n of the stream, counted from 1, was offered. A nil
// payload means that its bytes aren't known to the plant.
func (l *Ledger) Sent(stream string, n uint64, payload []byte) {
	l.update(stream, n, func(e *entry) { e.sum = checksum(payload) })
}

// Confirmed notes that event n of the stream was taken: it must arrive.
func (l *Ledger) Confirmed(stream string, n uint64) {
	l.update(stream, n, func(e *entry) { e.confirmed = true })
}

func (l *Ledger) update(stream string, n uint64, change func(*entry)) {
	if l == nil || n == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams == nil {
		l.streams = make(map[string][]entry)
	}
	s := l.streams[stream]
	for uint64(len(s)) < n {
		s = append(s, entry{})
	}
	change(&s[n-1])
	l.streams[stream] = s
}

// Taken returns how many events are confirmed, all streams together.
func (l *Ledger) Taken() uint64 {
	var n uint64
	for _, s := range l.snapshot() {
		for _, e := range s {
			if e.confirmed {
				n++
			}
		}
	}
	return n
}

// snapshot copies the ledger, so that it can be compared while nothing waits.
func (l *Ledger) snapshot() map[string][]entry {
	out := make(map[string][]entry)
	if l == nil {
		return out
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, s := range l.streams {
		out[name] = append([]entry(nil), s...)
	}
	return out
}

// checksum tells payloads apart. It is never 0 for a payload that is known.
func checksum(payload []byte) uint64 {
	if payload == nil {
		return 0
	}
	h := fnv.New64a()
	h.Write(payload) // never fails
	if sum := h.Sum64(); sum != 0 {
		return sum
	}
	return 1
}
