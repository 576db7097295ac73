package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"sluice/agent/config"
	"sluice/agent/remote/document"
	"sluice/agent/remote/trust"
)

// configVerbs are the words after "config".
var configVerbs = map[string]func(context.Context, *call) error{
	"schema": configSchema, "keygen": configKeygen, "sign": configSign, "verify": configVerify, "push": configPush, "status": configStatus, "diff": configDiff,
}

const configUsage = "schema | keygen FILE | sign FILE | verify FILE | push FILE | status | diff FILE"

// configCommand runs the verb, which stands first, so that each has flags of its
// own.
func configCommand(ctx context.Context, c *call) error {
	if len(c.rest) == 0 || strings.HasPrefix(c.rest[0], "-") {
		if err := c.parse(0); err != nil {
			return err
		}
		return usageError{fmt.Errorf("config: say first what to do (%s)", configUsage)}
	}
	run, ok := configVerbs[c.rest[0]]
	if !ok {
		return usageError{fmt.Errorf("config: unknown %q (%s)", c.rest[0], configUsage)}
	}
	c.name, c.rest = "config "+c.rest[0], c.rest[1:]
	return run(ctx, c)
}

func configSchema(_ context.Context, c *call) error {
	if err := c.parse(0); err != nil {
		return err
	}
	_, err := c.Out.Write(config.Schema())
	return err
}

// loadOperator reads the config that -c names as an operator's: it says which
// uplink leads to the fleet, and whom the fleet trusts.
func (c *call) loadOperator() (*config.Config, trust.Anchor, error) {
	cfg, err := config.Load(c.file, config.Options{Env: c.Env, Operator: true, Tool: true})
	if err != nil {
		return nil, trust.Anchor{}, err
	}
	if cfg.Remote == nil {
		return nil, trust.Anchor{}, fmt.Errorf("%s has no section remote: it says which uplink and topics to use, and which keys the agents trust", c.file)
	}
	a, err := trust.ParseAnchor(cfg.Remote.Trust, cfg.Remote.Threshold)
	if err != nil {
		return nil, a, fmt.Errorf("%s: remote: %w", c.file, err)
	}
	return cfg, a, nil
}

// readLimited reads a file of at most limit bytes.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err = errors.Join(err, f.Close()); err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return data, err
}

// readEnvelope reads a signed file.
func readEnvelope(path string) (*trust.Envelope, error) {
	data, err := readLimited(path, trust.MaxEnvelope)
	if err != nil {
		return nil, err
	}
	env, err := trust.Open(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w (sluice config sign makes one)", path, err)
	}
	return env, nil
}

// readSigned reads a signed file and what is in it; what agents would refuse is told as
// they tell it.
func (c *call) readSigned(path string) (content, error) {
	env, err := readEnvelope(path)
	if err != nil {
		return content{}, err
	}
	doc, err := readContent(env)
	if err != nil {
		return content{}, c.refused(trust.Refuse(trust.Invalid, "%v", err))
	}
	return doc, nil
}

// content is a signed document, whatever its kind.
type content struct {
	env     *trust.Envelope
	key     string // of its record
	config  *document.Document
	command *document.Command
	trust   *trust.Rotation
	issued  time.Time
}

// readContent reads what an envelope holds; its signatures are not looked at.
func readContent(env *trust.Envelope) (c content, err error) {
	c.env = env
	switch env.Type {
	case trust.TypeConfig:
		if c.config, err = document.Parse(env.Payload); err == nil {
			c.key, c.issued = c.config.Target.String(), c.config.Issued
		}
	case trust.TypeCommand, trust.TypeUpdate:
		if c.command, err = document.ParseCommand(env.Payload); err == nil {
			c.key, c.issued = c.command.Target.String(), c.command.Issued
		}
	case trust.TypeTrust:
		var r trust.Rotation
		if r, c.issued, err = document.ParseTrust(env.Payload); err == nil {
			c.key, c.trust = fmt.Sprintf("trust:%d", r.Number), &r
			_, err = r.Anchor()
		}
	default:
		err = fmt.Errorf("the payload type %.80q is none of sluice's", env.Type)
	}
	return c, err
}

