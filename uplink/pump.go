package uplink

import (
	"context"
	"errors"
	"fmt"

	"sluice/buffer"
)

// pump moves events from the log into the window until ctx ends or the log
// fails. It asks for the next ones when there is room for them, and no sooner: so
// an alarm that comes up meanwhile is the next.
func (k *Kafka) pump(ctx context.Context) error {
	for {
		events, bytes, err := k.window.room(ctx)
		var batch buffer.Batch
		if err == nil {
			batch, err = k.next(ctx, events, bytes)
		}
		switch {
		case errors.Is(err, errTroubled):
			err = k.recover(ctx)
		case err == nil:
			err = k.forward(ctx, batch)
		}
		if err != nil {
			return err
		}
	}
}

// next waits for a batch, or returns errTroubled if something came back
// meanwhile: on a quiet line the next event may be hours away.
func (k *Kafka) next(ctx context.Context, events, bytes int) (buffer.Batch, error) {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	release := k.window.interruptible(cancel)
	batch, err := k.cfg.Reader.NextUpTo(waiting, events, int64(bytes))
	release()
	switch {
	case err == nil:
		return batch, nil
	case ctx.Err() != nil:
		return buffer.Batch{}, ctx.Err()
	case waiting.Err() != nil:
		return buffer.Batch{}, errTroubled
	default:
		return buffer.Batch{}, fmt.Errorf("read the log: %w", err)
	}
}

// forward takes a batch into the window, chunk by chunk.
func (k *Kafka) forward(ctx context.Context, batch buffer.Batch) error {
	for len(batch.Events) > 0 {
		c, room := k.window.blank(len(batch.Events))
		n := k.encoder.encode(c, batch, room, k.cfg.WindowBytes/8)
		if err := k.admit(ctx, batch, c); err != nil {
			return err
		}
		batch.First += uint64(n)
		batch.Events = batch.Events[n:]
	}
	return nil
}

// admit takes c into the window, after whatever came back.
func (k *Kafka) admit(ctx context.Context, batch buffer.Batch, c *chunk) error {
	for {
		err := k.window.admit(ctx, batch, c)
		if !errors.Is(err, errTroubled) {
			return err
		}
		if err := k.recover(ctx); err != nil {
			return err
		}
	}
}
