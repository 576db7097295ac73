package uplink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The position of an uplink: a record in a compacted topic, written in the same
// transaction as the events that it tells of. docs/delivery.md says why.

// How a topic of positions is made where there is none.
const (
	positionPartitions = 16
	positionReplicas   = 3 // or as many as there are brokers
	scanStep           = 500
	scanBytes          = 1 << 20 // of one fetch
)

// mark is the last event of a class that was sent.
type mark struct {
	incarnation string
	seq         uint64
}

// positions is a mark for each class.
type positions map[string]mark

// positionValue is a position as it stands in Kafka.
type positionValue struct {
	Session string            `json:"session"`
	Classes map[string]string `json:"classes"` // "<incarnation>/<seq>"
}

// record makes the record of a position.
func (x *exact) record(p positions) *kgo.Record {
	v := positionValue{Session: x.run, Classes: map[string]string{}}
	for class, at := range p {
		v.Classes[class] = at.incarnation + "/" + strconv.FormatUint(at.seq, 10)
	}
	value, _ := json.Marshal(v) // strings only: it can't fail
	return &kgo.Record{Topic: x.k.cfg.PositionTopic, Key: []byte(x.name()), Value: value,
		Headers: []kgo.RecordHeader{{Key: headerContentType, Value: []byte("application/json")}}}
}

// spot is where a record lies in the topic of positions.
type spot struct {
	topicID   [16]byte
	partition int32
	offset    int64
}

// after reports whether a record at s is newer than one at other, as far as they can be
// compared: one in a topic that was made anew, or in another partition, counts as newer.
func (s spot) after(other spot) bool {
	return s.topicID != other.topicID || s.partition != other.partition || s.offset > other.offset
}

// found is a position that was read.
type found struct {
	session string // empty: there is none
	classes positions
	at      spot
	written time.Time
}

// laterThan tells which of two positions of one key is the newer one, by the
// numbers as far as they can be compared.
func (f found) laterThan(other found) bool {
	for class, at := range f.classes {
		if before, ok := other.classes[class]; ok && before.incarnation == at.incarnation && before.seq != at.seq {
			return at.seq > before.seq
		}
	}
	return f.written.After(other.written)
}

func parsePosition(topicID [16]byte, r *kgo.Record) (found, error) {
	var v positionValue
	if err := json.Unmarshal(r.Value, &v); err != nil || v.Session == "" {
		return found{}, fmt.Errorf("the position at partition %d offset %d cannot be read (%.80q)", r.Partition, r.Offset, r.Value)
	}
	f := found{session: v.Session, classes: positions{}, at: spot{topicID, r.Partition, r.Offset}, written: r.Timestamp}
	for class, text := range v.Classes {
		incarnation, digits, _ := strings.Cut(text, "/")
		seq, err := strconv.ParseUint(digits, 10, 64)
		if err != nil || incarnation == "" {
			return found{}, fmt.Errorf("the position at partition %d offset %d has %q for class %s", r.Partition, r.Offset, text, class)
		}
		f.classes[class] = mark{incarnation, seq}
	}
	return f, nil
}

// positionLog reads positions.
type positionLog struct {
	client *kgo.Client
	topic  string
	key    string
}

// describe asks for the topic; brokers is how many there are.
func (l positionLog) describe(ctx context.Context) (t kmsg.MetadataResponseTopic, brokers int, err error) {
	req := kmsg.NewPtrMetadataRequest()
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = kmsg.StringPtr(l.topic)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(ctx, l.client)
	if err != nil {
		return t, 0, err
	}
	if len(resp.Topics) != 1 {
		return t, 0, fmt.Errorf("the broker told of %d topics in place of one", len(resp.Topics))
	}
	return resp.Topics[0], len(resp.Brokers), kerr.ErrorForCode(resp.Topics[0].ErrorCode)
}

// ensure makes the topic if it is not there.
func (l positionLog) ensure(ctx context.Context) error {
	_, brokers, err := l.describe(ctx)
	if !errors.Is(err, kerr.UnknownTopicOrPartition) {
		return err
	}
	req := kmsg.NewPtrCreateTopicsRequest()
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = l.topic, positionPartitions, int16(max(1, min(positionReplicas, brokers)))
	config := map[string]string{"cleanup.policy": "compact", "segment.bytes": "16777216", "segment.ms": "3600000", "min.cleanable.dirty.ratio": "0.1"}
	if t.ReplicationFactor == positionReplicas {
		config["min.insync.replicas"] = "2"
	}
	for name, value := range config {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = name, kmsg.StringPtr(value)
		t.Configs = append(t.Configs, c)
	}
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, l.client)
	if err != nil {
		return err
	}
	for _, r := range resp.Topics {
		if err := kerr.ErrorForCode(r.ErrorCode); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			return err
		}
	}
	for { // until it has leaders
		t, _, err := l.describe(ctx)
		leaderless := slices.ContainsFunc(t.Partitions, func(p kmsg.MetadataResponseTopicPartition) bool { return p.ErrorCode != 0 })
		if err == nil && !leaderless {
			return nil
		}
		if sleep(ctx, recoverMin) != nil {
			return errors.Join(err, ctx.Err())
		}
	}
}

