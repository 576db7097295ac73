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
	"sluice/uplink/channel"
)

const (
	reachTimeout = 15 * time.Second       // to reach a broker at all
	topicTimeout = 60 * time.Second       // for all that follows
	maxTopic     = 512 << 20              // of a topic's newest values, kept in memory
	settleEvery  = 200 * time.Millisecond // how often a topic that was made is looked for
	quietTime    = 5 * time.Second        // of a partition whose last records were compacted away
)

// fleet is the way to the topics of remote config.
type fleet struct {
	client *kgo.Client
	remote *config.Remote
	trust  trust.Anchor
	name   string // of the uplink, for messages
}

// mayStop lets a time-out or a signal end the wait for a broker that has taken a
// record and does not answer. Whoever then tries again may write it twice, which
// does no harm: readers know documents, commands and chunks again.
func mayStop() kgo.Opt { return kgo.AllowIdempotentProduceCancellation() }

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
	client, err := kgo.NewClient(append(opts, kgo.KeepControlRecords(), kgo.MetadataMinAge(100*time.Millisecond), mayStop())...)
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

// reader is a topic that is read from its start to its end, and on.
type reader struct {
	fleet  *fleet
	topic  string
	keep   func(key string) bool // nil: every key
	left   map[int32]int64       // ends that are not reached yet
	latest map[string][]byte     // the newest value of each key; nil: it was deleted
	size   int                   // of what is kept
}

// read begins to read a topic.
func (f *fleet) read(ctx context.Context, topic string, keep func(key string) bool) (*reader, error) {
	r := &reader{fleet: f, topic: topic, keep: keep, latest: map[string][]byte{}}
	starts, ends, err := f.offsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	from := map[int32]kgo.Offset{}
	r.left = map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		from[o.Partition] = kgo.NewOffset().AtStart()
		if start, ok := starts.Lookup(topic, o.Partition); ok && start.Offset < o.Offset {
			r.left[o.Partition] = o.Offset
		}
	})
	f.client.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: from})
	return r, nil
}

// close ends the reading.
func (r *reader) close() { r.fleet.client.PurgeTopicsFromConsuming(r.topic) }

// toEnd reads to where the topic ended when the reading began.
func (r *reader) toEnd(ctx context.Context) error {
	for len(r.left) > 0 {
		changed, err := r.next(ctx, quietTime)
		if err != nil {
			return err
		}
		if !changed {
			break // the last offsets of a compacted partition may have no records
		}
	}
	return nil
}

// next takes what comes next, and waits for it as long as wait. changed says that
// something came; if not, the cluster has answered.
func (r *reader) next(ctx context.Context, wait time.Duration) (changed bool, err error) {
	short, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	fetches := r.fleet.client.PollFetches(short)
	if err = ctx.Err(); err != nil {
		return false, err
	}
	n := 0
	fetches.EachRecord(func(rec *kgo.Record) {
		n++
		if !rec.Attrs.IsControl() && (r.keep == nil || r.keep(string(rec.Key))) {
			old, has := r.latest[string(rec.Key)]
			if !has {
				r.size += len(rec.Key)
			}
			r.size += len(rec.Value) - len(old)
			r.latest[string(rec.Key)] = rec.Value
		}
		if rec.Offset+1 >= r.left[rec.Partition] {
			delete(r.left, rec.Partition)
		}
	})
	switch {
	case r.size > maxTopic:
		return false, fmt.Errorf("read topic %s: its newest values are more than %d MiB: is it the right topic?", r.topic, maxTopic>>20)
	case n > 0:
		return true, nil
	case short.Err() != nil:
		if err = r.fleet.client.Ping(ctx); err == nil {
			return false, nil
		}
	default:
		err = fetches.Err()
	}
	if err != nil {
		err = fmt.Errorf("read topic %s: %w", r.topic, err)
	}
	return err == nil, err
}

// records reads a topic from its start to where it ends now, and returns the
// newest value of each key; a deleted key is nil.
func (f *fleet) records(ctx context.Context, topic string, keep func(key string) bool) (map[string][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, topicTimeout)
	defer cancel()
	r, err := f.read(ctx, topic, keep)
	if err != nil {
		return nil, err
	}
	defer r.close()
	return r.latest, r.toEnd(ctx)
}

// offsets are where the partitions begin and end.
func (f *fleet) offsets(ctx context.Context, topic string) (starts, ends kadm.ListedOffsets, err error) {
	ctx, cancel := context.WithTimeout(ctx, topicTimeout)
	defer cancel()
	admin := kadm.NewClient(f.client)
	if starts, err = admin.ListStartOffsets(ctx, topic); err == nil {
		err = starts.Error()
	}
	if err == nil {
		if ends, err = admin.ListEndOffsets(ctx, topic); err == nil {
			err = ends.Error()
		}
	}
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil, nil, fmt.Errorf("topic %s is not there (sluice config push --create makes the topics)", topic)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read topic %s: %w", topic, err)
	}
	return starts, ends, nil
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

// topicPolicies are how the topics of remote config are made.
var topicPolicies = map[string]map[string]string{
	"config":  {"cleanup.policy": "compact", "max.compaction.lag.ms": "3600000"},
	"status":  channel.StatusTopicConfig(),
	"command": {"cleanup.policy": "delete", "retention.ms": "691200000"}, // 8 days: a command lives 7 at most
}

// create makes the topics of remote config that are not there.
func (f *fleet) create(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, topicTimeout)
	defer cancel()
	admin := kadm.NewClient(f.client)
	var errs []error
	for _, t := range [][2]string{{"config", f.remote.ConfigTopic}, {"status", f.remote.StatusTopic}, {"command", f.remote.CommandTopic}} {
		options := map[string]*string{}
		for key, value := range topicPolicies[t[0]] {
			options[key] = &value
		}
		r, err := admin.CreateTopic(ctx, 1, -1, options, t[1])
		if err == nil {
			err = r.Err
		}
		if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			errs = append(errs, fmt.Errorf("create topic %s: %w", t[1], err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return f.settle(ctx, f.remote.ConfigTopic, f.remote.StatusTopic, f.remote.CommandTopic)
}

// settle waits until topics that were made are known to the brokers that have them,
// which a busy cluster takes a moment for.
func (f *fleet) settle(ctx context.Context, topics ...string) error {
	for {
		starts, err := kadm.NewClient(f.client).ListStartOffsets(ctx, topics...)
		if err == nil {
			err = starts.Error()
		}
		if err == nil || ctx.Err() != nil || !kerr.IsRetriable(err) {
			return err
		}
		select {
		case <-time.After(settleEvery):
		case <-ctx.Done():
			return fmt.Errorf("the topics were made and do not show: %w", err)
		}
	}
}

// createPlain makes a topic of one partition if it is not there; the cluster's
// defaults say how long it keeps what is in it.
func (f *fleet) createPlain(ctx context.Context, topic string) error {
	ctx, cancel := context.WithTimeout(ctx, topicTimeout)
	defer cancel()
	r, err := kadm.NewClient(f.client).CreateTopic(ctx, 1, -1, nil, topic)
	if err == nil {
		err = r.Err
	}
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("create topic %s: %w", topic, err)
	}
	return nil
}
