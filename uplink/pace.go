package uplink

import (
	"encoding/binary"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	burstTime     = time.Second // what was not used for so long may go out at once
	pieceTime     = time.Second / 8
	minPiece      = 512      // bytes that are written at once while the rate is bounded
	maxPiece      = 64 << 10 // as above
	windowTime    = 4        // seconds of the rate that may be in flight: an alarm has to wait for that
	minRateWindow = 4 << 10
	heldLately    = 2 * time.Second
)

// pace bounds the bytes that the connections of an uplink write to their sockets,
// all together: a bucket that fills with the rate and holds what fills it in
// burstTime. Every byte that is written is taken out of it, TLS, logins and signs of
// life included, but only records wait for it: what else a client has to say is
// little, and a broker takes a silent one for dead. It is safe for concurrent use.
type pace struct {
	rate float64 // bytes per second; 0: unlimited
	sent atomic.Uint64

	mu   sync.Mutex
	left float64   // bytes in the bucket at that time; below 0: overdrawn
	at   time.Time // zero: full
	held time.Time // when records had to wait for the last time
}

func newPace(bytesPerSecond int64) *pace { return &pace{rate: float64(bytesPerSecond)} }

// fill brings the bucket up to now. p.mu is held.
func (p *pace) fill(now time.Time) {
	most := p.rate * burstTime.Seconds()
	if p.at.IsZero() {
		p.left = most
	} else {
		p.left = min(most, p.left+p.rate*now.Sub(p.at).Seconds())
	}
	p.at = now
}

// spend counts bytes that were written.
func (p *pace) spend(n int) {
	p.sent.Add(uint64(max(0, n)))
	if p.rate == 0 {
		return
	}
	p.mu.Lock()
	p.fill(time.Now())
	p.left -= float64(n)
	p.mu.Unlock()
}

// delay returns how long records have to wait before the next piece of them may go
// out.
func (p *pace) delay() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.fill(now); p.left >= 0 {
		return 0
	}
	p.held = now
	return time.Duration(-p.left/p.rate*float64(time.Second)) + time.Microsecond
}

// piece is how many bytes of records are written at once.
func (p *pace) piece() int {
	return int(min(max(p.rate*pieceTime.Seconds(), minPiece), maxPiece))
}

// sinceHeld is how long ago the pace held records back: until then it was not the
// link that kept them.
func (p *pace) sinceHeld() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held.IsZero() {
		return 1<<63 - 1
	}
	return time.Since(p.held)
}

// window returns how many bytes may be in flight at the rate, most at best. What is
// compressed goes out in a fraction of the time.
func (p *pace) window(most int) int {
	if p.rate == 0 {
		return most
	}
	return int(min(float64(most), max(minRateWindow, windowTime*p.rate)))
}

// meter counts what is written to a socket, and knows when bytes moved last.
type meter struct {
	net.Conn
	pace        *pace
	wrote, read instant

	// Of silence.go.
	queued int // bytes that the other end had not taken yet
	taken  time.Time
}

func newMeter(c net.Conn, p *pace) *meter {
	m := &meter{Conn: c, pace: p}
	m.wrote.now()
	m.read.now()
	return m
}

func (m *meter) Write(b []byte) (int, error) {
	n, err := m.Conn.Write(b)
	if m.pace.spend(n); n > 0 {
		m.wrote.now()
	}
	return n, err
}

func (m *meter) Read(b []byte) (int, error) {
	n, err := m.Conn.Read(b)
	if n > 0 {
		m.read.now()
	}
	return n, err
}

// pacedConn makes records wait for the pace. The client writes each request with one
// call and sets a deadline for it; the deadline is for the broker to take bytes, so
// that the time in which they wait here does not count. One goroutine writes;
// the others may be called at the same time.
type pacedConn struct {
	net.Conn
	pace *pace
	wake chan struct{} // capacity 1: the deadline was changed, or it was closed

	mu      sync.Mutex
	closed  bool
	past    bool          // the deadline is over
	allowed time.Duration // for each piece; 0: no limit
}

func newPacedConn(c net.Conn, p *pace) net.Conn {
	if p.rate == 0 {
		return c
	}
	return &pacedConn{Conn: c, pace: p, wake: make(chan struct{}, 1)}
}

// Write writes records in pieces, as the pace allows it, and all else at once.
func (c *pacedConn) Write(b []byte) (written int, err error) {
	if len(b) < requestHeader || binary.BigEndian.Uint16(b[4:]) != keyProduce {
		return c.Conn.Write(b)
	}
	for written < len(b) {
		if err := c.wait(); err != nil {
			return written, err
		}
		n, err := c.Conn.Write(b[written:min(len(b), written+c.pace.piece())])
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// wait blocks until the next piece may go out, and gives it its time.
func (c *pacedConn) wait() error {
	for {
		d := c.pace.delay()
		if d == 0 {
			return c.renewDeadline()
		}
		t := time.NewTimer(d)
		select {
		case <-t.C:
		case <-c.wake:
			t.Stop()
			if err := c.interrupted(); err != nil {
				return err
			}
		}
	}
}

func (c *pacedConn) interrupted() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended()
}

// ended says why nothing more may be written, if that is so. c.mu is held.
func (c *pacedConn) ended() error {
	switch {
	case c.closed:
		return net.ErrClosed
	case c.past:
		return os.ErrDeadlineExceeded
	}
	return nil
}

// renewDeadline begins the time of the next piece.
func (c *pacedConn) renewDeadline() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.ended(); err != nil || c.allowed <= 0 {
		return err
	}
	return c.Conn.SetWriteDeadline(time.Now().Add(c.allowed))
}

// SetWriteDeadline sets how long the broker may take for each piece from now on; a
// time that is over interrupts a Write.
func (c *pacedConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.allowed, c.past = 0, false
	if !t.IsZero() {
		c.allowed = time.Until(t)
		c.past = c.allowed <= 0
	}
	c.stir()
	return c.Conn.SetWriteDeadline(t)
}

// Close interrupts a Write.
func (c *pacedConn) Close() error {
	c.mu.Lock()
	c.closed = true
	c.stir()
	c.mu.Unlock()
	return c.Conn.Close()
}

func (c *pacedConn) stir() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}
