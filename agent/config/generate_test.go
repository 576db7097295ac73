package config

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// The schema and the reference are written from the structs: keys, defaults and
// bounds from the tags, descriptions from the comments. -update writes them.

func TestGeneratedSchema(t *testing.T) {
	g := generator{t: t, docs: comments(t)}
	root := g.object(reflect.TypeFor[Config]())
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "Config of Sluice"
	out, err := json.MarshalIndent(root, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "schema.json", append(out, '\n'))
}

func TestGeneratedReference(t *testing.T) {
	head, err := os.ReadFile("testdata/reference_head.md")
	if err != nil {
		t.Fatal(err)
	}
	g := generator{t: t, docs: comments(t)}
	g.collect(reflect.TypeFor[Config](), "")
	var b strings.Builder
	b.Write(head)
	for _, typ := range g.order {
		g.table(&b, typ)
	}
	golden(t, "../../docs/config.md", []byte(b.String()))
}

// comments are the doc comments of types ("MQTT") and fields ("MQTT.Servers").
func comments(t *testing.T) map[string]string {
	docs := map[string]string{}
	for _, file := range []string{"config.go", "sources.go", "uplinks.go"} {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range f.Decls {
			if gen, ok := decl.(*ast.GenDecl); ok && gen.Tok == token.TYPE {
				typeComments(docs, gen)
			}
		}
	}
	return docs
}

func typeComments(docs map[string]string, gen *ast.GenDecl) {
	spec := gen.Specs[0].(*ast.TypeSpec)
	name := spec.Name.Name
	docs[name] = strings.TrimPrefix(oneLine(gen.Doc.Text()), name+" is ")
	if s, ok := spec.Type.(*ast.StructType); ok {
		for _, f := range s.Fields.List {
			if len(f.Names) > 0 {
				docs[name+"."+f.Names[0].Name] = oneLine(f.Doc.Text())
			}
		}
	}
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

type generator struct {
	t     *testing.T
	docs  map[string]string
	order []reflect.Type
	paths map[reflect.Type][]string
}

// doc is the description of a field, with what this version leaves out.
func (g *generator) doc(f field) string {
	text := g.docs[f.id]
	if text == "" {
		g.t.Errorf("%s has no comment", f.id)
	}
	for _, u := range unavailable {
		switch {
		case u.field != f.id || u.allowed == "":
		case u.values == nil && strings.HasPrefix(u.allowed, "leave it out"):
			text += " Not available in this version."
		default:
			text += " In this version only " + u.allowed + "."
		}
	}
	return text
}

type object = map[string]any

// object is the schema of a struct.
func (g *generator) object(t reflect.Type) object {
	properties, required, unless := object{}, []string{}, []object(nil)
	for _, f := range fieldsOf(t) {
		p := g.property(f, f.typ)
		p["description"] = g.doc(f)
		properties[f.key] = p
		if f.required {
			required = append(required, f.key)
		}
		if f.unless != "" {
			unless = []object{{"required": []string{f.key}}, {"required": []string{f.unless}}}
		}
	}
	o := object{"type": "object", "additionalProperties": false, "properties": properties}
	if len(required) > 0 {
		o["required"] = required
	}
	if unless != nil {
		o["anyOf"] = unless
	}
	return o
}

// reference matches a value with a ${…}, which any scalar may be.
const reference = `\$\{`

// property is the schema of a value.
func (g *generator) property(f field, t reflect.Type) object {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == whenFullType:
		return g.ladder(f)
	case isScalar(t):
		return scalarSchema(f, t)
	case f.named:
		o := object{"type": "object", "additionalProperties": g.object(t.Elem())}
		if !f.free {
			o["propertyNames"] = object{"pattern": "^[A-Za-z0-9._-]{1,64}$"}
		}
		return o
	case t.Kind() == reflect.Struct:
		return g.object(t)
	case t.Kind() == reflect.Map:
		return object{"type": "object", "additionalProperties": g.property(field{}, t.Elem())}
	}
	return object{"type": "array", "items": g.property(field{}, t.Elem())}
}

// ladder is the schema of a word, or of a list of steps that ends with one.
func (g *generator) ladder(f field) object {
	words := object{"anyOf": []object{{"enum": f.availableWords()}, {"type": "string", "pattern": reference}}}
	step := g.object(reflect.TypeFor[thinStep]())
	list := object{
		"type": "array", "minItems": 2, "maxItems": maxSteps + 1,
		"items":    object{"anyOf": []object{step, words}},
		"contains": object{"type": "string"}, "minContains": 1, "maxContains": 1,
	}
	return object{"default": f.def, "anyOf": []object{words, list}}
}

func scalarSchema(f field, t reflect.Type) object {
	o := object{}
	if f.hasDefault {
		o["default"] = defaultValue(f, t)
	}
	quantity := func(pattern string) {
		o["type"], o["minimum"], o["maximum"] = []string{"string", "integer"}, 0, 0
		o["pattern"] = pattern + "|" + reference
	}
	switch {
	case len(f.enum) > 0:
		o["anyOf"] = []object{{"enum": f.availableWords()}, {"type": "string", "pattern": reference}}
	case t == durationType:
		quantity(`^([0-9.]+(ns|us|µs|ms|s|m|h))+$|^0$`)
	case t == sizeType:
		quantity(`^[0-9.]+ *([KMGTP]i?B|kB|B)$|^0$`)
	case t == shareType:
		quantity(`^[0-9.]+ *%$|^0$`)
	case t == deadbandType:
		o["type"], o["minimum"], o["pattern"] = []string{"number", "string"}, 0, `^[0-9.]+ *%?$|`+reference
	case t.Kind() == reflect.Bool:
		o["type"], o["pattern"] = []string{"boolean", "string"}, reference
	case t.Kind() == reflect.Int:
		o["type"], o["pattern"] = []string{"integer", "string"}, reference
		bound(o, f)
	case t.Kind() == reflect.Float64:
		o["type"], o["pattern"] = []string{"number", "string"}, reference
	default:
		o["type"] = []string{"string", "number", "boolean"}
	}
	return o
}

