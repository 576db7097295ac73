package uplink

import (
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// lossy makes answers of a broker to one kind of request get lost, together with
// their connection: the broker has done what it was asked for.
type lossy struct {
	key         kmsg.Key
	every       int64 // one in so many
	asked, lost atomic.Int64
	idle        atomic.Bool // nothing is lost
}

// listen is an option of the cluster.
func (l *lossy) listen() kfake.Opt {
	return kfake.ListenFn(func(network, address string) (net.Listener, error) {
		ln, err := net.Listen(network, address)
		return lossyListener{ln, l}, err
	})
}

type lossyListener struct {
	net.Listener
	l *lossy
}

func (l lossyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &lossyConn{Conn: c, l: l.l, requests: frame{header: requestHeader}, gone: map[uint32]bool{}}, nil
}

// lossyConn is the broker's side of a connection. The broker writes each answer
// with one call.
type lossyConn struct {
	net.Conn
	l        *lossy
	requests frame
	mu       sync.Mutex
	gone     map[uint32]bool // correlation ids whose answers get lost
}

func (c *lossyConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.requests.scan(p[:n], func(head []byte) bool {
		if len(head) >= requestHeader && kmsg.Key(binary.BigEndian.Uint16(head[4:])) == c.l.key && !c.l.idle.Load() && c.l.asked.Add(1)%c.l.every == 0 {
			c.mu.Lock()
			c.gone[binary.BigEndian.Uint32(head[8:])] = true
			c.mu.Unlock()
		}
		return false
	}, nil)
	return n, err
}

func (c *lossyConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	gone := len(p) >= answerHeader && c.gone[binary.BigEndian.Uint32(p[4:])]
	c.mu.Unlock()
	if gone {
		c.l.lost.Add(1)
		_ = c.Close()
		return 0, errors.New("lost")
	}
	return c.Conn.Write(p)
}
