package uplink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	recoverMin    = 250 * time.Millisecond
	recoverMax    = 5 * time.Second
	refusedMin    = time.Second
	refusedMax    = 15 * time.Second
	rejectReason  = "rejected" // of the gap record
	sayAgainAfter = time.Minute
	largeRecord   = 900_000  // bytes; larger ones travel alone, since the client's limit for a batch is 1,000,012 before compression
	largestBatch  = 64 << 20 // bytes before compression
)

// recovery is one run of recover.
type recovery struct {
	attempts  int
	delivered uint64 // when attempts was 0
	limit     int    // the window's before a search for a poison record narrowed it; 0: there is none
}

// recover produces what is open, in order, until all of it is delivered or set
// aside. Nothing new is sent meanwhile.
//
// Each round waits until nothing is in flight, looks at what came back and why,
// and hands over the first of the open records, as many as the window's limit
// allows. The client gives back all of a partition when one batch of it is
// refused, so that a refusal says little about a single record: the limit is
// halved until the record to blame stands alone.
func (k *Kafka) recover(ctx context.Context) error {
	var r recovery
	for {
		if err := k.window.waitIdle(ctx); err != nil {
			return err
		}
		open, failed := k.window.review()
		if len(open) == 0 {
			k.health.refuse("")
			return nil
		}
		settled, err := k.judge(ctx, &r, failed)
		if err != nil {
			return err
		}
		switch {
		case settled:
		case open[0].size() > largeRecord:
			if err := k.sendLarge(ctx, &r, open[0]); err != nil {
				return err
			}
		default:
			k.window.again(k.group(open))
		}
	}
}

// group returns the first of the open records: as many as the window takes, up
// to one that is too large for a batch.
func (k *Kafka) group(open []place) []place {
	n, bytes := 0, 0
	for limit := k.window.getLimit(); n < min(limit, len(open)); n++ {
		bytes += open[n].size()
		if n > 0 && bytes > k.cfg.WindowBytes || open[n].size() > largeRecord {
			break
		}
	}
	return open[:n]
}

// judge does what the failures of a round ask for: waits, forgets a topic,
// narrows the window, or settles a record, and then returns true.
func (k *Kafka) judge(ctx context.Context, r *recovery, failed []failure) (settled bool, err error) {
	by := map[verdict][]failure{}
	k.restamp(failed)
	for _, f := range failed {
		v := classify(f.err)
		by[v] = append(by[v], f)
	}
	if p := by[poison]; len(p) == 1 && p[0].isGap() {
		return false, k.pause(ctx, r, refused, p[0])
	} else if len(p) == 1 {
		if r.limit > 0 {
			k.window.setLimit(r.limit)
			r.limit = 0
		}
		return true, k.setAside(ctx, p[0])
	} else if len(p) > 1 {
		limit := k.window.getLimit()
		if r.limit == 0 {
			r.limit = limit
		}
		k.window.setLimit(min(limit, len(p)) / 2)
	}
	if p := by[purge]; len(p) > 0 {
		k.forget(ctx, topicsOf(p))
	}
	for _, v := range []verdict{refused, purge, retry, fenced, stopped} {
		if len(by[v]) > 0 {
			return false, k.pause(ctx, r, v, by[v][0])
		}
	}
	return false, nil
}

// restamp has records whose time the cluster refuses go with another one, where that is
// right: see encoder.timestamp.
func (k *Kafka) restamp(failed []failure) {
	for _, f := range failed {
		if errors.Is(f.err, kerr.InvalidTimestamp) {
			k.encoder.refusedTime.Store(true)
			f.record().Timestamp = k.encoder.timestamp(f.record().Timestamp)
		}
	}
}

