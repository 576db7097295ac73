package uplink

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// badGrace is how long errors may go on without a round trip in between
	// before the link counts as down: a cluster with one dead broker is up.
	badGrace = time.Second
	// stallAfter is how long records may be in flight without any being
	// acknowledged before the link counts as down.
	stallAfter = 10 * time.Second
	// hintAfter is how old an acknowledgement must be for what the client
	// complains about to be shown; younger complaints pass by themselves.
	hintAfter = 3 * time.Second
)

// health is what the client's hooks tell about the link. It is safe for
// concurrent use.
type health struct {
	foreign atomic.Int32 // requests of Kafka.Request that are under way

	mu         sync.Mutex
	lastGood   time.Time // of a round trip
	badSince   time.Time // of the first error after the last round trip; zero: none
	peer       string    // the broker of the last round trip
	lastError  string
	lastErrAt  time.Time
	loginError error // of a login whose connection is not given up yet
	hint       string
	hintAt     time.Time
	pauseUntil time.Time // which a broker asked for
	lastAnswer time.Time // to a produce, whatever it said
	refusal    string    // why the cluster takes nothing of what is next; empty: it does
}

// The hooks of the client.
var (
	_ kgo.HookBrokerConnect  = (*health)(nil)
	_ kgo.HookBrokerE2E      = (*health)(nil)
	_ kgo.HookBrokerThrottle = (*health)(nil)
)

// OnBrokerConnect is called after each attempt to connect and log in.
func (h *health) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err == nil || errors.Is(err, kgo.ErrClientClosed) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	// A broker that doesn't like a password may just hang up, and then only
	// the step at which it did tells why.
	if h.loginError != nil && errors.Is(err, io.EOF) {
		err = &loginRefused{err}
	}
	h.loginError = nil
	h.bad(err)
}

// OnBrokerE2E is called after each request. One that was answered proves the
// link, unless it belongs to the building of a connection.
func (h *health) OnBrokerE2E(meta kgo.BrokerMetadata, key int16, e kgo.BrokerE2E) {
	h.mu.Lock()
	defer h.mu.Unlock()
	err := e.Err()
	switch kmsg.Key(key) {
	case kmsg.SASLHandshake, kmsg.SASLAuthenticate:
		h.loginError = err
	case kmsg.ApiVersions:
	default:
		if err != nil {
			h.bad(err)
			return
		}
		h.lastGood = time.Now()
		h.badSince = time.Time{}
		if kmsg.Key(key) == kmsg.Produce && h.foreign.Load() == 0 {
			h.lastAnswer = h.lastGood
		}
		h.peer = net.JoinHostPort(meta.Host, strconv.Itoa(int(meta.Port)))
	}
}

// OnBrokerThrottle is called when a broker wants less to be sent to it for a time.
func (h *health) OnBrokerThrottle(_ kgo.BrokerMetadata, pause time.Duration, _ bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if until := time.Now().Add(pause); until.After(h.pauseUntil) {
		h.pauseUntil = until
	}
}

// bad notes an error of the link. h.mu is held.
func (h *health) bad(err error) {
	if errors.Is(err, kgo.ErrClientClosed) || errors.Is(err, context.Canceled) || errors.Is(err, errTurn) { // it is ours, not the link's
		return
	}
	now := time.Now()
	if h.badSince.IsZero() {
		h.badSince = now
	}
	h.lastError, h.lastErrAt = explain(err, ""), now
}

// report notes an error of a record.
func (h *health) report(text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastError, h.lastErrAt = text, time.Now()
}

// refuse notes that the cluster takes nothing, and why; empty: it does again.
func (h *health) refuse(text string) {
	h.mu.Lock()
	h.refusal = text
	h.mu.Unlock()
}

// refused returns what refuse was told.
func (h *health) refused() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.refusal
}

// complain notes what the client only retries over; it is shown when it lasts.
func (h *health) complain(err error, topic string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hint, h.hintAt = explain(err, topic), time.Now()
}

// view is the state of the link at one moment.
type view struct {
	up        bool
	peer      string
	lastError string
	lastErrAt time.Time

	lastGood   time.Time // of a round trip
	lastAnswer time.Time // to a produce
	excuse     time.Time // of the last thing that explains that the client sends nothing; may be to come
}

// look judges the link, given how long records are in flight without any being
// acknowledged. Complaints become the last error once they explain a standstill.
func (h *health) look(stalled time.Duration) view {
	h.mu.Lock()
	defer h.mu.Unlock()
	if stalled > hintAfter && h.hintAt.After(h.lastErrAt) {
		h.lastError, h.lastErrAt = h.hint, h.hintAt
	}
	v := view{peer: h.peer, lastError: h.lastError, lastErrAt: h.lastErrAt, lastGood: h.lastGood, lastAnswer: h.lastAnswer, excuse: h.hintAt}
	if h.pauseUntil.After(v.excuse) {
		v.excuse = h.pauseUntil
	}
	failing := !h.badSince.IsZero() && time.Since(h.badSince) > badGrace
	v.up = !h.lastGood.IsZero() && !failing && stalled <= stallAfter
	return v
}

// clientLog takes the client's log: its errors are hints, the rest is dropped.
type clientLog struct{ health *health }

// Level implements kgo.Logger.
func (l clientLog) Level() kgo.LogLevel { return kgo.LogLevelInfo }

// Log implements kgo.Logger.
func (l clientLog) Log(_ kgo.LogLevel, _ string, keyvals ...any) {
	var (
		topic string
		code  *kerr.Error
	)
	for i := 0; i+1 < len(keyvals); i += 2 {
		switch v := keyvals[i+1].(type) {
		case string:
			if keyvals[i] == "topic" {
				topic = v
			}
		case error:
			if e, ok := errors.AsType[*kerr.Error](v); ok {
				code = e
			}
		}
	}
	if code != nil {
		l.health.complain(code, topic)
	}
}

// goodAt returns when the last round trip was.
func (h *health) goodAt() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lastGood
}

// pinged notes the outcome of a probe. An error that the hooks saw as well is
// the same in more words.
func (h *health) pinged(err error) {
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.badSince.IsZero() {
		h.bad(err)
	}
}
