package config

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// YAML writes the effective config: defaults filled in, secrets as ***, values
// from a ${file:…} unexpanded. It reads back to the same text.
func (c *Config) YAML() []byte {
	p := printer{fromFile: c.fromFile}
	shown := *c
	shown.Uplinks = slices.Clone(c.Uplinks)
	for _, name := range c.Removed {
		shown.Uplinks = append(shown.Uplinks, Uplink{Name: name, Removed: true})
	}
	p.structure(reflect.ValueOf(shown), "", 0)
	return []byte(p.out.String())
}

// Digest tells whether two configs say the same: all of it, or only the source
// ("sources.NAME") or uplink ("uplinks.NAME") at path; empty when that is not
// there. Passwords count as they are written, values from a ${file:…} by the
// file's name: they are read again when they are needed.
func (c *Config) Digest(path string) string {
	p := printer{fromFile: c.fromFile, secrets: true}
	kind, name, _ := strings.Cut(path, ".")
	switch {
	case path == "":
		p.structure(reflect.ValueOf(*c), "", 0)
		p.out.WriteString(strings.Join(c.Removed, " "))
	case kind == "sources" && c.Source(name) != nil:
		p.value(reflect.ValueOf(*c.Source(name)), false, path, 0)
	case kind == "uplinks" && c.Uplink(name) != nil:
		p.value(reflect.ValueOf(*c.Uplink(name)), false, path, 0)
	default:
		return ""
	}
	sum := sha256.Sum256([]byte(p.out.String()))
	return hex.EncodeToString(sum[:])
}

// printer writes block style, two spaces a level.
type printer struct {
	out      strings.Builder
	fromFile map[string]string
	secrets  bool // written as they stand in the file, not masked
}

// structure writes the fields of a struct. What was left out and has no default
// is left out again.
func (p *printer) structure(v reflect.Value, path string, depth int) {
	fields := fieldsOf(v.Type())
	for _, f := range fields {
		if f.with != "" && slices.ContainsFunc(fields, func(g field) bool { return g.key == f.with && isEmpty(v.Field(g.index)) }) {
			continue
		}
		fv := v.Field(f.index)
		if fv.Kind() == reflect.Pointer && !fv.IsNil() {
			fv = fv.Elem()
		} else if isEmpty(fv) && !f.hasDefault && !f.required && !isSection(fv) {
			continue
		}
		p.key(f.key, depth)
		p.value(fv, f.named, join(path, f.key), depth)
	}
}

// isSection says whether v is a struct of keys, which is always shown.
func isSection(v reflect.Value) bool {
	return v.Kind() == reflect.Struct && !isScalar(v.Type())
}

func (p *printer) key(key string, depth int) {
	p.out.WriteString(strings.Repeat("  ", depth) + plain(key) + ":")
}

// value writes what follows a key or a dash, and ends the line.
func (p *printer) value(v reflect.Value, named bool, path string, depth int) {
	if w, ok := v.Interface().(WhenFull); ok && len(w.Thin) > 0 {
		p.ladder(w, path, depth+1)
		return
	}
	switch {
	case isScalar(v.Type()):
		p.out.WriteString(" " + p.word(v, path) + "\n")
	case v.Kind() == reflect.Struct:
		p.out.WriteString("\n")
		p.structure(v, path, depth+1)
	case v.Len() == 0 && v.Kind() == reflect.Slice && !named:
		p.out.WriteString(" []\n")
	case v.Len() == 0:
		p.out.WriteString(" {}\n")
	case v.Kind() == reflect.Map:
		p.mapping(v, path, depth+1)
	case named:
		p.named(v, path, depth+1)
	default:
		p.list(v, path, depth+1)
	}
}

func (p *printer) named(v reflect.Value, path string, depth int) {
	p.out.WriteString("\n")
	for i := range v.Len() {
		name := v.Index(i).FieldByName("Name").String()
		p.key(name, depth)
		p.value(v.Index(i), false, join(path, name), depth)
	}
}

func (p *printer) mapping(v reflect.Value, path string, depth int) {
	p.out.WriteString("\n")
	keys := slices.SortedFunc(maps.Keys(toStrings(v)), strings.Compare)
	for _, key := range keys {
		p.key(key, depth)
		p.value(v.MapIndex(reflect.ValueOf(key)), false, join(path, key), depth)
	}
}

func toStrings(v reflect.Value) map[string]bool {
	keys := map[string]bool{}
	for _, k := range v.MapKeys() {
		keys[k.String()] = true
	}
	return keys
}

func (p *printer) list(v reflect.Value, path string, depth int) {
	p.out.WriteString("\n")
	for i := range v.Len() {
		// The first key of a mapping stands behind the dash.
		item := printer{fromFile: p.fromFile, secrets: p.secrets}
		item.value(v.Index(i), false, index(path, i), depth)
		p.out.WriteString(strings.Repeat("  ", depth) + "- " + strings.TrimLeft(item.out.String(), " \n"))
	}
}

// word writes a scalar so that it reads back as itself.
func (p *printer) word(v reflect.Value, path string) string {
	if s, ok := v.Interface().(Secret); ok && p.secrets {
		return quoted(s.source)
	} else if ok {
		return quoted(s.String())
	}
	source, fromFile := p.fromFile[path]
	switch {
	case fromFile:
		return quoted(source)
	case v.Kind() == reflect.String:
		return plain(escape(v.String()))
	}
	return scalarText(v)
}

// plain writes a text without quotes where no reader of YAML could take it for
// something else.
func plain(s string) string {
	letters := func(r rune) bool { return !(isName(string(r)) || r == '/' || r == '.') }
	starts := s != "" && (s[0]|0x20 >= 'a' && s[0]|0x20 <= 'z' || s[0] == '/')
	reserved := []string{"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
	if starts && !strings.ContainsFunc(s, letters) && !slices.Contains(reserved, strings.ToLower(s)) {
		return s
	}
	return quoted(s)
}

// quoted writes a text in double quotes: JSON's are a part of YAML's.
func quoted(s string) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string always encodes
	return strings.TrimSuffix(b.String(), "\n")
}
