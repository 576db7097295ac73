package audit

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// Timings of the client.
const (
	dialTimeout   = 10 * time.Second
	answerTimeout = 15 * time.Second
	retryEvery    = 500 * time.Millisecond
)

// cluster is a connection to a cluster.
type cluster struct {
	no           int // from 1
	client       *kgo.Client
	decompressor kgo.Decompressor
}

// topic is one that is audited.
type topic struct {
	cluster    *cluster
	name       string
	id         [16]byte
	partitions []*partition
	retention  time.Duration // by time; 0: none, or it is not known
	compacted  bool
	cuts       int   // partitions that lost their beginning
	edge       int64 // records that were lost there are of this time at most, ms
}

// partition is one of a topic, and how far it was read.
type partition struct {
	topic  *topic
	no     int32 // among all that are read
	num    int32
	leader atomic.Int32
	cut    bool  // its log does not begin with offset 0, and the audit begins where it does
	start  int64 // of the log
	begin  int64 // of the audit
	end    int64 // exclusive
	high   int64 // the log's end, open transactions included

	next   int64
	clock  int64 // the latest time of a record that was read, ms
	size   int32 // bytes to ask for
	busy   bool
	good   time.Time // of the last fetch that was answered
	failed error     // it is given up
}

func (p *partition) place(seq uint64, offset int64) Place {
	return Place{Seq: seq, Cluster: p.topic.cluster.no, Topic: p.topic.name, Partition: p.num, Offset: offset}
}

func (p *partition) String() string {
	return fmt.Sprintf("cluster %d topic %s partition %d", p.topic.cluster.no, p.topic.name, p.num)
}

// connect opens a client and makes sure that a broker answers.
func connect(ctx context.Context, no int, c Cluster, patience time.Duration) (*cluster, error) {
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...), kgo.ClientID("sluice-audit"), kgo.DialTimeout(dialTimeout),
		kgo.RequestTimeoutOverhead(answerTimeout), kgo.RequestRetries(2), kgo.RetryTimeout(answerTimeout),
		kgo.MetadataMinAge(retryEvery), kgo.DisableClientMetrics(),
	}
	if c.TLS != nil {
		opts = append(opts, kgo.DialTLSConfig(c.TLS.Clone()))
	}
	if c.Login.Mechanism != "" {
		m, err := c.Login.mechanism()
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.SASL(m))
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("%w: cluster %d: %w", ErrConfig, no, err)
	}
	ping, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := client.Ping(ping); err != nil {
		client.Close()
		return nil, fmt.Errorf("cluster %d: no broker of %s answers (is the address right, are TLS and login what the cluster wants?): %w", no, strings.Join(c.Brokers, ", "), err)
	}
	return &cluster{no: no, client: client, decompressor: kgo.DefaultDecompressor()}, nil
}

func (l Login) mechanism() (sasl.Mechanism, error) {
	if l.Mechanism == "oauthbearer" && l.Token != nil {
		return oauth.Oauth(func(ctx context.Context) (oauth.Auth, error) {
			token, err := l.Token(ctx)
			return oauth.Auth{Token: token, Extensions: l.Extensions}, err
		}), nil
	}
	if l.Username == "" || l.Password == nil {
		return nil, fmt.Errorf("%w: a login needs a username and a password", ErrConfig)
	}
	scramAuth := func(context.Context) (scram.Auth, error) {
		p, err := l.Password()
		return scram.Auth{User: l.Username, Pass: p}, err
	}
	switch l.Mechanism {
	case "plain":
		return plain.Plain(func(context.Context) (plain.Auth, error) {
			p, err := l.Password()
			return plain.Auth{User: l.Username, Pass: p}, err
		}), nil
	case "scram-sha-256":
		return scram.Sha256(scramAuth), nil
	case "scram-sha-512":
		return scram.Sha512(scramAuth), nil
	}
	return nil, fmt.Errorf("%w: sasl mechanism %q is unknown (plain, scram-sha-256, scram-sha-512, oauthbearer)", ErrConfig, l.Mechanism)
}

// topics lists the topics that patterns name, with their partitions.
func (c *cluster) topics(ctx context.Context, patterns []pattern) (found []*topic, err error) {
	req := kmsg.NewPtrMetadataRequest()
	req.AllowAutoTopicCreation = false
	resp, err := req.RequestWith(ctx, c.client)
	if err != nil {
		return nil, fmt.Errorf("cluster %d: list topics: %w", c.no, err)
	}
	for _, t := range resp.Topics {
		if t.Topic == nil || t.IsInternal || !matchesAny(patterns, *t.Topic) {
			continue
		}
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
			return nil, fmt.Errorf("cluster %d: topic %s: %w", c.no, *t.Topic, err)
		}
		out := &topic{cluster: c, name: *t.Topic, id: t.TopicID}
		for _, p := range t.Partitions {
			ours := &partition{topic: out, num: p.Partition}
			ours.leader.Store(p.Leader)
			out.partitions = append(out.partitions, ours)
		}
		found = append(found, out)
	}
	return found, nil
}

