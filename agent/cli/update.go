package cli

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/agent"
	"sluice/agent/remote/document"
	"sluice/agent/remote/tree"
	"sluice/agent/update"
)

// updateExpiry is how long the command is good for that the verbs print.
const updateExpiry = 7 * 24 * time.Hour

const updateUsage = "command FILE --version V --url URL | put FILE --version V [--topic T]"

// updateCommand prepares a command update for a bundle: an operator signs and
// pushes what it prints.
func updateCommand(ctx context.Context, c *call) error {
	verbs := map[string]func(context.Context, *call) error{"command": updateFromURL, "put": updatePut}
	if len(c.rest) == 0 || verbs[c.rest[0]] == nil {
		if len(c.rest) > 0 && strings.HasPrefix(c.rest[0], "-") {
			return c.parse(0)
		}
		return usageError{fmt.Errorf("update: say first what to do (%s)", updateUsage)}
	}
	run := verbs[c.rest[0]]
	c.name, c.rest = "update "+c.rest[0], c.rest[1:]
	return run(ctx, c)
}

// updateFlags are what both verbs take, and the bundle that they name.
type updateFlags struct {
	bundle update.Bundle
	target string
}

func (c *call) updateFlags() *updateFlags {
	u := &updateFlags{}
	c.flags.StringVar(&u.bundle.Version, "version", "", "`version` in the bundle")
	c.flags.StringVar(&u.target, "target", "all", "`target`: agent:ID, label:NAME=VALUE or all")
	return u
}

// open opens the file that the command line names and finds every fault of the
// command that does not take reading it, so that none shows after a long upload.
func (u *updateFlags) open(c *call) (*os.File, error) {
	f, err := os.Open(c.rest[0])
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	wrong := u.check(info)
	if wrong != nil {
		f.Close()
		return nil, usageError{fmt.Errorf("%s: %s", c.name, strings.ReplaceAll(wrong.Error(), "\n", "; "))}
	}
	return f, nil
}

// check has those judge the command who will: with the digest left out.
func (u *updateFlags) check(info os.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no file", info.Name())
	}
	b := u.bundle
	b.Size, b.SHA256 = info.Size(), strings.Repeat("0", 2*sha256.Size)
	if err := b.Check(); err != nil {
		return err
	}
	cmd, err := document.ParseCommand(updateDocument(u.target, b))
	if err != nil {
		return err
	}
	_, err = update.ParseArgs(cmd.Args)
	return err
}

// updateFromURL prints the command for a bundle on an HTTP server.
func updateFromURL(_ context.Context, c *call) error {
	u := c.updateFlags()
	c.flags.StringVar(&u.bundle.URL, "url", "", "`address` that the gateways fetch it from, http or https")
	if err := c.parse(1); err != nil {
		return err
	}
	f, err := u.open(c)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	u.bundle.Size, err = io.Copy(sum, f)
	if err != nil {
		return fmt.Errorf("read the bundle: %w", err)
	}
	u.bundle.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return c.printUpdate(u.target, u.bundle)
}

// updatePut writes a bundle into a topic and prints the command for it.
func updatePut(ctx context.Context, c *call) error {
	u := c.updateFlags()
	c.flags.StringVar(&u.bundle.Topic, "topic", "sluice.update", "`topic` for the chunks; it must not be compacted, and keep them until all gateways have them")
	create := c.flags.Bool("create", false, "create the topic if it is not there: one partition, the cluster's default of replicas")
	if err := c.parse(1); err != nil {
		return err
	}
	f, err := u.open(c)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := c.updateTopic(ctx, u.bundle.Topic, *create); err != nil {
		return err
	}
	cfg, _, err := c.loadOperator()
	if err != nil {
		return err
	}
	opts, err := agent.KafkaOptions(cfg, cfg.Remote.Uplink)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RecordDeliveryTimeout(time.Minute), mayStop())...)
	if err != nil {
		return fmt.Errorf("uplink %s: %w", cfg.Remote.Uplink, err)
	}
	defer client.Close()
	b, err := update.Put(ctx, client, u.bundle.Topic, u.bundle.Version, f)
	if err != nil {
		return err
	}
	return c.printUpdate(u.target, b)
}

// updateTopic makes sure that the topic for chunks is there.
func (c *call) updateTopic(ctx context.Context, topic string, create bool) error {
	way, err := c.openFleet(ctx)
	if err != nil {
		return err
	}
	defer way.client.Close()
	ctx, cancel := context.WithTimeout(ctx, topicTimeout)
	defer cancel()
	if create {
		if err := way.createPlain(ctx, topic); err != nil {
			return err
		}
		return way.settle(ctx, topic)
	}
	starts, err := kadm.NewClient(way.client).ListStartOffsets(ctx, topic)
	if err == nil {
		err = starts.Error()
	}
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		return fmt.Errorf("topic %s is not there (--create makes it)", topic)
	}
	return err
}

// printUpdate prints an unsigned command.
func (c *call) printUpdate(target string, b update.Bundle) error {
	_, err := fmt.Fprintf(c.Out, "# Sign it with \"sluice config sign\", publish it with \"sluice config push\".\n%s", updateDocument(target, b))
	return err
}

// updateDocument is the command, issued now.
func updateDocument(target string, b update.Bundle) []byte {
	now := time.Now().UTC().Truncate(time.Second)
	name, _, _ := strings.Cut(b.Version, "+") // an id has no such sign
	var out bytes.Buffer
	fmt.Fprintf(&out, "id: update-%.32s-%s-%d\ntarget: %s\nissued: %s\nexpires: %s\nkind: update\nargs:\n", name, b.SHA256[:8], now.Unix(), tree.Plain(target),
		now.Format(time.RFC3339), now.Add(updateExpiry).Format(time.RFC3339))
	fmt.Fprintf(&out, "  version: %s\n  size: %d\n  sha256: %q\n", tree.Plain(b.Version), b.Size, b.SHA256)
	if b.URL != "" {
		fmt.Fprintf(&out, "  url: %s\n", tree.Plain(b.URL))
	} else {
		fmt.Fprintf(&out, "  topic: %s\n  partition: %d\n  offset: %d\n", tree.Plain(b.Topic), b.Partition, b.Offset)
	}
	return out.Bytes()
}
