// Package mqtt reads MQTT brokers, losing nothing that a broker was told is
// taken: a QoS 1 or 2 message is acknowledged only after its event is durable,
// in the order of arrival, on the connection on which it came last.
//
// The way of a message, with the files along it:
//
//	socket -> conn (conn.go, frame.go) takes each PUBLISH out of the stream,
//	          checks topic and size (topic.go), knows what came before (ledger.go)
//	       -> queue (queue.go), bounded by count and bytes
//	       -> Source.move (source.go) -> Sink.Append -> the buffer commits
//	       -> ledger.done (ledger.go) -> PUBACK or PUBREC (write.go) -> socket
//
// paho.mqtt.golang does the rest: CONNECT, SUBSCRIBE, keep-alive, PUBCOMP and
// websockets (session.go, dial.go). memory.go knows which filters a broker may
// hold from earlier runs. With DecodeSparkplug, move decodes messages with
// package sparkplug and asks edge nodes for their births (sparkplug.go).
package mqtt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"net/url"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"sluice/drivers"
)

// Limits of Run.
const (
	stopGrace  = 2 * time.Second       // for messages under way when ctx ends
	drainCheck = 10 * time.Millisecond // between two looks at them
	steady     = 10 * time.Second      // a connection that lived this long was a good one
)

// errRunning is returned by a second Run.
var errRunning = errors.New("the source runs already")

// Source is a driver for one MQTT session.
type Source struct {
	*intake
	plant   *plant // nil without DecodeSparkplug
	cfg     Config
	servers []*url.URL

	// The constants of the same name; tests are less patient.
	subackWait, stopGrace time.Duration

	running   atomic.Bool
	takenOver int // connections in a row that the broker soon ended; of keepConnected
}

// New checks cfg and returns a source that does nothing until Run. Its error
// names every field that is wrong, with what is allowed.
func New(cfg Config) (*Source, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	s := &Source{cfg: cfg, subackWait: subackWait, stopGrace: stopGrace, intake: &intake{
		maxPayload: cfg.MaxPayload,
		topics:     newTopics(cfg.Subscriptions),
		queue:      newQueue(cfg.QueueCount, cfg.QueueBytes),
		ledgers:    make(map[string]*ledger),
		stats:      newCounters(cfg),
		refusals:   newRefusals(cfg.OnRefused),
		seed:       maphash.MakeSeed(),
	}}
	if cfg.Decode == DecodeSparkplug {
		s.plant = newPlant(cfg)
	}
	for _, server := range cfg.Servers {
		u, err := parseServer(server)
		if err != nil {
			return nil, err
		}
		s.servers = append(s.servers, u)
		s.ledgers[u.String()] = newLedger()
	}
	return s, nil
}

// Stats returns the counters so far and the state of the connection.
func (s *Source) Stats() drivers.Stats {
	stats := s.stats.snapshot()
	if p := s.plant; p != nil && stats.Up {
		seen := p.decoder.Stats()
		stats.State += fmt.Sprintf(", Sparkplug: %s, %s, %s asked for", count(seen.Nodes, "node"), count(int(seen.Gaps), "gap"), count(int(p.asked.Load()), "rebirth"))
	}
	if s.queue.full() {
		stats.State += ", waiting for room in the buffer"
	}
	return stats
}

// Run reads until ctx ends and connects again whenever the connection breaks.
// When ctx ends it takes nothing more, gives what is under way up to 2 s to be
// committed, acknowledges that, disconnects and returns nil; the broker keeps
// what was not acknowledged. It returns an error when the sink refuses events
// while ctx lives. It may be called again after it has returned.
func (s *Source) Run(ctx context.Context) error {
	if !s.running.CompareAndSwap(false, true) {
		return errRunning
	}
	defer s.running.Store(false)
	defer s.stats.state("stopped")

	// grace outlives ctx by stopGrace, so that what was taken can be committed.
	grace, endGrace := context.WithCancel(context.WithoutCancel(ctx))
	defer endGrace()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(s.stopGrace, endGrace) })()
	reading, stopReading := context.WithCancel(ctx)
	defer stopReading()

	stopTelling := s.refusals.start()
	defer stopTelling()
	moved := make(chan error, 1)
	go func() {
		err := s.move(grace)
		stopReading()
		endGrace()
		moved <- err
	}()
	s.keepConnected(reading, grace)
	s.drain(grace)
	endGrace()
	return <-moved
}

