package channel

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"sluice/uplink"
)

// Sizes, which bound what the reading costs in memory: a response, what a batch
// of it decompresses to, and the one record that is handed over.
const (
	fetchBytes  = 256 << 10 // asked for at once; a batch that is larger comes alone
	leastBytes  = 16 << 10  // the same, on a link that is too slow
	maxResponse = 2 << 20   // what is larger is not read but skipped
	maxBatch    = 4 << 20   // decompressed; what is larger is skipped
	maxKey      = 1 << 10
	collectAt   = 1 << 20 // of responses, until garbage is collected

	aloneWait = 50 * time.Millisecond  // while something too large is looked for, and between attempts
	catchWait = 500 * time.Millisecond // for more, before the end was reached
	pollWait  = time.Minute            // for something new: an idle agent asks once a minute
	leastWait = time.Second            // between answers that bring nothing
	triesHere = 3                      // at something that cannot be read, before it is skipped
)

// leader is a broker that leads partitions of the topics.
type leader struct {
	id    int32
	busy  bool      // a fetch is under way
	tries int       // in vain, in a row
	until time.Time // nothing is asked of it before
	bytes int32     // to ask for
	alone int       // so many fetches to come are for one partition each
	turn  int       // which
}

// answer is what became of a fetch.
type answer struct {
	leader *leader
	asked  []asked
	began  time.Time
	resp   *kmsg.FetchResponse
	err    error
}

// asked is a partition in a fetch, and the offset that was asked for.
type asked struct {
	p    *partition
	id   [16]byte
	next int64
}

// fetchAll sends a fetch to each leader that has partitions and no fetch under
// way. due is when one that has to wait may be asked; zero: none has to.
func (r *reader) fetchAll(ctx context.Context) (due time.Time) {
	lists := map[int32][]*partition{}
	for _, t := range r.topics {
		for _, p := range t.inOrder() {
			if p.leader >= 0 && p.next != unknown {
				lists[p.leader] = append(lists[p.leader], p)
			}
		}
	}
	for id, list := range lists {
		l := r.leaders[id]
		if l == nil {
			l = &leader{id: id, bytes: fetchBytes}
			r.leaders[id] = l
		}
		switch {
		case l.busy:
		case time.Now().Before(l.until):
			if due.IsZero() || l.until.Before(due) {
				due = l.until
			}
		default:
			r.fetch(ctx, l, list)
		}
	}
	return due
}

// fetch asks a leader for what comes next in partitions.
func (r *reader) fetch(ctx context.Context, l *leader, list []*partition) {
	// What metadata bring is to be asked for, too.
	wait := min(pollWait, max(catchWait, time.Until(r.refreshAt)))
	if l.alone > 0 {
		l.alone--
		l.turn++
		list, wait = list[l.turn%len(list):][:1], aloneWait
	}
	req := kmsg.NewFetchRequest()
	req.MinBytes, req.MaxBytes = 1, l.bytes
	a := answer{leader: l, began: time.Now()}
	for _, p := range list {
		if !p.ended {
			wait = min(wait, catchWait)
		}
		if n := len(req.Topics); n == 0 || req.Topics[n-1].Topic != p.topic.name {
			t := kmsg.NewFetchRequestTopic()
			t.Topic, t.TopicID = p.topic.name, p.topic.id
			req.Topics = append(req.Topics, t)
		}
		t := &req.Topics[len(req.Topics)-1]
		fp := kmsg.NewFetchRequestTopicPartition()
		fp.Partition, fp.FetchOffset, fp.PartitionMaxBytes = p.number, p.next, l.bytes
		t.Partitions = append(t.Partitions, fp)
		a.asked = append(a.asked, asked{p, p.topic.id, p.next})
	}
	req.MaxWaitMillis = int32(wait / time.Millisecond)
	l.busy = true
	r.flying++
	go func() { // run waits for its answer
		resp, err := r.client.Broker(int(l.id)).Request(uplink.Wanted(ctx), &req)
		a.resp, _ = resp.(*kmsg.FetchResponse)
		if a.err = err; err == nil && a.resp == nil {
			a.err = fmt.Errorf("a fetch was answered with %T", resp)
		}
		r.answers <- a
	}()
}

// take handles the answer to a fetch.
func (r *reader) take(ctx context.Context, a answer) {
	l := a.leader
	l.busy = false
	if ctx.Err() != nil {
		return
	}
	if a.err == nil {
		a.err = kerr.ErrorForCode(a.resp.ErrorCode)
	}
	if a.err != nil {
		r.failed(ctx, l, a)
		return
	}
	r.c.link.set(true)
	if r.cut {
		r.cut, r.topics[0].trouble = false, ""
	}
	moved, wrong := false, error(nil)
	for _, rt := range a.resp.Topics {
		for i := range rt.Partitions {
			for _, as := range a.asked {
				if as.p.number != rt.Partitions[i].Partition || rt.Topic != as.p.topic.name && rt.TopicID != as.id || rt.Topic == "" && rt.TopicID == [16]byte{} {
					continue
				}
				if as.p.next != as.next || as.p.topic.id != as.id || as.p.topic.parts[as.p.number] != as.p {
					continue // it was asked for before the topic changed
				}
				ok, err := r.partition(ctx, as.p, &rt.Partitions[i])
				moved = moved || ok
				if err != nil {
					wrong = err
				}
			}
		}
	}
	r.paced(l, moved, wrong, time.Since(a.began))
}

