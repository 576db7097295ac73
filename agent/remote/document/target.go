package document

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// Specificity of a target: of two documents that are meant for an agent the one
// with the more specific target counts.
type Specificity int

// The kinds of target.
const (
	All Specificity = iota + 1
	Label
	Agent
)

// Target says whom a document is for: "agent:<id>", "label:<name>=<value>" or
// "all"; with "/canary" behind it, for a part of them.
type Target struct {
	Kind   Specificity
	ID     string // of an Agent
	Name   string // of a Label
	Value  string
	Canary bool
}

const canarySuffix = "/canary"

// ParseTarget reads a target. A label's value that ends in "/canary" cannot be
// named: the end always means a canary.
func ParseTarget(s string) (Target, error) {
	base, canary := strings.CutSuffix(s, canarySuffix)
	t := Target{Canary: canary}
	kind, rest, _ := strings.Cut(base, ":")
	switch {
	case base == "all":
		t.Kind = All
	case kind == "agent" && isName(rest):
		t.Kind, t.ID = Agent, rest
	case kind == "label":
		name, value, ok := strings.Cut(rest, "=")
		if !ok || !isName(name) || len(value) > 256 || strings.ContainsFunc(value, unicode.IsControl) {
			return Target{}, errors.New("a label's target is label:NAME=VALUE")
		}
		t.Kind, t.Name, t.Value = Label, name, value
	default:
		return Target{}, fmt.Errorf("%.80q is no target (agent:ID, label:NAME=VALUE or all, each also with %s)", s, canarySuffix)
	}
	return t, nil
}

// String is the target as ParseTarget reads it; it is also the record's key.
func (t Target) String() string {
	s := "all"
	switch t.Kind {
	case Agent:
		s = "agent:" + t.ID
	case Label:
		s = "label:" + t.Name + "=" + t.Value
	}
	if t.Canary {
		s += canarySuffix
	}
	return s
}

// Matches says whether an agent is meant, the canary's share not considered.
func (t Target) Matches(id string, labels map[string]string) bool {
	switch t.Kind {
	case Agent:
		return t.ID == id
	case Label:
		value, has := labels[t.Name]
		return has && value == t.Value
	}
	return t.Kind == All
}

// Share is a number from 0 to 99 that an agent's id always has: the first 8 bytes
// of its SHA-256, as a big-endian number, modulo 100. An agent takes part in a
// canary whose percent is above it, so that a raised percent only adds agents.
func Share(id string) int {
	sum := sha256.Sum256([]byte(id))
	return int(binary.BigEndian.Uint64(sum[:8]) % 100)
}

// isName says whether s can be an agent's id or the name of a label.
func isName(s string) bool {
	odd := func(r rune) bool {
		return !(r|0x20 >= 'a' && r|0x20 <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-')
	}
	return len(s) >= 1 && len(s) <= 64 && s != "." && s != ".." && !strings.ContainsFunc(s, odd)
}
