package mqtt

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"sluice/drivers/mqtt/sparkplug"
)

// Limits of asking for rebirths. Each edge node has limits of its own in package
// sparkplug.
const (
	maxRebirths   = 256                   // requests that wait to be sent; more are left out
	rebirthPace   = 50 * time.Millisecond // between two: the births of a whole plant are not asked for at once
	refusalTime   = 3 * time.Second       // a connection that ended this soon after a request may have ended for it
	refusalsTaken = 3                     // in a row, before requests are held back
	refusalPause  = 10 * time.Minute      // for how long
)

// plant follows the Sparkplug edge nodes behind a source and asks them for their
// births. Source.move owns its decoder.
type plant struct {
	decoder  *sparkplug.Decoder
	conn     uint64 // the connection that the last message came on
	requests chan string
	asked    atomic.Uint64

	// Of the session that is up; sessions follow each other.
	last     time.Time // when the last request went out
	refusals int       // connections in a row that ended soon after one
	held     time.Time // no request goes out before that
}

func newPlant(cfg Config) *plant {
	return &plant{
		decoder:  sparkplug.New(sparkplug.Config{MaxJSON: int(4 * cfg.MaxPayload), MaxState: cfg.NameBytes}),
		requests: make(chan string, maxRebirths),
	}
}

// decode makes the message of it an event, once; false where it is refused. What
// came on another connection than the message before says that others may have
// been missed: births and data have QoS 0.
func (s *Source) decode(it *item) bool {
	p := s.plant
	if p.conn != it.conn {
		p.conn = it.conn
		p.decoder.Missed()
	}
	m, err := p.decoder.Decode(it.name, it.payload, it.at)
	if m.Ask != "" && !s.cfg.NoRebirth {
		select {
		case p.requests <- m.Ask:
		default: // the node's next message asks again, when its limits allow
		}
	}
	if m.Full && s.stats.due("names") {
		s.stats.log.Warn("no memory for the names of a Sparkplug birth; its metrics are not told by name: raise agent.memory_limit", "topic", it.name)
	}
	if err != nil {
		s.reject(reasonSparkplug, it, "error", err.Error())
		return false
	}
	it.decoded, it.device, it.payload, it.content = true, m.Device, m.Payload, m.ContentType
	return true
}

// sendRebirths sends requests on a session until stop is called, which waits for
// the one under way, a second at most.
func (s *Source) sendRebirths(ss *session) (stop func()) {
	if s.plant == nil || s.cfg.NoRebirth {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case topic := <-s.plant.requests:
				s.sendRebirth(ss, topic)
			case <-ctx.Done():
				return
			}
			select {
			case <-time.After(rebirthPace):
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// sendRebirth sends one request with QoS 0 and not retained, Sparkplug 3.0.0
// §6.4.23. It is not sent again if it gets lost: the node's next message asks
// again.
func (s *Source) sendRebirth(ss *session, topic string) {
	p, now := s.plant, time.Now()
	if now.Before(p.held) {
		return
	}
	p.last = now
	if token := ss.client.Publish(topic, 0, false, sparkplug.RebirthRequest(now)); token.Error() != nil {
		return // the connection is gone, which others notice as well
	}
	p.asked.Add(1)
	if s.stats.due("rebirth") {
		s.stats.log.Info("asked a Sparkplug edge node for a rebirth", "topic", topic)
	}
}

// connectionBroke holds requests back when the broker seems to end connections
// for them: some do so when a client may not publish, and that must not keep data
// from coming in. It is called between sessions, and returns why the one before
// ended.
func (s *Source) connectionBroke(err error) error {
	p := s.plant
	switch {
	case p == nil:
		return err
	case p.last.IsZero() || time.Since(p.last) > refusalTime:
		p.refusals = 0
		return err
	}
	if p.refusals++; p.refusals < refusalsTaken {
		return err
	}
	p.held = time.Now().Add(refusalPause)
	return fmt.Errorf("%w; requests for Sparkplug rebirths are held back for %s, because the connection ended after each of the last %d: may this user publish to spBv1.0/+/NCMD/#?",
		err, refusalPause, p.refusals)
}