// paced decides when a leader is asked again after an answer.
func (r *reader) paced(l *leader, moved bool, wrong error, took time.Duration) {
	switch {
	case wrong != nil:
		// What the leader does not know any more, others may: ask for metadata, but
		// not in a loop. A topic that was made anew answers each fetch with an error.
		l.tries++
		l.until = time.Now().Add(backoff(l.tries, retryMin, retryMax))
		if r.refreshAt.After(l.until) {
			r.refreshAt = l.until
		}
	case moved:
		l.tries = 0
		l.bytes = min(fetchBytes, l.bytes*2)
	case l.alone > 0:
	default:
		l.tries = 0
		l.until = time.Now().Add(leastWait - took) // a broker that does not wait
	}
}

// skipped tells the handler of a batch of which nothing can be read.
func (r *reader) skipped(ctx context.Context, p *partition) {
	rec := Record{Topic: p.topic.name, TopicID: idText(p.topic.id), Partition: p.number, Offset: p.next, Oversized: true}
	if p.topic.command {
		r.handler.Command(ctx, rec)
		return
	}
	r.fresh = true
	r.handler.Config(ctx, rec)
}

// failed waits after a fetch that got no answer.
func (r *reader) failed(ctx context.Context, l *leader, a answer) {
	if isTooLarge(a.err) {
		if len(a.asked) > 1 {
			l.alone = 2 * len(a.asked) // whose is it?
			return
		}
		p := a.asked[0].p
		if p.next != a.asked[0].next {
			return
		}
		r.log.Warn("something larger than any config is skipped", "topic", p.topic.name, "partition", p.number, "offset", p.next, "limit", maxResponse)
		if !p.skip.active {
			r.skipped(ctx, p)
		}
		p.next = p.skip.tooLarge(p.next)
		l.alone++
		l.until = time.Now().Add(aloneWait)
		return
	}
	l.tries++
	l.bytes = max(leastBytes, l.bytes/2) // perhaps the link is only slow
	wait := r.c.awayFor(l.tries)
	r.lost = max(r.lost, 1) // if nobody answers after that, it has waited already
	r.log.Info("the connection for config and commands broke", "broker", l.id, "error", explain(a.err, "", "READ"), "again_in", wait.Round(time.Millisecond))
	l.until = time.Now().Add(wait)
	r.c.link.set(false)
	switch {
	case l.tries == 1: // perhaps it was the connection alone
	case uplink.IsHeld(a.err):
		r.unreachable(ctx, a.err)
	case r.refreshAt.After(l.until):
		r.refreshAt = l.until
	}
}

// isTooLarge says whether a response was larger than the client reads. The error
// has no name outside of the client.
func isTooLarge(err error) bool {
	return err != nil && strings.Contains(err.Error(), "response exceeds BrokerMaxReadBytes")
}

// partition handles what an answer says of a partition. moved says that the
// reading went on; an error that the leader has to be asked differently.
func (r *reader) partition(ctx context.Context, p *partition, rp *kmsg.FetchResponseTopicPartition) (moved bool, err error) {
	switch err := kerr.ErrorForCode(rp.ErrorCode); {
	case err == nil:
	case errors.Is(err, kerr.OffsetOutOfRange):
		if next, again := p.skip.found(p.next); again { // behind the end
			p.next = next
			return true, nil
		}
		// The topic lost its begin to a retention time, or its end with a broker.
		r.log.Warn("the place that was read is gone; the topic is read from its start", "topic", p.topic.name, "partition", p.number, "offset", p.next)
		p.next, p.ended = unknown, false
		r.fresh = r.fresh || !p.topic.command
		return false, err
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		p.topic.trouble = explain(err, p.topic.name, "READ")
		return false, err
	default:
		return false, err
	}
	p.start = max(p.start, rp.LogStartOffset)
	if next, again := p.skip.found(p.next); again {
		p.next = next
		return true, nil
	}
	before := p.next
	r.batches(ctx, p, rp.RecordBatches)
	r.collect(len(rp.RecordBatches))
	moved = p.next > before
	switch {
	case moved:
		p.broken = 0
	case len(rp.RecordBatches) > 0:
		if p.broken++; p.broken < triesHere {
			return false, errDamaged
		}
		r.log.Error("something in the topic cannot be read and is skipped", "topic", p.topic.name, "partition", p.number, "offset", p.next)
		p.next, p.broken, moved = p.next+1, 0, true
	}
	// The last records of a partition may have been compacted away: then nothing
	// comes though the end is further on.
	p.ended = p.ended || p.next >= rp.HighWatermark || len(rp.RecordBatches) == 0
	return moved, nil
}

// collect has garbage collected now and then while a topic is read: the client
// makes a new buffer for each response, and the collector by itself lets as much
// lie around as the agent has in use.
func (r *reader) collect(n int) {
	if r.read += n; r.read > collectAt {
		r.read = 0
		runtime.GC()
	}
}

// batches handles the records of whole batches and moves p behind them.
func (r *reader) batches(ctx context.Context, p *partition, b []byte) {
	for len(b) > 0 {
		x, rest, ok, err := cutBatch(b)
		switch {
		case !ok:
			return
		case err != nil && p.broken+1 < triesHere:
			return // perhaps it comes whole the next time
		case err != nil:
			r.log.Error("a damaged record batch is skipped", "topic", p.topic.name, "partition", p.number, "offset", x.first)
			p.next = max(p.next, x.first+1)
		case x.last < p.next:
		case x.old || x.control:
			p.next = x.last + 1
		default:
			err := x.each(r.unpack, func(offset int64, key, value []byte) {
				if offset >= p.next && offset <= x.last {
					r.deliver(ctx, p, offset, key, value)
				}
			})
			if err != nil {
				r.log.Warn("a record batch is skipped", "topic", p.topic.name, "partition", p.number, "offset", x.first, "error", err)
			}
			p.next = x.last + 1
		}
		b = rest
	}
}
