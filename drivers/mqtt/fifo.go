package mqtt

// fifo is a first-in, first-out list that keeps its memory while it is in use
// and gives it back when it is long and empty. The zero value is ready.
type fifo[T any] struct {
	items []T
	head  int
}

// longFifo is the capacity from which on an empty fifo gives its memory back.
const longFifo = 4096

func (f *fifo[T]) len() int { return len(f.items) - f.head }

func (f *fifo[T]) push(v T) { f.items = append(f.items, v) }

// front returns the oldest item; the fifo must not be empty.
func (f *fifo[T]) front() *T { return &f.items[f.head] }

// pop drops the oldest item; the fifo must not be empty.
func (f *fifo[T]) pop() {
	var zero T
	f.items[f.head] = zero // so that the garbage collector may have it
	f.head++
	switch {
	case f.head == len(f.items) && cap(f.items) > longFifo:
		f.clear()
	case f.head == len(f.items):
		f.items, f.head = f.items[:0], 0
	case f.head >= longFifo && f.head*2 >= len(f.items):
		n := copy(f.items, f.items[f.head:])
		clear(f.items[n:])
		f.items, f.head = f.items[:n], 0
	}
}

func (f *fifo[T]) clear() { f.items, f.head = nil, 0 }
