package channel

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"sluice/uplink"
)

// Timings. Config is not urgent, and a link may be metered: what counts is that
// a fleet does not come back at once and that nothing polls in vain.
const (
	retryMin        = 500 * time.Millisecond // for a broker that answers with an error
	retryMax        = 45 * time.Second
	awayTime        = 40 * time.Second // between attempts to reach a cluster that is away
	followEvery     = 4 * time.Second  // how often it is looked whether another client got through
	awayEvery       = time.Second      // the same, where a status waits for the uplink's connection
	requestOverhead = 30 * time.Second // for an answer, beyond what a broker may take
	publishTimeout  = 30 * time.Second // of one attempt
	idleTimeout     = 5 * time.Minute  // of a connection; statuses come each minute
	refreshEvery    = 15 * time.Minute // of metadata: new partitions, another policy
)

// backoff returns how long to wait after failure n (from 1): doubling from low up
// to high, and of that a random part between one half and all.
func backoff(n int, low, high time.Duration) time.Duration {
	d := high
	if n < 20 {
		d = min(high, low<<(max(n, 1)-1))
	}
	return d/2 + rand.N(d/2+1)
}

// away returns how long to wait after failure n to reach a broker. All agents see
// a broker end in the same moment, so that the first wait spreads them over
// awayTime; from then on each tries again after about that, so that they stay
// spread however long it takes: of N agents N/40 come back in a second, and the
// last after 44 s.
func away(n int) time.Duration {
	if n <= 1 {
		return rand.N(awayTime)
	}
	return awayTime*9/10 + rand.N(awayTime/5)
}

// awayFor is away, but where attempts are spread already it is only looked now and
// then whether they are let through.
func (c *Channel) awayFor(n int) time.Duration {
	if c.cfg.Spread && n > 1 {
		return backoff(9, retryMin, followEvery)
	}
	return away(n)
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// link says whether the cluster can be reached, so that one goroutine finds out
// for both. Any goroutine may use it.
type link struct {
	mu sync.Mutex
	up chan struct{} // closed while it is up
}

func newLink() *link { return &link{up: make(chan struct{})} }

// set notes what the last request showed.
func (l *link) set(up bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.up:
		if !up {
			l.up = make(chan struct{})
		}
	default:
		if up {
			close(l.up)
		}
	}
}

// isUp says whether it is up.
func (l *link) isUp() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.up:
		return true
	default:
		return false
	}
}

// wait returns once the link is up; false: ctx ended before.
func (l *link) wait(ctx context.Context) bool {
	l.mu.Lock()
	up := l.up
	l.mu.Unlock()
	select {
	case <-up:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// explain says an error in words; access is what would have to be granted.
func explain(err error, topic, access string) string {
	s := uplink.Explain(err, topic)
	if i := strings.Index(s, "no permission to write"); i >= 0 && access != "WRITE" {
		return "no permission to read topic " + topic + ": grant READ on it"
	}
	return s
}
