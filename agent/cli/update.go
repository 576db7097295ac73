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

	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/agent"
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

// updateFromURL prints the command for a bundle on an HTTP server.
func updateFromURL(_ context.Context, c *call) error {
	version := c.flags.String("version", "", "`version` in the bundle")
	target := c.flags.String("target", "all", "`target`: agent:ID, label:NAME=VALUE or all")
	url := c.flags.String("url", "", "`address` that the gateways fetch it from, http or https")
	if err := c.parse(1); err != nil {
		return err
	}
	f, err := os.Open(c.rest[0])
	if err != nil {
		return fmt.Errorf("update: %w", err)
	}
	defer f.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		return fmt.Errorf("update: read the bundle: %w", err)
	}
	b := update.Bundle{Version: *version, Size: size, SHA256: hex.EncodeToString(sum.Sum(nil)), URL: *url}
	return c.printUpdate(*target, b)
}

// updatePut writes a bundle into a topic and prints the command for it.
func updatePut(ctx context.Context, c *call) error {
	version := c.flags.String("version", "", "`version` in the bundle")
	target := c.flags.String("target", "all", "`target`: agent:ID, label:NAME=VALUE or all")
	topic := c.flags.String("topic", "sluice.update", "`topic` for the chunks; it must not be compacted, and keep them until all gateways have them")
	create := c.flags.Bool("create", false, "create the topic if it is not there: one partition, the cluster's default of replicas")
	if err := c.parse(1); err != nil {
		return err
	}
	bundle, err := os.Open(c.rest[0])
	if err != nil {
		return fmt.Errorf("update: %w", err)
	}
	defer bundle.Close()
	way, err := c.openFleet(ctx)
	if err != nil {
		return err
	}
	defer way.client.Close()
	if *create {
		if err := way.createPlain(ctx, *topic); err != nil {
			return err
		}
	}
	cfg, _, err := c.loadOperator()
	if err != nil {
		return err
	}
	opts, err := agent.KafkaOptions(cfg, cfg.Remote.Uplink)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RecordDeliveryTimeout(time.Minute))...)
	if err != nil {
		return fmt.Errorf("uplink %s: %w", cfg.Remote.Uplink, err)
	}
	defer client.Close()
	b, err := update.Put(ctx, client, *topic, *version, bundle)
	if err != nil {
		return err
	}
	return c.printUpdate(*target, b)
}

// printUpdate prints an unsigned command.
func (c *call) printUpdate(target string, b update.Bundle) error {
	if err := b.Check(); err != nil {
		return usageError{errors.New("update: " + strings.ReplaceAll(err.Error(), "\n", "; "))}
	}
	now := time.Now().UTC().Truncate(time.Second)
	var out bytes.Buffer
	fmt.Fprintf(&out, "# Sign it with \"sluice config sign\", publish it with \"sluice config push\".\n")
	fmt.Fprintf(&out, "id: update-%s-%s-%d\ntarget: %q\nissued: %s\nexpires: %s\nkind: update\nargs:\n", b.Version, b.SHA256[:8], now.Unix(), target,
		now.Format(time.RFC3339), now.Add(updateExpiry).Format(time.RFC3339))
	fmt.Fprintf(&out, "  version: %q\n  size: %d\n  sha256: %q\n", b.Version, b.Size, b.SHA256)
	if b.URL != "" {
		fmt.Fprintf(&out, "  url: %q\n", b.URL)
	} else {
		fmt.Fprintf(&out, "  topic: %q\n  partition: %d\n  offset: %d\n", b.Topic, b.Partition, b.Offset)
	}
	_, err := c.Out.Write(out.Bytes())
	return err
}
