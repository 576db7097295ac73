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

// checkStuck asks for a new client when the old one makes no progress.
func (k *Kafka) checkStuck() {
	if k.exact != nil { // a session that takes too long is given up anyway
		return
	}
	p, _, _ := k.progress()
	if k.cfg.Spread.holds(time.Now()) { // another client would need more connections
		return
	}
	stuck := k.stuck(k.health.look(p.stalled), p)
	if stuck < k.renewAfter || time.Since(k.renewed()) < k.renewAfter {
		return
	}
	text := fmt.Sprintf("%d records have no answer for %s on a link that works; starting anew with another client", p.inFlight, stuck.Round(time.Second))
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