// lines say what the document is, one fact a line.
func (c content) lines() [][2]string {
	at := func(t time.Time) string { return t.Format(time.RFC3339) }
	list := [][2]string{{"key", c.key}}
	switch {
	case c.config != nil:
		d := c.config
		list = append(list, [2]string{"epoch", fmt.Sprint(d.Epoch)}, [2]string{"version", fmt.Sprint(d.Version)}, [2]string{"issued", at(d.Issued)}, [2]string{"expires", at(d.Expires)})
		switch {
		case d.Withdrawn():
			list = append(list, [2]string{"content", "none: withdraws what the target had"})
		case d.Patch != nil:
			list = append(list, [2]string{"content", fmt.Sprintf("a patch of %d paths", len(d.Patch))})
		}
		if d.Target.Canary {
			list = append(list, [2]string{"percent", fmt.Sprint(d.Percent)})
		}
	case c.command != nil:
		list = append(list, [2]string{"command", c.command.Kind + " " + c.command.ID}, [2]string{"issued", at(c.issued)}, [2]string{"expires", at(c.command.Expires)})
	case c.trust != nil:
		a, _ := c.trust.Anchor() // readContent has looked
		list = append(list, [2]string{"epoch", fmt.Sprint(c.trust.Epoch)}, [2]string{"issued", at(c.issued)},
			[2]string{"keys", fmt.Sprintf("%s (%d must sign)", idsOf(a.Keys), a.Threshold)})
	}
	return append(list, [2]string{"digest", trust.Digest(c.env.Payload)})
}

func idsOf(keys []trust.Key) string {
	ids := make([]string, len(keys))
	for i, k := range keys {
		ids[i] = k.ID()
	}
	return strings.Join(ids, ", ")
}

// configVerify says what a signed file holds and whether agents would trust it.
// Expiry is judged, versions are not: they depend on what an agent has seen.
func configVerify(_ context.Context, c *call) error {
	var keys list
	c.flags.Var(&keys, "trust", "a `key` that is trusted, as in remote.trust; may be given more than once (default: remote.trust of the config)")
	threshold := c.flags.Int("threshold", 1, "different keys that must have signed, with --trust")
	if err := c.parse(1); err != nil {
		return err
	}
	anchor, err := c.anchor(keys, *threshold)
	if err != nil {
		return err
	}
	doc, err := c.readSigned(c.rest[0])
	if err != nil {
		return err
	}
	signers, err := verify(anchor, doc)
	if err != nil {
		return c.refused(err)
	}
	for _, line := range append(doc.lines(), [2]string{"signed by", idsOf(signers)}) {
		fmt.Fprintf(c.Out, "%-10s %s\n", line[0], line[1])
	}
	if err := expired(doc, time.Now()); err != nil {
		return c.refused(err)
	}
	return nil
}

// verify checks the signatures of a document by what the agents trust.
func verify(a trust.Anchor, doc content) ([]trust.Key, error) {
	if doc.trust == nil {
		return a.Verify(doc.env, doc.env.Type)
	}
	_, signers, err := a.Rotate(doc.env, func([]byte) (trust.Rotation, error) { return *doc.trust, nil })
	return signers, err
}

func expired(doc content, now time.Time) error {
	expires := now.Add(1)
	switch {
	case doc.config != nil:
		expires = doc.config.Expires
	case doc.command != nil:
		expires = doc.command.Expires
	}
	if now.Before(expires) {
		return nil
	}
	return trust.Refuse(trust.Expired, "expired at %s", expires.Format(time.RFC3339))
}

// refused tells that agents would refuse it: exit status 3.
func (c *call) refused(err error) error {
	fmt.Fprintf(c.Err, "sluice %s: agents refuse it: %v\n", c.name, err)
	return errFound
}

// anchor is what --trust gives, else what the config says.
func (c *call) anchor(keys []string, threshold int) (trust.Anchor, error) {
	if len(keys) == 0 {
		_, a, err := c.loadOperator()
		return a, err
	}
	a, err := trust.ParseAnchor(keys, threshold)
	if err != nil {
		return a, usageError{fmt.Errorf("%s: --%w", c.name, err)}
	}
	return a, nil
}

// list is a flag that may be given more than once.
type list []string

// String implements flag.Value.
func (l *list) String() string { return strings.Join(*l, " ") }

// Set implements flag.Value.
func (l *list) Set(s string) error { *l = append(slices.Clone(*l), s); return nil }
