package document

import (
	"errors"
	"slices"
	"strings"
	"time"

	"sluice/agent/remote/tree"
	"sluice/agent/remote/trust"
)

// MaxLife is the longest time between issued and expires of a command: its id is
// remembered for as long.
const MaxLife = 7 * 24 * time.Hour

// Command is something that an agent is to do once.
type Command struct {
	ID      string // unique; 1 to 64 of A-Z a-z 0-9 . _ -
	Target  Target
	Issued  time.Time
	Expires time.Time // at most MaxLife after Issued
	Kind    string    // one of Kinds
	Args    *tree.Node
}

// Kinds are the commands that there are.
var Kinds = []string{"replay", "log-level", "diagnostics", "modbus-write", "restart", "update"}

// Type is the payload type that the command must be signed with. An update of the
// agent has one of its own, so that a key for commands cannot order it.
func (c *Command) Type() string { return typeOf(c.Kind) }

func typeOf(kind string) string {
	if kind == "update" {
		return trust.TypeUpdate
	}
	return trust.TypeCommand
}

// ParseCommand reads a command document {id, target, issued, expires, kind,
// args}. args is a mapping and may be left out where the kind needs none; those of
// update are not looked at. The error is one line.
func ParseCommand(payload []byte) (*Command, error) {
	f, err := open(payload)
	if err != nil {
		return nil, err
	}
	c := &Command{ID: f.text("id", true), Target: f.target(), Issued: f.time("issued"), Expires: f.time("expires"),
		Kind: f.text("kind", true), Args: f.take("args")}
	f.ordered(c.Issued, c.Expires)
	if c.ID != "" && !isName(c.ID) {
		f.wrong("id: 1 to 64 of A-Z a-z 0-9 . _ - are allowed")
	}
	if c.Kind != "" && !slices.Contains(Kinds, c.Kind) {
		f.wrong("kind: %.40q is unknown (%s)", c.Kind, strings.Join(Kinds, ", "))
	}
	if c.Target.Canary {
		f.wrong("target: a command has no canary")
	}
	if c.Expires.Sub(c.Issued) > MaxLife {
		f.wrong("expires: is more than %s after issued", MaxLife)
	}
	switch {
	case c.Args == nil:
		c.Args = &tree.Node{Kind: tree.Mapping}
	case c.Args.Kind != tree.Mapping:
		f.wrong("args: a mapping is needed")
		return c, f.end()
	}
	if err = c.check(); err != nil {
		f.errs = append(f.errs, err)
	}
	return c, f.end()
}

// ParseTrust reads a trust document {number, epoch, issued, trust, threshold}: the
// keys that are trusted after it, each as remote.trust has them. The error is one
// line.
func ParseTrust(payload []byte) (trust.Rotation, time.Time, error) {
	f, err := open(payload)
	if err != nil {
		return trust.Rotation{}, time.Time{}, err
	}
	r := trust.Rotation{Number: f.number("number", true, 1), Epoch: f.number("epoch", false, 0), Threshold: int(min(f.number("threshold", true, 1), 1<<16))}
	issued := f.time("issued")
	list := f.take("trust")
	if list == nil || list.Kind != tree.List || len(list.Items) == 0 {
		f.wrong("trust: a list of keys is needed")
	} else {
		for _, item := range list.Items {
			if item.Kind != tree.Scalar {
				f.wrong("trust: a list of keys is needed")
				break
			}
			r.Trust = append(r.Trust, item.Text)
		}
	}
	return r, issued, f.end()
}

// TypeOf says what kind of document a text is by its keys: the payload type to
// sign it with.
func TypeOf(payload []byte) (string, error) {
	root, err := tree.Parse(payload)
	switch {
	case err != nil:
		return "", err
	case root.Get("target") != nil && root.Get("kind") != nil:
		return typeOf(root.Get("kind").Text), nil
	case root.Get("target") != nil:
		return trust.TypeConfig, nil
	case root.Get("number") != nil:
		return trust.TypeTrust, nil
	}
	return "", errors.New("neither a config (target, version, …), a command (target, kind, …) nor a trust document (number, trust, …)")
}
