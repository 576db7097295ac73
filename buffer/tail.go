package buffer

import (
	"sort"
	"time"
)

// recent is a batch of the tail.
type recent struct {
	Batch
	bytes int64
	since time.Time // when readers were given it
}

// push adds a batch to the tail. The caller holds the lock.
func (l *lane) push(b Batch, since time.Time) (bytes int64) {
	for i := range b.Events {
		bytes += cost(&b.Events[i])
	}
	l.tail = append(l.tail, recent{Batch: b, bytes: bytes, since: since})
	l.tailSum += bytes
	return bytes
}

// find returns what the tail holds from pos on.
func (l *lane) find(pos uint64) (Batch, bool) {
	i := l.recentAt(pos)
	if i == len(l.tail) || l.tail[i].First > pos {
		return Batch{}, false
	}
	return cut(l.tail[i].Batch, pos), true
}

// recentAt is the place in the tail of the first batch that ends at or after pos.
func (l *lane) recentAt(pos uint64) int {
	return sort.Search(len(l.tail), func(i int) bool { return l.tail[i].Last() >= pos })
}

// cut leaves out what comes before pos.
func cut(b Batch, pos uint64) Batch {
	if pos > b.First {
		b.Events = b.Events[pos-b.First:]
		b.First = pos
	}
	return b
}

// shortenTail keeps the tail within its bound, and no longer than anyone needs.
// What is held is nowhere else, and stays.
func (l *lane) shortenTail() {
	l.forget(l.minAcked())
	for l.tailSum > l.memory && (len(l.held) == 0 || l.tail[0].First < l.held[0].batch.First) {
		l.forget(l.tail[0].Last())
	}
}

// forget removes the batches up to seq from the tail.
func (l *lane) forget(seq uint64) {
	n := 0
	for n < len(l.tail) && l.tail[n].Last() <= seq {
		l.tailSum -= l.tail[n].bytes
		l.tail[n] = recent{}
		n++
	}
	l.tail = l.tail[n:]
}