func matchesAny(patterns []pattern, name string) bool {
	for _, p := range patterns {
		if p.matches(name) {
			return true
		}
	}
	return false
}

// refresh asks who leads the partitions now.
func (c *cluster) refresh(ctx context.Context, t *topic) {
	req := kmsg.NewPtrMetadataRequest()
	one := kmsg.NewMetadataRequestTopic()
	one.Topic = &t.name
	req.Topics = append(req.Topics, one)
	resp, err := req.RequestWith(ctx, c.client)
	if err != nil || len(resp.Topics) != 1 {
		return // the next fetch says why
	}
	for _, p := range resp.Topics[0].Partitions {
		for _, ours := range t.partitions {
			if ours.num == p.Partition && p.Leader >= 0 {
				ours.leader.Store(p.Leader)
			}
		}
	}
}

// Times that mean a place in ListOffsets (Kafka protocol, key 2).
const (
	atEnd   = -1
	atStart = -2
)

// offsets asks for the offset of each partition at a time (ms, atStart or atEnd)
// and sets it; -1: there is no record of that time or later.
func (c *cluster) offsets(ctx context.Context, topics []*topic, at int64, committed bool, set func(*partition, int64)) error {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	if committed {
		req.IsolationLevel = 1
	}
	index := map[string]map[int32]*partition{}
	for _, t := range topics {
		if t.cluster != c || len(t.partitions) == 0 {
			continue
		}
		rt := kmsg.NewListOffsetsRequestTopic()
		rt.Topic = t.name
		index[t.name] = map[int32]*partition{}
		for _, p := range t.partitions {
			rp := kmsg.NewListOffsetsRequestTopicPartition()
			rp.Partition, rp.Timestamp = p.num, at
			rt.Partitions = append(rt.Partitions, rp)
			index[t.name][p.num] = p
		}
		req.Topics = append(req.Topics, rt)
	}
	if len(req.Topics) == 0 {
		return nil
	}
	resp, err := req.RequestWith(ctx, c.client)
	if err != nil {
		return fmt.Errorf("cluster %d: list offsets: %w", c.no, err)
	}
	for _, t := range resp.Topics {
		for _, got := range t.Partitions {
			p := index[t.Topic][got.Partition]
			if p == nil {
				continue
			}
			if err := kerr.ErrorForCode(got.ErrorCode); err != nil {
				return fmt.Errorf("%s: list offsets: %w", p, err)
			}
			delete(index[t.Topic], got.Partition)
			set(p, got.Offset)
		}
	}
	for _, left := range index {
		for _, p := range left {
			return fmt.Errorf("%s: list offsets: no answer", p)
		}
	}
	return nil
}

// configs reads how long the topics keep records. Where that is not allowed it
// stays unknown, which the returned error says.
func (c *cluster) configs(ctx context.Context, topics []*topic) error {
	req := kmsg.NewPtrDescribeConfigsRequest()
	index := map[string]*topic{}
	for _, t := range topics {
		if t.cluster == c {
			res := kmsg.NewDescribeConfigsRequestResource()
			res.ResourceType, res.ResourceName = kmsg.ConfigResourceTypeTopic, t.name
			res.ConfigNames = []string{"cleanup.policy", "retention.ms"}
			req.Resources = append(req.Resources, res)
			index[t.name] = t
		}
	}
	if len(req.Resources) == 0 {
		return nil
	}
	resp, err := req.RequestWith(ctx, c.client)
	if err != nil {
		return err
	}
	var errs []error
	for _, res := range resp.Resources {
		t := index[res.ResourceName]
		if err := kerr.ErrorForCode(res.ErrorCode); err != nil || t == nil {
			errs = append(errs, err)
			continue
		}
		for _, kv := range res.Configs {
			if kv.Value == nil {
				continue
			}
			switch kv.Name {
			case "cleanup.policy":
				t.compacted = strings.Contains(*kv.Value, "compact")
			case "retention.ms":
				if ms, err := strconv.ParseInt(*kv.Value, 10, 64); err == nil && ms > 0 {
					t.retention = time.Duration(min(ms, int64(1<<62)/int64(time.Millisecond))) * time.Millisecond
				}
			}
		}
	}
	return errors.Join(errs...)
}
