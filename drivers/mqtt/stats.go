package mqtt

import (
	"log/slog"
	"maps"
	"sync"
	"time"

	"sluice/drivers"
)

// Bounds of what is logged.
const (
	logEvery    = time.Minute // for each reason and for equal errors
	maxLogTopic = 128         // bytes
)

// counters is what Stats shows. Any goroutine may use it.
type counters struct {
	log *slog.Logger

	mu      sync.Mutex
	stats   drivers.Stats
	logged  map[string]time.Time // by reason or subject: the last line about it
	lastLog time.Time            // of a failure
}

func newCounters(cfg Config) *counters {
	c := &counters{
		log:    cfg.Log.With("source", cfg.Name),
		logged: make(map[string]time.Time),
		stats: drivers.Stats{
			State:    "not started",
			Taken:    make(map[string]uint64),
			Rejected: make(map[string]uint64),
		},
	}
	for _, sub := range cfg.Subscriptions {
		c.stats.Taken[sub.Class] = 0
	}
	for _, reason := range MessageReasons() {
		c.stats.Rejected[reason] = 0
	}
	return c
}

func (c *counters) snapshot() drivers.Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Taken = maps.Clone(s.Taken)
	s.Rejected = maps.Clone(s.Rejected)
	return s
}

func (c *counters) take(class string) {
	c.mu.Lock()
	c.stats.Taken[class]++
	c.mu.Unlock()
}

// reject counts a refused message and logs one of each reason a minute, with more
// of it where there is more to say.
func (c *counters) reject(reason string, topic []byte, more ...any) {
	c.mu.Lock()
	c.stats.Rejected[reason]++
	count := c.stats.Rejected[reason]
	c.mu.Unlock()
	if c.due(reason) {
		c.log.Warn("message refused", append([]any{"reason", reason, "topic", cleanTopic(topic, maxLogTopic), "count", count}, more...)...)
	}
}

// due says whether a line about this may be logged now, and counts on it.
func (c *counters) due(about string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	due := now.Sub(c.logged[about]) >= logEvery
	if due {
		c.logged[about] = now
	}
	return due
}

// up says that the source is connected and subscribed.
func (c *counters) up(state string) {
	c.setState(true, state)
	c.log.Info("source up", "state", state)
}

// state says what the source does while it is not up.
func (c *counters) state(state string) { c.setState(false, state) }

func (c *counters) setState(up bool, state string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Ready, c.stats.Up, c.stats.State = up, up, state
}

// failed records what went wrong, and logs it when it is new or a minute has
// passed.
func (c *counters) failed(what string) {
	c.mu.Lock()
	now := time.Now()
	due := what != c.stats.LastError || now.Sub(c.lastLog) >= logEvery
	if due {
		c.lastLog = now
	}
	c.stats.LastError, c.stats.LastErrAt = what, now
	c.mu.Unlock()
	if due {
		c.log.Warn("source failed", "error", what)
	}
}
