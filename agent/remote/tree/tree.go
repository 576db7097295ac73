// Package tree reads the plain part of YAML into a tree, changes it by paths, and
// writes it again. It is for signed documents and configs: what needs no anchor,
// alias, tag, merge key or second document has none, so that a text means the
// same to everybody who reads it, and costs no more to read than its length.
//
// A tree is for one goroutine. Nothing blocks.
package tree

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds of a text.
const (
	MaxBytes = 1 << 20
	MaxDepth = 64    // nested lists and mappings
	maxKeys  = 20000 // keys and list items; the parser's time grows with their square
)

// Kind is what a node is.
type Kind int

// The kinds.
const (
	Scalar  Kind = iota
	Null         // nothing was written
	Mapping      // Entries, no two with the same key
	List         // Items
)

// Node is one value. A number, true or false is a scalar that is Bare: it is
// written again as it was.
type Node struct {
	Kind    Kind
	Text    string // of a scalar, without quotes
	Bare    bool   // of a scalar: no text, so that it must not be quoted
	Entries []Entry
	Items   []*Node
	Line    int // from 1, where it stands in the text; 0: it came by Set
}

// Entry is one pair of a mapping.
type Entry struct {
	Key   string
	Value *Node
}

// Parse reads a text that holds one mapping. The error is one line, with the
// number of the line.
func Parse(text []byte) (root *Node, err error) {
	switch {
	case len(text) > MaxBytes:
		return nil, fmt.Errorf("%d bytes (at most %d)", len(text), MaxBytes)
	case !utf8.Valid(text) || bytes.IndexByte(text, 0) >= 0:
		return nil, errors.New("not a text in UTF-8")
	}
	// The parser is not ours and the text may come from anywhere: a defect in it
	// must end in an error.
	defer func() {
		if r := recover(); r != nil {
			root, err = nil, errors.New("cannot be read as YAML: the parser gave up")
		}
	}()
	tokens := lexer.Tokenize(string(text))
	if err := checkTokens(tokens); err != nil {
		return nil, err
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, syntax(err)
	}
	return document(file)
}

// checkTokens bounds nesting, keys and items before the parser, which recurses,
// sees them.
func checkTokens(tokens token.Tokens) error {
	flow, line, inLine, keys := 0, 0, 0, 0
	for _, tk := range tokens {
		if tk.Position.Line != line {
			line, inLine = tk.Position.Line, 0
		}
		switch tk.Type {
		case token.AnchorType, token.AliasType, token.TagType, token.MergeKeyType, token.DirectiveType:
			return fmt.Errorf("line %d: anchors, aliases, tags, merge keys and directives are not allowed", max(line, 1))
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow--
		case token.SequenceEntryType:
			inLine++
			keys++
		case token.MappingKeyType:
			inLine++
		case token.MappingValueType, token.CollectEntryType:
			keys++
		}
		if flow > MaxDepth || inLine > MaxDepth {
			return fmt.Errorf("line %d: nested too deeply (at most %d levels)", line, MaxDepth)
		}
	}
	if keys > maxKeys {
		return fmt.Errorf("%d keys and list items (at most %d)", keys, maxKeys)
	}
	return nil
}

// syntax is what the parser found, in one line.
func syntax(err error) error {
	var se interface {
		GetMessage() string
		GetToken() *token.Token
	}
	line, message := 1, "it cannot be read"
	if errors.As(err, &se) {
		message = clean(se.GetMessage())
		if tk := se.GetToken(); tk != nil && tk.Position != nil {
			line = max(tk.Position.Line, 1)
		}
	}
	return fmt.Errorf("line %d: not valid YAML: %s", line, message)
}

// clean makes one short line of a text.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
	if r := []rune(s); len(r) > 80 {
		return string(r[:77]) + "..."
	}
	return s
}

