package channel

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	createTimeout = 15 * time.Second // for a topic to be made and to have a leader
	createEvery   = 100 * time.Millisecond
)

// StatusTopicConfig returns the settings that a status topic is made with. Statuses
// come from each agent each minute: what is old goes soon, so that reading them stays
// short.
func StatusTopicConfig() map[string]string {
	return map[string]string{"cleanup.policy": "compact", "segment.ms": "600000", "min.cleanable.dirty.ratio": "0.1", "delete.retention.ms": "3600000"}
}

// createStatus makes the status topic: one partition, as many replicas as is the
// cluster's default (CreateTopics v4 and later). Somebody else's having made it is no
// error. It blocks for createTimeout at most.
func (c *Channel) createStatus(ctx context.Context) error {
	req := kmsg.NewPtrCreateTopicsRequest()
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = c.cfg.StatusTopic, 1, -1
	for name, value := range StatusTopicConfig() {
		s := kmsg.NewCreateTopicsRequestTopicConfig()
		s.Name, s.Value = name, kmsg.StringPtr(value)
		t.Configs = append(t.Configs, s)
	}
	req.Topics = append(req.Topics, t)
	ctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	resp, err := req.RequestWith(ctx, c.client)
	if err != nil {
		return err
	}
	for _, r := range resp.Topics {
		err := kerr.ErrorForCode(r.ErrorCode)
		switch {
		case errors.Is(err, kerr.TopicAlreadyExists):
		case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.ClusterAuthorizationFailed):
			return fmt.Errorf("this agent may not make it: no CREATE (%w)", err)
		case err != nil:
			return fmt.Errorf("it could not be made: %w", err)
		default:
			c.cfg.Log.Info("the status topic was not there and has been made", "topic", c.cfg.StatusTopic)
		}
	}
	return nil
}

// produce writes r with the own client. A topic that is not there is made, and r
// written again until the brokers know the topic, which takes them a moment.
func (c *Channel) produce(ctx context.Context, r *kgo.Record) error {
	err := c.client.ProduceSync(ctx, r).FirstErr()
	if !errors.Is(err, kerr.UnknownTopicOrPartition) {
		return err
	}
	if created := c.createStatus(ctx); created != nil {
		if _, answered := errors.AsType[*kerr.Error](created); !answered {
			return created // the link, and that passes
		}
		return fmt.Errorf("%w; %w", err, created)
	}
	for end := time.Now().Add(createTimeout); errors.Is(err, kerr.UnknownTopicOrPartition) && time.Now().Before(end) && ctx.Err() == nil; {
		sleep(ctx, createEvery)
		err = c.client.ProduceSync(ctx, r).FirstErr()
	}
	return err
}
