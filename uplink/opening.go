package uplink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"sluice/uplink/gate"
)

const (
	// closeTimeout is how long what is in flight may take when the link closes. What
	// is not acknowledged then is sent again when it opens.
	closeTimeout = time.Minute
	// quietAfter is how long nothing must have come of the classes that are always
	// sent before the client of a closed link is given up.
	quietAfter = 10 * time.Second
)

// errClosed is returned for what may not go out while the link is closed.
var errClosed = errors.New("the uplink is closed")

// Link returns whether the link may be used now, and what that costs. It may be
// called by any goroutine and doesn't block.
func (k *Kafka) Link() gate.State { return k.cfg.Link.State() }

// send forwards while the link is open until ctx ends or the log fails, and returns
// when nothing is in flight any more or was given up. It may be called again after
// that.
func (k *Kafka) send(ctx context.Context) error {
	if k.cfg.Link == nil {
		return k.stream(ctx, ctx)
	}
	for {
		state, changed := k.cfg.Link.Changed()
		during, cancel := until(ctx, changed)
		var err error
		if state.Open {
			k.restrict(nil)
			err = k.stream(ctx, during)
		} else {
			err = k.shut(ctx, during)
		}
		ended := during.Err() != nil
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case !ended:
			return err
		}
	}
}

// shut waits while the link is closed, and sends what is sent always. Without that
// it has no client and so sends nothing at all.
func (k *Kafka) shut(ctx, during context.Context) error {
	if len(k.cfg.Always) == 0 {
		<-during.Done()
		return during.Err()
	}
	for {
		k.restrict(k.cfg.Always)
		if _, err := k.cfg.Reader.NextUpTo(during, 1, 1); err != nil {
			if during.Err() == nil {
				err = fmt.Errorf("read the log: %w", err)
			}
			return err
		}
		k.restrict(k.cfg.Always) // what was taken a look at is read again
		busy, cancel := context.WithCancel(during)
		var idle sync.WaitGroup
		idle.Go(func() { k.cancelWhenQuiet(busy, cancel) })
		err := k.stream(ctx, busy)
		quiet := busy.Err() != nil
		cancel()
		idle.Wait()
		if during.Err() != nil || !quiet {
			return err
		}
	}
}

// cancelWhenQuiet calls cancel when nothing was sent for a while.
func (k *Kafka) cancelWhenQuiet(ctx context.Context, cancel func()) {
	busy := time.Now()
	for sleep(ctx, watchEvery) == nil {
		p, _, _ := k.progress()
		if p.inFlight > 0 {
			busy = time.Now()
		} else if p.lastAck.After(busy) {
			busy = p.lastAck
		}
		if time.Since(busy) > k.quietAfter {
			cancel()
		}
	}
}

// restrict makes reading begin anew behind what was acknowledged, with these classes
// only, as far as this uplink takes them; nil: all of those.
func (k *Kafka) restrict(classes []string) {
	if classes == nil {
		classes = k.takes
	} else if k.takes != nil {
		classes = slices.DeleteFunc(slices.Clone(classes), func(c string) bool { return !slices.Contains(k.takes, c) })
	}
	k.only = classes
	k.cfg.Reader.Rewind(classes)
}

// until returns a ctx that also ends when the channel is closed.
func until(ctx context.Context, changed <-chan struct{}) (context.Context, context.CancelFunc) {
	during, cancel := context.WithCancel(ctx)
	var wait sync.WaitGroup
	wait.Go(func() {
		select {
		case <-changed:
			cancel()
		case <-during.Done():
		}
	})
	return during, func() {
		cancel()
		wait.Wait()
	}
}

// closing gives what is in flight, or came back, the time to be delivered when it
// is the link that closes, and not the agent that stops.
func (k *Kafka) closing(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	_ = k.recover(ctx) // what is left is sent again later
}

// whileOpen returns a ctx that ends when the link closes, with that as its cause.
func (k *Kafka) whileOpen(ctx context.Context) (context.Context, context.CancelFunc, error) {
	state, changed := k.cfg.Link.Changed()
	if !state.Open {
		return nil, nil, fmt.Errorf("%w: %s", errClosed, state.Why)
	}
	during, cancel := context.WithCancelCause(ctx)
	var wait sync.WaitGroup
	wait.Go(func() {
		select {
		case <-changed:
			cancel(errClosed)
		case <-during.Done():
		}
	})
	return during, func() {
		cancel(nil)
		wait.Wait()
	}, nil
}
