package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"time"

	mb "github.com/goburrow/modbus"
)

// minDialTime is how long a connect may take at least: a lost SYN is sent again
// after a second only, and a short request time-out must not forbid that.
const minDialTime = 3 * time.Second

// firstBackoff is the wait after the first connect that failed; it doubles.
const firstBackoff = 100 * time.Millisecond

// errDial is what requests get while there is no connection.
var errDial = errors.New("not connected")

// link is one connection to a Modbus TCP device or gateway. It reconnects by
// itself, and it closes the connection on any doubt: after an answer that
// doesn't fit, after a time-out (so that the late answer dies with it), and
// when bytes are waiting that nobody asked for. One goroutine uses it.
//
// The library makes and reads the PDUs; link is its transporter.
type link struct {
	address    string
	timeout    time.Duration
	gap        time.Duration
	maxBackoff time.Duration

	packager *mb.TCPClientHandler // for its Encode, Verify and Decode only
	client   mb.Client

	conn    net.Conn // nil: not connected
	raw     syscall.RawConn
	last    uint16 // transaction of the last request
	sent    int    // requests on this connection
	buf     [2 * maxFrame]byte
	quiet   time.Time // when the last exchange ended
	backoff time.Duration
	dialAt  time.Time // no connect before
	dialErr error     // why the last one failed
}

func newLink(address string, timeout, gap, maxBackoff time.Duration) *link {
	l := &link{address: address, timeout: timeout, gap: gap, maxBackoff: maxBackoff}
	l.packager = mb.NewTCPClientHandler("")
	l.client = mb.NewClient2(l.packager, l)
	return l
}

// read asks a unit for count registers or bits at an address and returns their
// bytes, which are valid until the next call. It blocks for the connect, the
// frame gap and one time-out at most, or until ctx ends. Errors are errDial,
// errInvalid, *mb.ModbusError (the unit's exception), a net.Error that is a
// time-out, or what broke the connection.
func (l *link) read(ctx context.Context, unit byte, area table, at, count int) ([]byte, error) {
	if err := l.ready(ctx); err != nil {
		return nil, err
	}
	conn := l.conn
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	l.packager.SlaveId = unit
	data, err := area.ask(l.client, uint16(at), uint16(count))
	l.quiet = time.Now()
	if err == nil || isException(err) {
		return data, err
	}
	l.close()
	return nil, err
}

// isException says whether the unit answered, though not with data.
func isException(err error) bool {
	var e *mb.ModbusError
	return errors.As(err, &e)
}

// ready waits for the frame gap and makes sure that there is a connection on
// which nothing is waiting. The deadline of the request runs then.
func (l *link) ready(ctx context.Context) error {
	if wait := l.gap - time.Since(l.quiet); l.gap > 0 && wait > 0 {
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
	if l.conn != nil && l.arm() == nil && l.silent() {
		return nil
	}
	l.close()
	if err := l.dial(ctx); err != nil {
		return err
	}
	if err := l.arm(); err != nil {
		l.close()
		return fmt.Errorf("%w: set the deadline: %w", errDial, err)
	}
	return nil
}

// arm starts the one deadline of a request.
func (l *link) arm() error { return l.conn.SetDeadline(time.Now().Add(l.timeout)) }

// dial connects, or says that it is too early for that.
func (l *link) dial(ctx context.Context) error {
	if wait := time.Until(l.dialAt); wait > 0 {
		return fmt.Errorf("%w (next attempt in %v): %w", errDial, wait.Round(time.Millisecond), l.dialErr)
	}
	dialer := net.Dialer{Timeout: max(l.timeout, minDialTime)}
	conn, err := dialer.DialContext(ctx, "tcp", l.address)
	if err != nil {
		l.backoff = min(max(2*l.backoff, firstBackoff), l.maxBackoff)
		// Jitter: gateways that come back from the same power cut don't knock
		// at the same moment.
		l.dialAt = time.Now().Add(l.backoff/2 + rand.N(l.backoff/2+1))
		l.dialErr = err
		return fmt.Errorf("%w: %w", errDial, err)
	}
	l.conn, l.backoff, l.dialErr = conn, 0, nil
	// Not from 1 on, as every program counts: what a gateway still has for
	// somebody else must not fit by chance.
	l.last, l.sent = uint16(rand.Uint32()), 0
	l.raw = nil
	if tcp, ok := conn.(*net.TCPConn); ok {
		l.raw, _ = tcp.SyscallConn()
	}
	return nil
}

// silent says that the peer has neither closed the connection nor sent anything
// since the last answer. It doesn't wait. What is there could only be a second
// or late answer.
func (l *link) silent() bool {
	if l.raw == nil {
		return true
	}
	silent := false
	err := l.raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		silent = errors.Is(err, syscall.EAGAIN)
		return true
	})
	return err == nil && silent
}

// close gives the connection up; the next read connects again.
func (l *link) close() {
	if l.conn != nil {
		l.conn.Close()
		l.conn = nil
	}
}

// Send writes one request and returns the frame that answers it. The library
// calls it, within read.
func (l *link) Send(request []byte) ([]byte, error) {
	// In place, since the library compares the answer with these bytes.
	l.last++
	binary.BigEndian.PutUint16(request, l.last)
	l.sent++
	if _, err := l.conn.Write(request); err != nil {
		return nil, fmt.Errorf("send: %w", err)
	}
	n := 0
	for {
		frame, rest, err := cutFrame(l.buf[:n])
		switch {
		case err != nil:
			return nil, err
		case frame == nil:
			got, err := l.conn.Read(l.buf[n:])
			if n += got; err != nil && got == 0 {
				return nil, receiveError(err, n)
			}
		case l.older(frame):
			n = copy(l.buf[:], rest)
		case len(rest) > 0:
			return nil, invalidf("%d more bytes follow it", len(rest))
		default:
			return frame, checkAnswer(request, frame)
		}
	}
}

// older says that a frame answers an earlier request of this connection: a
// doubled answer, which is no reason for doubt in what follows.
func (l *link) older(frame []byte) bool {
	age := int(l.last - transaction(frame)) // the ids wrap around
	return age > 0 && age < l.sent
}

func receiveError(err error, n int) error {
	if errors.Is(err, io.EOF) {
		err = errors.New("the device closed the connection")
	}
	if n > 0 {
		return fmt.Errorf("receive, after %d bytes of an answer: %w", n, err)
	}
	return fmt.Errorf("receive: %w", err)
}

// sleep waits for d or until ctx ends, and returns ctx's error then.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
