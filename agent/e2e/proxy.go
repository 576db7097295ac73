//go:build e2e

package e2e

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// linkMode is what a proxy does with its connections.
type linkMode int

const (
	pass           linkMode = iota // bytes pass both ways
	refuse                         // nobody listens: connections are reset, new ones refused
	reset                          // new connections are accepted and reset at once
	swallow                        // connections stay open and every byte vanishes, both ways
	swallowAnswers                 // requests arrive, answers vanish
)

// proxy is a TCP link that can be cut. All methods may be called by any
// goroutine.
type proxy struct {
	addr   string // where it listens, the same address after each cut
	target string

	mu       sync.Mutex
	mode     linkMode
	listener net.Listener // nil while the mode is refuse
	links    map[*link]struct{}
	accepted int            // connections so far
	lost     int            // bytes swallowed so far
	wg       sync.WaitGroup // acceptors and pumps
}

// link is one connection through the proxy.
type link struct {
	client, server net.Conn // server is nil for a connection made while all is swallowed
	broken         bool     // bytes are missing from it: it can't be used again
	halves         int      // sides that have ended in order
}

// startProxy starts a proxy to target in the mode pass.
func startProxy(t testing.TB, target string) *proxy {
	t.Helper()
	p := &proxy{addr: loopback(freePort(t)), target: target, mode: refuse, links: map[*link]struct{}{}}
	p.set(t, pass)
	t.Cleanup(func() {
		p.set(t, refuse)
		p.wg.Wait()
	})
	return p
}

// set changes the mode. Connections that lost bytes are reset when the link
// heals, as a stack does that gave up retransmitting.
func (p *proxy) set(t testing.TB, mode linkMode) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode = mode
	for l := range p.links {
		if mode == refuse || mode == reset || l.broken && mode == pass {
			p.drop(l)
		}
	}
	switch {
	case mode == refuse && p.listener != nil:
		_ = p.listener.Close()
		p.listener = nil
	case mode != refuse && p.listener == nil:
		listener, err := net.Listen("tcp", p.addr)
		if err != nil {
			t.Errorf("proxy: listen again: %v", err)
			return
		}
		p.listener = listener
		p.wg.Add(1)
		go p.accept(listener)
	}
}

// counts returns how many connections were accepted and how many bytes
// swallowed, so that a test can prove that its cut was one.
func (p *proxy) counts() (accepted, lost int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted, p.lost
}

func (p *proxy) accept(listener net.Listener) {
	defer p.wg.Done()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return // closed by set
		}
		p.open(conn)
	}
}

// open connects a new client to the target, as far as the mode lets it.
func (p *proxy) open(client net.Conn) {
	p.mu.Lock()
	mode := p.mode
	p.accepted++
	p.mu.Unlock()
	l := &link{client: client, broken: mode == swallow}
	if mode == pass || mode == swallowAnswers {
		server, err := net.DialTimeout("tcp", p.target, 5*time.Second)
		if err != nil {
			abort(client)
			return
		}
		l.server = server
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.links[l] = struct{}{}
	if p.mode == refuse || p.mode == reset || l.server == nil && p.mode != swallow {
		p.drop(l) // the mode changed meanwhile, or it is reset
		return
	}
	p.wg.Add(1)
	go p.pump(l, l.client, l.server, false)
	if l.server != nil {
		p.wg.Add(1)
		go p.pump(l, l.server, l.client, true)
	}
}

// pump moves bytes one way until one side ends.
func (p *proxy) pump(l *link, from, to net.Conn, answers bool) {
	defer p.wg.Done()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && p.deliver(l, n, answers) {
			if _, werr := to.Write(buf[:n]); werr != nil {
				err = werr
			}
		}
		if err != nil {
			p.ended(l, to, errors.Is(err, io.EOF))
			return
		}
	}
}

// deliver decides whether n bytes go on or vanish.
func (p *proxy) deliver(l *link, n int, answers bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mode == swallow || p.mode == swallowAnswers && answers {
		l.broken = true
		p.lost += n
		return false
	}
	// Bytes that were read just before the link healed must not follow the hole.
	return !l.broken || p.mode == swallowAnswers
}

// ended passes the orderly end of one side on, so that the other reads what came
// before it; a reset ends both at once. While bytes vanish, so does the end.
func (p *proxy) ended(l *link, to net.Conn, orderly bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mode == swallow || p.mode == swallowAnswers {
		l.broken = true
		return
	}
	half, ok := to.(*net.TCPConn)
	if !ok || !orderly || half.CloseWrite() != nil {
		p.drop(l)
		return
	}
	if l.halves++; l.halves == 2 {
		delete(p.links, l)
		_, _ = l.client.Close(), l.server.Close() // both have read all
	}
}

// drop resets both sides of l. The caller holds p.mu.
func (p *proxy) drop(l *link) {
	delete(p.links, l)
	abort(l.client)
	if l.server != nil {
		abort(l.server)
	}
}

// abort closes conn with a RST in place of a FIN.
func abort(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // fails only on a connection that is closed already
	}
	_ = conn.Close()
}
