package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/agent"
	"sluice/agent/config"
	"sluice/agent/remote/document"
	"sluice/agent/remote/trust"
)

const (
	reachTimeout = 15 * time.Second // to reach a broker at all
	topicTimeout = 60 * time.Second // for all that follows
	maxTopic     = 64 << 20         // of what a topic holds, kept in memory
	quietTime    = 5 * time.Second  // of a partition whose last records were compacted away
)

// fleet is the way to the topics of remote config.
type fleet struct {
	client *kgo.Client
	remote *config.Remote
	trust  trust.Anchor
	name   string // of the uplink, for messages
}

// openFleet connects as remote.uplink of the config does.
func (c *call) openFleet(ctx context.Context) (*fleet, error) {
	cfg, anchor, err := c.loadOperator()
	if err != nil {
		return nil, err
	}
	opts, err := agent.KafkaOptions(cfg, cfg.Remote.Uplink)
	if err != nil {
		return nil, err
	}
	client, err := kgo.NewClient(append(opts, kgo.KeepControlRecords(), kgo.MetadataMinAge(100*time.Millisecond))...)
	if err != nil {
		return nil, fmt.Errorf("uplink %s: %w", cfg.Remote.Uplink, err)
	}
	f := &fleet{client: client, remote: cfg.Remote, trust: anchor, name: cfg.Remote.Uplink}
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	if err := client.Ping(ctx); err != nil {
		client.Close()
		return nil, fmt.Errorf("uplink %s: no broker answers: %w", f.name, err)
	}
	return f, nil
}

// records reads a topic from its start to where it ends now, and returns the
// newest value of each key; a deleted key is nil.
func (f *fleet) records(ctx context.Context, topic string) (map[string][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, topicTimeout)
	defer cancel()
	left, err := f.spans(ctx, topic)
	if err != nil {
		return nil, err
	}
	from := map[int32]kgo.Offset{}
	for partition := range left {
		from[partition] = kgo.NewOffset().AtStart()
	}
	f.client.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: from})
	defer f.client.PurgeTopicsFromConsuming(topic)
	latest, size := map[string][]byte{}, 0
	for len(left) > 0 {
		fetches, quiet, err := f.poll(ctx)
		if err != nil {
			return nil, fmt.Errorf("read topic %s: %w", topic, err)
		}
		if quiet {
			break
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if !r.Attrs.IsControl() {
				latest[string(r.Key)] = r.Value
				size += len(r.Key) + len(r.Value)
			}
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		})
		if size > maxTopic {
			return nil, fmt.Errorf("read topic %s: it holds more than %d MiB: is it compacted?", topic, maxTopic>>20)
		}
	}
	return latest, nil
}

// spans are the ends of the partitions that hold something.
func (f *fleet) spans(ctx context.Context, topic string) (map[int32]int64, error) {
	admin := kadm.NewClient(f.client)
	starts, err := admin.ListStartOffsets(ctx, topic)
	if err == nil {
		err = starts.Error()
	}
	var ends kadm.ListedOffsets
	if err == nil {
		ends, err = admin.ListEndOffsets(ctx, topic)
	}
	if err == nil {
		err = ends.Error()
	}
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil, fmt.Errorf("topic %s is not there (push --create makes it; it must be compacted)", topic)
	}
	if err != nil {
		return nil, fmt.Errorf("read topic %s: %w", topic, err)
	}
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if start, ok := starts.Lookup(topic, o.Partition); ok && start.Offset < o.Offset {
			left[o.Partition] = o.Offset
		}
	})
	return left, nil
}

// poll fetches once. quiet says that nothing comes though the cluster answers: the
// last offsets of a compacted partition may have no records.
func (f *fleet) poll(ctx context.Context) (fetches kgo.Fetches, quiet bool, err error) {
	short, cancel := context.WithTimeout(ctx, quietTime)
	defer cancel()
	fetches = f.client.PollFetches(short)
	if err = ctx.Err(); err != nil {
		return nil, false, err
	}
	if short.Err() != nil && fetches.NumRecords() == 0 {
		return nil, true, f.client.Ping(ctx)
	}
	return fetches, false, fetches.Err()
}

// follow applies the trust documents of the config topic.
func (f *fleet) follow(records map[string][]byte) {
	for {
		value := records[fmt.Sprintf("trust:%d", f.trust.Number+1)]
		env, err := trust.Open(value)
		if len(value) == 0 || err != nil {
			return
		}
		next, _, err := f.trust.Rotate(env, func(b []byte) (trust.Rotation, error) {
			r, _, err := document.ParseTrust(b)
			return r, err
		})
		if err != nil {
			return
		}
		f.trust = next
	}
}

// create makes a topic as remote config needs it.
func (f *fleet) create(ctx context.Context, topic string, compacted bool) error {
	ctx, cancel := context.WithTimeout(ctx, topicTimeout)
	defer cancel()
	policy := "delete"
	if compacted {
		policy = "compact"
	}
	r, err := kadm.NewClient(f.client).CreateTopic(ctx, 1, -1, map[string]*string{"cleanup.policy": &policy}, topic)
	if err == nil {
		err = r.Err
	}
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("create topic %s: %w", topic, err)
	}
	return nil
}
