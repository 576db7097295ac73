package channel

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/uplink"
)

// ErrReplaced is returned by Publish for a value that was never sent because
// Publish was called with a newer one for the same key.
var ErrReplaced = errors.New("replaced by a newer value before it was sent")

// outbox holds the newest value of each key until it is sent. Any goroutine may
// use it.
type outbox struct {
	mu      sync.Mutex
	waiting []*letter     // the oldest first, one of each key
	news    chan struct{} // holds one when something waits
}

type letter struct {
	key   string
	value []byte
	done  chan error // takes one
	gone  bool       // nobody waits for it any more; under the box's lock
}

func newOutbox() *outbox { return &outbox{news: make(chan struct{}, 1)} }

// Publish writes a record to the status topic and blocks until all replicas in
// sync have it. While the cluster is away it waits; of a key only the newest value
// waits, so that what comes after an outage is how things are then. It returns
// ErrReplaced, ctx's error if that ends before (the record may be written all the
// same if it was under way), or why the cluster will not take it. At most MaxValue
// bytes. Any goroutine may call it, before Run as well; value must not be changed.
func (c *Channel) Publish(ctx context.Context, key string, value []byte) error {
	if len(value) > MaxValue {
		return fmt.Errorf("publish %s: %d bytes (at most %d)", key, len(value), MaxValue)
	}
	l := &letter{key: key, value: value, done: make(chan error, 1)}
	c.box.put(l)
	select {
	case err := <-l.done:
		return err
	case <-ctx.Done():
		c.box.drop(l)
		return ctx.Err()
	}
}

// put adds a letter in the place of one with the same key.
func (b *outbox) put(l *letter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, old := range b.waiting {
		if old.key == l.key {
			old.done <- ErrReplaced
			b.waiting[i] = l
			return
		}
	}
	b.waiting = append(b.waiting, l)
	b.wake()
}

// wake says that something waits. b.mu is held.
func (b *outbox) wake() {
	select {
	case b.news <- struct{}{}:
	default:
	}
}

// next takes the letter that has waited longest, or nil.
func (b *outbox) next() *letter {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiting) == 0 {
		return nil
	}
	l := b.waiting[0]
	b.waiting = append(b.waiting[:0], b.waiting[1:]...)
	if len(b.waiting) > 0 {
		b.wake()
	}
	return l
}

// back puts a letter that could not be sent to the front, unless there is a newer
// one.
func (b *outbox) back(l *letter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, newer := range b.waiting {
		if newer.key == l.key {
			l.done <- ErrReplaced
			return
		}
	}
	if l.gone {
		return
	}
	b.waiting = append([]*letter{l}, b.waiting...)
	b.wake()
}

// drop takes out a letter that nobody waits for.
func (b *outbox) drop(l *letter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l.gone = true
	for i, w := range b.waiting {
		if w == l {
			b.waiting = append(b.waiting[:i], b.waiting[i+1:]...)
			return
		}
	}
}

// publishing sends what is in the box, one after the other, until ctx ends: by way of
// the uplink's connections, else by the own client. While the link is down that leaves
// finding out to the reader.
func (c *Channel) publishing(ctx context.Context) {
	v := &via{send: c.cfg.Via}
	v.pack, _ = kgo.DefaultCompressor(kgo.SnappyCompression()) // without one it goes as it is
	for tries := 0; ctx.Err() == nil; {
		l := c.box.next()
		if l == nil {
			select {
			case <-ctx.Done():
			case <-c.box.news:
			}
			continue
		}
		err := c.write(ctx, v, l)
		switch {
		case err == nil || permanent(err):
			tries = 0
			l.done <- c.explained(err)
		case ctx.Err() != nil:
			l.done <- ctx.Err()
		case errors.Is(err, errDown):
			c.box.back(l)
			c.link.wait(ctx)
		case errors.Is(err, uplink.ErrAway):
			c.box.back(l)
			sleep(ctx, awayEvery)
		default:
			tries++
			c.cfg.Log.Info("a status could not be written", "topic", c.cfg.StatusTopic, "error", explain(err, c.cfg.StatusTopic, "WRITE"))
			c.box.back(l)
			sleep(ctx, backoff(tries, retryMin, followEvery))
		}
	}
}

// errDown says that the own client need not try.
var errDown = errors.New("the link is down")

// write sends one letter.
func (c *Channel) write(ctx context.Context, v *via, l *letter) error {
	up := c.link.isUp()
	err := v.write(ctx, c.cfg.StatusTopic, l.key, l.value, up)
	if !errors.Is(err, errOwn) {
		return err
	}
	if !up {
		return errDown
	}
	r := &kgo.Record{Topic: c.cfg.StatusTopic, Key: []byte(l.key), Value: l.value}
	if err = c.produce(ctx, r); err == nil {
		v.learn(ctx, c.client, r)
	}
	return err
}

// permanent says whether an error of a record lasts until somebody changes
// something in the cluster.
func permanent(err error) bool {
	ke, ok := errors.AsType[*kerr.Error](err)
	return ok && (!ke.Retriable || errors.Is(err, kerr.UnknownTopicOrPartition))
}

func (c *Channel) explained(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return fmt.Errorf("publish: topic %s is not there (sluice config push --create makes it): %w", c.cfg.StatusTopic, err)
	}
	return fmt.Errorf("publish: %s: %w", explain(err, c.cfg.StatusTopic, "WRITE"), err)
}
