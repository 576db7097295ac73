package modbus

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"
)

// minDialTime is how long a connect may take at least: a lost SYN is sent again
// after a second only, and a short request time-out must not forbid that.
const minDialTime = 3 * time.Second

// maxDiscard bounds what one discard reads, so that a peer that never stops
// doesn't hold it.
const maxDiscard = 64 << 10

// tcpLine is a line over TCP.
type tcpLine struct {
	net.Conn
	raw syscall.RawConn
}

func dialTCP(ctx context.Context, address string) (line, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	raw, err := rawOf(conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &tcpLine{conn, raw}, nil
}

func rawOf(conn net.Conn) (syscall.RawConn, error) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("a connection of type %T has no socket", conn)
	}
	return c.SyscallConn()
}

func (l *tcpLine) discard() (int, error) {
	return drain(l.raw, func(fd int, b []byte) (int, error) {
		n, _, err := syscall.Recvfrom(fd, b, syscall.MSG_DONTWAIT)
		return n, err
	})
}

// drain reads until nothing is there, and returns how many bytes were. Deadlines
// of the line don't matter to it.
func drain(raw syscall.RawConn, read func(fd int, b []byte) (int, error)) (total int, err error) {
	failed := raw.Control(func(fd uintptr) {
		var b [1024]byte
		for total < maxDiscard {
			var n int
			n, err = read(int(fd), b[:])
			switch {
			case errors.Is(err, syscall.EINTR):
				continue
			case errors.Is(err, syscall.EAGAIN):
				err = nil
				return
			case err == nil && n == 0:
				err = io.EOF
			}
			if err != nil {
				return
			}
			total += n
		}
	})
	return total, errors.Join(failed, err)
}

// tlsLine is a line over TLS (MODBUS/TCP Security Protocol Specification V2.1).
type tlsLine struct {
	*tls.Conn
	raw syscall.RawConn
}

func dialTLS(ctx context.Context, address string, settings func() (*tls.Config, error)) (line, error) {
	config := &tls.Config{}
	if settings != nil {
		c, err := settings()
		if err != nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
		if c != nil {
			config = c.Clone()
		}
	}
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(address)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	raw, err := rawOf(conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("tls: %w", err)
	}
	return &tlsLine{secure, raw}, nil
}

// ticketTime is what records of TLS that hold no data get to be read.
const ticketTime = 20 * time.Millisecond

// discard looks at the socket first, since most often nothing is there. What is
// there may be nothing but a session ticket, which isn't a reason for doubt.
func (l *tlsLine) discard() (int, error) {
	waiting := false
	var b [64]byte
	err := l.raw.Control(func(fd uintptr) {
		_, _, err := syscall.Recvfrom(int(fd), b[:1], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		waiting = !errors.Is(err, syscall.EAGAIN)
	})
	if err != nil || !waiting {
		return 0, err
	}
	if err := l.SetReadDeadline(time.Now().Add(ticketTime)); err != nil {
		return 0, err
	}
	n, err := l.Read(b[:])
	if isTimeout(err) {
		err = nil
	}
	return n, err
}
