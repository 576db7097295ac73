package uplink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/buffer"
)

// headerReplay marks records that are sent again on request.
const headerReplay = "sluice_replay"

// replayShare is the part of the window's bytes that a replay may have in flight
// beside it: new events go first.
const replayShare = 4

// Replay says what is sent again.
type Replay struct {
	ID    string // of this replay, for the header sluice_replay
	Topic string // a template; empty: the uplink's

	// Next returns the next events in order, and io.EOF at the end.
	Next func(context.Context) (buffer.Batch, error)

	// Progress is called now and then from Replay's goroutine; may be nil.
	Progress func(Replayed)
}

// Replayed is how far a replay is.
type Replayed struct {
	Sent    uint64    // records that the cluster acknowledged
	Refused uint64    // records that it will never take
	At      time.Time // of the last event up to which all are settled: a replay that ended early goes on from here
}

// replay is one Replay on its way.
type replay struct {
	k       *Kafka
	client  *kgo.Client
	encoder *encoder
	header  kgo.RecordHeader
	cancel  context.CancelCauseFunc

	mu      sync.Mutex
	done    Replayed
	marks   []*stretch    // of what is not settled completely, in order
	refused []*kgo.Record // that came back as poison: offered alone
}

// stretch follows a run of records. It travels as Record.Context.
type stretch struct {
	context.Context //nolint:containedctx // it is how a record carries a value through the client
	left            int
	at              time.Time // of the last record
}

// Replay sends stored events again, with the ids, keys and headers that they had,
// beside what the uplink sends anyhow. It blocks until the cluster has all of them,
// and goes on through outages. It returns early when ctx ends, or with what
// keeps the records from being taken: then some behind Replayed.At may be there, too.
func (k *Kafka) Replay(ctx context.Context, r Replay) (Replayed, error) {
	topic, key, err := k.replayTemplates(r.Topic)
	if err != nil {
		return Replayed{}, err
	}
	ctx, release, err := k.whileOpen(ctx)
	if err != nil {
		return Replayed{}, err
	}
	defer release()
	client, err := k.newClient(kgo.MaxBufferedBytes(max(1, k.cfg.WindowBytes/replayShare)), kgo.MaxBufferedRecords(k.cfg.WindowRecords))
	if err != nil {
		return Replayed{}, err
	}
	defer client.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	x := &replay{k: k, client: client, encoder: newEncoder(k.cfg.Agent, topic, key),
		header: kgo.RecordHeader{Key: headerReplay, Value: []byte(r.ID)}, cancel: cancel}
	for err == nil {
		var batch buffer.Batch
		if batch, err = r.Next(ctx); err == nil {
			err = x.send(ctx, batch)
		}
		if r.Progress != nil {
			r.Progress(x.progress())
		}
	}
	if errors.Is(err, io.EOF) {
		err = x.finish(ctx)
	}
	if cause := context.Cause(ctx); cause != nil && err != nil {
		err = cause
	}
	return x.progress(), err
}

func (k *Kafka) replayTemplates(topic string) (t, key template, err error) {
	if topic == "" {
		topic = k.cfg.Topic
	}
	t, topicErr := parseTopic(topic, k.cfg.Agent, k.cfg.Labels)
	key, keyErr := parseTemplate(k.cfg.Key, k.cfg.Agent, k.cfg.Labels)
	return t, key, errors.Join(named("topic", topicErr), named("key", keyErr))
}

// send hands a batch to the client, which blocks while enough is in flight.
func (x *replay) send(ctx context.Context, batch buffer.Batch) error {
	for len(batch.Events) > 0 {
		c := newChunk(min(chunkRecords, len(batch.Events)))
		n := x.encoder.encode(c, batch, chunkRecords, x.k.cfg.WindowBytes/replayShare)
		m := &stretch{context.Background(), n, c.records[n-1].Timestamp}
		x.mu.Lock()
		x.marks = append(x.marks, m)
		x.mu.Unlock()
		for i := range c.records {
			r := &c.records[i]
			r.Context = m
			r.Headers = append(r.Headers, x.header)
			x.client.Produce(ctx, r, x.settled)
		}
		batch.First += uint64(n)
		batch.Events = batch.Events[n:]
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return x.offerRefused(ctx)
}

// settled is the promise of each record.
func (x *replay) settled(r *kgo.Record, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case err == nil:
		x.settle(r, &x.done.Sent)
	case classify(err) == poison:
		x.refused = append(x.refused, r)
	default:
		x.cancel(fmt.Errorf("%s", explain(err, r.Topic)))
	}
}

// settle counts a record. x.mu is held.
func (x *replay) settle(r *kgo.Record, count *uint64) {
	*count++
	r.Context.(*stretch).left--
	for len(x.marks) > 0 && x.marks[0].left == 0 {
		x.done.At = x.marks[0].at
		x.marks = x.marks[1:]
	}
}

// offerRefused offers records that were refused within a batch each alone.
func (x *replay) offerRefused(ctx context.Context) error {
	x.mu.Lock()
	refused := x.refused
	x.refused = nil
	x.mu.Unlock()
	for _, r := range refused {
		err := x.k.offer(ctx, *r)
		x.mu.Lock()
		switch {
		case err == nil:
			x.settle(r, &x.done.Sent)
		case classify(err) == poison:
			x.settle(r, &x.done.Refused)
			err = nil
		}
		x.mu.Unlock()
		if err != nil {
			return fmt.Errorf("%s", explain(err, r.Topic))
		}
	}
	return nil
}

// finish waits for what is in flight.
func (x *replay) finish(ctx context.Context) error {
	if err := x.client.Flush(ctx); err != nil {
		return err
	}
	return x.offerRefused(ctx)
}

func (x *replay) progress() Replayed {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.done
}
