// Package document reads what is signed: configs and patches for agents, commands,
// and trust documents. Reading is strict, because a signer who mistypes
// "expires" must learn of it: unknown and missing keys, keys that are there
// twice, anchors and other texts that could be read in two ways are refused.
//
// Everything here is a function of its arguments. Nothing blocks, and any
// goroutine may call it.
package document

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/agent/remote/tree"
)

// Document is a config, or a change to one, for some agents.
type Document struct {
	Target  Target
	Epoch   uint64
	Version uint64 // at least 1
	Issued  time.Time
	Expires time.Time // after Issued; from then on the document is not adopted any more
	Percent int       // of a canary: 0 to 100 of a hundred agents; else 100

	Config *tree.Node // a whole config; nil: see Patch
	Patch  []Change   // what to change in the config that is there, in this order
}

// Change is one entry of a patch.
type Change struct {
	Path  string     // as tree.Node.Set takes it
	Value *tree.Node // Null: take away what is there
}

// Withdrawn says whether the document only says that its target has none any
// more: its config is empty, and a less specific document counts again.
func (d *Document) Withdrawn() bool { return d.Config != nil && len(d.Config.Entries) == 0 }

// For says whether the document is meant for an agent. Of a canary it may be
// that only others of its target take part.
func (d *Document) For(id string, labels map[string]string) bool {
	return d.Target.Matches(id, labels) && Share(id) < d.Percent
}

// Parse reads a config document. The error is one line.
func Parse(payload []byte) (*Document, error) {
	f, err := open(payload)
	if err != nil {
		return nil, err
	}
	d := &Document{Target: f.target(), Epoch: f.number("epoch", false, 0), Version: f.number("version", true, 1),
		Issued: f.time("issued"), Expires: f.time("expires"), Percent: 100}
	f.ordered(d.Issued, d.Expires)
	if n := f.number("percent", d.Target.Canary, 0); f.has("percent") {
		switch {
		case n > 100:
			f.wrong("percent: %d (0 to 100)", n)
		case !d.Target.Canary && n != 100:
			f.wrong("percent: only a target that ends in %s has one", canarySuffix)
		}
		d.Percent = int(min(n, 100))
	}
	d.content(f)
	return d, f.end()
}

// content reads config or patch, one of which must be there.
func (d *Document) content(f *form) {
	config, patch := f.take("config"), f.take("patch")
	switch {
	case config != nil && patch != nil:
		f.wrong("config and patch: one of them only")
	case config != nil && config.Kind == tree.Mapping:
		d.Config = config
	case config != nil:
		f.wrong("config: a mapping is needed ({} withdraws the target's document)")
	case patch == nil:
		f.wrong("config: is missing (config, or patch in its place)")
	case patch.Kind != tree.Mapping || len(patch.Entries) == 0:
		f.wrong("patch: a mapping from paths to values is needed")
	default:
		for _, e := range patch.Entries {
			d.Patch = append(d.Patch, Change{Path: e.Key, Value: e.Value})
			if _, err := patch.Lookup(e.Key); err != nil {
				f.wrong("patch: %v", err)
			}
		}
	}
}

// Newer orders documents of the same target: by epoch, then by version.
func Newer(epoch, version, thanEpoch, thanVersion uint64) bool {
	return epoch > thanEpoch || epoch == thanEpoch && version > thanVersion
}

// form reads the top level of a document and notes what is wrong.
type form struct {
	root  *tree.Node
	taken []string
	errs  []error
}

func open(payload []byte) (*form, error) {
	root, err := tree.Parse(payload)
	if err != nil {
		return nil, err
	}
	return &form{root: root}, nil
}

func (f *form) wrong(format string, args ...any) {
	f.errs = append(f.errs, fmt.Errorf(format, args...))
}

func (f *form) has(key string) bool { return f.root.Get(key) != nil }

// take is the value of a key; nil without it.
func (f *form) take(key string) *tree.Node {
	f.taken = append(f.taken, key)
	return f.root.Get(key)
}

// text is a scalar as it is written.
func (f *form) text(key string, required bool) string {
	n := f.take(key)
	switch {
	case n == nil && required:
		f.wrong("%s: is missing", key)
	case n == nil:
	case n.Kind != tree.Scalar:
		f.wrong("%s: a single value is needed", key)
	default:
		return n.Text
	}
	return ""
}

func (f *form) target() Target {
	text := f.text("target", true)
	if text == "" {
		return Target{}
	}
	t, err := ParseTarget(text)
	if err != nil {
		f.wrong("target: %w", err)
	}
	return t
}

// number is a whole number in decimal, from least on.
func (f *form) number(key string, required bool, least uint64) uint64 {
	text := f.text(key, required)
	if text == "" {
		return 0
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || !f.root.Get(key).Bare || len(text) > 1 && text[0] == '0' {
		f.wrong("%s: %.40q is no whole number from %d to %d", key, text, least, uint64(1<<64-1))
		return 0
	}
	if n < least {
		f.wrong("%s: %d (at least %d)", key, n, least)
	}
	return n
}

// time is a point in time as RFC 3339 writes it.
func (f *form) time(key string) time.Time {
	text := f.text(key, true)
	if text == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || t.Year() < 2000 {
		f.wrong("%s: %.40q is no time (2026-01-02T03:04:05Z)", key, text)
	}
	return t.UTC()
}

// ordered wants expires after issued.
func (f *form) ordered(issued, expires time.Time) {
	if len(f.errs) == 0 && !expires.After(issued) {
		f.wrong("expires: is not after issued")
	}
}

// end is everything that is wrong, in one line; keys that nobody took are.
func (f *form) end() error {
	for _, e := range f.root.Entries {
		if !slices.Contains(f.taken, e.Key) {
			f.wrong("%.40q is not a known key (known: %s)", e.Key, strings.Join(f.taken, ", "))
		}
	}
	if len(f.errs) == 0 {
		return nil
	}
	const most = 4
	lines := make([]string, 0, most)
	for _, err := range f.errs[:min(len(f.errs), most)] {
		lines = append(lines, err.Error())
	}
	return errors.New(strings.Join(lines, "; "))
}
