package uplink

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Timings of a Spread.
const (
	spreadAfter = 20 * time.Second       // of nothing but failures: until then each client tries as it likes
	spreadOver  = 40 * time.Second       // the longest wait between two attempts, give or take a tenth
	spreadGrace = 500 * time.Millisecond // after the last dial of an attempt, for another broker to be tried
)

// ErrAway is returned instead of an attempt to connect to a cluster that has been
// away for so long that attempts are spread.
var ErrAway = errors.New("the cluster is away")

// Spread spreads the attempts to reach a cluster that is away. A fleet loses a
// cluster in one moment; without a spread all agents notice within two seconds that
// it is back, and a cluster that has just started gets all their connections at
// once. When nothing was reached for 20 s each agent waits for a random part of the
// time that it has been away, and from then on for all of that time, up to 40 s:
// after an outage of a minute a fortieth of the agents comes in a second. What a
// single gateway loses by it is as much time again as the link was away, 44 s at
// most.
//
// All clients of an agent that go to a cluster share a spread: as soon as one of
// them has got through, the others may. In an attempt each broker is tried once.
// The zero Spread is open. It is safe for concurrent use.
type Spread struct {
	mu    sync.Mutex
	since time.Time // of the first failure after the last success; zero: none
	next  time.Time // of the next attempt, or of the one under way; zero: not spread yet
	last  error     // of a dial

	tried map[string]bool // brokers, in the attempt that is under way; nil: none is
	begun time.Time       // when it began
	dials int             // that are under way
	ended time.Time       // when the last of them ended
}

// Dial dials addr by way of dial, unless that is not due: then the error is an
// ErrAway with the last one. Errors of ctx tell nothing about the cluster.
func (g *Spread) Dial(ctx context.Context, addr string, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	if err := g.pass(time.Now(), addr); err != nil {
		return nil, err
	}
	conn, err := dial(ctx)
	g.note(time.Now(), err, err != nil && ctx.Err() != nil)
	return conn, err
}

// pass says whether addr may be tried now; then note is to be called.
func (g *Spread) pass(now time.Time, addr string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.next.IsZero() {
		g.dials++
		return nil
	}
	if g.tried != nil && g.dials == 0 && now.Sub(g.ended) > spreadGrace {
		away := min(g.begun.Sub(g.since), spreadOver)
		g.next, g.tried = g.begun.Add(away*9/10+rand.N(away/5)), nil
	}
	if now.Before(g.next) || g.tried[addr] {
		return fmt.Errorf("%w since %s: %w", ErrAway, g.since.UTC().Format(time.RFC3339), g.last)
	}
	if g.tried == nil {
		g.tried, g.begun = map[string]bool{}, now
	}
	g.tried[addr] = true
	g.dials++
	return nil
}

// note takes the outcome of a dial; one that was given up says nothing.
func (g *Spread) note(now time.Time, err error, givenUp bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dials--
	g.ended = now
	switch {
	case err == nil:
		g.since, g.next, g.last, g.tried = time.Time{}, time.Time{}, nil, nil
		return
	case givenUp:
		return
	}
	if g.last = err; g.since.IsZero() {
		g.since = now
	}
	if away := now.Sub(g.since); away >= spreadAfter && g.next.IsZero() {
		g.next = now.Add(rand.N(min(away, spreadOver)))
	}
}
