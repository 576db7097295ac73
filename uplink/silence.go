package uplink

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sys/unix"
)

const (
	silenceEvery  = 250 * time.Millisecond // while records have no answer, silence is looked at so often
	leastPatience = time.Second            // for an answer to records
	mostPatience  = 15 * time.Second       // then the client gives a connection up by itself
	usualTimes    = 4                      // times what an answer took lately is no silence yet
	askLimit      = 5 * time.Second        // for another connection to answer
	largestAnswer = 1 << 20                // that may come to the question
)

// silence finds connections that are dead without a word: what was in the middle
// (an address translation, a modem) has forgotten them, and new ones work. The client
// waits 15 s for an answer to records, since a slow broker may need that.
//
// When records have had no answer for longer than the patience, the broker is asked
// for its versions on another connection. If that is answered and the old one is
// still silent, the old one is closed, and with it those to the same broker that
// have been as silent; the client sends again on new ones. Records keep their
// sequence numbers, so that a broker that has them drops them. If it is not answered
// nothing is done but to ask again later: the link is down, and new connections do not
// mend it.
//
// The patience for a broker is four times what its answers to the same kind of request
// took lately, 1 s at least. It doubles with each connection that is closed, up to 15 s, and each
// answer takes back one doubling: a broker that is only slow is left alone soon.
// Bytes that the other end takes are no silence, so that a slow link is none.
//
// Records are judged, and what surrounds them in a transaction: the request that
// announces their partitions and the commit, which the client gives 5 s by itself. Other
// answers may rightly take their time.
type silence struct {
	kick  chan struct{} // capacity 1: records were written
	asks  atomic.Int64  // questions so far
	least time.Duration // of patience

	mu    sync.Mutex
	lines map[*guard]struct{} // open connections
	peers map[question]*peer
}

// question is a kind of request to a broker.
type question struct {
	addr string
	key  uint16
}

// peer is what is known of the answers to a question. silence.mu protects it.
type peer struct {
	usual   time.Duration // what answers took lately
	doubled int           // how often the patience is doubled
}

// silentError says why a connection was closed. It is a net.ErrClosed, which the
// client takes for a reason to send again.
type silentError struct {
	addr string
	took time.Duration
}

func (e *silentError) Error() string {
	return fmt.Sprintf("the connection to %s was silent for %s while a new one is answered: it was closed", e.addr, e.took.Round(100*time.Millisecond))
}
func (e *silentError) Unwrap() error { return net.ErrClosed }

func newSilence() *silence {
	return &silence{kick: make(chan struct{}, 1), least: leastPatience, lines: map[*guard]struct{}{}, peers: map[question]*peer{}}
}

// watch has g judged until it is closed.
func (s *silence) watch(g *guard, addr string) {
	g.addr, g.silence = addr, s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines[g] = struct{}{}
}

// peer returns what is known of q. s.mu is held.
func (s *silence) peer(q question) *peer {
	if s.peers[q] == nil {
		s.peers[q] = &peer{}
	}
	return s.peers[q]
}

func (s *silence) forget(g *guard) {
	s.mu.Lock()
	delete(s.lines, g)
	s.mu.Unlock()
}

// wrote is told that records go out.
func (s *silence) wrote() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// answered is told how long an answer took.
func (s *silence) answered(q question, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.peer(q)
	p.usual = max(took, (p.usual+took)/2)
	p.doubled = max(0, p.doubled-1)
}

// patience is how long a connection may be silent to q.
func (s *silence) patience(q question) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.peer(q)
	return min(mostPatience, max(s.least, usualTimes*p.usual)<<p.doubled)
}

// open returns the open connections. s.mu is not held while one of them is looked at:
// they tell s about answers under a lock of their own.
func (s *silence) open() []*guard {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.lines))
}

// waiting returns the connections on which records have no answer.
func (s *silence) waiting() []*guard {
	return slices.DeleteFunc(s.open(), func(g *guard) bool { return !g.owed() })
}

// close closes g, and what else goes to that broker and has been as silent since
// some time.
func (s *silence) close(g *guard, q question, since time.Time) error {
	err := &silentError{g.addr, time.Since(since)}
	longest := s.patience(q) == mostPatience
	s.mu.Lock()
	if !longest {
		s.peer(q).doubled++
	}
	s.mu.Unlock()
	// g is the last: as soon as the client knows of it, it uses the others.
	for _, other := range s.open() {
		if other != g && other.addr == g.addr && other.idleSince(since) {
			other.abort(err)
		}
	}
	g.abort(err)
	return err
}

