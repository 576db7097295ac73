package config

import (
	"reflect"
	"strings"
)

// field is one key of a struct, as its tags describe it.
type field struct {
	id         string // "MQTT.Decode": the Go name, for the table of what is not available
	index      int    // in the struct
	typ        reflect.Type
	key        string
	named      bool // a mapping from names, held as a slice
	free       bool // ... whose names may be any text
	inherit    bool // empty has a meaning of its own
	required   bool
	unless     string // required unless the bool under this key is true
	def        string // default, as written in the file
	hasDefault bool
	low, high  string // bounds, as written in the file; both empty: none
	enum       []string
	like       string // an example, as written in the file
	with       string // only beside this key, which is one of the same struct
}

// fieldsOf lists the keys of a struct in their order.
func fieldsOf(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		if f, ok := fieldOf(t, i); ok {
			fields = append(fields, f)
		}
	}
	return fields
}

func fieldOf(t reflect.Type, i int) (field, bool) {
	sf := t.Field(i)
	key, options, _ := strings.Cut(sf.Tag.Get("yaml"), ",")
	if key == "" || key == "-" {
		return field{}, false
	}
	f := field{
		id: t.Name() + "." + sf.Name, index: i, typ: sf.Type, key: key,
		named:    strings.Contains(options, "named"),
		free:     strings.Contains(options, "free"),
		inherit:  strings.Contains(options, "inherit"),
		required: sf.Tag.Get("required") == "true",
	}
	if key, ok := strings.CutPrefix(sf.Tag.Get("required"), "unless "); ok {
		f.unless = key
	}
	f.def, f.hasDefault = sf.Tag.Lookup("default")
	f.like = sf.Tag.Get("like")
	f.with = sf.Tag.Get("with")
	f.low, f.high, _ = strings.Cut(sf.Tag.Get("range"), "..")
	if words := sf.Tag.Get("enum"); words != "" {
		f.enum = strings.Split(words, "|")
	}
	return f, true
}

// allowed says in words what the field takes: an example, or form and bounds, or
// the words of the enum.
func (f field) allowed() string {
	if f.typ == whenFullType {
		return strings.Join(f.availableWords(), ", ") + "; or a list such as " + ladderLike
	}
	if len(f.enum) > 0 {
		return strings.Join(f.availableWords(), ", ")
	}
	if f.like != "" {
		return "such as " + f.like
	}
	switch {
	case f.low == "":
		return f.form()
	case f.low == f.high:
		return f.low
	case strings.Contains(f.form(), "such as"):
		return f.form() + "; from " + f.low + " to " + f.high
	}
	return f.form() + " from " + f.low + " to " + f.high
}

// form says in words how a value of the field is written.
func (f field) form() string {
	t := f.typ
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == durationType:
		return durationForms
	case t == sizeType:
		return sizeForms
	case t == shareType:
		return shareForms
	case t == deadbandType:
		return deadbandForms
	case f.named:
		return "a mapping from names"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	case reflect.Slice:
		return "a list"
	case reflect.Map:
		return "a mapping"
	case reflect.Struct:
		if t != secretType {
			return "a mapping"
		}
	}
	return "a text"
}
