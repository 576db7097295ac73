// Package channel is the way between an operator and an agent over Kafka: it
// reads the config topic and the command topic, and writes the status topic.
//
// It believes nothing of what it reads and decides nothing: who may order what
// is judged by whoever handles the records. It makes sure that all of a topic
// is seen, again from the start at each run, that nothing that somebody puts
// there costs much memory or stops the reading, and that ten thousand agents
// which lost the same cluster do not come back in the same second.
//
//	channel.go  New, Run                    batch.go    record batches, bounded
//	reader.go   what is read from where     publish.go  the newest value of each key
//	topics.go   metadata, offsets, policy   link.go     waiting, words for errors
//	fetch.go    one long poll per broker    via.go      by the uplink's connections
//	                                        create.go   a status topic that is missing
package channel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Bounds.
const (
	// MaxValue is the largest value that a Handler gets, and the largest that
	// Publish takes.
	MaxValue = 1 << 20

	// CommandAge is how old records of the command topic may be to be read at
	// all, by the time that their producers gave them: a command lives seven
	// days at most.
	CommandAge = 8 * 24 * time.Hour
)

// Record is a record of the config topic or the command topic.
type Record struct {
	Topic     string
	TopicID   string // empty: the brokers have none (before Kafka 2.8)
	Key       string // empty: a batch so large that not even its keys were read; Oversized then
	Value     []byte // nil: a deletion, or Oversized. It belongs to the handler
	Partition int32
	Offset    int64
	Oversized bool // the value is larger than MaxValue and was dropped
}

// TopicState is what is known of the config topic.
type TopicState struct {
	// ID is the topic's id; another one means that the topic was made anew.
	// Empty: the brokers have none (before Kafka 2.8).
	ID string
	// Policy is its cleanup.policy; empty: this user may not look.
	Policy string
	// Emptied: records are gone that compaction does not take. The topic begins
	// above offset 0, or it holds nothing and did before in this run.
	Emptied bool
	// Recreated: it has another ID than before in this run, and is read again from
	// its start.
	Recreated bool
	// Unreachable is why the end cannot be reached now, in one line with what to
	// do; empty: it was reached. The other fields are then of the last time.
	Unreachable string
}

// Handler is who gets the records. Its methods are called by one goroutine, one
// at a time. They may block; nothing is read meanwhile.
type Handler interface {
	// Config is called for each wanted record of the config topic: those of a
	// partition in order, from the start of the topic in each run and after the
	// topic was made anew or truncated. A record may come again.
	Config(ctx context.Context, r Record)

	// CaughtUp is called when the end of the config topic was reached: the first
	// time, after records that Config got, and when something of the state
	// changed. It is also called, with t.Unreachable, when the topic cannot be
	// read, once for each reason.
	CaughtUp(ctx context.Context, t TopicState)

	// Command is called for each wanted record of the command topic that is not
	// older than CommandAge, in the same way.
	Command(ctx context.Context, r Record)
}

// Config configures New.
type Config struct {
	// Client is how the cluster is reached: brokers, TLS, login.
	Client []kgo.Opt

	// Spread says that Client dials by an uplink.Spread that other clients share: it
	// spreads the attempts while the cluster is away, and the channel follows as soon
	// as one of them gets through. Without it the channel spreads its own.
	Spread bool

	// Via writes the status topic by way of connections that are there anyway; nil:
	// the channel makes its own. Once it knows where a status goes it uses its own
	// only where Via does not work.
	Via Via

	ConfigTopic, CommandTopic, StatusTopic string

	// Wanted says whether a record with this key is for the handler. All others
	// are dropped where they are read. It is called by one goroutine.
	Wanted func(key string) bool

	Log *slog.Logger // nil: discarded
}

// Channel is the connection to the topics, with a client of its own.
type Channel struct {
	cfg    Config
	client *kgo.Client
	link   *link
	box    *outbox
}

// New makes a channel. It connects to nothing; after Run, or instead of it, Close
// gives back what it holds.
func New(cfg Config) (*Channel, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	var errs []error
	for _, t := range []struct{ what, name string }{{"config", cfg.ConfigTopic}, {"command", cfg.CommandTopic}, {"status", cfg.StatusTopic}} {
		if t.name == "" {
			errs = append(errs, fmt.Errorf("the name of the %s topic is empty", t.what))
		}
	}
	if cfg.ConfigTopic == cfg.CommandTopic {
		errs = append(errs, fmt.Errorf("config and command topic are both %q (each needs its own)", cfg.ConfigTopic))
	}
	if cfg.Wanted == nil {
		errs = append(errs, errors.New("Wanted is missing"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("channel: %w", err)
	}
	c := &Channel{cfg: cfg, link: newLink(), box: newOutbox()}
	client, err := kgo.NewClient(append(append([]kgo.Opt{}, cfg.Client...), options(cfg.StatusTopic)...)...)
	if err != nil {
		return nil, fmt.Errorf("channel: %w", err)
	}
	c.client = client
	return c, nil
}

// options are those of the client that reads and writes the topics.
func options(status string) []kgo.Opt {
	return []kgo.Opt{
		kgo.DefaultProduceTopicAlways(), kgo.DefaultProduceTopic(status),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.DisableIdempotentWrite(), // one at a time is in flight, and a status twice does no harm
		kgo.ProducerLinger(0),
		kgo.ProducerBatchCompression(kgo.SnappyCompression()), // needs next to no memory
		kgo.ProducerBatchMaxBytes(MaxValue + 64<<10),
		kgo.RecordDeliveryTimeout(publishTimeout),
		kgo.UnknownTopicRetries(0),
		kgo.BrokerMaxReadBytes(maxResponse), kgo.FetchMaxBytes(fetchBytes), kgo.FetchMaxPartitionBytes(fetchBytes),
		kgo.MaxDecompressBatchBytes(maxBatch),
		kgo.RequestTimeoutOverhead(requestOverhead),
		kgo.RequestRetries(1), kgo.RetryTimeout(requestOverhead),
		kgo.RetryBackoffFn(func(n int) time.Duration { return backoff(n, retryMin, followEvery) }), // what spreads is in the dialer, or in away
		kgo.ConnIdleTimeout(idleTimeout),
		kgo.MetadataMaxAge(refreshEvery), kgo.MetadataMinAge(time.Second),
		kgo.DisableClientMetrics(),
	}
}

// Run reads until ctx ends and blocks until its goroutines have. It goes on
// whatever the cluster does; only a Channel that runs already is an error. A
// Channel runs once.
func (c *Channel) Run(ctx context.Context, h Handler) error {
	ctx, stop := context.WithCancel(ctx)
	published := make(chan struct{})
	go func() { defer close(published); c.publishing(ctx) }()
	r := newReader(c, h)
	r.run(ctx)
	stop()
	<-published
	c.Close()
	return ctx.Err()
}

// Close closes the connections. It is there for a Channel that never ran.
func (c *Channel) Close() { c.client.Close() }
