package config

import (
	"reflect"
	"slices"
	"strings"
)

// refusal is a part of the file format that this version does not build.
type refusal struct {
	field   string   // Go name of the struct and the field
	values  []string // how refused values start; none: every value but zero is
	allowed string   // what can be done instead; empty: the words that are left
}

// unavailable lists what the file format has and this version does not build.
// A value in it is refused, so that nothing is silently ignored; whoever builds
// a feature deletes its line.
var unavailable = []refusal{
	{"Config.Pipeline", nil, "leave it out"},
}

// refused says whether this version refuses v in the field, and what is allowed.
func (f field) refused(v reflect.Value) (allowed string, yes bool) {
	for _, u := range unavailable {
		if u.field != f.id || isEmpty(v) {
			continue
		}
		starts := func(s string) bool { return strings.HasPrefix(v.String(), s) }
		if u.values != nil && !slices.ContainsFunc(u.values, starts) {
			continue
		}
		if u.allowed != "" {
			return u.allowed, true
		}
		return f.allowed(), true
	}
	return "", false
}

// availableWords are the words of the field's enum that this version takes.
func (f field) availableWords() []string {
	return slices.DeleteFunc(slices.Clone(f.enum), func(word string) bool {
		return slices.ContainsFunc(unavailable, func(u refusal) bool {
			return u.field == f.id && slices.Contains(u.values, word)
		})
	})
}

// isEmpty says whether v holds nothing; an empty list or mapping is nothing too.
// A pointer to zero is something: somebody wrote it.
func isEmpty(v reflect.Value) bool {
	if v.Kind() == reflect.Slice || v.Kind() == reflect.Map {
		return v.Len() == 0
	}
	return v.IsZero()
}
