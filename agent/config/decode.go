package config

import (
	"errors"
	"reflect"
	"strconv"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// decoder fills the structs from the tree of a YAML file and collects problems.
// It goes on after each of them, so that one pass finds all.
type decoder struct {
	file      string
	x         *expander
	cfg       *Config
	problems  Problems
	bad       map[string]bool // paths that have a problem already
	all       bool            // takes what this version does not build; for tests of the rules about it
	operator  bool            // see Options.Operator
	tool      bool            // see Options.Tool
	assembled bool            // see Options.Assembled
}

// run does all steps: text, YAML, structs, rules.
func (d *decoder) run(data []byte, hostname func() (string, error)) {
	body := d.parse(data)
	if len(d.problems) > 0 {
		return
	}
	root := reflect.ValueOf(d.cfg).Elem()
	d.structure(root, body, "")
	d.partUplinks()
	d.complete(hostname)
	d.check()
}

// wrongAt adds a problem at a place in the file.
func (d *decoder) wrongAt(at position, path, wrong, allowed string) {
	d.bad[path] = true
	d.problems = append(d.problems, Problem{
		File: d.file, Line: at.line, Column: at.column, Path: path, Wrong: wrong, Allowed: allowed,
	})
}

// wrong adds a problem at the place of path, unless path has one already: what
// follows from a wrong value is no news.
func (d *decoder) wrong(path, wrong, allowed string) {
	if !d.bad[path] {
		d.wrongAt(d.cfg.where.of(path), path, wrong, allowed)
	}
}

// value decodes n into v, whatever kind of field it is.
func (d *decoder) value(v reflect.Value, f field, n ast.Node, path string) {
	if d.unsupported(n, path) {
		return
	}
	whole := v
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	switch {
	case v.Type() == whenFullType:
		d.whenFull(v, f, n, path)
	case v.Type() == secretType:
		d.secret(v, f, n, path)
	case isScalar(v.Type()):
		d.scalar(v, f, n, path)
	case f.named:
		d.named(v, f, n, path)
	case v.Kind() == reflect.Struct:
		d.structure(v, n, path)
	case v.Kind() == reflect.Slice:
		d.list(v, f, n, path)
	case v.Kind() == reflect.Map:
		d.mapping(v, f, n, path)
	}
	if allowed, yes := f.refused(whole); yes && !d.all && !d.bad[path] {
		wrong := "is not available in this version"
		if v.Kind() == reflect.String {
			wrong = d.show(path, v.String()) + " " + wrong
		}
		d.wrong(path, wrong, "allowed: "+allowed)
	}
}

// show quotes the value at path for a problem. What came out of a file may be a
// secret, so that only the reference is shown.
func (d *decoder) show(path, value string) string {
	if source, ok := d.cfg.fromFile[path]; ok {
		return "what " + strconv.Quote(source) + " gives"
	}
	return quote(value)
}

// structure decodes a mapping into a struct. Without a key a field has its
// default.
func (d *decoder) structure(v reflect.Value, n ast.Node, path string) {
	setDefaults(v)
	fields := fieldsOf(v.Type())
	entries, ok := d.entries(n, path, "a mapping")
	given := map[string]bool{}
	for _, e := range entries {
		given[e.key] = true
		d.field(v, fields, e, path)
	}
	if !ok {
		return
	}
	for _, f := range fields {
		if f.unless == "" || !d.isTrue(v, fields, f.unless, path) {
			d.require(v.Field(f.index), f, given[f.key], join(path, f.key))
		}
	}
}

// isTrue says whether the bool under key is true, or may be meant to be.
func (d *decoder) isTrue(v reflect.Value, fields []field, key, path string) bool {
	f := find(fields, func(f *field) bool { return f.key == key })
	return f != nil && v.Field(f.index).Bool() || d.bad[join(path, key)]
}

// field decodes one entry of a mapping into its field.
func (d *decoder) field(v reflect.Value, fields []field, e entry, path string) {
	f := find(fields, func(f *field) bool { return f.key == e.key })
	if f == nil {
		allowed, meant := suggest(e.key, fields)
		d.wrongAt(e.at, join(path, e.key), "is not a known key", allowed)
		// What is missing for that reason is no news.
		d.bad[path], d.bad[join(path, meant)] = true, true
		return
	}
	d.value(v.Field(f.index), *f, e.value, join(path, e.key))
}

// require reports a field that must be there and is not.
func (d *decoder) require(v reflect.Value, f field, given bool, path string) {
	if !f.required && f.unless == "" || d.bad[path] || d.tool && path == "sources" {
		return
	}
	if !given {
		d.wrong(path, "is missing", f.allowed())
	} else if k := v.Kind(); (k == reflect.String || k == reflect.Slice || k == reflect.Map) && v.Len() == 0 {
		d.wrong(path, "is empty", f.allowed())
	}
}

// named decodes a mapping from names into a slice of structs with a Name each,
// in the order of the file.
func (d *decoder) named(v reflect.Value, f field, n ast.Node, path string) {
	entries, _ := d.entries(n, path, "a mapping from names")
	for _, e := range entries {
		elem := reflect.New(v.Type().Elem()).Elem()
		elem.FieldByName("Name").SetString(e.key)
		at := join(path, e.key)
		if allowed := nameRule(e.key, f.free); allowed != "" {
			d.wrongAt(e.at, at, "is not a valid name", allowed)
		}
		if !d.unsupported(e.value, at) {
			d.structure(elem, e.value, at)
		}
		v.Set(reflect.Append(v, elem))
	}
}

// list decodes a sequence.
func (d *decoder) list(v reflect.Value, f field, n ast.Node, path string) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		if n.Type() != ast.NullType {
			d.wrong(path, "is "+kind(n), "a list: [ … ], or lines that start with a dash")
		}
		return
	}
	elemField := field{id: f.id + "[]", typ: v.Type().Elem(), low: f.low, high: f.high, enum: f.enum}
	for i, item := range seq.Values {
		at := index(path, i)
		d.cfg.where[at] = placeOf(item)
		elem := reflect.New(v.Type().Elem()).Elem()
		d.value(elem, elemField, item, at)
		v.Set(reflect.Append(v, elem))
	}
}

