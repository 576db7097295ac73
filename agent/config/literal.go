package config

import (
	"reflect"
	"slices"
	"strings"
)

// IsSecret says whether the config has a secret, such as a password, at a path of
// keys: "sources", "line", "mqtt", "password". An item of a list has the key "".
// An unknown path is none.
func IsSecret(keys []string) bool {
	t := reflect.TypeFor[Config]()
	for _, key := range keys {
		switch {
		case t == secretType || isScalar(t):
			return false
		case t.Kind() == reflect.Struct:
			fields := fieldsOf(t)
			i := slices.IndexFunc(fields, func(f field) bool { return f.key == key })
			if i < 0 {
				return false
			}
			t = fields[i].typ
		default: // names, labels, items
			t = t.Elem()
		}
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
	}
	return t == secretType
}

// IsSecretName says whether some secret of the config has the key.
func IsSecretName(key string) bool { return hasSecret(reflect.TypeFor[Config](), key) }

func hasSecret(t reflect.Type, key string) bool {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || isScalar(t) {
		return false
	}
	return slices.ContainsFunc(fieldsOf(t), func(f field) bool {
		return f.typ == secretType && f.key == key || hasSecret(f.typ, key)
	})
}

// IsLiteral says whether a text holds more than references that are filled in at
// the gateway: ${NAME} and ${file:/path}. The default of a ${NAME:-default} is
// text that everybody can read.
func IsLiteral(text string) bool {
	for text != "" {
		inside, ok := strings.CutPrefix(text, "${")
		if !ok {
			return true
		}
		ref, rest, ok := strings.Cut(inside, "}")
		_, fallback, _ := strings.Cut(ref, ":-")
		if !ok || fallback != "" && !strings.HasPrefix(ref, "file:") {
			return true
		}
		text = rest
	}
	return false
}