// policy returns the topic's cleanup.policy, empty where that may not be asked.
func (l positionLog) policy(ctx context.Context) string {
	req := kmsg.NewPtrDescribeConfigsRequest()
	r := kmsg.NewDescribeConfigsRequestResource()
	r.ResourceType, r.ResourceName, r.ConfigNames = kmsg.ConfigResourceTypeTopic, l.topic, []string{"cleanup.policy"}
	req.Resources = append(req.Resources, r)
	resp, err := req.RequestWith(ctx, l.client)
	if err != nil || len(resp.Resources) != 1 {
		return ""
	}
	for _, c := range resp.Resources[0].Configs {
		if c.Name == "cleanup.policy" && c.Value != nil {
			return *c.Value
		}
	}
	return ""
}

// newest returns the newest committed position, an empty one when there is none.
// It looks into the partition of the key, and into the others when there is
// nothing: their number may have been raised. With patient it waits for what
// other agents have begun and not committed.
func (l positionLog) newest(ctx context.Context, patient bool) (found, error) {
	t, _, err := l.describe(ctx)
	if err != nil {
		return found{}, err
	}
	if len(t.Partitions) == 0 {
		return found{}, kerr.UnknownTopicOrPartition
	}
	slices.SortFunc(t.Partitions, func(a, b kmsg.MetadataResponseTopicPartition) int { return int(a.Partition - b.Partition) })
	own := kgo.StickyKeyPartitioner(nil).ForTopic(l.topic).Partition(&kgo.Record{Key: []byte(l.key)}, len(t.Partitions))
	var newest found
	for i := range t.Partitions {
		p := t.Partitions[(own+i)%len(t.Partitions)]
		if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
			return found{}, err
		}
		r, err := l.last(ctx, partition{l, t.TopicID, p.Partition, p.Leader}, patient)
		if err != nil {
			return found{}, err
		}
		if r == nil {
			continue
		}
		f, err := parsePosition(t.TopicID, r)
		if err != nil || i == 0 {
			return f, err
		}
		if newest.session == "" || f.laterThan(newest) {
			newest = f
		}
	}
	return newest, nil
}

// partition is one of the topic of positions.
type partition struct {
	positionLog
	topicID [16]byte
	number  int32
	leader  int32
}

// last returns the last record of the key, nil without one. It reads backwards in
// growing steps: an agent that was away for a short time finds it at once.
func (l positionLog) last(ctx context.Context, p partition, patient bool) (*kgo.Record, error) {
	start, err := p.offset(ctx, -2, patient)
	if err != nil {
		return nil, err
	}
	end, err := p.offset(ctx, -1, patient)
	if err != nil {
		return nil, err
	}
	for step := int64(scanStep); end > start; step *= 4 {
		from := max(start, end-step)
		r, err := p.scan(ctx, from, end)
		if r != nil || err != nil {
			return r, err
		}
		end = from
	}
	return nil, nil
}

// offset returns where the partition begins (-2) or ends (-1), in the numbers of
// the ListOffsets request. Unless all is asked for, it ends before the first open
// transaction.
func (p partition) offset(ctx context.Context, which int64, all bool) (int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	if !all {
		req.IsolationLevel = 1
	}
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic = p.topic
	rp := kmsg.NewListOffsetsRequestTopicPartition()
	rp.Partition, rp.Timestamp = p.number, which
	t.Partitions = append(t.Partitions, rp)
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, p.client)
	if err != nil {
		return 0, err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return 0, errors.New("the broker told no offset")
	}
	r := resp.Topics[0].Partitions[0]
	return r.Offset, kerr.ErrorForCode(r.ErrorCode)
}

// scan returns the last committed record of the key between two offsets. It waits
// for transactions of others that hold that part back.
func (p partition) scan(ctx context.Context, from, end int64) (last *kgo.Record, err error) {
	unpack := kgo.DefaultDecompressor()
	for from < end {
		part, err := p.fetch(ctx, from)
		if err != nil {
			return nil, err
		}
		o := kgo.ProcessFetchPartitionOpts{Offset: from, IsolationLevel: kgo.ReadCommitted(), Topic: p.topic, Partition: p.number}
		got, next := kgo.ProcessFetchPartition(o, part, unpack, nil)
		if got.Err != nil {
			return nil, got.Err
		}
		for _, r := range got.Records {
			if r.Offset < end && string(r.Key) == p.key && len(r.Value) > 0 {
				last = r
			}
		}
		if next == from && sleep(ctx, 20*time.Millisecond) != nil {
			return nil, fmt.Errorf("an open transaction of another agent holds back partition %d: %w", p.number, ctx.Err())
		}
		from = next
	}
	return last, nil
}

// fetch reads from an offset what is committed.
func (p partition) fetch(ctx context.Context, from int64) (*kmsg.FetchResponseTopicPartition, error) {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes, req.IsolationLevel = 200, 1, scanBytes, 1
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID = p.topic, p.topicID
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = p.number, from, scanBytes
	t.Partitions = append(t.Partitions, rp)
	req.Topics = append(req.Topics, t)
	answer, err := p.client.Broker(int(p.leader)).RetriableRequest(ctx, req)
	if err != nil {
		return nil, err
	}
	resp, ok := answer.(*kmsg.FetchResponse)
	if !ok {
		return nil, fmt.Errorf("the broker answered a fetch with a %T", answer)
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return nil, err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return nil, errors.New("the broker's answer to a fetch has no partition")
	}
	part := &resp.Topics[0].Partitions[0]
	return part, kerr.ErrorForCode(part.ErrorCode)
}
