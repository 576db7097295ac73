package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"sluice/agent/config"
	"sluice/agent/remote"
	"sluice/agent/remote/document"
	"sluice/agent/remote/tree"
	"sluice/agent/remote/trust"
)

// configSign signs a document, or adds a signature to one that is signed. It
// signs nothing that agents would refuse, and nothing with a secret in it.
func configSign(ctx context.Context, c *call) error {
	from := c.signerFlags()
	var w wrap
	out := c.flags.String("o", "", "write to this `file` (default: standard output)")
	base := c.flags.String("base", "", "a config `file` that a patch is tried on")
	c.flags.StringVar(&w.target, "target", "", "make a document of a plain config: for this `target`, such as agent:gw-1, label:site=plant-7 or all")
	c.flags.Uint64Var(&w.version, "version", 0, "its version; with --target")
	c.flags.Uint64Var(&w.epoch, "epoch", 0, "its epoch; with --target")
	c.flags.DurationVar(&w.life, "expires", 720*time.Hour, "how long it may be adopted; with --target")
	c.flags.IntVar(&w.percent, "percent", -1, "share of agents, for a target that ends in /canary; with --target")
	if err := c.parse(1); err != nil {
		return err
	}
	env, err := readUnsigned(c.rest[0], w)
	if err != nil {
		return err
	}
	doc, err := readContent(env)
	if err != nil {
		return invalidError{fmt.Errorf("%s is not signed: %w", c.rest[0], err)}
	}
	if err = c.worthy(doc, *base); err != nil {
		return err
	}
	s, done, err := from.open(ctx, c)
	defer done()
	if err != nil {
		return err
	}
	if err = env.Sign(s.key, s.sign); err != nil {
		return err
	}
	for _, line := range append(doc.lines(), [2]string{"signed by", s.key.ID()}, [2]string{"signatures", fmt.Sprint(len(env.Signatures))}) {
		fmt.Fprintf(c.Err, "%-10s %s\n", line[0], line[1])
	}
	signed := append(env.Encode(), '\n')
	if len(signed) > trust.MaxEnvelope {
		return fmt.Errorf("%s makes an envelope of %d bytes (at most %d)", c.rest[0], len(signed), trust.MaxEnvelope)
	}
	if *out == "" {
		_, err = c.Out.Write(signed)
		return err
	}
	return replaceFile(*out, signed)
}

// replaceFile writes a file that may be the one that was read: it is there whole
// before and after.
func replaceFile(path string, data []byte) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// wrap makes a document of a plain config.
type wrap struct {
	target         string
	version, epoch uint64
	life           time.Duration
	percent        int
}

// readUnsigned reads a document, an envelope, or with w.target a plain config.
func readUnsigned(path string, w wrap) (*trust.Envelope, error) {
	data, err := readLimited(path, trust.MaxEnvelope)
	if err != nil {
		return nil, err
	}
	if env, err := trust.Open(data); err == nil && w.target == "" {
		return env, nil
	}
	if w.target != "" {
		if data, err = w.document(data); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	kind, err := document.TypeOf(data)
	if err != nil {
		return nil, invalidError{fmt.Errorf("%s: %w (--target makes a document of a config)", path, err)}
	}
	return &trust.Envelope{Type: kind, Payload: data}, nil
}

// document puts the head of a document over a config. Comments are lost.
func (w wrap) document(text []byte) ([]byte, error) {
	root, err := tree.Parse(text)
	switch {
	case err != nil:
		return nil, err
	case root.Get("target") != nil:
		return nil, errors.New("is a document already, and --target is for a plain config")
	case w.version == 0:
		return nil, errors.New("--version is missing: one more than the last")
	}
	now := time.Now().UTC().Truncate(time.Second)
	var b bytes.Buffer
	fmt.Fprintf(&b, "target: %s\nepoch: %d\nversion: %d\nissued: %s\nexpires: %s\n", tree.Plain(w.target), w.epoch, w.version,
		now.Format(time.RFC3339), now.Add(w.life).Format(time.RFC3339))
	if w.percent >= 0 {
		fmt.Fprintf(&b, "percent: %d\n", w.percent)
	}
	b.WriteString("config:\n")
	body := (&tree.Node{Kind: tree.Mapping, Entries: []tree.Entry{{Key: "config", Value: root}}}).Encode()
	_, body, _ = bytes.Cut(body, []byte("\n"))
	b.Write(body)
	return b.Bytes(), nil
}

// worthy says what speaks against signing a document.
func (c *call) worthy(doc content, base string) error {
	if doc.config == nil {
		return nil
	}
	if err := literalSecrets(doc.config); err != nil {
		return err
	}
	if doc.config.Withdrawn() {
		return nil
	}
	var text []byte
	if doc.config.Config != nil {
		text = doc.config.Config.Encode()
	} else {
		if base == "" {
			fmt.Fprintln(c.Err, "the patch is not tried: --base FILE names a config that it is for")
			return nil
		}
		running, err := readLimited(base, trust.MaxEnvelope)
		if err != nil {
			return err
		}
		if text, _, err = remote.Assemble(doc.config, running, running, nil); err != nil {
			return err
		}
	}
	_, err := config.Parse("config", text, config.Options{Env: c.Env, Operator: true})
	if err != nil {
		return invalidError{fmt.Errorf("the config is not valid, nothing is signed: %s", strings.ReplaceAll(err.Error(), "\n", "; "))}
	}
	return nil
}

// literalSecrets refuses a document that holds a secret: whoever may read the
// topic could read it.
func literalSecrets(d *document.Document) error {
	var places []string
	look := func(leaves []tree.Leaf, is func(keys []string) bool) {
		for _, leaf := range leaves {
			if leaf.Node.Kind == tree.Scalar && is(leaf.Keys) && config.IsLiteral(leaf.Node.Text) {
				places = append(places, leaf.Path)
			}
		}
	}
	if d.Config != nil {
		look(d.Config.Leaves(), config.IsSecret)
	}
	for _, change := range d.Patch {
		leaves, err := tree.LeavesAt(change.Path, change.Value)
		if err != nil {
			return err
		}
		// Where the names in a path end is known where it is applied. So the last key
		// decides.
		look(leaves, func(keys []string) bool { return config.IsSecretName(keys[len(keys)-1]) })
	}
	if len(places) == 0 {
		return nil
	}
	return invalidError{fmt.Errorf("%s: a secret in plain text, which everybody could read who reads the topic (write ${file:/run/secrets/NAME} or ${NAME})",
		strings.Join(places, ", "))}
}
