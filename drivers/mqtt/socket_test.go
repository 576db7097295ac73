package mqtt

import (
	"fmt"
	"net"
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
	nc, err := net.Dial("tcp", broker.ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	src, err := New(baseConfig(&testSink{}, broker.url()))
	if err != nil {
		t.Fatal(err)
	}
	c := newConn(nc, broker.url(), src.intake)
	defer c.finish()
	onSocket(nc, func(fd int) {
		if ms, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); err != nil || ms != 30_000 {
			t.Errorf("TCP_USER_TIMEOUT %d ms (%v)", ms, err)
		}
	})
	if err := peerLeft(nc); err != nil {
		t.Errorf("the other side is there: %v", err)
	}
}
