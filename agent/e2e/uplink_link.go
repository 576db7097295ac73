//go:build e2e

package e2e

import (
	"net"
	"sync"
	"testing"
	"time"
)

// slowLink is a TCP link with a delay and a rate, whose open connections can be
// made half-open: their other end is gone without a word, while new ones work.
type slowLink struct {
	addr   string
	target string

	mu    sync.Mutex
	delay time.Duration // one way
	rate  int           // bytes per second and direction; 0: unlimited
	epoch int           // connections of an earlier one are half-open
	conns []net.Conn
}

func startSlowLink(t testing.TB, target string) *slowLink {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &slowLink{addr: ln.Addr().String(), target: target}
	t.Cleanup(func() {
		_ = ln.Close()
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, c := range l.conns {
			_ = c.Close()
		}
	})
	go func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			l.open(client)
		}
	}()
	return l
}

func (l *slowLink) set(delay time.Duration, rate int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.delay, l.rate = delay, rate
}

// halfOpen makes all connections that are open now half-open.
func (l *slowLink) halfOpen() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.epoch++
}

func (l *slowLink) open(client net.Conn) {
	server, err := net.DialTimeout("tcp", l.target, 5*time.Second)
	if err != nil {
		abort(client)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = append(l.conns, client, server)
	go l.pump(client, server, l.epoch)
	go l.pump(server, client, l.epoch)
}

// parcel is what was read at one time.
type parcel struct {
	bytes []byte
	at    time.Time
}

// pump moves bytes one way. Reading goes on while earlier bytes are delayed.
func (l *slowLink) pump(from, to net.Conn, epoch int) {
	parcels := make(chan parcel, 64)
	go func() {
		defer close(parcels)
		for {
			buf := make([]byte, 4<<10)
			n, err := from.Read(buf)
			if n > 0 {
				parcels <- parcel{buf[:n], time.Now()}
			}
			if err != nil {
				return
			}
		}
	}()
	gone := false
	for p := range parcels {
		l.mu.Lock()
		delay, rate := l.delay, l.rate
		gone = gone || l.epoch != epoch
		l.mu.Unlock()
		if gone {
			continue
		}
		time.Sleep(time.Until(p.at.Add(delay)))
		if rate > 0 {
			time.Sleep(time.Duration(len(p.bytes)) * time.Second / time.Duration(rate))
		}
		if _, err := to.Write(p.bytes); err != nil {
			break
		}
	}
	if !gone {
		_ = to.Close()
	}
	for range parcels { // until the reader has ended
	}
}
