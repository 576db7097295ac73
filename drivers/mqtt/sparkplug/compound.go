package sparkplug

import (
	"encoding/binary"
	"strconv"
)

// dataSet appends a DataSet (Sparkplug 3.0.0 §6.4.11) as
// {"columns":[…],"types":[…],"rows":[[…],…]}.
func (r *renderer) dataSet(dst, b []byte) ([]byte, error) {
	var columns, types []byte // JSON
	var kinds []uint32
	var rows [][]byte
	count := 0
	rd := fields{rest: b}
	for f := (field{}); rd.next(&f); {
		switch {
		case f.number == 2 && f.wire == wireBytes:
			columns = append(appendString(columns, text(f.b)), ',')
			count++
		case f.number == 3 && f.wire == wireVarint:
			kinds = append(kinds, knownType(uint32(f.n)))
		case f.number == 3 && f.wire == wireBytes:
			if kinds = appendPacked(kinds, f.b); kinds == nil {
				return dst, errVarint
			}
		case f.number == 4 && f.wire == wireBytes:
			rows = append(rows, f.b)
		}
		if count > maxColumns || len(kinds) > maxColumns || len(rows) > maxMetrics {
			return dst, errColumns
		}
	}
	for _, typ := range kinds {
		types = append(appendString(types, typeName(typ)), ',')
	}
	dst = appendList(append(dst, `{"columns":`...), columns)
	dst = appendList(append(dst, `,"types":`...), types)
	dst = append(dst, `,"rows":[`...)
	for i, row := range rows {
		if i > 0 {
			dst = append(dst, ',')
		}
		start := len(dst)
		var err error
		if dst, err = r.row(dst, row, kinds); err != nil {
			return dst, err
		}
		if !r.spend(len(dst) - start) {
			return dst, errLarge
		}
	}
	return append(dst, "]}"...), rd.err
}

// appendPacked takes numbers in the packed form of a repeated field; nil where
// they are none.
func appendPacked(types []uint32, b []byte) []uint32 {
	for len(b) > 0 && len(types) <= maxColumns {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return nil
		}
		types, b = append(types, knownType(uint32(v))), b[n:]
	}
	return types
}

// appendList appends items, each with a comma behind it, as a list.
func appendList(dst, items []byte) []byte {
	dst = append(dst, '[')
	if len(items) > 0 {
		dst = append(dst, items[:len(items)-1]...)
	}
	return append(dst, ']')
}

// row appends a row of a data set.
func (r *renderer) row(dst, b []byte, types []uint32) ([]byte, error) {
	dst = append(dst, '[')
	rd, column := fields{rest: b}, 0
	for f := (field{}); rd.next(&f); {
		if f.number != 1 || f.wire != wireBytes {
			continue
		}
		var v value
		cell := fields{rest: f.b}
		for g := (field{}); cell.next(&g); {
			v.set(&g, 1, cellKinds)
		}
		if cell.err != nil {
			return dst, cell.err
		}
		if column > 0 {
			dst = append(dst, ',')
		}
		typ := uint32(typeUnknown)
		if column < len(types) {
			typ = types[column]
		}
		var err error
		if dst, _, err = r.value(dst, v, typ, nil, maxDepth); err != nil {
			return dst, err
		}
		column++
	}
	return append(dst, ']'), rd.err
}

// templateValue appends a Template as an object: ref, version, definition and
// parameters where they are there, then its metrics like those of a message.
func (r *renderer) templateValue(dst, b []byte, members *scope, depth int) ([]byte, error) {
	t, err := r.template(b)
	if err != nil {
		return dst, err
	}
	dst = append(dst, '{')
	if t.ref != "" {
		dst = appendString(appendKey(dst, "ref"), t.ref)
	}
	if t.version != "" {
		dst = appendString(appendKey(dst, "version"), t.version)
	}
	if t.definition {
		dst = append(appendKey(dst, "definition"), "true"...)
	}
	if len(t.parameters) > 0 {
		if dst, err = r.parameters(append(appendKey(dst, "parameters"), '{'), t.parameters); err != nil {
			return dst, err
		}
	}
	var s sheet
	if err := r.sheet(&s, t.metrics, members, depth); err != nil {
		return dst, err
	}
	return append(s.append(dst), '}'), nil
}