func bound(o object, f field) {
	if low, err := parseInt(f.low); f.low != "" && err == nil {
		high, _ := parseInt(f.high)
		o["minimum"], o["maximum"] = low, high
	}
}

// defaultValue is a default as JSON: numbers and bools stay what they are.
func defaultValue(f field, t reflect.Type) any {
	v := reflect.New(t).Elem()
	if k := t.Kind(); (k == reflect.Bool || k == reflect.Int || k == reflect.Float64 && t != shareType) && setScalar(v, f.def) == nil {
		return v.Interface()
	}
	return f.def
}

// collect notes the structs in the order of the file, each with its paths.
func (g *generator) collect(t reflect.Type, path string) {
	if g.paths == nil {
		g.paths = map[reflect.Type][]string{}
	}
	if !slices.Contains(g.order, t) {
		g.order = append(g.order, t)
	}
	g.paths[t] = append(g.paths[t], path)
	for _, f := range fieldsOf(t) {
		sub, at := f.typ, join(path, f.key)
		for sub.Kind() == reflect.Pointer || sub.Kind() == reflect.Slice {
			if sub.Kind() == reflect.Slice && f.named {
				at += ".NAME"
			} else if sub.Kind() == reflect.Slice {
				at += "[]"
			}
			sub = sub.Elem()
		}
		if sub.Kind() == reflect.Struct && !isScalar(sub) {
			g.collect(sub, at)
		}
	}
}

// table writes the section of one struct.
func (g *generator) table(b *strings.Builder, t reflect.Type) {
	title := "`" + strings.Join(g.paths[t], "`, `") + "`"
	if g.paths[t][0] == "" {
		title = "The file"
	}
	about := g.docs[t.Name()]
	if about == "" {
		g.t.Errorf("%s has no comment", t.Name())
	}
	about = strings.TrimPrefix(about, t.Name()+" ")
	fmt.Fprintf(b, "\n## %s\n\n%s\n\n| key | value | default | meaning |\n| --- | --- | --- | --- |\n", title, strings.ToUpper(about[:1])+about[1:])
	for _, f := range fieldsOf(t) {
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", f.key, cell(valueCell(f)), cell(defaultCell(f)), cell(g.doc(f)))
	}
}

func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// valueCell says what may stand there, in a few words.
func valueCell(f field) string {
	f.like = ""
	t := f.typ
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	short := map[reflect.Type]string{durationType: "duration", sizeType: "size", shareType: "share", deadbandType: "number or share", secretType: "secret"}[t]
	switch {
	case f.typ == whenFullType:
		f.typ = reflect.TypeFor[string]()
		return valueCell(f) + ", or a list"
	case len(f.enum) > 0:
		return "`" + strings.Join(f.availableWords(), "` `") + "`"
	case short != "" && f.low != "":
		return short + " from " + f.low + " to " + f.high
	case short != "":
		return short
	}
	return strings.TrimPrefix(f.allowed(), "a ")
}

func defaultCell(f field) string {
	switch {
	case f.required:
		return "required"
	case f.unless != "":
		return "required, unless `" + f.unless + "`"
	case f.hasDefault && f.def == "":
		return "empty"
	case f.hasDefault:
		return "`" + f.def + "`"
	case f.inherit:
		return "see there"
	}
	return ""
}

// TestTagsAreValid sets each default and bound, so that a wrong tag shows here.
func TestTagsAreValid(t *testing.T) {
	g := generator{t: t}
	g.collect(reflect.TypeFor[Config](), "")
	for _, typ := range g.order {
		for _, f := range fieldsOf(typ) {
			checkTags(t, f)
		}
	}
	for _, u := range unavailable {
		name, member, _ := strings.Cut(u.field, ".")
		i := slices.IndexFunc(g.order, func(t reflect.Type) bool { return t.Name() == name })
		if i < 0 {
			t.Errorf("the table of what is not available names the struct %s", name)
		} else if _, ok := g.order[i].FieldByName(member); !ok {
			t.Errorf("the table of what is not available names the field %s", u.field)
		}
	}
}

func checkTags(t *testing.T, f field) {
	typ := f.typ
	if typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	v := reflect.New(typ).Elem()
	if f.low != "" && (!isScalar(typ) || setScalar(v, f.low) != nil || setScalar(v, f.high) != nil || !f.inRange(v)) {
		t.Errorf("%s has the range %s..%s", f.id, f.low, f.high)
	}
	if !f.hasDefault {
		return
	}
	if err := setScalar(v, f.def); err != nil || !f.inRange(v) {
		t.Errorf("%s has the default %q: %v", f.id, f.def, err)
	}
	if len(f.enum) > 0 && !slices.Contains(f.availableWords(), f.def) {
		t.Errorf("%s has the default %q, which is none of its words", f.id, f.def)
	}
}
