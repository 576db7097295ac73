package agent

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"sluice/buffer"
	"sluice/drivers"
)

// gate is the way into the buffer for sources. It stays when the buffer is
// opened anew: whoever comes while none is open waits, as for a full class.
type gate struct {
	now   atomic.Pointer[way]
	over  chan struct{} // closed: there will be no other buffer
	close sync.Once
}

// way leads into one buffer.
type way struct {
	buffer *buffer.Buffer // nil: there is none yet
	next   chan struct{}  // closed when another took its place
}

var (
	_ drivers.Sink  = (*gate)(nil)
	_ drivers.Roomy = (*gate)(nil)
)

func newGate() *gate {
	g := &gate{over: make(chan struct{})}
	g.now.Store(&way{next: make(chan struct{})})
	return g
}

// lead has events go to b from now on.
func (g *gate) lead(b *buffer.Buffer) {
	close(g.now.Swap(&way{buffer: b, next: make(chan struct{})}).next)
}

// shut gives those that wait buffer.ErrClosed.
func (g *gate) shut() { g.close.Do(func() { close(g.over) }) }

// Append implements drivers.Sink. What a buffer that is closed did not take goes
// to the next one.
func (g *gate) Append(ctx context.Context, e drivers.Event, done func(error)) error {
	for {
		w := g.now.Load()
		if w.buffer != nil {
			if err := w.buffer.Append(ctx, e, done); !errors.Is(err, buffer.ErrClosed) {
				return err
			}
		}
		select {
		case <-w.next:
		case <-g.over:
			return buffer.ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Room implements drivers.Roomy.
func (g *gate) Room(class string) bool {
	w := g.now.Load()
	return w.buffer == nil || w.buffer.Room(class)
}
