package tree

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A path names a place in a tree: keys with dots between them, such as
// sources.bus-a.modbus.devices.meter-2.every, and [0] behind a key for the first
// item of a list. A key with a dot in it needs no quotes where it is there
// already, since the longest key that fits is taken; a new one is written
// "in.quotes".

// maxPath bounds a path.
const maxPath = 1024

// step is one part of a path: a key that was quoted, a word, or an index.
type step struct {
	text  string
	exact bool // was in quotes: not to be joined with what follows
	index int  // -1: a key
}

// split takes a path apart.
func split(path string) (steps []step, err error) {
	if path == "" || len(path) > maxPath || !utf8.ValidString(path) {
		return nil, fmt.Errorf("path of %d bytes (1 to %d, in UTF-8)", len(path), maxPath)
	}
	rest := path
	for more := true; more; {
		var s step
		if s, rest, err = next(rest); err != nil {
			return nil, fmt.Errorf("path %q: %w", clean(path), err)
		}
		steps = append(steps, s)
		for strings.HasPrefix(rest, "[") {
			digits, after, ok := strings.Cut(rest[1:], "]")
			n, err := strconv.ParseUint(digits, 10, 16)
			if !ok || err != nil {
				return nil, fmt.Errorf("path %q: [ without a number and ]", clean(path))
			}
			steps, rest = append(steps, step{index: int(n)}), after
		}
		if more = rest != ""; more {
			var dot bool
			if rest, dot = strings.CutPrefix(rest, "."); !dot {
				return nil, fmt.Errorf("path %q: a dot is missing", clean(path))
			}
		}
	}
	if len(steps) > MaxDepth {
		return nil, fmt.Errorf("path %q: more than %d levels", clean(path), MaxDepth)
	}
	return steps, nil
}

// next takes one key off a path.
func next(s string) (step, string, error) {
	if strings.HasPrefix(s, `"`) {
		word, rest, ok := strings.Cut(s[1:], `"`)
		if !ok || word == "" {
			return step{}, "", fmt.Errorf("a quote without its end")
		}
		return step{text: word, exact: true, index: -1}, rest, nil
	}
	end := strings.IndexAny(s, ".[")
	if end < 0 {
		end = len(s)
	}
	if end == 0 {
		return step{}, "", fmt.Errorf("an empty part")
	}
	return step{text: s[:end], index: -1}, s[end:], nil
}

// take finds the key of a mapping that the first steps name, the longest that is
// there; without one it is the first word. It returns how many steps it took.
func (n *Node) take(steps []step) (key string, used int) {
	key, used = steps[0].text, 1
	if steps[0].exact || n == nil {
		return key, used
	}
	joined := key
	for i := 1; i < len(steps) && steps[i].index < 0 && !steps[i].exact; i++ {
		joined += "." + steps[i].text
		if n.find(joined) >= 0 {
			key, used = joined, i+1
		}
	}
	return key, used
}

// Lookup is the node at a path; nil if nothing is there.
func (n *Node) Lookup(path string) (*Node, error) {
	steps, err := split(path)
	if err != nil {
		return nil, err
	}
	for len(steps) > 0 && n != nil {
		if i := steps[0].index; i >= 0 {
			if n.Kind != List || i >= len(n.Items) {
				return nil, nil
			}
			n, steps = n.Items[i], steps[1:]
			continue
		}
		key, used := n.take(steps)
		n, steps = n.Get(key), steps[used:]
	}
	return n, nil
}

// Set puts a copy of v at a path. Mappings on the way that are missing are made;
// a scalar on the way, or an item that a list does not have, is an error, and
// then nothing is changed. v of kind Null takes away what is there.
func (n *Node) Set(path string, v *Node) error {
	steps, err := split(path)
	if err != nil {
		return err
	}
	if err := n.set(steps, v.Clone()); err != nil {
		return fmt.Errorf("path %q: %w", clean(path), err)
	}
	return nil
}

func (n *Node) set(steps []step, v *Node) error {
	if i := steps[0].index; i >= 0 {
		switch {
		case n.Kind != List || i >= len(n.Items):
			return fmt.Errorf("there is no item [%d]", i)
		case len(steps) > 1:
			return n.Items[i].set(steps[1:], v)
		case v.Kind == Null:
			n.Items = append(n.Items[:i], n.Items[i+1:]...)
		default:
			n.Items[i] = v
		}
		return nil
	}
	if n.Kind != Mapping && n.Kind != Null {
		return fmt.Errorf("%q is below something that is no mapping", clean(steps[0].text))
	}
	key, used := n.take(steps)
	at := n.find(key)
	switch {
	case used < len(steps):
		child := n.Get(key)
		if child == nil {
			if v.Kind == Null { // nothing to take away
				return nil
			}
			child = &Node{Kind: Mapping}
		}
		if err := child.set(steps[used:], v); err != nil {
			return err
		}
		v = child
	case v.Kind == Null:
		if at >= 0 {
			n.Entries = append(n.Entries[:at], n.Entries[at+1:]...)
		}
		return nil
	}
	n.Kind = Mapping
	if at >= 0 {
		n.Entries[at].Value = v
	} else {
		n.Entries = append(n.Entries, Entry{key, v})
	}
	return nil
}

// Leaf is one scalar of a tree, or a mapping or list without anything in it.
type Leaf struct {
	Path string   // as Set takes it
	Keys []string // the same, part by part; "" for an item of a list
	Node *Node
}

// LeavesAt lists the leaves that Set would put at a path, whatever is there. Which
// words of the path are one key is not known without that, so each is a key of its own.
func LeavesAt(path string, v *Node) ([]Leaf, error) {
	steps, err := split(path)
	if err != nil {
		return nil, err
	}
	at := Leaf{Path: path}
	for _, s := range steps {
		at.Keys = append(at.Keys, s.text) // "" of an item
	}
	return v.leaves(nil, at), nil
}

// Leaves lists the scalars and empty nodes in the order of the text.
func (n *Node) Leaves() (list []Leaf) { return n.leaves(nil, Leaf{}) }

func (n *Node) leaves(list []Leaf, at Leaf) []Leaf {
	if len(n.Entries) == 0 && len(n.Items) == 0 {
		at.Node = n
		return append(list, at)
	}
	for _, e := range n.Entries {
		list = e.Value.leaves(list, at.below(quotedKey(e.Key), e.Key))
	}
	for i, item := range n.Items {
		below := at.below("", "")
		below.Path = at.Path + "[" + strconv.Itoa(i) + "]"
		list = item.leaves(list, below)
	}
	return list
}

func (l Leaf) below(word, key string) Leaf {
	path := word
	if l.Path != "" {
		path = l.Path + "." + word
	}
	return Leaf{Path: path, Keys: append(l.Keys[:len(l.Keys):len(l.Keys)], key)}
}

func quotedKey(key string) string {
	if strings.ContainsAny(key, `.[]`) || key == "" {
		return `"` + key + `"`
	}
	return key
}
