package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/agent/remote/document"
	"sluice/agent/remote/tree"
	"sluice/agent/remote/trust"
)

// configPush publishes a signed document: a config or trust document to the
// config topic, a command to the command topic. It pushes nothing that agents
// would refuse.
func configPush(ctx context.Context, c *call) error {
	create := c.flags.Bool("create", false, "create the topics that are not there: one partition each, the cluster's default of replicas, compacted (the command topic: 8 days)")
	if err := c.parse(1); err != nil {
		return err
	}
	doc, err := c.readSigned(c.rest[0])
	if err != nil {
		return err
	}
	f, err := c.openFleet(ctx)
	if err != nil {
		return err
	}
	defer f.client.Close()
	topic := f.remote.ConfigTopic
	if doc.command != nil {
		topic = f.remote.CommandTopic
	}
	if *create {
		if err := f.create(ctx); err != nil {
			return err
		}
	}
	there, err := f.records(ctx, f.remote.ConfigTopic, nil)
	if err != nil {
		return err
	}
	f.follow(there)
	if _, err = verify(f.trust, doc); err == nil {
		err = expired(doc, time.Now())
	}
	if err == nil {
		err = c.newer(f.trust, doc, there[doc.key])
	}
	if err != nil {
		return c.refused(err)
	}
	record, err := f.publish(ctx, topic, doc)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.Out, "pushed %s to %s (partition %d, offset %d)\n", doc.name(), topic, record.Partition, record.Offset)
	return err
}

// publish writes a signed document to a topic.
func (f *fleet) publish(ctx context.Context, topic string, doc content) (*kgo.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, topicTimeout)
	defer cancel()
	record, err := f.client.ProduceSync(ctx, &kgo.Record{Topic: topic, Key: []byte(doc.key), Value: doc.env.Encode()}).First()
	if err != nil {
		return nil, fmt.Errorf("push to topic %s: %w", topic, err)
	}
	return record, nil
}

func (c content) name() string {
	switch {
	case c.config != nil:
		return fmt.Sprintf("%s epoch %d version %d", c.key, c.config.Epoch, c.config.Version)
	case c.command != nil:
		return fmt.Sprintf("command %s %s for %s", c.command.Kind, c.command.ID, c.key)
	}
	return c.key
}

// newer compares with the document that is there. One that agents do not trust
// is no obstacle.
func (c *call) newer(a trust.Anchor, doc content, value []byte) error {
	if doc.config == nil || len(value) == 0 {
		return nil
	}
	there, err := trustedConfig(a, value)
	if err != nil {
		fmt.Fprintf(c.Err, "what is there under %s is not trusted and is replaced: %v\n", doc.key, err)
		return nil
	}
	if there.Epoch < a.Epoch || document.Newer(doc.config.Epoch, doc.config.Version, there.Epoch, there.Version) {
		return nil
	}
	return trust.Refuse(trust.Older, "epoch %d version %d of %s is there already (version %d is the next)", there.Epoch, there.Version, doc.key, there.Version+1)
}

// trustedConfig reads a config document of the topic and verifies it.
func trustedConfig(a trust.Anchor, value []byte) (*document.Document, error) {
	env, err := trust.Open(value)
	if err != nil {
		return nil, err
	}
	if _, err = a.Verify(env, trust.TypeConfig); err != nil {
		return nil, err
	}
	return document.Parse(env.Payload)
}

// configDiff shows what a document would change in the one of the topic: exit
// status 3 where they differ.
func configDiff(ctx context.Context, c *call) error {
	if err := c.parse(1); err != nil {
		return err
	}
	env, err := readUnsigned(c.rest[0], wrap{})
	if err != nil {
		return err
	}
	doc, err := readContent(env)
	if err == nil && doc.config == nil {
		err = errors.New("only config documents can be compared")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.rest[0], err)
	}
	f, err := c.openFleet(ctx)
	if err != nil {
		return err
	}
	defer f.client.Close()
	there, err := f.records(ctx, f.remote.ConfigTopic, nil)
	if err != nil {
		return err
	}
	f.follow(there)
	old := &tree.Node{Kind: tree.Mapping}
	switch value := there[doc.key]; {
	case len(value) == 0:
		fmt.Fprintf(c.Err, "topic %s has nothing under %s\n", f.remote.ConfigTopic, doc.key)
	default:
		if _, err := trustedConfig(f.trust, value); err != nil {
			return fmt.Errorf("what is there under %s is not trusted: %w", doc.key, err)
		}
		env, err := trust.Open(value)
		if err != nil {
			return err
		}
		if old, err = tree.Parse(env.Payload); err != nil {
			return err
		}
	}
	now, err := tree.Parse(env.Payload)
	if err != nil {
		return err
	}
	if c.showDiff(old, now) {
		return errFound
	}
	return nil
}

// showDiff prints each value that differs, as a line of its path.
func (c *call) showDiff(old, now *tree.Node) (differs bool) {
	words := func(n *tree.Node) (paths []string, word map[string]string) {
		word = map[string]string{}
		for _, leaf := range n.Leaves() {
			if leaf.Path != "" {
				paths, word[leaf.Path] = append(paths, leaf.Path), leaf.Node.Word()
			}
		}
		return paths, word
	}
	before, was := words(old)
	after, is := words(now)
	for _, p := range before {
		if w, has := is[p]; !has || w != was[p] {
			fmt.Fprintf(c.Out, "- %s: %s\n", p, was[p])
			differs = true
		}
		if w, has := is[p]; has && w != was[p] {
			fmt.Fprintf(c.Out, "+ %s: %s\n", p, w)
		}
	}
	for _, p := range after {
		if _, had := was[p]; !had {
			fmt.Fprintf(c.Out, "+ %s: %s\n", p, is[p])
			differs = true
		}
	}
	return differs
}
