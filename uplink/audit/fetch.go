package audit

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	fetchers  = 3 // fetches under way, or waiting to be counted
	fetchWait = 500 * time.Millisecond
	maxFetch  = 64 << 20 // bytes that are asked for where a batch does not fit
)

// portion is what one fetch gave.
type portion struct {
	p       *partition
	records []*kgo.Record
	offsets int64 // that it stands for, empty ones included
}

// pool hands out partitions to the fetchers: always the one whose records are the
// furthest behind in time. So the lanes' sets stay short, whatever partition a
// number is in.
type pool struct {
	mu   sync.Mutex
	wake *sync.Cond
	all  []*partition
	busy int
	stop bool
}

// take waits for a partition; nil: there is nothing left to read.
func (q *pool) take() *partition {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.stop {
		var next *partition
		for _, p := range q.all {
			if !p.busy && p.failed == nil && p.next < p.end && (next == nil || p.clock < next.clock) {
				next = p
			}
		}
		if next != nil {
			next.busy = true
			q.busy++
			return next
		}
		if q.busy == 0 {
			break
		}
		q.wake.Wait()
	}
	q.wake.Broadcast()
	return nil
}

func (q *pool) put(p *partition) {
	q.mu.Lock()
	defer q.mu.Unlock()
	p.busy = false
	q.busy--
	q.wake.Broadcast()
}

func (q *pool) halt() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stop = true
	q.wake.Broadcast()
}

// read reads all partitions from where they are to their ends.
func (j *job) read(ctx context.Context) {
	q := &pool{}
	q.wake = sync.NewCond(&q.mu)
	for _, t := range j.topics {
		for _, p := range t.partitions {
			p.good = time.Now()
			q.all = append(q.all, p)
		}
	}
	stop := context.AfterFunc(ctx, q.halt)
	defer stop()
	portions := make(chan portion)
	var workers sync.WaitGroup
	for range fetchers {
		workers.Go(func() {
			for p := q.take(); p != nil; p = q.take() {
				j.advance(ctx, p, portions)
				q.put(p)
			}
		})
	}
	go func() { workers.Wait(); close(portions) }()
	for part := range portions {
		for _, r := range part.records {
			j.tally.take(part.p, r)
		}
		j.done += part.offsets
		j.progress()
	}
	if ctx.Err() != nil {
		j.failures = append(j.failures, fmt.Sprintf("interrupted: %d of %d offsets were read", j.done, j.total))
	}
	for _, p := range q.all {
		if p.failed != nil {
			j.failures = append(j.failures, p.failed.Error())
		}
	}
}

// advance fetches the next portion of p and hands it on. What goes wrong is
// tried again by whoever takes p next.
func (j *job) advance(ctx context.Context, p *partition, out chan<- portion) {
	from := p.next
	records, next, err := p.fetch(ctx, from, p.size, j.cfg.Uncommitted)
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		j.hinder(ctx, p, err)
		return
	}
	p.good, p.next = time.Now(), min(next, p.end) // what is behind the end may be asked for later
	for i := len(records); i > 0 && records[i-1].Offset >= p.end; i-- {
		records = records[:i-1]
	}
	for _, r := range records {
		p.clock = max(p.clock, r.Timestamp.UnixMilli())
	}
	if len(records) == 0 && p.clock == 0 {
		p.clock = 1 // so that others have their turn, too
	}
	out <- portion{p, records, p.next - from}
}

// hinder judges an error and waits a while, or gives the partition up.
func (j *job) hinder(ctx context.Context, p *partition, err error) {
	switch {
	case errors.Is(err, kerr.OffsetOutOfRange):
		p.failed = fmt.Errorf("%s: offset %d is gone: records were deleted while they were read (read a shorter time with --from, or keep records longer)", p, p.next)
	case errors.Is(err, errStuck) && p.size < maxFetch:
		p.size *= 4
	case !passing(err) || errors.Is(err, errBatch) || errors.Is(err, errStuck) || time.Since(p.good) > j.cfg.Patience:
		p.failed = fmt.Errorf("%s: cannot be read at offset %d: %w", p, p.next, err)
	default:
		pause(ctx, retryEvery)
		p.topic.cluster.refresh(ctx, p.topic)
	}
}

var (
	errStuck = errors.New("the broker gives no whole batch")
	errBatch = errors.New("a batch of records is damaged")
)

// fetch reads some records from an offset on; next is the offset after them,
// what holds no record for us included: markers, aborted and compacted records.
func (p *partition) fetch(ctx context.Context, from int64, size int32, uncommitted bool) (records []*kgo.Record, next int64, err error) {
	isolation := kgo.ReadCommitted()
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.IsolationLevel = int32(fetchWait/time.Millisecond), 1, size, 1
	if uncommitted {
		isolation, req.IsolationLevel = kgo.ReadUncommitted(), 0
	}
	req.SessionEpoch = -1 // no session
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = p.topic.name, p.topic.id
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = p.num, from, size
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	answer, err := p.topic.cluster.client.Broker(int(p.leader.Load())).RetriableRequest(ctx, req)
	if err != nil {
		return nil, 0, err
	}
	resp, ok := answer.(*kmsg.FetchResponse)
	if !ok {
		return nil, 0, fmt.Errorf("%w: a fetch was answered with %T", errBatch, answer)
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return nil, 0, err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return nil, 0, fmt.Errorf("a fetch of one partition was answered with %d topics", len(resp.Topics))
	}
	got := &resp.Topics[0].Partitions[0]
	if err := kerr.ErrorForCode(got.ErrorCode); err != nil {
		return nil, 0, err
	}
	fp, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{Offset: from, IsolationLevel: isolation,
		Topic: p.topic.name, Partition: p.num}, got, p.topic.cluster.decompressor, nil)
	switch {
	case fp.Err != nil:
		return nil, 0, fmt.Errorf("%w: %w", errBatch, fp.Err)
	case next <= from && len(got.RecordBatches) > 0:
		return nil, 0, errStuck
	case next <= from: // nothing yet; the end that we were told is still on its way to this broker
		return nil, 0, errors.New("the broker has not got this offset yet")
	}
	return fp.Records, next, nil
}

// firstTime is the time of the first record that is left, ms. Where there is
// none within the first batches it is later than anything.
func (p *partition) firstTime(ctx context.Context, uncommitted bool) (int64, error) {
	for at, n := p.begin, 0; at < p.end && n < 10; n++ {
		records, next, err := p.fetch(ctx, at, 1, uncommitted)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", p, err)
		}
		if len(records) > 0 {
			return records[0].Timestamp.UnixMilli(), nil
		}
		at = next
	}
	return math.MaxInt64, nil
}

// progress tells how far it is, about once a second.
func (j *job) progress() {
	now := time.Now()
	switch since := now.Sub(j.said); {
	case j.cfg.Progress == nil:
	case j.said.IsZero():
		j.said = now
	case since >= time.Second:
		j.cfg.Progress(Progress{Records: j.tally.read, Offsets: j.done, All: j.total,
			PerSecond: float64(j.tally.read-j.saidRecords) / since.Seconds()})
		j.said, j.saidRecords = now, j.tally.read
	}
}
