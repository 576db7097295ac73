package mqtt

import (
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of a socket that is not read.
const (
	holdCheck   = time.Second      // between two looks whether the broker is still there
	askSlower   = 60               // unanswered questions that make the next ones a look rarer
	smallWindow = 1500             // bytes: below it the broker's kernel may not send on
	unackedTime = 30 * time.Second // that bytes may wait for the other side's TCP, in place of the kernel's quarter of an hour
)

// tcpOf is the TCP connection below TLS or a websocket; nil if there is none.
func tcpOf(nc net.Conn) *net.TCPConn {
	for {
		if tcp, ok := nc.(*net.TCPConn); ok {
			return tcp
		}
		above, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		nc = above.NetConn()
	}
}

// boundSilence lets the kernel end a connection whose other side has gone without
// a word, TCP_USER_TIMEOUT of tcp(7). It is for the time in which reading is stopped:
// no PINGRESP is seen then, but the pings go out and need their TCP acknowledgement.
func boundSilence(nc net.Conn) {
	onSocket(nc, func(fd int) {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unackedTime/time.Millisecond)) // without it the end is seen later
	})
}

// peerLeft returns an error when the broker has closed or reset the connection, or
// the kernel has given it up, also where what came before that is still unread. A broker
// that only closed its sending half counts as gone: MQTT needs both directions (MQTT 3.1.1
// §4.2) and has no half-closed connection; the side that ends it closes it (§3.14.4, §4.8).
// What was not read has no acknowledgement, so QoS 1 and 2 come again in the session.
func peerLeft(nc net.Conn) (err error) {
	onSocket(nc, func(fd int) {
		look := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		if n, failed := unix.Poll(look, 0); failed != nil || n == 0 {
			return
		}
		if look[0].Revents&unix.POLLERR == 0 {
			err = io.EOF
			return
		}
		code, failed := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if failed != nil || code == 0 {
			err = io.EOF
			return
		}
		err = unix.Errno(code)
	})
	return err
}

// windowShut says whether the other side may have more to send than fits in here.
// Linux before 6.2 does not tell (tcpi_rcv_wnd of tcp.h stays 0): there it always may.
func windowShut(nc net.Conn) (shut bool) {
	onSocket(nc, func(fd int) {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		shut = err != nil || info.Rcv_wnd < smallWindow
	})
	return shut
}

// onSocket calls f with the descriptor of nc's TCP connection, if it has one.
func onSocket(nc net.Conn, f func(fd int)) {
	tcp := tcpOf(nc)
	if tcp == nil {
		return
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { f(int(fd)) }) // it fails when the connection is closed, which is known then
	}
}
