package modbus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	mb "github.com/goburrow/modbus"
)

// firstBackoff is the wait after the first connect that failed; it doubles.
const firstBackoff = 100 * time.Millisecond

// How a bus is treated, beside the silence of a serial line.
const (
	// gatewaySilence is the pause between frames where the gateway's own line
	// isn't known: 3.5 characters at 9600 baud.
	gatewaySilence = 4 * time.Millisecond
	// maxNoise is how many bytes between two requests are taken for noise, as a
	// transceiver makes it when it switches. More may be part of an answer.
	maxNoise = 3
	// babble is how many looks in a row must find bytes before a line is called never
	// silent: a busy machine may sleep past the time for that, and find one late answer.
	babble = 3
	// turnaround is the least time that units get for what was sent to all of
	// them (Modbus over Serial Line V1.02 §2.4.1: 100 to 200 ms).
	turnaround = 200 * time.Millisecond
)

var (
	// errDial is what requests get while there is no connection.
	errDial = errors.New("not connected")
	// errTooLate is what a request gets that must not be sent any more.
	errTooLate = errors.New("its time was over before the line was free")
)

// line is an open way to the devices: a TCP or TLS connection or a serial port.
type line interface {
	io.ReadWriteCloser
	// SetDeadline is that of net.Conn.
	SetDeadline(t time.Time) error
	// discard reads away what is there and returns how many bytes that were. It
	// doesn't wait. An error says that the line is gone.
	discard() (int, error)
}

// link is one connection to the devices. It reconnects by itself, and it gives
// nothing that comes after any doubt a chance to become an answer: after an
// answer that doesn't fit and after a time-out it closes the connection, and
// where that doesn't kill what is on its way (on a bus) it lets one more time-out
// pass and throws away what comes. One goroutine uses it.
//
// The library makes and reads the PDUs; link is its transporter.
type link struct {
	peer       connection
	timeout    time.Duration
	gap        time.Duration
	maxBackoff time.Duration
	silence    time.Duration // between two frames of a bus
	character  time.Duration // on a serial port; 0: not known

	framing framing
	client  mb.Client

	line     line // nil: not connected
	buf      [2 * asciiMax]byte
	deadline time.Time // of the request that is under way
	sent     bool      // bytes of it may have reached a unit
	quiet    time.Time // when the last exchange ended
	backoff  time.Duration
	dialAt   time.Time // no connect before
	dialErr  error     // why the last one failed

	dialed func(error)    // told what each attempt to connect came to; may be nil
	opened bool           // there was a connection before
	heard  time.Time      // when the last byte came or went on the bus
	doubt  time.Time      // until then answers to earlier requests may come on the bus
	debts  map[byte]*debt // by unit of a bus: answers that may come even later
}

func newLink(peer connection, timeout, gap, maxBackoff time.Duration) *link {
	l := &link{peer: peer, timeout: timeout, gap: gap, maxBackoff: maxBackoff, silence: gatewaySilence, debts: map[byte]*debt{}}
	switch peer.scheme {
	case schemeRTU, schemeRTUOnTCP:
		l.framing = newRTUFraming()
	case schemeASCII:
		l.framing = newASCIIFraming()
	default:
		l.framing = newTCPFraming()
	}
	if peer.onSerialPort() {
		l.silence, l.character = peer.serial.silence(), peer.serial.character()
	}
	l.client = mb.NewClient2(l.framing, l)
	return l
}

// read asks a unit for count registers or bits at an address and returns their
// bytes, which are valid until the next call. It blocks for the connect, the
// frame gap and one time-out at most, and on a bus for one time-out more after
// any doubt and for another request; or until ctx ends. Errors are errDial, errInvalid, *mb.ModbusError
// (the unit's exception), a net.Error that is a time-out, errRequest (unit 0 on
// a bus), or what broke the connection.
func (l *link) read(ctx context.Context, unit byte, area table, at, count int) (data []byte, err error) {
	if l.toAll(unit) {
		return nil, fmt.Errorf("%w: to read, unit 0 on a bus: nobody answers", errRequest)
	}
	if !l.peer.bus() {
		return l.ask(ctx, unit, area, at, count)
	}
	if err := l.settle(ctx, unit, area, at, count); err != nil {
		return nil, err
	}
	data, err = l.ask(ctx, unit, area, at, count)
	l.account(unit, area.shape(count), err)
	return data, err
}

