package config

import (
	"reflect"
	"strings"

	"sluice/agent/remote/tree"
)

// checkLocked refuses paths that no config can have: a slip of the pen would lock
// nothing, and nobody would be told. Only the file is judged, whose paths they are.
func (d *decoder) checkLocked(paths []string) {
	const forms = "keys with dots between them, such as agent.data_dir or sources.line.mqtt.servers[0]"
	if d.assembled {
		return
	}
	for i, path := range paths {
		at := index("remote.locked", i)
		leaves, err := tree.LeavesAt(path, &tree.Node{})
		if err != nil {
			d.wrong(at, "is not a path: "+err.Error(), forms)
			continue
		}
		root := place{v: reflect.ValueOf(d.cfg).Elem(), t: reflect.TypeFor[Config]()}
		if wrong, allowed := root.follow(leaves[0].Keys); wrong != "" {
			d.wrong(at, d.show(at, path)+" is no path of a config: "+wrong, allowed)
		}
	}
}

// place is one in a config, whether the config at hand has it or not.
type place struct {
	v reflect.Value // not valid: the config does not have it
	t reflect.Type
	f field
}

// follow returns what is wrong with keys below p, and what is known where it is; an
// empty key is an item of a list.
func (p place) follow(keys []string) (wrong, allowed string) {
	for len(keys) > 0 {
		if p.t.Kind() == reflect.Pointer {
			p.t = p.t.Elem()
			if p.v.IsValid() {
				p.v = p.v.Elem() // not valid: nil
			}
		}
		item := keys[0] == ""
		switch kind := p.t.Kind(); {
		case item && (p.t == whenFullType || kind == reflect.Slice && !p.f.named):
			if p, keys = p.any(), keys[1:]; p.t == nil {
				return "", "" // a step of a ladder, which is one word
			}
		case item:
			return "[ behind " + p.f.key + ", which is no list", "the path without the brackets"
		case p.f.named && kind == reflect.Slice || kind == reflect.Map:
			return p.followName(keys)
		case isScalar(p.t):
			return "nothing is below " + p.f.key, "the path without " + quote(strings.Join(keys, "."))
		case kind == reflect.Struct:
			fields := fieldsOf(p.t)
			f := find(fields, func(f *field) bool { return f.key == keys[0] })
			if f == nil {
				allowed, _ := suggest(keys[0], fields)
				return quote(keys[0]) + " is not a known key", allowed
			}
			if p.v.IsValid() {
				p.v = p.v.Field(f.index)
			}
			p.t, p.f, keys = f.typ, *f, keys[1:]
		default: // a list, and no item of it
			return quote(keys[0]) + " is below a list", "an item of it: " + p.f.key + "[0]." + keys[0]
		}
	}
	return "", ""
}

// any is an item of a list, whichever; of a ladder nothing that has a type.
func (p place) any() place {
	if p.t == whenFullType {
		return place{}
	}
	return place{t: p.t.Elem(), f: field{key: p.f.key, typ: p.t.Elem()}}
}

// followName is follow for what has names below it. The longest that is there counts;
// where none is, a name may yet come that has as many dots in it as makes keys a path.
func (p place) followName(keys []string) (wrong, allowed string) {
	for n := len(keys); n > 0 && p.t.Kind() == reflect.Slice && p.v.IsValid(); n-- {
		for i := range p.v.Len() {
			if name := strings.Join(keys[:n], "."); p.v.Index(i).FieldByName("Name").String() == name {
				return place{v: p.v.Index(i), t: p.t.Elem(), f: field{key: name}}.follow(keys[n:])
			}
		}
	}
	for n := 1; n <= len(keys) && keys[n-1] != ""; n++ {
		w, a := place{t: p.t.Elem(), f: field{key: strings.Join(keys[:n], ".")}}.follow(keys[n:])
		if w == "" {
			return "", ""
		}
		if n == 1 {
			wrong, allowed = w, a
		}
	}
	return wrong, allowed
}
