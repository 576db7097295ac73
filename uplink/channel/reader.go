package channel

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// reader reads the two topics. One goroutine owns it; others only carry one
// request each and give its answer back.
type reader struct {
	c       *Channel
	client  *kgo.Client
	log     *slog.Logger
	handler Handler
	unpack  kgo.Decompressor

	topics  [2]*topic // config, command
	leaders map[int32]*leader
	answers chan answer
	flying  int

	refreshAt time.Time // when metadata are asked for again
	cut       bool      // the config topic's trouble is that the cluster cannot be reached
	lost      int       // attempts in a row to reach any broker
	read      int       // bytes of responses since garbage was collected

	state TopicState // of the config topic
	said  TopicState // what CaughtUp got last
	fresh bool       // CaughtUp has to be called once the end is reached
}

func newReader(c *Channel, h Handler) *reader {
	unpack, _ := c.client.OptValue(kgo.WithDecompressor).(kgo.Decompressor) // the client's own, bounded by maxBatch
	r := &reader{c: c, client: c.client, log: c.cfg.Log, handler: h, unpack: unpack, fresh: true,
		leaders: map[int32]*leader{}, answers: make(chan answer)}
	r.topics = [2]*topic{{name: c.cfg.ConfigTopic, parts: map[int32]*partition{}}, {name: c.cfg.CommandTopic, command: true, parts: map[int32]*partition{}}}
	return r
}

// run reads until ctx ends.
func (r *reader) run(ctx context.Context) {
	for ctx.Err() == nil {
		if !time.Now().Before(r.refreshAt) {
			if err := r.refresh(ctx); err != nil {
				r.unreached(ctx, err)
				continue
			}
			r.lost = 0
		}
		r.tell(ctx)
		r.await(ctx, r.fetchAll(ctx))
	}
	for ; r.flying > 0; r.flying-- {
		<-r.answers
	}
}

// unreached waits after an attempt to reach any broker.
func (r *reader) unreached(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	r.lost++
	r.c.link.set(false)
	r.unreachable(ctx, err)
	sleep(ctx, r.c.awayFor(r.lost))
}

// unreachable tells that the cluster cannot be reached.
func (r *reader) unreachable(ctx context.Context, err error) {
	r.cut = true
	r.topics[0].trouble = "the cluster cannot be reached: " + explain(err, r.topics[0].name, "READ")
	r.tell(ctx)
}

// await takes one answer, or waits until something is due.
func (r *reader) await(ctx context.Context, due time.Time) {
	if due.IsZero() || due.After(r.refreshAt) {
		due = r.refreshAt
	}
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case a := <-r.answers:
		r.flying--
		r.take(ctx, a)
	}
}

// tell calls CaughtUp where there is something to say.
func (r *reader) tell(ctx context.Context) {
	config := r.topics[0]
	now := r.state
	now.ID, now.Unreachable = idText(config.id), config.trouble
	if now.Unreachable == "" && !config.ended() {
		return
	}
	for _, p := range config.parts {
		now.Emptied = now.Emptied || p.start > 0
	}
	if now == r.said && (!r.fresh || now.Unreachable != "") {
		return
	}
	if now.Unreachable == "" {
		r.fresh = false
	}
	r.said = now
	r.log.Debug("config topic", "id", now.ID, "policy", now.Policy, "unreachable", now.Unreachable)
	r.handler.CaughtUp(ctx, now)
}

// ended says whether all of the topic was read.
func (t *topic) ended() bool {
	for _, p := range t.parts {
		if !p.ended {
			return false
		}
	}
	return len(t.parts) > 0
}

// deliver gives a record to the handler, if it is wanted.
func (r *reader) deliver(ctx context.Context, p *partition, offset int64, key, value []byte) {
	if len(key) == 0 || len(key) > maxKey || ctx.Err() != nil || !r.c.cfg.Wanted(string(key)) {
		return
	}
	rec := Record{Topic: p.topic.name, TopicID: idText(p.topic.id), Key: string(key), Partition: p.number, Offset: offset}
	switch {
	case len(value) > MaxValue:
		rec.Oversized = true
	case value != nil:
		rec.Value = append(make([]byte, 0, len(value)), value...) // the rest of the response is let go
	}
	if p.topic.command {
		r.handler.Command(ctx, rec)
		return
	}
	r.fresh = true
	r.handler.Config(ctx, rec)
}

// inOrder are the partitions of a topic by number.
func (t *topic) inOrder() []*partition {
	list := make([]*partition, 0, len(t.parts))
	for _, number := range slices.Sorted(maps.Keys(t.parts)) {
		list = append(list, t.parts[number])
	}
	return list
}
