package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// The list form of classes.NAME.when_full: steps of thinning, then a word.
const (
	ladderLike = "[ thin: 1s, thin: 1m, drop_oldest ]"
	maxSteps   = 4
)

// whenFull decodes a word, or a list of steps that ends with one.
func (d *decoder) whenFull(v reflect.Value, f field, n ast.Node, path string) {
	var w WhenFull
	word := reflect.ValueOf(&w).Elem().FieldByName("Word")
	seq, isList := n.(*ast.SequenceNode)
	if !isList {
		d.scalar(word, f, n, path)
		v.Set(reflect.ValueOf(w))
		return
	}
	wordField := field{id: f.id + "[]", typ: word.Type(), enum: f.enum}
	for i, item := range seq.Values {
		at := index(path, i)
		d.cfg.where[at] = placeOf(item)
		switch last := i == len(seq.Values)-1; {
		case last && !isMapping(item):
			d.value(word, wordField, item, at)
		case last:
			d.step(&w, item, f.enum, at)
			d.wrong(at, "is a step, and no word follows", "one of "+wordField.allowed()+" at the end")
		default:
			d.step(&w, item, f.enum, at)
		}
	}
	switch n := len(seq.Values); {
	case n == 0:
		d.wrong(path, "is empty", f.allowed())
	case n == 1 && !d.bad[index(path, 0)]:
		d.wrong(path, "is a list without a step", "the word without brackets, or steps before it such as "+ladderLike)
	case n > maxSteps+1:
		d.wrong(index(path, maxSteps), fmt.Sprintf("is one step too many: there are %d", n-1), fmt.Sprintf("at most %d, then one word", maxSteps))
	}
	v.Set(reflect.ValueOf(w))
}

// step decodes one step and adds it to w. Its duration must be longer than those
// before.
func (d *decoder) step(w *WhenFull, n ast.Node, words []string, path string) {
	if d.unsupported(n, path) {
		return
	}
	if !isMapping(n) {
		d.wrong(path, d.notAStep(n, words, path), "steps such as thin: 1s, then one word at the end")
		return
	}
	var s thinStep
	d.structure(reflect.ValueOf(&s).Elem(), n, path)
	at := join(path, "thin")
	if d.bad[path] || d.bad[at] {
		return
	}
	if len(w.Thin) > 0 && s.Thin <= slices.Max(w.Thin) {
		d.wrong(at, d.show(at, formatDuration(s.Thin))+" is not longer than each step before", "durations that grow from step to step")
	}
	w.Thin = append(w.Thin, s.Thin)
}

// notAStep says what stands where a step should.
func (d *decoder) notAStep(n ast.Node, words []string, path string) string {
	if _, scalar := n.(ast.ScalarNode); !scalar || n.Type() == ast.NullType {
		return "is " + kind(n)
	}
	text, _ := d.word(n, field{}, path)
	if contains(words, text) {
		return quote(text) + " is not at the end"
	}
	return quote(text) + " is not a step"
}

func isMapping(n ast.Node) bool {
	return n.Type() == ast.MappingType || n.Type() == ast.MappingValueType
}

// ladder writes the list form, one element a line.
func (p *printer) ladder(w WhenFull, path string, depth int) {
	dash := strings.Repeat("  ", depth) + "- "
	p.out.WriteString("\n")
	for i, thin := range w.Thin {
		p.out.WriteString(dash + "thin: " + p.word(reflect.ValueOf(thin), join(index(path, i), "thin")) + "\n")
	}
	p.out.WriteString(dash + p.word(reflect.ValueOf(w.Word), index(path, len(w.Thin))) + "\n")
}
