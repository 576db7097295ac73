package uplink

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// renewAfter is how long a link that works otherwise may leave records without
	// an answer before the client is replaced. Until then the client itself has
	// tried several connections.
	renewAfter = 90 * time.Second
	// idleAfter is how long the client may hold records without asking a broker to take
	// them, where nothing explains that: longer than it waits after an error (2.5 s) or for
	// a connection (10 s).
	idleAfter = 20 * time.Second
	// aliveWithin is how old the last round trip of a link that works may be.
	aliveWithin = 30 * time.Second
)

// stuck returns for how long records have been in flight on a link that works
// otherwise without any answer, not even a refusal; 0 where that is not so. A link
// that is down, or a cluster that says no, is nothing that a new client mends.
func (k *Kafka) stuck(v view, p progress) time.Duration {
	if p.stalled <= stallAfter || time.Since(v.lastGood) > aliveWithin {
		return 0
	}
	if answered := time.Since(v.lastAnswer); !v.lastAnswer.IsZero() && answered < p.stalled {
		return 0
	}
	return p.stalled
}

// idle returns for how long the client has held records without asking a broker to take
// them, on a link that works otherwise and without an error, a complaint or a broker's wish
// for a pause since; 0 where that is not so. It is called by the goroutine of watch.
//
// Nothing of the client's own mends that. It happens when a request is taken back while its
// producer has to start anew: that sets a partition forward again over the batch that is next,
// which is then waited for without being sent. What makes it start anew most often is kept from
// it (anew.go); a refusal of one partition beside another that is sent again is left.
func (k *Kafka) idle(v view, p progress) time.Duration {
	now := time.Now()
	if len(k.silence.waiting()) > 0 {
		k.asked = now
	}
	if p.inFlight == 0 || now.Sub(v.lastGood) > aliveWithin {
		return 0
	}
	idle := p.stalled
	for _, t := range []time.Time{k.asked, v.lastAnswer, v.lastErrAt, v.excuse, k.renewed()} {
		idle = min(idle, now.Sub(t))
	}
	return max(0, idle)
}

// checkStuck asks for a new client when the old one makes no progress.
func (k *Kafka) checkStuck() {
	if k.exact != nil { // a session that takes too long is given up anyway
		return
	}
	p, _, _ := k.progress()
	if k.cfg.Spread.holds(time.Now()) { // another client would need more connections
		return
	}
	v := k.health.look(p.stalled)
	stuck, idle := k.stuck(v, p), k.idle(v, p)
	var text string
	switch {
	case idle >= k.idleAfter:
		k.idleAfter = max(k.idleAfter, min(2*k.idleAfter, k.renewAfter)) // where that does not mend it, it is no fault of the client
		text = fmt.Sprintf("%d records were not sent for %s on a link that works; starting anew with another client", p.inFlight, idle.Round(time.Second))
	case stuck >= k.renewAfter && time.Since(k.renewed()) >= k.renewAfter:
		text = fmt.Sprintf("%d records have no answer for %s on a link that works; starting anew with another client", p.inFlight, stuck.Round(time.Second))
	default:
		return
	}
	k.health.report(text)
	k.cfg.Log.Warn("no progress", slog.String("uplink", k.cfg.Name), slog.String("error", text))
	if err := k.renew(); err != nil {
		k.cfg.Log.Error("no progress", slog.String("uplink", k.cfg.Name), slog.String("error", err.Error()))
	}
}

// renew replaces the client. What the old one had in flight comes back and is sent
// again by the pump, in order; what had arrived without an answer arrives twice.
func (k *Kafka) renew() error {
	client, err := k.newClient()
	if err != nil {
		return err
	}
	k.inFlight().shut()
	k.mu.Lock()
	old := k.client
	if old != nil { // else it has stopped sending meanwhile
		k.client, k.renewedAt = client, time.Now()
	}
	k.mu.Unlock()
	if old == nil {
		old = client
	}
	old.Close()
	return nil
}

// renewed returns when the client was replaced, or made.
func (k *Kafka) renewed() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.renewedAt
}

// produce hands a record to the client that is in use.
func (k *Kafka) produce(r *kgo.Record) {
	// Not Run's ctx: its end must not give back what may still be delivered.
	k.link().Produce(context.Background(), r, k.window.finish)
}
