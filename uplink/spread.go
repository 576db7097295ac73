package uplink

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Timings of a Spread.
const (
	spreadAfter = 20 * time.Second       // of nothing but failures: until then each client tries as it likes
	spreadOver  = 48 * time.Second       // the longest wait between two attempts, give or take a tenth
	spreadStale = 40 * time.Second       // without any dial: what was before does not count
	spreadGrace = 3 * time.Second        // after the last dial of an attempt, for another broker to be tried: a client that waits tries again within two
	spreadTurns = 3                      // connections to a broker that are spread, once one was reached
	spreadAgain = 100 * time.Millisecond // after a failure the same address is not tried again
	yieldFor    = 8 * time.Second        // after a dial that was not due, those of a lower rank wait for it
)

// ErrAway is returned instead of an attempt to connect to a cluster that has been
// away for so long that attempts are spread.
var ErrAway = errors.New("the cluster is away")

// errTurn is returned instead of an attempt to connect while the cluster has been
// back for so short that connections are spread. Where it is returned, ErrAway is.
var errTurn = errors.New("connections are spread, since the cluster was away")

// errSilent is what is known of a connection that was closed before a word was said.
var errSilent = errors.New("the connection is taken, but nobody answers")

// rank is how much a connection is wanted before others when a cluster comes back.
type rank int

const (
	sometime rank = iota
	wanted        // it is a Wanted one
	waiting       // there are records to be sent
	first         // it is an Urgent one
)

// rankKey is that of a rank in a ctx.
type rankKey struct{}

func withRank(ctx context.Context, r rank) context.Context {
	return context.WithValue(ctx, rankKey{}, max(r, rankOf(ctx)))
}

func rankOf(ctx context.Context) rank {
	r, _ := ctx.Value(rankKey{}).(rank)
	return r
}

// Wanted returns a ctx for a request whose connection is wanted before such that only
// look whether all is well, when a cluster comes back.
func Wanted(ctx context.Context) context.Context { return withRank(ctx, wanted) }

// Urgent returns a ctx for a request whose connection is wanted before any other
// one when a cluster comes back.
func Urgent(ctx context.Context) context.Context { return withRank(ctx, first) }

// atOnce marks a dial that needs others as well before it is of any use.
type atOnce struct{}

// Spread spreads the connections to a cluster that was away. A fleet loses a
// cluster in one moment; without a spread all agents notice within two seconds that
// it is back, and a cluster that has just started gets all their connections at
// once. When nothing was reached for 20 s each agent waits for a random part of the
// time that it has been away, and from then on for a little more than that, up to 48 s:
// after an outage of a minute one of 45 agents comes in a second. What a single
// gateway loses by it is little more time again than the link was away, 53 s at most, and
// twice that where its client has to ask for metadata before it sends.
//
// All clients of an agent that go to a cluster share a spread. An agent needs more
// than one connection, and they count as well: each broker, or what stands in front
// of all of them, gets the second and the third one after the same time again, so
// that connections come as slowly as agents do. From the fourth on they are free, as
// they are as soon as Release is called. To each address Urgent ones go first, then what
// records wait for, then Wanted ones; who has no connection left may make one at any time. In an
// attempt each broker is tried once. The zero Spread is open. It is safe for concurrent
// use.
type Spread struct {
	Brokers int // that the config names; 0: not known. Not changed while in use

	mu    sync.Mutex
	since time.Time // of the first failure after the last success; zero: none
	next  time.Time // of the next attempt, or of the one under way; zero: not spread yet
	last  error     // of a dial

	tried map[string]bool // brokers, in the attempt that is under way; nil: none is
	begun time.Time       // when it began
	dials int             // that are under way
	ended time.Time       // when the last of them ended

	gap   time.Duration     // between connections to a broker; 0: they are free
	until time.Time         // when that ends
	turns map[string]*turns // by address
}

// turns are those of one address.
type turns struct {
	next   time.Time // of the next connection
	open   int       // connections
	failed time.Time // when the last dial did
	last   error     // of it

	asked [first + 1]time.Time // when a dial of a rank was last refused
}

// Dial dials addr by way of dial, unless that is not due: then the error is an
// ErrAway. Errors of ctx tell nothing about the cluster.
func (g *Spread) Dial(ctx context.Context, addr string, dial func(context.Context) (net.Conn, error)) (net.Conn, error) {
	if err := g.pass(time.Now(), addr, rankOf(ctx), ctx.Value(atOnce{}) != nil); err != nil {
		return nil, err
	}
	conn, err := dial(ctx)
	if err != nil {
		return nil, g.failed(time.Now(), addr, err, ctx.Err() != nil)
	}
	return &spreadConn{Conn: conn, spread: g, addr: addr}, nil
}

// Release lets all connections be made at once, if the cluster can be reached. A
// trial of other settings has no time to lose.
func (g *Spread) Release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gap = 0
}

// holds says whether connections are held back now, or were until a moment ago.
func (g *Spread) holds(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.next.IsZero() || g.gap > 0 && now.Before(g.until.Add(spreadGrace))
}

// turnsFor returns for how long connections to a cluster that has come back will be
// spread; 0: they are not.
func (g *Spread) turnsFor(now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gap == 0 || !g.next.IsZero() {
		return 0
	}
	return max(0, g.until.Sub(now))
}

// pass says whether addr may be tried now; then reached or failed is to be called.
func (g *Spread) pass(now time.Time, addr string, r rank, all bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.turn(addr)
	if now.Sub(t.failed) < spreadAgain { // the client tries twice
		return t.last
	}
	err := g.due(now, addr, t, r)
	if g.next.IsZero() {
		err = g.paced(now, t, r, all)
	}
	if err != nil {
		t.asked[r] = now
		return err
	}
	g.dials++
	return nil
}

