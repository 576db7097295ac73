package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing that is wrong with a config file.
type Problem struct {
	File    string
	Line    int    // from 1; 0: the file as a whole
	Column  int    // from 1
	Path    string // dotted, such as sources.bus-a.modbus.devices.meter-1.unit; empty: the file as a whole
	Wrong   string // what is wrong, without the value where that is secret
	Allowed string // what is allowed, or what to do
}

// String is the problem as one line: file:line:col: path: wrong (allowed).
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	if p.Path != "" {
		b.WriteString(": " + p.Path)
	}
	b.WriteString(": " + p.Wrong)
	if p.Allowed != "" {
		b.WriteString(" (" + p.Allowed + ")")
	}
	return b.String()
}

// Problems is everything that is wrong with a file, in the order of the file.
// It is the error of Load and Parse.
type Problems []Problem

// Error lists all problems, one a line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// sort orders by position; problems at the same place keep their order.
func (ps Problems) sort() {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

// position is a place in the file.
type position struct{ line, column int }

// positions knows where each dotted path stands. A path that isn't in the file
// stands where its nearest parent does.
type positions map[string]position

func (ps positions) of(path string) position {
	for {
		if at, ok := ps[path]; ok {
			return at
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			return position{1, 1}
		}
		path = path[:cut]
	}
}
