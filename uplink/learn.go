package uplink

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// learnPatience is how long a commit waits for the client to keep the partitions of
// topics that are new to it. That takes a moment, and as long as the machine keeps the
// client's goroutine from running.
const learnPatience = 5 * time.Second

// learner knows of which topics a transactional client has the partitions. It belongs
// to the goroutine that produces.
//
// Why it is needed: when the client learns a new topic, it hands the records that wait
// for that to their partitions first and keeps the partitions second
// (franz-go v1.22, storePartitionsUpdate). Where its goroutine has to wait for a
// processor in between, all of the records are acknowledged before the client knows the
// partitions, and EndTransaction, which goes by what is known, takes the
// transaction for an empty one: it asks the broker to abort it, returns nil, and the
// next transaction begins with wrong sequence numbers. So no transaction may
// be committed before each of its topics is known.
type learner struct {
	client *kgo.Client
	last   string          // the topic of the last record
	topics map[string]bool // known ones, and those that are in fresh
	fresh  []string        // not known yet, as far as is known
}

func newLearner(client *kgo.Client) learner {
	return learner{client: client, topics: map[string]bool{}}
}

// meet takes note of the topic of a record that the client is given.
func (l *learner) meet(topic string) {
	if topic == l.last {
		return
	}
	if l.last = topic; !l.topics[topic] {
		l.topics[topic] = true
		l.fresh = append(l.fresh, topic)
	}
}

// await blocks until the client knows the partitions of each topic that was met. All
// records must be acknowledged. It returns an error when ctx ends or a topic is still
// unknown after learnPatience: then nothing may be committed.
func (l *learner) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, learnPatience)
	defer cancel()
	for ; len(l.fresh) > 0; l.fresh = l.fresh[1:] {
		topic := l.fresh[0]
		for !l.knows(topic) {
			if err := sleep(ctx, time.Millisecond); err != nil {
				return fmt.Errorf("the client has acknowledged records of topic %q, and has not kept its partitions: %w", topic, err)
			}
		}
	}
	return nil
}

// knows reports whether the client has the topic's partitions. They are kept all at
// once; without them it returns -1 for the leader, and for one that has no leader
// another number.
func (l *learner) knows(topic string) bool {
	leader, _, _ := l.client.PartitionLeader(topic, 0)
	return leader != -1
}
