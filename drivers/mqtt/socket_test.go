package mqtt

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestBrokerThatLeavesWhileReadingIsStopped: what it sent before stands unread in
// front of the end of the connection, and no ping is due for an hour.
func TestBrokerThatLeavesWhileReadingIsStopped(t *testing.T) {
	for name, leave := range map[string]func(c *rawConn){
		"closed": func(c *rawConn) { _ = c.Conn.(*net.TCPConn).CloseWrite() },
		"reset": func(c *rawConn) {
			_ = c.Conn.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broker := newRawBroker(t)
			sink := &testSink{gate: make(chan struct{})}
			cfg := baseConfig(sink, broker.url())
			cfg.KeepAlive, cfg.QueueCount = time.Hour, 3
			src, _ := start(t, cfg)
			c := broker.accept(false)
			waitUp(t, src)
			for id := uint16(1); id <= 5; id++ {
				c.send(publishFrame(qos1, id, "plant/a", fmt.Sprint(id)))
			}
			eventually(t, "reading is stopped", src.queue.full)
			leave(c)
			next := broker.accept(true)
			if got := src.Stats().LastError; !strings.Contains(got, "closed the connection") && !strings.Contains(got, "reset") {
				t.Errorf("last error %q", got)
			}
			for id := uint16(1); id <= 5; id++ {
				next.send(publishFrame(qos1|dup, id, "plant/a", fmt.Sprint(id)))
			}
			close(sink.gate)
			eventually(t, "all acknowledged", func() bool { return len(next.acked()) == 5 })
			if got := strings.Join(sink.payloads(), " "); got != "1 2 3 4 5" {
				t.Errorf("taken: %s", got)
			}
		})
	}
}

func TestSilenceOfTheOtherTCPIsBounded(t *testing.T) {
	broker := newRawBroker(t)
	c := bareConn(t, broker)
	onSocket(c.Conn, func(fd int) {
		if ms, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); err != nil || ms != 30_000 {
			t.Errorf("TCP_USER_TIMEOUT %d ms (%v)", ms, err)
		}
	})
	if err := peerLeft(c.Conn); err != nil {
		t.Errorf("the other side is there: %v", err)
	}
}

// TestBrokerThatLeavesBehindMoreThanTheSocketTakes: its end never arrives, and no ping of
// the keep-alive comes to ask for it within the test.
func TestBrokerThatLeavesBehindMoreThanTheSocketTakes(t *testing.T) {
	for name, tc := range map[string]struct {
		flags byte
		ack   string
	}{"QoS 1": {qos1, "PUBACK"}, "QoS 2": {qos2, "PUBREC"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broker := newRawBroker(t)
			sink := &testSink{gate: make(chan struct{})}
			cfg := baseConfig(sink, broker.url())
			cfg.KeepAlive, cfg.QueueCount = time.Hour, 3
			cfg.Subscriptions[0].QoS = 2
			src, _ := start(t, cfg)
			c := broker.accept(false)
			waitUp(t, src)
			var want []string
			for id := uint16(1); id <= 5; id++ {
				c.send(publishFrame(tc.flags, id, "plant/a", fmt.Sprint(id)))
				want = append(want, fmt.Sprintf("%s %d", tc.ack, id))
			}
			eventually(t, "reading is stopped", src.queue.full)
			c.fill()
			_ = c.Close()
			next := broker.accept(true)
			for id := uint16(1); id <= 5; id++ {
				next.send(publishFrame(tc.flags|dup, id, "plant/a", fmt.Sprint(id)))
			}
			close(sink.gate)
			eventually(t, "all acknowledged", func() bool { return len(next.acked()) == 5 })
			if got := next.acked(); !slices.Equal(got, want) || len(c.acked()) > 0 {
				t.Errorf("acknowledged %v, and %v before", got, c.acked())
			}
			if got := strings.Join(sink.payloads(), " "); got != "1 2 3 4 5" {
				t.Errorf("taken: %s", got)
			}
		})
	}
}

// fill sends the beginning of a message until the other side's window is shut and
// more is left to send.
func (c *rawConn) fill() {
	c.t.Helper()
	head := publishFrame(qos1, 6, "plant/a", strings.Repeat("x", 1<<20))[:1<<10]
	c.send(head)
	chunk := make([]byte, 64<<10)
	eventually(c.t, "the socket is full", func() bool {
		c.writeMu.Lock()
		defer c.writeMu.Unlock()
		_ = c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		_, err := c.Write(chunk)
		var left int
		onSocket(c.Conn, func(fd int) { left, _ = unix.IoctlGetInt(fd, unix.SIOCOUTQNSD) })
		return errors.Is(err, os.ErrDeadlineExceeded) && left > 0
	})
}

func TestBrokerIsAskedOnlyWhereItsEndCouldBeHidden(t *testing.T) {
	broker := newRawBroker(t)
	c := bareConn(t, broker)
	peer := broker.connection()
	look := func() {
		t.Helper()
		if err := c.look(); err != nil {
			t.Fatal(err)
		}
	}
	var info *unix.TCPInfo
	var err error
	onSocket(c.Conn, func(fd int) { info, err = unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO) })
	if err != nil {
		t.Fatal(err)
	}
	if look(); info.Rcv_wnd > 0 && c.asked != 0 { // 0: Linux before 6.2
		t.Error("asked although the end would be seen")
	}
	peer.fill()
	eventually(t, "the window is shut", func() bool { return windowShut(c.Conn) })
	for range 3600 {
		look()
	}
	if c.asked < 600 || c.asked > 700 {
		t.Errorf("asked %d times in an hour of looks", c.asked)
	}
	eventually(t, "the broker got them", func() bool { return peer.pinged() == c.asked })
	if err := c.noteControl(typePingresp, nil); err != nil || c.asked != 0 {
		t.Errorf("after an answer: %d asked (%v)", c.asked, err)
	}
}

// bareConn connects to a broker without a session.
func bareConn(t *testing.T, broker *rawBroker) *conn {
	t.Helper()
	nc, err := net.Dial("tcp", broker.ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	src, err := New(baseConfig(&testSink{}, broker.url()))
	if err != nil {
		t.Fatal(err)
	}
	c := newConn(nc, broker.url(), src.intake)
	t.Cleanup(c.finish)
	return c
}
