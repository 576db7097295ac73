package simulate

import (
	"context"
	"errors"
	"sync"
)

// crew runs parts that belong together. The first that fails, or that ends
// though nobody asked it to, ends the others.
type crew struct {
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	once   sync.Once
	err    error // the first failure; read it after wait
}

var errEnded = errors.New("a part of the simulation ended by itself")

// newCrew returns a crew and the context that its parts run in.
func newCrew(ctx context.Context) (*crew, context.Context) {
	ctx, cancel := context.WithCancelCause(ctx)
	return &crew{cancel: cancel}, ctx
}

// start runs one part, which blocks until ctx, the crew's, ends.
func (c *crew) start(ctx context.Context, run func(context.Context) error) {
	c.wg.Go(func() {
		err := run(ctx)
		if err == nil && ctx.Err() == nil {
			err = errEnded
		}
		if err != nil {
			c.once.Do(func() { c.err = err })
			c.cancel(err)
		}
	})
}

// wait blocks until all parts have ended, and returns what the first one failed
// with; nil if they ended because they were told to.
func (c *crew) wait() error {
	c.wg.Wait()
	c.cancel(nil)
	return c.err
}

// stop tells all parts to end and waits for them.
func (c *crew) stop() error {
	c.cancel(nil)
	return c.wait()
}
