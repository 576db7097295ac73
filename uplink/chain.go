package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Chain sends the events of one log to one cluster at a time: the first as long
// as it can be reached, else the next. All read with one cursor, so that whoever
// sends goes on behind what the one before had acknowledged. What that one had in
// flight may then be in both clusters; nothing is in none.
//
// Which one sends is not stored: a start begins with the first. It is decided in
// choice.go, and changed here: the one that sends ends first, waiting for what is
// acknowledged a moment longer, then reading begins anew at the cursors.
type Chain struct {
	cfg  ChainConfig
	legs []*Kafka

	mu     sync.Mutex
	active int
	since  time.Time // when active began; zero: at the start
	moves  uint64
}

// ChainConfig configures NewChain.
type ChainConfig struct {
	Legs   []Leg         // by preference, 2 or more
	Reader Log           // for all of them
	After  time.Duration // how long a cluster must have been unreachable for the next to take over
	Back   time.Duration // how long one that comes before must have been reachable to get its place back
	Log    *slog.Logger  // nil: discarded
}

// Leg is one cluster of a Chain.
type Leg struct {
	Config           // without ExactlyOnce; its Reader is set by NewChain
	Classes []string // that it takes over, nil: all; the others wait in the log
}

// chooseEvery is how often it is decided anew which cluster gets the events.
const chooseEvery = 500 * time.Millisecond

// NewChain returns a chain. It checks all of cfg and starts nothing.
func NewChain(cfg ChainConfig) (*Chain, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if len(cfg.Legs) < 2 || cfg.After <= 0 || cfg.Back <= 0 {
		return nil, fmt.Errorf("a chain of %d uplinks, after %s, back %s (2 or more, both longer than 0)", len(cfg.Legs), cfg.After, cfg.Back)
	}
	c := &Chain{cfg: cfg}
	var errs []error
	for _, leg := range cfg.Legs {
		leg.Reader = cfg.Reader
		if leg.ExactlyOnce {
			errs = append(errs, fmt.Errorf("uplink %q: a failover does not go together with delivery exactly once", leg.Name))
		}
		k, err := New(leg.Config)
		if errs = append(errs, err); err == nil {
			k.takes = leg.Classes
		}
		c.legs = append(c.legs, k)
	}
	return c, errors.Join(errs...)
}

// Legs are the uplinks of the chain, in the order of the config.
func (c *Chain) Legs() []*Kafka { return c.legs }

// Active is which of the uplinks gets the events, since when (zero: the start), and
// how often that has changed. It may be called by any goroutine.
func (c *Chain) Active() (leg int, since time.Time, moves uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.active, c.since, c.moves
}

// Run is like Kafka.Run.
func (c *Chain) Run(ctx context.Context) error {
	attending, stop := context.WithCancel(ctx)
	c.assign(0, false)
	for _, k := range c.legs {
		k.attend(attending)
	}
	err := c.send(ctx)
	stop()
	for _, k := range c.legs {
		k.helpers.Wait()
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("uplink %q: %w", c.legs[0].cfg.Name, err)
}

// send has one of the uplinks send, and then another, until ctx ends or the log
// fails.
func (c *Chain) send(ctx context.Context) error {
	choice := newChoice(len(c.legs), c.cfg.After, c.cfg.Back, time.Now())
	for at := 0; ; {
		sending, cancel := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- c.legs[at].send(sending) }()
		next, err := c.watch(ctx, &choice, ended)
		cancel()
		if err == nil {
			err = <-ended
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if next == at {
			return err
		}
		c.move(at, next)
		at = next
	}
}

// watch returns when another uplink is to send, the number of which it returns, or
// when ctx ends or the one that sends has ended, with that one's error.
func (c *Chain) watch(ctx context.Context, choice *choice, ended chan error) (int, error) {
	tick := time.NewTicker(chooseEvery)
	defer tick.Stop()
	at := choice.active
	for {
		select {
		case <-ctx.Done():
			return at, nil
		case err := <-ended:
			if err == nil {
				err = errors.New("stopped sending by itself")
			}
			return at, err
		case <-tick.C:
		}
		seen := make([]sight, len(c.legs))
		for i, k := range c.legs {
			s := k.Stats()
			seen[i] = sight{
				up:      s.Up || i == at && s.Closed, // closed as it is meant to be: events wait
				held:    k.cfg.Spread.holds(time.Now()),
				lastAck: s.LastAck,
			}
		}
		next := choice.decide(time.Now(), seen)
		if next != at {
			return next, nil
		}
		c.assign(at, seen[at].up)
	}
}

// move goes on with another uplink, behind what was acknowledged.
func (c *Chain) move(from, to int) {
	old, next := c.legs[from], c.legs[to]
	s := old.Stats()
	c.mu.Lock()
	why := reason(s, c.since)
	c.active, c.since = to, time.Now()
	c.moves++
	c.mu.Unlock()
	next.restrict(nil)
	c.assign(to, true)
	c.cfg.Log.Warn("failover: events go elsewhere from now on", slog.String("uplink", c.legs[0].cfg.Name),
		slog.String("from", old.cfg.Name), slog.String("to", next.cfg.Name), slog.String("error", why))
}

// reason says why an uplink that has been active since some time is no longer: an older
// error has nothing to do with it. Empty: it works.
func reason(s Stats, since time.Time) string {
	switch {
	case s.Up:
		return ""
	case s.LastErrAt.Before(since):
		return s.State
	}
	return s.LastError
}

// assign tells all uplinks their duties, given which one sends and whether that
// works.
func (c *Chain) assign(active int, works bool) {
	for i, k := range c.legs {
		switch {
		case i == active:
			k.setDuty(sends)
		case i < active || !works:
			k.setDuty(returns)
		default:
			k.setDuty(standsBy)
		}
	}
}