// pause says what is wrong and waits before the next attempt, longer each time
// unless something was delivered in between.
func (k *Kafka) pause(ctx context.Context, r *recovery, v verdict, f failure) error {
	text := explain(f.err, f.record().Topic)
	k.health.report(text)
	if k.quiet.allow(text) {
		log := k.cfg.Log.With(slog.String("uplink", k.cfg.Name), slog.String("verdict", v.String()), slog.String("error", text))
		if errors.Is(f.err, forgotten) {
			log.Error("possible data loss")
		} else {
			log.Warn("records came back")
		}
	}
	if d := k.window.progress().total; d != r.delivered {
		r.attempts, r.delivered = 0, d
	}
	r.attempts++
	if v != refused {
		k.health.refuse("")
	} else {
		k.health.refuse(text)
		return sleep(ctx, backoff(r.attempts, refusedMin, refusedMax))
	}
	return sleep(ctx, backoff(r.attempts, recoverMin, recoverMax))
}

// sendLarge delivers a record that is too large for a batch, or sets it aside if
// the broker refuses it.
func (k *Kafka) sendLarge(ctx context.Context, r *recovery, p place) error {
	err := k.offer(ctx, *p.record())
	switch v := classify(err); {
	case err == nil:
		k.window.settle(p, true)
		return nil
	case v == poison:
		return k.setAside(ctx, failure{p, err})
	default:
		return k.pause(ctx, r, v, failure{p, err})
	}
}

// setAside accounts for a record that was refused although it came alone.
func (k *Kafka) setAside(ctx context.Context, f failure) error {
	class, seq := f.chunk.lane.class, f.seq()
	if err := k.reject(ctx, class, seq, f); err != nil {
		return err
	}
	k.window.settle(f.place, false)
	return nil
}

// reject has the log account for a record that can never be taken.
func (k *Kafka) reject(ctx context.Context, class string, seq uint64, f failure) error {
	text := explain(f.err, f.record().Topic)
	if err := k.cfg.Reader.Reject(ctx, class, seq, rejectReason); err != nil {
		return fmt.Errorf("reject seq %d of class %s: %w", seq, class, err)
	}
	k.health.report(text)
	if k.quiet.allow(text) {
		k.cfg.Log.Warn("record set aside", slog.String("uplink", k.cfg.Name),
			slog.String("class", class), slog.Uint64("seq", seq), slog.String("error", text))
	}
	return nil
}

// offer produces one record with a client of its own that has no limit for the
// size of a batch but the broker's. Nothing else may be in flight.
func (k *Kafka) offer(ctx context.Context, r kgo.Record) error {
	client, err := k.newClient(kgo.ProducerBatchMaxBytes(largestBatch))
	if err != nil {
		return err
	}
	defer client.Close()
	r.Context = nil
	answer := make(chan error, 1)
	// Not ctx: its end must not leave open whether the record was taken.
	client.Produce(context.Background(), &r, func(_ *kgo.Record, err error) { answer <- err })
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-answer:
		return err
	case <-time.After(drainTimeout):
		return ctx.Err()
	}
}

// forget has the client drop what it knows of topics. That waits for the client's
// request for metadata, and so for the link; it goes on behind our back when ctx
// ends, until the client is closed.
func (k *Kafka) forget(ctx context.Context, topics []string) {
	done, client := make(chan struct{}), k.link()
	k.helpers.Go(func() {
		client.PurgeTopicsFromClient(topics...)
		close(done)
	})
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// topicsOf returns the topics of records, each once.
func topicsOf(failed []failure) []string {
	seen := map[string]bool{}
	var topics []string
	for _, f := range failed {
		if t := f.record().Topic; !seen[t] {
			seen[t] = true
			topics = append(topics, t)
		}
	}
	return topics
}

// limiter lets a message through once a minute unless it changes.
type limiter struct {
	mu   sync.Mutex
	text string
	at   time.Time
}

func (l *limiter) allow(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if text == l.text && time.Since(l.at) < sayAgainAfter {
		return false
	}
	l.text, l.at = text, time.Now()
	return true
}