// keepConnected holds a session open until ctx ends.
func (s *Source) keepConnected(ctx, grace context.Context) {
	retry := s.newBackoff()
	for {
		lived, err := s.runSession(ctx, grace)
		if ctx.Err() != nil {
			return
		}
		s.stats.failed(err.Error())
		if lived >= steady {
			retry = s.newBackoff()
		}
		wait := retry.next()
		s.stats.state(fmt.Sprintf("connecting again in %s", wait.Round(100*time.Millisecond)))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// runSession connects once and returns how long the connection lived and why it
// ended. When ctx ends the connection stays until what was taken is committed
// and acknowledged, or grace is over.
func (s *Source) runSession(ctx, grace context.Context) (time.Duration, error) {
	ss, err := s.connect(ctx)
	if err != nil {
		return 0, err
	}
	stopRebirths := s.sendRebirths(ss)
	began := time.Now()
	err = s.serve(ctx, ss)
	lived := time.Since(began)
	stopRebirths()
	if ctx.Err() != nil {
		s.stats.state("stopping")
		ss.conn.stopTaking()
		ss.end(s.leaveTime(grace))
		return lived, err
	}
	s.accuse(ss.server, ss.cause(nil))
	why := s.suspect(ss, lived, s.connectionBroke(err))
	ss.end(disconnectWait)
	return lived, why
}

// leaveTime waits until all that was taken is acknowledged, or grace is over, and
// returns what a stop may take from then on. It matters: a broker that has not
// read the last acknowledgements when the connection ends sends those messages
// again to the next process. Mosquitto 2.0.11 can take a second for thousands of
// QoS 2 messages, since it looks for each in a list of all that are under way.
func (s *Source) leaveTime(grace context.Context) time.Duration {
	began := time.Now()
	s.drain(grace)
	return max(disconnectWait, s.stopGrace+disconnectWait-time.Since(began))
}

// drain waits until nothing is under way, or ctx ends.
func (s *Source) drain(ctx context.Context) {
	tick := time.NewTicker(drainCheck)
	defer tick.Stop()
	for s.queue.len() > 0 || s.unsettled() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// unsettled is the number of messages on their way into the buffer.
func (s *Source) unsettled() (n int) {
	for _, l := range s.ledgers {
		n += l.unsettled()
	}
	return n
}

// move hands queued messages to the sink until ctx ends. It is the only one who
// waits for the buffer.
func (s *Source) move(ctx context.Context) error {
	var spare []item
	for {
		items, err := s.queue.take(ctx, spare)
		if err != nil {
			return nil // ctx ended, which is how move is stopped
		}
		for i := range items {
			if err := s.store(ctx, &items[i]); err != nil {
				s.queue.putBack(items[i:])
				if ctx.Err() != nil {
					return nil
				}
				return fmt.Errorf("append to class %q: %w", items[i].class, err)
			}
			s.queue.release(items[i].size)
		}
		clear(items)
		spare = items
	}
}

// store hands one message to the sink, or refuses it.
func (s *Source) store(ctx context.Context, it *item) error {
	if !it.decoded && !s.interpret(it) {
		if it.delivery != nil {
			it.ledger.done(it.delivery, nil)
		}
		return nil
	}
	err := s.cfg.Sink.Append(ctx, drivers.Event{
		Class:       it.class,
		Source:      s.cfg.Name,
		Device:      it.device,
		Subject:     it.name,
		Type:        drivers.TypeMQTTMessage,
		ContentType: it.content,
		Time:        it.at,
		Payload:     it.payload,
	}, s.acknowledge(it.ledger, it.delivery))
	if err == nil {
		s.stats.take(it.class)
	}
	return err
}

// interpret finds out what a message holds; false, counted, where it is refused.
// It is done once, also for a message that the sink did not take.
func (s *Source) interpret(it *item) bool {
	if s.plant != nil {
		return s.decode(it)
	}
	content, ok := s.inspect(it.payload)
	if !ok {
		s.reject(reasonNotJSON, it)
	}
	it.decoded, it.content = ok, content
	return ok
}

// reject counts a message that is refused for what it holds.
func (s *Source) reject(reason string, it *item, more ...any) {
	s.stats.reject(reason, []byte(it.name), more...)
	s.refusals.note(Refusal{Reason: reason, Server: it.server, Bytes: int64(len(it.payload)), QoS: it.qos}, []byte(it.name))
}

// inspect returns a payload's content type, and whether it may pass. The whole
// payload is looked at only if it has to be JSON or starts as an object or array.
func (s *Source) inspect(payload []byte) (content string, ok bool) {
	start := bytes.TrimLeft(payload, " \t\r\n") // the white space of RFC 8259 §2
	container := len(start) > 0 && (start[0] == '{' || start[0] == '[')
	strict := s.cfg.Decode == DecodeJSON
	valid := (container || strict) && validJSON(payload) && utf8.Valid(payload) // RFC 8259 §8.1: JSON is UTF-8
	if container && valid {
		return drivers.ContentJSON, true
	}
	return drivers.ContentBinary, valid || !strict
}

// acknowledge returns what the sink calls when the event is durable or lost.
func (s *Source) acknowledge(l *ledger, d *delivery) func(error) {
	if d == nil {
		return nil
	}
	return func(err error) {
		if err != nil {
			s.topics.forget() // the last message of some topic was not taken after all
		}
		l.done(d, err)
	}
}

// backoff gives growing waits, each with a random half taken off, so that
// a fleet does not come back all at once.
type backoff struct{ step, max time.Duration }

func (s *Source) newBackoff() *backoff {
	return &backoff{s.cfg.RetryMin, s.cfg.RetryMax}
}

func (b *backoff) next() time.Duration {
	wait := b.step
	b.step = min(2*b.step, b.max)
	return wait/2 + rand.N(wait/2+1)
}
