package modbus

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

func TestConnectsThatFailAreSpacedOut(t *testing.T) {
	const longest = 300 * time.Millisecond
	l := newLink(connection{scheme: schemeTCP, address: freeAddress(t)}, time.Second, 0, longest)
	read := func() error {
		_, err := l.read(context.Background(), 1, tables["holding"], 0, 1)
		return err
	}
	for _, backoff := range []time.Duration{firstBackoff, 2 * firstBackoff, longest, longest} {
		l.dialAt = time.Time{} // the wait is over
		before := time.Now()
		if err := read(); !errors.Is(err, errDial) || strings.Contains(err.Error(), "next attempt") {
			t.Fatalf("connect: %v, want the reason why it failed", err)
		}
		if wait := l.dialAt.Sub(before); l.backoff != backoff || wait < backoff/2 || time.Until(l.dialAt) > backoff {
			t.Errorf("the next connect is after %v, back-off %v, want from %v to %v", wait, l.backoff, backoff/2, backoff)
		}
		l.dialAt = time.Now().Add(time.Hour)
		if err := read(); !errors.Is(err, errDial) || !strings.Contains(err.Error(), "next attempt in") || !strings.Contains(err.Error(), "refused") {
			t.Errorf("too early: %v, want when and why", err)
		}
	}
}

func TestReadEndsWithItsContext(t *testing.T) {
	p := newPeer(t, func(net.Conn, int, []byte) {}, nil)
	l := newLink(connection{scheme: schemeTCP, address: p.listener.Addr().String()}, time.Hour, 0, time.Second)
	defer l.close()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		_, err := l.read(ctx, 1, tables["holding"], 0, 1)
		ended <- err
	}()
	until(t, "the request is there", func() bool { return p.requests.Load() == 1 })
	cancel()
	if err := <-ended; err == nil {
		t.Error("a value without an answer")
	}
}
