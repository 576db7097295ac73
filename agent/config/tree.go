package config

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Bounds of a file, so that a wrong one costs little time and stack.
const (
	maxDepth = 64    // nested lists and mappings
	maxKeys  = 20000 // keys and list items; the parser's time grows with their square
)

// parse turns the text into a tree. On any problem it reports it and returns nil.
func (d *decoder) parse(data []byte) (body ast.Node) {
	if !d.checkText(data) {
		return nil
	}
	start := position{1, 1}
	// The parser is not ours and the text may come from anywhere: a defect in it
	// must end in a message.
	defer func() {
		if r := recover(); r != nil {
			d.wrongAt(start, "", "cannot be read as YAML", "write it more simply; the parser gave up")
			body = nil
		}
	}()
	tokens := lexer.Tokenize(string(data))
	if !d.checkTokens(tokens) {
		return nil
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		d.syntax(err, data)
		return nil
	}
	return d.document(file)
}

// checkText refuses what is no text at all.
func (d *decoder) checkText(data []byte) bool {
	start := position{1, 1}
	switch at := bytes.IndexByte(data, 0); {
	case len(data) > maxFile:
		d.wrongAt(start, "", "the file is larger than "+Size(maxFile).String(), "a config of at most "+Size(maxFile).String())
	case bytes.HasPrefix(data, []byte{0xff, 0xfe}), bytes.HasPrefix(data, []byte{0xfe, 0xff}):
		d.wrongAt(start, "", "the file is UTF-16", "save it as UTF-8")
	case bytes.HasPrefix(data, []byte("\xef\xbb\xbf")):
		d.wrongAt(start, "", "the file starts with a byte order mark", "save it as UTF-8 without BOM")
	case !utf8.Valid(data):
		d.wrongAt(placeIn(data, invalidAt(data)), "", "the file is not UTF-8", "save it as UTF-8")
	case at >= 0:
		d.wrongAt(placeIn(data, at), "", "the file holds a NUL byte", "text in UTF-8")
	default:
		return true
	}
	return false
}

// invalidAt is the offset of the first byte that is not UTF-8.
func invalidAt(data []byte) int {
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return len(data)
}

// placeIn is the line and column of an offset.
func placeIn(data []byte, offset int) position {
	before := data[:offset]
	return position{1 + bytes.Count(before, []byte("\n")), 1 + utf8.RuneCount(before[1+bytes.LastIndexByte(before, '\n'):])}
}

// checkTokens bounds nesting, keys and list items before the parser, which recurses, sees
// them.
func (d *decoder) checkTokens(tokens token.Tokens) bool {
	flow, line, inLine, keys := 0, 0, 0, 0
	for _, tk := range tokens {
		if tk.Position.Line != line {
			line, inLine = tk.Position.Line, 0
		}
		switch tk.Type {
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow--
		case token.SequenceEntryType:
			inLine++
			keys++
		case token.MappingKeyType, token.TagType, token.AnchorType, token.AliasType:
			inLine++
		case token.MappingValueType:
			keys++
		}
		if flow > maxDepth || inLine > maxDepth {
			d.wrongAt(at(tk), "", "is nested too deeply", fmt.Sprintf("at most %d levels", maxDepth))
			return false
		}
	}
	if keys > maxKeys {
		d.wrongAt(position{1, 1}, "", fmt.Sprintf("the file has %d keys and list items", keys), fmt.Sprintf("at most %d", maxKeys))
		return false
	}
	return true
}

// syntax reports what the parser found.
func (d *decoder) syntax(err error, data []byte) {
	var se interface {
		GetMessage() string
		GetToken() *token.Token
	}
	place, message := position{1, 1}, "it cannot be read"
	if errors.As(err, &se) {
		message = strings.ReplaceAll(se.GetMessage(), "\t", "tab")
		if tk := se.GetToken(); tk != nil && tk.Position != nil {
			place = at(tk)
		}
	}
	hint := "look at brackets, quotes and indent, in the lines above too"
	line := lineOf(data, place.line)
	switch {
	case strings.Contains(line, "\t"):
		hint = "indent with spaces: YAML takes no tabs"
	case strings.Contains(line, "${"):
		hint = `put values with ${…} in double quotes`
	}
	d.wrongAt(place, "", "is not valid YAML: "+clip(message), hint)
}

// lineOf is a line by its number from 1.
func lineOf(data []byte, number int) string {
	lines := bytes.SplitN(data, []byte("\n"), number+1)
	if number < 1 || number > len(lines) {
		return ""
	}
	return string(lines[number-1])
}

