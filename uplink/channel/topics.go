package channel

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// topic is one of the two topics that are read.
type topic struct {
	name    string
	command bool
	id      [16]byte // zero: none yet, or the brokers have none
	parts   map[int32]*partition
	trouble string // why it cannot be read; empty: nothing stands against it
	tries   int    // looks in a row that found trouble
}

// partition is where the reading of a partition is.
type partition struct {
	topic  *topic
	number int32
	leader int32 // -1: none now
	next   int64 // the offset to fetch; unknown: to be asked for
	start  int64 // where the partition begins
	ended  bool  // the end was reached since next was set
	broken int   // attempts in vain at what is at next
	skip   skip
}

const unknown int64 = -1

// Timestamps of ListOffsets (Kafka protocol, ListOffsets).
const (
	atStart int64 = -2
	atEnd   int64 = -1
)

// refresh asks where the topics are and from where on they are read. An error
// means that the cluster cannot be reached.
func (r *reader) refresh(ctx context.Context) error {
	req := kmsg.NewPtrMetadataRequest()
	for _, t := range r.topics {
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = kmsg.StringPtr(t.name)
		req.Topics = append(req.Topics, rt)
	}
	resp, err := req.RequestWith(ctx, r.client)
	if err != nil {
		return err
	}
	r.c.link.set(true)
	r.cut = false
	soon := false
	for i := range resp.Topics {
		for _, t := range r.topics {
			if name := resp.Topics[i].Topic; name != nil && *name == t.name {
				soon = r.place(t, &resp.Topics[i]) || soon
			}
		}
	}
	if err = r.offsets(ctx); err != nil {
		return err
	}
	if r.state.Policy == "" && r.topics[0].trouble == "" {
		r.policy(ctx)
	}
	r.refreshAt = time.Now().Add(refreshEvery - rand.N(refreshEvery/4))
	if soon {
		tries := max(r.topics[0].tries, r.topics[1].tries)
		r.refreshAt = time.Now().Add(backoff(tries, 2*time.Second, time.Minute))
	}
	return nil
}

// place takes over what metadata says of a topic. soon says that it should be
// asked again before long.
func (r *reader) place(t *topic, m *kmsg.MetadataResponseTopic) (soon bool) {
	if err := kerr.ErrorForCode(m.ErrorCode); err != nil {
		t.trouble = explain(err, t.name, "READ")
		if errors.Is(err, kerr.UnknownTopicOrPartition) {
			t.trouble = fmt.Sprintf("topic %s is not there (sluice config push --create makes it)", t.name)
			t.parts = map[int32]*partition{}
		}
		t.tries++
		return true
	}
	if t.id != m.TopicID && t.id != [16]byte{} {
		r.log.Warn("the topic was made anew and is read from its start", "topic", t.name)
		t.parts = map[int32]*partition{}
		if !t.command {
			r.state.Recreated, r.state.Policy = true, ""
		}
	}
	t.id, t.trouble = m.TopicID, ""
	for i := range m.Partitions {
		mp := &m.Partitions[i]
		p := t.parts[mp.Partition]
		if p == nil {
			p = &partition{topic: t, number: mp.Partition, next: unknown}
			t.parts[mp.Partition] = p
		}
		if p.leader = mp.Leader; mp.Leader < 0 || mp.ErrorCode == kerr.LeaderNotAvailable.Code {
			p.leader, soon = -1, true
			t.trouble = fmt.Sprintf("partition %d of topic %s has no leader: are its brokers up?", mp.Partition, t.name)
		}
	}
	if soon {
		t.tries++
	} else {
		t.tries = 0
	}
	return soon
}

// offsets asks for the first offset of the partitions that need one.
func (r *reader) offsets(ctx context.Context) error {
	since := time.Now().Add(-CommandAge).UnixMilli()
	if err := r.listOffsets(ctx, func(p *partition) (int64, bool) {
		if p.topic.command {
			return since, p.next == unknown
		}
		return atStart, p.next == unknown
	}); err != nil {
		return err
	}
	// What has nothing as young as that is read from its end.
	return r.listOffsets(ctx, func(p *partition) (int64, bool) { return atEnd, p.next == unknown && p.topic.command })
}

// listOffsets asks for the offset of a time for the partitions for which of says
// so.
func (r *reader) listOffsets(ctx context.Context, of func(*partition) (at int64, ask bool)) error {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	for _, t := range r.topics {
		rt := kmsg.NewListOffsetsRequestTopic()
		rt.Topic = t.name
		for _, p := range t.parts {
			if at, ask := of(p); ask && p.leader >= 0 {
				rp := kmsg.NewListOffsetsRequestTopicPartition()
				rp.Partition, rp.Timestamp = p.number, at
				rt.Partitions = append(rt.Partitions, rp)
			}
		}
		if len(rt.Partitions) > 0 {
			req.Topics = append(req.Topics, rt)
		}
	}
	if len(req.Topics) == 0 {
		return nil
	}
	resp, err := req.RequestWith(ctx, r.client)
	if err != nil {
		return err
	}
	for _, rt := range resp.Topics {
		for i := range rt.Partitions {
			r.setOffset(rt.Topic, &rt.Partitions[i])
		}
	}
	return nil
}

func (r *reader) setOffset(name string, rp *kmsg.ListOffsetsResponseTopicPartition) {
	for _, t := range r.topics {
		p := t.parts[rp.Partition]
		if t.name != name || p == nil {
			continue
		}
		if err := kerr.ErrorForCode(rp.ErrorCode); err != nil {
			t.trouble = explain(err, t.name, "READ")
			t.tries++
			continue
		}
		if rp.Offset >= 0 {
			p.next, p.ended, p.broken, p.skip = rp.Offset, false, 0, skip{}
			p.start = rp.Offset
		}
	}
}

// policy asks for the cleanup.policy of the config topic. Not everybody may.
func (r *reader) policy(ctx context.Context) {
	req := kmsg.NewPtrDescribeConfigsRequest()
	res := kmsg.NewDescribeConfigsRequestResource()
	res.ResourceType, res.ResourceName, res.ConfigNames = kmsg.ConfigResourceTypeTopic, r.topics[0].name, []string{"cleanup.policy"}
	req.Resources = append(req.Resources, res)
	resp, err := req.RequestWith(ctx, r.client)
	if err != nil || len(resp.Resources) == 0 {
		return // it is for a warning only
	}
	for _, c := range resp.Resources[0].Configs {
		if c.Name == "cleanup.policy" && c.Value != nil {
			r.state.Policy = *c.Value
		}
	}
}

// idText is a topic's id as Kafka's tools do not show it, but easy to compare.
func idText(id [16]byte) string {
	if id == ([16]byte{}) {
		return ""
	}
	return hex.EncodeToString(id[:])
}