// due says whether addr may be tried while the cluster is away. g.mu is held.
func (g *Spread) due(now time.Time, addr string, t *turns, r rank) error {
	if g.next.IsZero() {
		return nil
	}
	if g.tried != nil && g.dials == 0 && now.Sub(g.ended) > spreadGrace {
		g.next, g.tried = g.begun.Add(around(g.wait())), nil
	}
	if now.Before(g.next) || g.tried[addr] || t.yields(now, r) {
		return &heldError{fmt.Sprintf("%v since %s: %v", ErrAway, g.since.UTC().Format(time.RFC3339), g.last), ErrAway, g.last}
	}
	if g.tried == nil {
		g.tried, g.begun = map[string]bool{}, now
	}
	g.tried[addr] = true
	return nil
}

// paced says whether a connection may be made after the cluster has come back. g.mu is
// held.
func (g *Spread) paced(now time.Time, t *turns, r rank, all bool) error {
	if !now.Before(g.until) {
		g.gap = 0
	}
	switch {
	case g.gap == 0 || all:
		return nil
	case g.open() > 0 && (now.Before(t.next) || t.yields(now, r)):
		return &heldError{errTurn.Error(), errTurn, nil}
	}
	t.next = now.Add(around(g.gap))
	return nil
}

// yields says whether a dial has to wait for one of a higher rank to the same address:
// one to another may be away for good, and this one the way to find out what is in its
// place. The spread's mu is held.
func (t *turns) yields(now time.Time, r rank) bool {
	for _, asked := range t.asked[r+1:] {
		if now.Sub(asked) < yieldFor {
			return true
		}
	}
	return false
}

// turn returns what is known of an address. g.mu is held.
func (g *Spread) turn(addr string) *turns {
	if g.turns == nil {
		g.turns = map[string]*turns{}
	}
	if g.turns[addr] == nil {
		g.turns[addr] = &turns{}
	}
	return g.turns[addr]
}

// open counts connections. g.mu is held.
func (g *Spread) open() (n int) {
	for _, t := range g.turns {
		n += t.open
	}
	return n
}

func (g *Spread) closed(addr string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.turns[addr].open--
}

// reached is told that the other end of a new connection has said something.
func (g *Spread) reached(now time.Time, addr string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.turn(addr)
	g.dials--
	g.ended, t.failed = now, time.Time{}
	t.open++
	if !g.next.IsZero() {
		g.gap, g.until = g.wait(), now
		for range spreadTurns {
			g.until = g.until.Add(around(g.gap)) // as the turns themselves
		}
	}
	if g.gap > 0 && t.next.Before(now) {
		t.next = now.Add(around(g.gap))
	}
	g.since, g.next, g.last, g.tried = time.Time{}, time.Time{}, nil, nil
	clear(t.asked[:])
}

// failed takes the error of a dial and returns what the client is told; one that was
// given up says nothing.
func (g *Spread) failed(now time.Time, addr string, err error, givenUp bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	t, quiet := g.turn(addr), now.Sub(g.ended)
	g.dials--
	g.ended = now
	if givenUp {
		return err
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" && !op.Timeout() && g.Brokers == 1 && len(g.turns) == 1 {
		err = &heldError{err.Error(), nil, err}
	}
	t.failed, t.last = now, err
	if g.last = err; g.since.IsZero() || g.next.IsZero() && quiet > spreadStale {
		g.since = now
	}
	if away := now.Sub(g.since); away >= spreadAfter && g.next.IsZero() {
		g.next = now.Add(rand.N(min(away, spreadOver)))
	}
	return err
}

// wait is how long to wait after the attempt that has begun, a tenth more or less. g.mu is
// held.
func (g *Spread) wait() time.Duration { return min(g.begun.Sub(g.since)*5/4, spreadOver) }

// around returns d, give or take a tenth.
func around(d time.Duration) time.Duration { return d*9/10 + rand.N(d/5) }

// heldError is an error of a dial that the Kafka client takes for one that passes by
// itself. For what it takes for a refused dial it asks for metadata, by one more
// connection, and sends nothing before it has them. They tell nothing new where no
// attempt was made, or where the only address that there is was tried.
type heldError struct {
	text  string
	is    error // ErrAway or errTurn; nil: it was tried
	cause error // nil: none
}

// IsHeld says whether err is one by which the Spread held a connection back, or says that
// the only address there is cannot be reached: other metadata would not help.
func IsHeld(err error) bool {
	_, ok := errors.AsType[*heldError](err)
	return ok
}

func (e *heldError) Error() string   { return e.text }
func (e *heldError) Temporary() bool { return true }

// Is makes both kinds of waiting an ErrAway.
func (e *heldError) Is(target error) bool {
	return e.is != nil && (target == e.is || target == ErrAway)
}

// spreadConn tells a Spread whether there is anybody at the other end: what stands in
// front of a cluster that is away may take connections all the same. One goroutine
// reads.
type spreadConn struct {
	net.Conn
	spread *Spread
	addr   string

	heard  atomic.Bool
	closed atomic.Bool
}

// Read tells of the first bytes.
func (c *spreadConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && !c.heard.Swap(true) {
		c.spread.reached(time.Now(), c.addr)
	}
	return n, err
}

// Close closes the connection.
func (c *spreadConn) Close() error {
	err := c.Conn.Close()
	if c.closed.Swap(true) {
		return err
	}
	if !c.heard.Swap(true) {
		_ = c.spread.failed(time.Now(), c.addr, errSilent, false) // nobody waits for it
	} else {
		c.spread.closed(c.addr)
	}
	return err
}