// document is the one mapping that a text must hold.
func document(file *ast.File) (*Node, error) {
	var body ast.Node
	for _, doc := range file.Docs {
		switch {
		case doc.Body == nil || doc.Body.Type() == ast.NullType:
		case body != nil:
			return nil, fmt.Errorf("line %d: a second document", lineOf(doc.Body))
		default:
			body = doc.Body
		}
	}
	if body == nil {
		return nil, errors.New("it is empty")
	}
	n, err := convert(body, 0)
	if err == nil && n.Kind != Mapping {
		return nil, errors.New("it is no mapping")
	}
	return n, err
}

func lineOf(n ast.Node) int { return max(n.GetToken().Position.Line, 1) }

func convert(n ast.Node, depth int) (*Node, error) {
	if depth > MaxDepth {
		return nil, fmt.Errorf("line %d: nested too deeply (at most %d levels)", lineOf(n), MaxDepth)
	}
	switch n := n.(type) {
	case *ast.MappingNode:
		return mapping(n.Values, lineOf(n), depth)
	case *ast.MappingValueNode:
		return mapping([]*ast.MappingValueNode{n}, lineOf(n), depth)
	case *ast.SequenceNode:
		list := &Node{Kind: List, Line: lineOf(n)}
		for _, v := range n.Values {
			item, err := convert(v, depth+1)
			if err != nil {
				return nil, err
			}
			list.Items = append(list.Items, item)
		}
		return list, nil
	case *ast.StringNode:
		return &Node{Text: n.Value, Line: lineOf(n)}, nil
	case *ast.LiteralNode:
		return &Node{Text: n.Value.Value, Line: lineOf(n)}, nil
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return &Node{Text: n.GetToken().Value, Bare: true, Line: lineOf(n)}, nil
	case *ast.NullNode:
		return &Node{Kind: Null, Line: lineOf(n)}, nil
	}
	return nil, fmt.Errorf("line %d: not a plain value", lineOf(n))
}

func mapping(pairs []*ast.MappingValueNode, line, depth int) (*Node, error) {
	m := &Node{Kind: Mapping, Line: line}
	seen := map[string]bool{}
	for _, pair := range pairs {
		var key string
		switch k := pair.Key.(type) {
		case *ast.StringNode:
			key = k.Value
		case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
			key = k.GetToken().Value
		default:
			return nil, fmt.Errorf("line %d: a key that is not a plain word", lineOf(pair))
		}
		if seen[key] {
			return nil, fmt.Errorf("line %d: key %q is there twice", lineOf(pair), clean(key))
		}
		seen[key] = true
		v, err := convert(pair.Value, depth+1)
		if err != nil {
			return nil, err
		}
		m.Entries = append(m.Entries, Entry{key, v})
	}
	return m, nil
}

// Get is the value of a key of a mapping; nil without it.
func (n *Node) Get(key string) *Node {
	if i := n.find(key); i >= 0 {
		return n.Entries[i].Value
	}
	return nil
}

func (n *Node) find(key string) int {
	if n == nil || n.Kind != Mapping {
		return -1
	}
	return slices.IndexFunc(n.Entries, func(e Entry) bool { return e.Key == key })
}

// Clone is a deep copy.
func (n *Node) Clone() *Node {
	if n == nil {
		return nil
	}
	c := *n
	c.Entries, c.Items = slices.Clone(n.Entries), slices.Clone(n.Items)
	for i := range c.Entries {
		c.Entries[i].Value = c.Entries[i].Value.Clone()
	}
	for i := range c.Items {
		c.Items[i] = c.Items[i].Clone()
	}
	return &c
}

// Equal says whether two trees say the same: the order of keys and the place in
// the text do not count.
func Equal(a, b *Node) bool {
	if a == nil || b == nil {
		return a == b
	}
	if a.Kind != b.Kind || a.Text != b.Text || a.Bare != b.Bare || len(a.Entries) != len(b.Entries) || len(a.Items) != len(b.Items) {
		return false
	}
	for _, e := range a.Entries {
		if !Equal(e.Value, b.Get(e.Key)) {
			return false
		}
	}
	for i := range a.Items {
		if !Equal(a.Items[i], b.Items[i]) {
			return false
		}
	}
	return true
}
