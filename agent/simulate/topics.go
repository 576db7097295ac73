package simulate

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Topics looks at Kafka from the other side, past the agent and past the link:
// it creates the topics of one run, counts and reads what they hold, and
// removes them. It never touches another topic.
type Topics struct {
	admin  *kadm.Client
	client *kgo.Client
	seed   string
	names  []string
}

// OpenTopics connects to Kafka at seed (host:port) for the topics named, and
// creates them with 4 partitions each. An error says what to do about it.
func OpenTopics(ctx context.Context, seed string, names []string) (*Topics, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(seed), kgo.DialTimeout(3*time.Second))
	if err != nil {
		return nil, fmt.Errorf("kafka address %q: %w (host:port is expected)", seed, err)
	}
	t := &Topics{admin: kadm.NewClient(client), client: client, seed: seed, names: names}
	if err := t.create(ctx); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

func (t *Topics) create(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := t.client.Ping(ctx); err != nil {
		return fmt.Errorf("kafka at %s doesn't answer: %w (is it running, and is the address right?)", t.seed, err)
	}
	made, err := t.admin.CreateTopics(ctx, kafkaPartitions, -1, nil, t.names...)
	if err == nil {
		err = made.Error()
	}
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("create topics %v at %s: %w", t.names, t.seed, err)
	}
	return nil
}

// Count returns how many records each topic holds.
func (t *Topics) Count(ctx context.Context) (map[string]int64, error) {
	ends, err := t.admin.ListEndOffsets(ctx, t.names...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("ask kafka for the ends of the topics: %w", err)
	}
	counts := make(map[string]int64)
	ends.Each(func(o kadm.ListedOffset) { counts[o.Topic] += o.Offset })
	return counts, nil
}

// ReadAll returns all records of the topics, each partition in order of offset,
// the partitions one after the other.
func (t *Topics) ReadAll(ctx context.Context) ([]*kgo.Record, error) {
	ends, err := t.admin.ListEndOffsets(ctx, t.names...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("ask kafka for the ends of the topics: %w", err)
	}
	assign := make(map[string]map[int32]kgo.Offset)
	missing := 0
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset == 0 {
			return
		}
		if assign[o.Topic] == nil {
			assign[o.Topic] = make(map[int32]kgo.Offset)
		}
		assign[o.Topic][o.Partition] = kgo.NewOffset().AtStart()
		missing++
	})
	consumer, err := kgo.NewClient(kgo.SeedBrokers(t.seed), kgo.ConsumePartitions(assign))
	if err != nil {
		return nil, fmt.Errorf("read the topics: %w", err)
	}
	defer consumer.Close()
	records, err := readTo(ctx, consumer, ends, missing)
	sort.SliceStable(records, func(i, j int) bool { return before(records[i], records[j]) })
	return records, err
}

// readTo polls until each of the missing partitions was read to its end.
func readTo(ctx context.Context, consumer *kgo.Client, ends kadm.ListedOffsets, missing int) ([]*kgo.Record, error) {
	var records []*kgo.Record
	for missing > 0 {
		fetched := consumer.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			return records, fmt.Errorf("read the topics: %d partitions weren't read to their end: %w", missing, context.Cause(ctx))
		}
		if errs := fetched.Errors(); len(errs) > 0 {
			return records, fmt.Errorf("read topic %s partition %d: %w", errs[0].Topic, errs[0].Partition, errs[0].Err)
		}
		fetched.EachRecord(func(r *kgo.Record) {
			end, _ := ends.Lookup(r.Topic, r.Partition)
			if r.Offset >= end.Offset {
				return
			}
			records = append(records, r)
			if r.Offset == end.Offset-1 {
				missing--
			}
		})
	}
	return records, nil
}

func before(a, b *kgo.Record) bool {
	if a.Topic != b.Topic {
		return a.Topic < b.Topic
	}
	if a.Partition != b.Partition {
		return a.Partition < b.Partition
	}
	return a.Offset < b.Offset
}

// Delete removes the topics.
func (t *Topics) Delete(ctx context.Context) error {
	gone, err := t.admin.DeleteTopics(ctx, t.names...)
	if err == nil {
		err = gone.Error()
	}
	if err != nil {
		return fmt.Errorf("delete topics %v: %w", t.names, err)
	}
	return nil
}

// Close ends the connections.
func (t *Topics) Close() { t.client.Close() }