// listen closes connections that are dead without a word, until ctx ends. It sleeps
// while no records are on their way.
func (k *Kafka) listen(ctx context.Context) {
	for {
		select {
		case <-k.silence.kick:
		case <-ctx.Done():
			return
		}
		for waiting := k.silence.waiting(); len(waiting) > 0; waiting = k.silence.waiting() {
			if sleep(ctx, silenceEvery) != nil {
				return
			}
			for _, g := range waiting {
				k.heed(ctx, g)
			}
		}
	}
}

// heed looks at one connection, and closes it if it is dead.
func (k *Kafka) heed(ctx context.Context, g *guard) {
	q, since := g.silentSince(k.pace)
	patience := k.silence.patience(q)
	if since.IsZero() || time.Since(since) < patience || time.Now().Before(g.askNext) {
		return
	}
	k.silence.asks.Add(1)
	err := k.ask(ctx, g.addr)
	if _, now := g.silentSince(k.pace); now != since || ctx.Err() != nil {
		return // it was answered, or closed
	}
	if err != nil {
		g.askWait = min(mostPatience, 2*max(patience, g.askWait))
		g.askNext = time.Now().Add(g.askWait)
		return
	}
	text := k.silence.close(g, q, since).Error()
	if k.quiet.allow("silent " + g.addr) {
		k.cfg.Log.Warn("silent connection", slog.String("uplink", k.cfg.Name), slog.String("error", text))
	}
}

// ask makes a connection to a broker and asks it for its versions, which it tells
// before any login. It returns nil when there is an answer, whatever it says.
func (k *Kafka) ask(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	conn, err := k.dialNow(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.socket.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.socket.Close() })
	defer stop()
	question := kmsg.NewRequestFormatter(kmsg.FormatterClientID("sluice-"+k.cfg.Agent)).AppendRequest(nil, kmsg.NewPtrApiVersionsRequest(), 1)
	if _, err := conn.Write(question); err != nil {
		return err
	}
	var size [4]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > largestAnswer {
		return fmt.Errorf("an answer of %d bytes", n)
	}
	_, err = io.CopyN(io.Discard, conn, int64(n))
	return err
}

// owed reports whether records were written that have no answer.
func (g *guard) owed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.produces) > 0
}

// silentSince returns since when nothing was heard of the other end although it
// owes an answer, and to what; zero: it owes none. What is still written counts
// from the last bytes of it that went out, unless it is the pace that holds it.
func (g *guard) silentSince(p *pace) (q question, since time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	q.addr = g.addr
	for _, r := range g.produces {
		if !r.at.IsZero() && (since.IsZero() || r.at.Before(since)) {
			since, q.key = r.at, r.key
		}
	}
	switch {
	case len(g.produces) == 0 || g.gone.Load() != nil:
		return q, time.Time{}
	case since.IsZero() && p.sinceHeld() < heldLately:
		return q, time.Time{}
	case since.IsZero():
		since = g.socket.wrote.time()
	}
	for _, t := range []time.Time{g.socket.read.time(), g.socket.takenAt()} {
		if t.After(since) {
			since = t
		}
	}
	return q, since
}

// idleSince reports whether nothing was heard on the connection since some time, and
// nothing was asked either that has no answer yet.
func (g *guard) idleSince(since time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.socket.read.time().Before(since) && (g.owing <= 0 || g.socket.wrote.time().Before(since))
}

// abort closes the socket; whoever reads gets err.
func (g *guard) abort(err error) {
	g.gone.Store(&err)
	_ = g.socket.Close() // not TLS's: that would want to write
}

// instant is a time that several goroutines set and look at.
type instant struct{ nanos atomic.Int64 }

func (i *instant) now() { i.nanos.Store(time.Now().UnixNano()) }

func (i *instant) time() time.Time { return time.Unix(0, i.nanos.Load()) }

// takenAt returns when the other end was last seen to take bytes from the socket's
// queue: a link that still carries what was written is not silent. It is called by
// one goroutine.
func (m *meter) takenAt() time.Time {
	c, ok := m.Conn.(syscall.Conn)
	if !ok {
		return time.Time{}
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return time.Time{} // it is closed
	}
	queued := 0
	_ = raw.Control(func(fd uintptr) { queued, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }) // as above
	if queued < m.queued {
		m.taken = time.Now()
	}
	m.queued = queued
	return m.taken
}
