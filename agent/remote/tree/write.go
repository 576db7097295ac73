package tree

import (
	"encoding/json"
	"slices"
	"strings"
)

// Encode writes the tree as YAML in block style, two spaces a level. Parse reads
// it back to an equal tree. Comments are not kept.
func (n *Node) Encode() []byte {
	var b strings.Builder
	if n.Kind == Mapping && len(n.Entries) == 0 {
		return []byte("{}\n")
	}
	n.write(&b, 0)
	return []byte(b.String())
}

// write writes the lines of a mapping or list that is not empty.
func (n *Node) write(b *strings.Builder, depth int) {
	indent := strings.Repeat("  ", depth)
	for _, e := range n.Entries {
		b.WriteString(indent + Plain(e.Key) + ":")
		e.Value.writeValue(b, depth)
	}
	for _, item := range n.Items {
		b.WriteString(indent + "-")
		if item.Kind == Mapping && len(item.Entries) > 0 { // its first key stands behind the dash
			var inner strings.Builder
			item.write(&inner, depth+1)
			b.WriteString(" " + strings.TrimLeft(inner.String(), " "))
			continue
		}
		item.writeValue(b, depth)
	}
}

// writeValue writes what follows a key or a dash, and ends the line.
func (n *Node) writeValue(b *strings.Builder, depth int) {
	if len(n.Entries) > 0 || len(n.Items) > 0 {
		b.WriteString("\n")
		n.write(b, depth+1)
		return
	}
	if s := n.Word(); s != "" {
		b.WriteString(" " + s)
	}
	b.WriteString("\n")
}

// Word is a scalar as it stands in a text; "{}" or "[]" for what is empty, and
// nothing for null.
func (n *Node) Word() string {
	switch {
	case n.Kind == Mapping:
		return "{}"
	case n.Kind == List:
		return "[]"
	case n.Kind == Null:
		return ""
	case n.Bare:
		return n.Text
	}
	return Plain(n.Text)
}

// Plain writes a text without quotes where no reader of YAML could take it for
// something else.
func Plain(s string) string {
	odd := func(r rune) bool {
		return !(r|0x20 >= 'a' && r|0x20 <= 'z' || r >= '0' && r <= '9' || strings.ContainsRune("._-/", r))
	}
	starts := s != "" && (s[0]|0x20 >= 'a' && s[0]|0x20 <= 'z' || s[0] == '/')
	reserved := []string{"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
	if starts && !strings.ContainsFunc(s, odd) && !slices.Contains(reserved, strings.ToLower(s)) {
		return s
	}
	// JSON's strings are a part of YAML's.
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string always encodes
	return strings.TrimSuffix(b.String(), "\n")
}
