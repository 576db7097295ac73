package mqtt

import (
	"errors"
	"fmt"
	"time"
)

// errAcksPileUp ends a connection whose broker does not read acknowledgements.
var errAcksPileUp = errors.New("the broker does not read acknowledgements")

// Write sends a packet of paho's, after all acknowledgements that wait, and
// returns when the socket has taken it, at most writeTimeout later.
func (c *conn) Write(p []byte) (int, error) {
	ping := len(p) > 0 && p[0]>>4 == typePingreq
	if ping {
		c.ledger.pinged()
		c.pinging.Store(true)
	}
	c.outMu.Lock()
	c.pending = append(c.pending, p...)
	c.outMu.Unlock()
	if err := c.flush(); err != nil {
		return 0, err
	}
	switch {
	case ping:
		signal(c.wake)
	case len(p) > 0 && p[0]>>4 == typeDisconnect:
		c.leave()
	}
	return len(p), nil
}

// ack queues an acknowledgement; flushAcks sends it. It does not block.
func (c *conn) ack(qos byte, id uint16) {
	frame := ackFrame(qos, id)
	c.outMu.Lock()
	c.pending = append(c.pending, frame[:]...)
	full := len(c.pending) > maxAckBytes
	c.outMu.Unlock()
	if full {
		c.fail(errAcksPileUp)
		return
	}
	signal(c.dirty)
}

// ask queues a PINGREQ beside paho's; flushAcks sends it. It does not block. A TCP whose
// program has closed the connection answers new data with a reset (RFC 1122 §4.2.2.13),
// whatever it still has to send; a broker that is there answers with PINGRESP. Nothing else would do:
// the kernel's own keep-alive carries no data, and the other side acknowledges it
// as long as it has something to send.
func (c *conn) ask() {
	c.ledger.pinged()
	c.outMu.Lock()
	c.pending = append(c.pending, typePingreq<<4, 0)
	c.outMu.Unlock()
	signal(c.dirty)
}

// flushAcks sends acknowledgements, and what is asked, until the connection ends. While one write is
// under way the next ones gather.
func (c *conn) flushAcks() {
	defer c.flusher.Done()
	for {
		select {
		case <-c.dirty:
			if c.flush() != nil { // it ended the connection, which says why
				return
			}
		case <-c.closed:
			return
		}
	}
}

// flush writes what is pending, in one write.
func (c *conn) flush() error {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	select {
	case <-c.leaving:
		return nil // too late for an acknowledgement; writing would end in a reset
	default:
	}
	c.outMu.Lock()
	out := c.pending
	c.pending = c.spare[:0]
	c.outMu.Unlock()
	c.spare = out
	if len(out) == 0 {
		return nil
	}
	if err := c.Conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return c.writeFailed(err)
	}
	if _, err := c.Conn.Write(out); err != nil {
		return c.writeFailed(err)
	}
	return nil
}

func (c *conn) writeFailed(err error) error {
	err = fmt.Errorf("send to the broker: %w", err)
	c.fail(err)
	return err
}