// parameters appends the parameters of a template, Sparkplug 3.0.0 §6.4.15.
func (r *renderer) parameters(dst []byte, list [][]byte) ([]byte, error) {
	set := map[string]bool{}
	for _, b := range list {
		var name string
		var typ uint32
		var v value
		rd := fields{rest: b}
		for f := (field{}); rd.next(&f); {
			switch {
			case f.number == 1 && f.wire == wireBytes:
				name = text(f.b)
			case f.number == 2 && f.wire == wireVarint:
				typ = knownType(uint32(f.n))
			default:
				v.set(&f, 3, parameterKinds)
			}
		}
		if rd.err != nil {
			return dst, rd.err
		}
		if set[name] {
			continue // a key stands once in JSON
		}
		set[name] = true
		var err error
		if dst, _, err = r.value(appendKey(dst, name), v, typ, nil, maxDepth); err != nil {
			return dst, err
		}
	}
	return append(dst, '}'), nil
}

// propertySet appends a PropertySet (Sparkplug 3.0.0 §6.4.8) as an object, and
// leaves out the key except, whose value it returns. Keys without a value, and
// values without a key, are left out.
func (r *renderer) propertySet(dst, b []byte, except string, depth int) ([]byte, property, error) {
	var keys []string
	var values [][]byte
	var taken property
	rd := fields{rest: b}
	for f := (field{}); rd.next(&f); {
		switch {
		case f.number == 1 && f.wire == wireBytes:
			keys = append(keys, text(f.b))
		case f.number == 2 && f.wire == wireBytes:
			values = append(values, f.b)
		}
		if len(keys) > maxColumns || len(values) > maxColumns {
			return dst, taken, errColumns
		}
	}
	dst = append(dst, '{')
	set := map[string]bool{}
	for i := range min(len(keys), len(values)) {
		p, err := parseProperty(values[i])
		if err != nil {
			return dst, taken, err
		}
		if except != "" && keys[i] == except {
			taken = p
			continue
		}
		if set[keys[i]] {
			continue
		}
		set[keys[i]] = true
		if dst, _, err = r.value(appendKey(dst, keys[i]), p.value, p.typ, nil, depth); err != nil {
			return dst, taken, err
		}
	}
	return append(dst, '}'), taken, rd.err
}

// propertyList appends a PropertySetList, Sparkplug 3.0.0 §6.4.10.
func (r *renderer) propertyList(dst, b []byte, depth int) ([]byte, error) {
	if depth >= maxDepth {
		return dst, errDepth
	}
	dst = append(dst, '[')
	rd, first := fields{rest: b}, true
	for f := (field{}); rd.next(&f); {
		if f.number != 1 || f.wire != wireBytes {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		start := len(dst)
		var err error
		if dst, _, err = r.propertySet(dst, f.b, "", depth+1); err != nil {
			return dst, err
		}
		if !r.spend(len(dst) - start) {
			return dst, errLarge
		}
	}
	return append(dst, ']'), rd.err
}

// property is a PropertyValue, Sparkplug 3.0.0 §6.4.9.
type property struct {
	typ   uint32
	value value
}

func parseProperty(b []byte) (property, error) {
	var p property
	null := false
	rd := fields{rest: b}
	for f := (field{}); rd.next(&f); {
		switch {
		case f.number == 1 && f.wire == wireVarint:
			p.typ = knownType(uint32(f.n))
		case f.number == 2 && f.wire == wireVarint:
			null = f.n != 0
		default:
			p.value.set(&f, 3, propertyKinds)
		}
	}
	if null {
		p.value = value{}
	}
	return p, rd.err
}

// quality is the word for a property Quality, Sparkplug 3.0.0 §6.4.9.1.
func (p property) quality() string {
	if p.value.kind != kindInt && p.value.kind != kindLong {
		return good
	}
	switch p.value.n {
	case 0:
		return bad
	case 192:
		return good
	case 500:
		return stale
	}
	dst, _ := appendInteger([]byte(codeWord), p.value, typeInt32)
	return string(dst)
}

// metadata appends a MetaData (Sparkplug 3.0.0 §6.4.7) as an object with the
// field names of the specification.
func metadata(dst, b []byte) ([]byte, error) {
	names := [...]string{1: "is_multi_part", "content_type", "size", "seq", "file_name", "file_type", "md5", "description"}
	var found [len(names)]field
	rd := fields{rest: b}
	for f := (field{}); rd.next(&f); {
		numeric := f.number == 1 || f.number == 3 || f.number == 4
		if f.number < uint64(len(names)) && (numeric && f.wire == wireVarint || !numeric && f.wire == wireBytes) {
			found[f.number] = f
		}
	}
	dst = append(dst, '{')
	for i, f := range found {
		switch {
		case f.number == 0:
		case i == 1:
			dst = strconv.AppendBool(appendKey(dst, names[i]), f.n != 0)
		case f.wire == wireVarint:
			dst = strconv.AppendUint(appendKey(dst, names[i]), f.n, 10)
		default:
			dst = appendString(appendKey(dst, names[i]), text(f.b))
		}
	}
	return append(dst, '}'), rd.err
}