// mapping decodes a mapping with free keys.
func (d *decoder) mapping(v reflect.Value, f field, n ast.Node, path string) {
	entries, _ := d.entries(n, path, "a mapping")
	v.Set(reflect.MakeMap(v.Type()))
	for _, e := range entries {
		elem := reflect.New(v.Type().Elem()).Elem()
		d.value(elem, field{id: f.id + "[]", typ: v.Type().Elem()}, e.value, join(path, e.key))
		v.SetMapIndex(reflect.ValueOf(e.key), elem)
	}
}

// scalar decodes one word.
func (d *decoder) scalar(v reflect.Value, f field, n ast.Node, path string) {
	source, ok := d.word(n, f, path)
	if !ok {
		return
	}
	text, fromFile, err := d.x.expand(source)
	if err != nil && d.elsewhere(err) {
		d.bad[path] = true // what depends on it is not judged
		return
	}
	if err != nil {
		d.wrong(path, err.Error(), "${NAME}, ${NAME:-default}, ${file:/path}; $${ for a plain ${")
		return
	}
	if fromFile {
		d.cfg.fromFile[path] = source
	}
	if text == source && isQuoted(n) && wantsNoQuotes(v.Type()) {
		d.wrong(path, strconv.Quote(clip(text))+" is a text", f.allowed()+", without quotes")
		return
	}
	if err := setScalar(v, text); err != nil {
		d.wrong(path, d.show(path, text)+" "+err.Error(), f.allowed())
		return
	}
	d.bounds(v, f, d.show(path, text), path)
}

// elsewhere says whether an error of an expansion is one that only the machine
// can judge that the config is for.
func (d *decoder) elsewhere(err error) bool { return d.operator && errors.Is(err, errMissing) }

// wantsNoQuotes says whether YAML has a form for the type that is no text. A
// value with a ${…} may stand in quotes all the same: it must in { }.
func wantsNoQuotes(t reflect.Type) bool {
	switch t {
	case reflect.TypeFor[bool](), reflect.TypeFor[int](), reflect.TypeFor[float64]():
		return true
	}
	return false
}

// bounds checks a scalar against range and enum.
func (d *decoder) bounds(v reflect.Value, f field, shown, path string) {
	if !f.inRange(v) {
		d.wrong(path, shown+" is out of range", f.allowed())
	}
	if len(f.enum) > 0 && !contains(f.enum, v.String()) && !(f.inherit && v.String() == "") {
		d.wrong(path, shown+" is not one of the known words", f.allowed())
	}
}

// secret keeps the text unexpanded, after a trial expansion.
func (d *decoder) secret(v reflect.Value, f field, n ast.Node, path string) {
	source, ok := d.word(n, f, path)
	if !ok {
		return
	}
	if _, _, err := d.x.expand(source); err != nil && !d.elsewhere(err) {
		d.wrong(path, err.Error(), "${NAME}, ${NAME:-default}, ${file:/path}; $${ for a plain ${")
	}
	v.Set(reflect.ValueOf(Secret{source: source, from: d.x}))
}

// word is the text of a scalar node as it is written, without quotes.
func (d *decoder) word(n ast.Node, f field, path string) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	case *ast.NullNode:
		d.wrong(path, "has no value", f.allowed())
	default:
		d.wrong(path, "is "+kind(n), f.allowed())
	}
	return "", false
}

// isQuoted says whether a word stands in quotes.
func isQuoted(n ast.Node) bool {
	t := n.GetToken().Type
	return t == token.SingleQuoteType || t == token.DoubleQuoteType
}

// setDefaults fills a struct, and the structs in it, with what the tags say.
func setDefaults(v reflect.Value) {
	for _, f := range fieldsOf(v.Type()) {
		fv := v.Field(f.index)
		if f.hasDefault {
			_ = setScalar(fv, f.def) // a test sets all defaults and looks at the errors
		} else if fv.Kind() == reflect.Struct && !isScalar(fv.Type()) {
			setDefaults(fv)
		}
	}
}