// ask is read without regard to what the unit may owe.
func (l *link) ask(ctx context.Context, unit byte, area table, at, count int) (data []byte, err error) {
	size := l.framing.size(5) + l.framing.size(2+answerBytes(byte(area), count))
	err = l.during(ctx, unit, size, time.Time{}, func() error {
		data, err = area.ask(l.client, uint16(at), uint16(count))
		return err
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

// exchange sends any request of a function that checkRequest knows and returns
// the answer, which fits the request. It blocks as read does and has its errors,
// and errRequest for a request that wasn't sent. Unit 0 of a bus is all of its
// units: they take writes and answer nothing, so that both results are nil. What
// couldn't be sent until then, if that isn't zero, is not sent: errTooLate.
func (l *link) exchange(ctx context.Context, unit byte, pdu *mb.ProtocolDataUnit, until time.Time) (answer *mb.ProtocolDataUnit, err error) {
	if err := checkRequest(pdu); err != nil {
		return nil, err
	}
	if l.toAll(unit) {
		return nil, l.broadcast(ctx, pdu, until)
	}
	size := l.framing.size(1+len(pdu.Data)) + l.framing.size(longestAnswer(pdu))
	err = l.during(ctx, unit, size, until, func() error {
		request, err := l.framing.Encode(pdu)
		if err != nil {
			return err
		}
		frame, err := l.Send(request)
		if err != nil {
			return err
		}
		if answer, err = l.framing.Decode(frame); err != nil {
			return invalidf("%v", err)
		}
		if answer.FunctionCode&exception != 0 {
			return &mb.ModbusError{FunctionCode: answer.FunctionCode, ExceptionCode: answer.Data[0]}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	answer.Data = slices.Clone(answer.Data) // the buffer is the next answer's
	return answer, nil
}

// toAll says that a request is for all units.
func (l *link) toAll(unit byte) bool { return l.peer.bus() && unit == 0 }

// broadcast sends a write to all units of a bus. The next request waits until
// they have had time for it.
func (l *link) broadcast(ctx context.Context, pdu *mb.ProtocolDataUnit, until time.Time) error {
	if !writes(pdu.FunctionCode) {
		return fmt.Errorf("%w: function %d to unit 0 on a bus: nobody answers", errRequest, pdu.FunctionCode)
	}
	size := l.framing.size(1 + len(pdu.Data))
	return l.begin(ctx, 0, size, until, func() error {
		request, err := l.framing.Encode(pdu)
		if err != nil {
			return err
		}
		if err := l.write(request); err != nil {
			return err
		}
		l.doubt = time.Now().Add(time.Duration(size)*l.character + max(l.timeout, turnaround))
		return nil
	})
}

// during runs an exchange, and believes its answer when nothing follows it.
func (l *link) during(ctx context.Context, unit byte, size int, until time.Time, f func() error) error {
	return l.begin(ctx, unit, size, until, func() error {
		err := f()
		if l.peer.bus() && (err == nil || isException(err)) {
			if more := l.following(ctx); more > 0 {
				return invalidf("%d more bytes follow it", more)
			}
		}
		return err
	})
}

// begin makes the line ready and runs f, in which Send or write is called,
// unless it is later than until by then. size is the number of bytes that go over
// the line; l.sent says afterwards whether some may have gone.
func (l *link) begin(ctx context.Context, unit byte, size int, until time.Time, f func() error) error {
	l.sent = false
	if err := l.ready(ctx); err != nil {
		return err
	}
	if !until.IsZero() && time.Now().After(until) {
		return errTooLate
	}
	// The one deadline of a request.
	l.deadline = time.Now().Add(l.timeout + time.Duration(size)*l.character)
	if err := l.line.SetDeadline(l.deadline); err != nil {
		l.close()
		return fmt.Errorf("%w: set the deadline: %w", errDial, err)
	}
	line := l.line
	stop := context.AfterFunc(ctx, func() { _ = line.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	l.framing.to(unit)
	err := f()
	l.quiet = time.Now()
	if err != nil && !isException(err) {
		l.distrust(err)
	}
	return err
}

// isException says whether the unit answered, though not with data.
func isException(err error) bool {
	var e *mb.ModbusError
	return errors.As(err, &e)
}

// distrust is called after a request that failed: no answer to it may be taken
// for one to the next.
func (l *link) distrust(err error) {
	l.doubt = l.quiet.Add(l.timeout)
	if port, ok := l.line.(*serialPort); ok && (errors.Is(err, errInvalid) || isTimeout(err)) {
		port.flush()
		return
	}
	l.close()
}

// ready waits for the frame gap and makes sure that there is a connection on
// which nothing is waiting.
func (l *link) ready(ctx context.Context) error {
	if wait := l.gap - time.Since(l.quiet); l.gap > 0 && wait > 0 {
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
	if l.line != nil {
		err := l.clear(ctx)
		if err == nil || ctx.Err() != nil || errors.Is(err, errInvalid) {
			return err
		}
		l.close()
	}
	if err := l.dial(ctx); err != nil {
		return err
	}
	if !l.peer.bus() {
		return nil
	}
	if !l.opened {
		// Whoever used the bus before may have left without its answer.
		l.opened, l.doubt = true, time.Now().Add(l.timeout)
	}
	err := l.clear(ctx)
	if err == nil || ctx.Err() != nil || errors.Is(err, errInvalid) {
		return err
	}
	l.close()
	return fmt.Errorf("%w: %w", errDial, err)
}

// errStray says that bytes came that nobody asked for.
var errStray = errors.New("bytes came between two requests")

// clear makes sure that nothing is waiting which could be taken for an answer.
// A connection with transaction numbers isn't worth the wait: it returns an
// error, to be closed. On a bus it throws away what comes until the doubt is
// over and the line is silent, and returns errInvalid if that never happens.
func (l *link) clear(ctx context.Context) error {
	if !l.peer.bus() {
		n, err := l.line.discard()
		if err == nil && n > 0 {
			err = errStray
		}
		return err
	}
	limit := later(time.Now(), l.doubt).Add(2*l.timeout + l.silence)
	for found := 0; ; {
		n, err := l.line.discard()
		if err != nil {
			return err
		}
		now := time.Now()
		if n > 0 {
			l.heard = now
			found++
		}
		if n > maxNoise && now.After(l.doubt) {
			l.doubt = now.Add(l.timeout)
		}
		wait := later(l.doubt, l.heard.Add(l.silence)).Sub(now)
		switch {
		case wait <= 0:
			return nil
		case now.After(limit) && found >= babble:
			return invalidf("the line is never silent: another master on it, or noise")
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// following waits for the silence that ends a frame and returns how many bytes
// came within it. A line that is gone by then gave its answer whole.
func (l *link) following(ctx context.Context) int {
	_ = sleep(ctx, l.silence) // a stop makes it shorter
	n, err := l.line.discard()
	if err != nil {
		l.close()
	}
	return n
}

// dial connects, or says that it is too early for that.
func (l *link) dial(ctx context.Context) error {
	if wait := time.Until(l.dialAt); wait > 0 {
		return fmt.Errorf("%w (next attempt in %v): %w", errDial, wait.Round(time.Millisecond), l.dialErr)
	}
	line, err := l.open(ctx)
	if l.dialed != nil {
		l.dialed(err)
	}
	if err != nil {
		l.backoff = min(max(2*l.backoff, firstBackoff), l.maxBackoff)
		// Jitter: gateways that come back from the same power cut don't knock
		// at the same moment.
		l.dialAt = time.Now().Add(l.backoff/2 + rand.N(l.backoff/2+1))
		l.dialErr = err
		return fmt.Errorf("%w: %w", errDial, err)
	}
	l.line, l.backoff, l.dialErr = line, 0, nil
	l.framing.fresh()
	return nil
}

// open opens the way that the connection names.
func (l *link) open(ctx context.Context) (line, error) {
	if l.peer.onSerialPort() {
		return openSerial(l.peer.address, l.peer.serial)
	}
	ctx, cancel := context.WithTimeout(ctx, max(l.timeout, minDialTime))
	defer cancel()
	if l.peer.scheme == schemeTLS {
		return dialTLS(ctx, l.peer.address, l.peer.tls)
	}
	return dialTCP(ctx, l.peer.address)
}

// close gives the connection up; the next request connects again.
func (l *link) close() {
	if l.line != nil {
		l.line.Close()
		l.line = nil
	}
}

// Send writes one request and returns the frame that answers it. The library
// calls it, within read.
func (l *link) Send(request []byte) ([]byte, error) {
	l.framing.stamp(request)
	if err := l.write(request); err != nil {
		return nil, err
	}
	n := 0
	for {
		frame, rest, err := l.framing.cut(request, l.buf[:n])
		switch {
		case err != nil:
			return nil, l.echoed(request, l.buf[:n], err)
		case frame == nil:
			n = copy(l.buf[:], rest)
			got, err := l.line.Read(l.buf[n:])
			l.heard = time.Now()
			if n += got; err != nil && got == 0 {
				return nil, receiveError(err, n)
			}
		case len(rest) > 0:
			return nil, invalidf("%d more bytes follow it", len(rest))
		default:
			if err := l.framing.check(request, frame); err != nil {
				return nil, err
			}
			return frame, l.inTime()
		}
	}
}

// inTime refuses an answer that came after the deadline: on a busy machine the
// read may find it before it finds that its time is over.
func (l *link) inTime() error {
	if late := time.Since(l.deadline); late > 0 {
		return fmt.Errorf("receive: %v late: %w", late, os.ErrDeadlineExceeded)
	}
	return nil
}

func (l *link) write(request []byte) error {
	l.sent = true
	_, err := l.line.Write(request)
	l.heard = time.Now()
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// echoed names the one fault of an adapter that looks like a fault of the device.
func (l *link) echoed(request, got []byte, err error) error {
	if l.peer.bus() && bytes.HasPrefix(got, request) {
		return fmt.Errorf("%w; the bytes of the request came back: switch the adapter's echo off", err)
	}
	return err
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

// isTimeout says that the deadline of a request has passed.
func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
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
