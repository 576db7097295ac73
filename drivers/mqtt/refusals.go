package mqtt

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// Bounds of what OnRefused is told.
const (
	refusalEvery = time.Minute // between two calls for one reason
	maxToldTopic = 256         // bytes of Refusal.Topic
)

// Reasons of a Refusal beside those in Stats.Rejected: what the broker, or who is
// in its place, refuses us, or we it.
const (
	reasonAuth      = "auth-refused"     // CONNACK 2, 4 or 5, or a TLS alert: our client id, password or certificate is not taken
	reasonUntrusted = "untrusted-broker" // its certificate is of an unknown authority, for another name, or out of date
	reasonFilter    = "filter-refused"   // SUBACK 0x80
	reasonProtocol  = "protocol-error"   // it breaks MQTT
	reasonTaken     = "session-taken"    // it ends each connection soon: another client may use our client id
)

// Refusal is something that was refused, for Config.OnRefused: a message, or a
// connection. Messages of QoS 0 that find the queue full are none.
type Refusal struct {
	// Reason is one of MessageReasons but queue-full, or auth-refused,
	// untrusted-broker, filter-refused, protocol-error or session-taken.
	// session-taken is a conclusion: MQTT 3.1.1 tells a client nothing when
	// another one takes its session, it only ends the connection.
	Reason string

	// Server is the broker as it stands in Config.Servers.
	Server string

	// Topic is that of the message or the filter, valid UTF-8, cut to 256 bytes
	// at most; empty for a connection, or where there is none to be read.
	Topic string

	// Bytes is the size of the payload, as far as it is known.
	Bytes int64

	// QoS is that of the message (3 where it came with both bits) or the one
	// that was asked for.
	QoS byte

	// Count is how many there were for this reason since the last call, this one
	// included; the other fields are those of the first of them.
	Count uint64
}

// MessageReasons are the reasons that Stats.Rejected counts messages by.
func MessageReasons() []string {
	return []string{reasonTooLarge, reasonTopic, reasonRoute, reasonNotJSON, reasonSparkplug, reasonMalformed, reasonQueueFull}
}

// refusals passes refusals on to Config.OnRefused, the first of each reason at once
// and then one a minute. note may be called by any goroutine and does not wait for
// the hook.
type refusals struct {
	tell  func(Refusal)
	every time.Duration // refusalEvery, or what a test has the patience for
	wake  chan struct{} // gets a token when there may be something to tell

	mu      sync.Mutex
	waiting map[string]*waitingRefusal // by reason
}

// waitingRefusal is what is to be told for one reason.
type waitingRefusal struct {
	Refusal
	last time.Time // of the last call
}

func newRefusals(tell func(Refusal)) *refusals {
	return &refusals{tell: tell, every: refusalEvery, wake: make(chan struct{}, 1), waiting: make(map[string]*waitingRefusal)}
}

// note counts one; topic may be as it came, and is not kept.
func (r *refusals) note(refused Refusal, topic []byte) {
	if r.tell == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.waiting[refused.Reason]
	if w == nil {
		w = &waitingRefusal{}
		r.waiting[refused.Reason] = w
	}
	count := w.Count + 1
	if count == 1 {
		refused.Topic = cleanTopic(topic, maxToldTopic)
		w.Refusal = refused
		signal(r.wake)
	}
	w.Count = count
}

// start lets refusals be told until stop is called, which waits for the last call.
func (r *refusals) start() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.run(ctx)
	}()
	return func() {
		cancel()
		<-ended
	}
}

// run calls the hook until ctx ends, and then for what is due.
func (r *refusals) run(ctx context.Context) {
	for over := false; ; over = ctx.Err() != nil {
		due, next := r.due(time.Now())
		for _, refused := range due {
			r.tell(refused)
		}
		if over {
			return
		}
		timer := time.NewTimer(next)
		select {
		case <-r.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// due returns what may be told now, and how long it is until more may be.
func (r *refusals) due(now time.Time) (due []Refusal, next time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next = r.every
	for _, w := range r.waiting {
		if w.Count == 0 {
			continue
		}
		if wait := r.every - now.Sub(w.last); wait > 0 && !w.last.IsZero() {
			next = min(next, wait)
			continue
		}
		due = append(due, w.Refusal)
		w.last, w.Count = now, 0
	}
	return due, next
}

// cleanTopic makes a topic as it came fit for logs and events: at most size
// bytes, valid UTF-8, without control characters.
func cleanTopic(topic []byte, size int) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(string(topic[:min(len(topic), size)]), "?"))
}

// accuse tells of a connect that failed because one side does not trust the other.
func (s *Source) accuse(server string, err error) {
	if reason := distrust(err); reason != "" {
		s.refusals.note(Refusal{Reason: reason, Server: server}, nil)
	}
}

// distrust gives the reason of a Refusal for an error of a connection; empty for
// one that says nothing of trust.
func distrust(err error) string {
	var (
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
		remote    *net.OpError
		broken    *protocolError
	)
	switch {
	case errors.Is(err, packets.ErrorRefusedBadUsernameOrPassword), errors.Is(err, packets.ErrorRefusedNotAuthorised),
		errors.Is(err, packets.ErrorRefusedIDRejected),
		errors.As(err, &remote) && remote.Op == "remote error": // a TLS alert, which has no exported type
		return reasonAuth
	case errors.As(err, &authority), errors.As(err, &name), errors.As(err, &invalid):
		return reasonUntrusted
	case errors.As(err, &broken):
		return reasonProtocol
	}
	return ""
}

// Signs that another client takes the session again and again.
const (
	takenWithin = 15 * time.Second // a connection that was taken, and ended by the broker this soon
	takenTimes  = 3                // in a row
)

// errTaken is added to the end of such a connection.
var errTaken = errors.New("the last connections all ended within seconds: does another client use the same client_id, or may this one not read what it asks for?")

// suspect counts connections that a broker accepted and soon ended in silence, as
// one has to when another client comes with the same client id (MQTT 3.1.1 §3.1.4).
// It returns err, with what it suspects.
func (s *Source) suspect(ss *session, lived time.Duration, err error) error {
	denied := s.plant != nil && s.plant.refusals > 0 // the broker ends connections for another reason
	if lived > takenWithin || denied || !ss.conn.endedByBroker() {
		s.takenOver = 0
		return err
	}
	if s.takenOver++; s.takenOver < takenTimes {
		return err
	}
	s.refusals.note(Refusal{Reason: reasonTaken, Server: ss.server}, nil)
	return fmt.Errorf("%w; %w", err, errTaken)
}