// document is the one mapping that a file must hold.
func (d *decoder) document(file *ast.File) ast.Node {
	const want = "a mapping that starts with version: 1"
	var body ast.Node
	for _, doc := range file.Docs {
		switch {
		case doc.Body == nil || doc.Body.Type() == ast.NullType:
		case doc.Body.Type() == ast.DirectiveType:
			d.wrongAt(placeOf(doc.Body), "", "has a YAML directive", "leave it out")
			return nil
		case body != nil:
			d.wrongAt(placeOf(doc.Body), "", "has a second document", "one document, without a further ---")
			return nil
		default:
			body = doc.Body
		}
	}
	switch {
	case body == nil:
		d.wrongAt(position{1, 1}, "", "the file is empty", want)
	case body.Type() != ast.MappingType && body.Type() != ast.MappingValueType:
		d.wrongAt(placeOf(body), "", "the file is "+kind(body), want)
	}
	return body
}

// entry is one pair of a mapping.
type entry struct {
	key   string
	at    position
	value ast.Node
}

// entries lists the pairs of a mapping, without those that have a problem. A
// node without a value is an empty mapping. ok is false when n is no mapping.
func (d *decoder) entries(n ast.Node, path, want string) (list []entry, ok bool) {
	var pairs []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		pairs = n.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{n}
	case *ast.NullNode:
		return nil, true
	default:
		d.wrong(path, "is "+kind(n), want)
		return nil, false
	}
	lines := map[string]int{}
	for _, pair := range pairs {
		e, fine := d.entry(pair, path)
		if !fine {
			continue
		}
		if first := lines[e.key]; first > 0 {
			d.wrongAt(e.at, join(path, e.key), fmt.Sprintf("is there twice, first in line %d", first), "each key once")
			continue
		}
		lines[e.key] = e.at.line
		d.place(join(path, e.key), e)
		list = append(list, e)
	}
	return list, true
}

// entry reads one pair; keys that are more than a plain word are refused.
func (d *decoder) entry(pair *ast.MappingValueNode, path string) (entry, bool) {
	e := entry{at: placeOf(pair.Key), value: pair.Value}
	switch key := pair.Key.(type) {
	case *ast.StringNode:
		e.key = key.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
		e.key = key.GetToken().Value
	case *ast.MergeKeyNode:
		d.wrongAt(e.at, path, "has a merge key <<, which is not supported", "write the keys out; Modbus devices share tags through profiles")
		return e, false
	default:
		d.wrongAt(e.at, path, "has a key that is "+kind(key), "plain words as keys")
		return e, false
	}
	return e, true
}

// place notes where a path stands: a word where it starts, a mapping or list at
// its key.
func (d *decoder) place(path string, e entry) {
	switch e.value.(type) {
	case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.LiteralNode:
		d.cfg.where[path] = placeOf(e.value)
	default:
		d.cfg.where[path] = e.at
	}
}

// unsupported refuses what YAML has and a config does not need.
func (d *decoder) unsupported(n ast.Node, path string) bool {
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode:
		d.wrongAt(placeOf(n), path, "has "+kind(n)+", which is not supported", "write the value out; Modbus devices share tags through profiles")
	case *ast.TagNode:
		d.wrongAt(placeOf(n), path, "has "+kind(n)+", which is not supported", "the value without it")
	default:
		return false
	}
	return true
}

// kind names what a node is.
func kind(n ast.Node) string {
	switch n.Type() {
	case ast.MappingType, ast.MappingValueType:
		return "a mapping"
	case ast.SequenceType:
		return "a list"
	case ast.StringType, ast.LiteralType:
		return "a text"
	case ast.IntegerType, ast.FloatType, ast.InfinityType, ast.NanType:
		return "a number"
	case ast.BoolType:
		return "true or false"
	case ast.NullType:
		return "empty"
	case ast.AnchorType:
		return "an anchor &"
	case ast.AliasType:
		return "an alias *"
	case ast.TagType:
		return "a YAML tag !"
	}
	return "not a plain value"
}

// placeOf is where a node starts.
func placeOf(n ast.Node) position {
	if pair, ok := n.(*ast.MappingValueNode); ok {
		return placeOf(pair.Key)
	}
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		return placeOf(m.Values[0].Key)
	}
	return at(n.GetToken())
}

// at is where a token stands; the lexer counts some columns from 0.
func at(tk *token.Token) position {
	return position{max(tk.Position.Line, 1), max(tk.Position.Column, 1)}
}

// join is the path of a key; names of up to 128 bytes stay whole.
func join(path, key string) string {
	key = clipTo(key, 128)
	if path == "" {
		return key
	}
	return path + "." + key
}

func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }
