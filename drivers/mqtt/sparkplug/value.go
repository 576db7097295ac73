package sparkplug

import (
	"math"
	"strconv"
	"unicode/utf8"
)

// Qualities of a value, beside those that the edge node tells (property.quality).
const (
	good     = ""
	bad      = "bad"     // the value does not fit its data type, or JSON cannot hold it
	stale    = "stale"   // the node or device is gone
	untyped  = "untyped" // an integer or bytes whose data type no birth told
	codeWord = "code-"   // and a quality code that the specification does not have
)

// renderer writes values as JSON. It counts what it has written, because a few
// bytes on the wire can stand for many in JSON.
type renderer struct {
	parser
	left    int    // bytes that may still be written
	base    uint64 // the time of the message, or of the metric that a template is in; metrics of that time need not tell it
	unknown bool   // an alias, or an integer's data type, was in no birth
}

// spend counts n bytes; false where there are too many.
func (r *renderer) spend(n int) bool {
	r.left -= n
	return r.left >= 0
}

// value appends v, which should be of type typ. members are what a birth told of
// a template's metrics. What does not fit its type is passed as it stands on the
// wire, and bad.
func (r *renderer) value(dst []byte, v value, typ uint32, members *scope, depth int) ([]byte, string, error) {
	switch {
	case v.kind == kindNone:
		return append(dst, "null"...), good, nil
	case v.kind == kindInt || v.kind == kindLong:
		dst, quality := appendInteger(dst, v, typ)
		return dst, quality, nil
	case v.kind == kindFloat:
		dst, ok := appendFloat(dst, float64(math.Float32frombits(uint32(v.n))), 32)
		return dst, goodIf(ok && isType(typ, typeFloat, typeDouble)), nil
	case v.kind == kindDouble:
		dst, ok := appendFloat(dst, math.Float64frombits(v.n), 64)
		return dst, goodIf(ok && isType(typ, typeFloat, typeDouble)), nil
	case v.kind == kindBool:
		return strconv.AppendBool(dst, v.n != 0), goodIf(isType(typ, typeBoolean)), nil
	case v.kind == kindString:
		return appendString(dst, string(v.b)), goodIf(utf8.Valid(v.b) && isType(typ, typeString, typeText, typeUUID)), nil
	case v.kind == kindBytes:
		return r.bytes(dst, v.b, typ)
	}
	return r.compound(dst, v, typ, members, depth)
}

// compound is value for what has parts.
func (r *renderer) compound(dst []byte, v value, typ uint32, members *scope, depth int) ([]byte, string, error) {
	if depth >= maxDepth {
		return dst, good, errDepth
	}
	var err error
	switch v.kind {
	case kindDataSet:
		dst, err = r.dataSet(dst, v.b)
		return dst, goodIf(isType(typ, typeDataSet)), err
	case kindTemplate:
		dst, err = r.templateValue(dst, v.b, members, depth+1)
		return dst, goodIf(isType(typ, typeTemplate)), err
	case kindPropertySet:
		dst, _, err = r.propertySet(dst, v.b, "", depth+1)
		return dst, goodIf(isType(typ, typePropertySet)), err
	case kindPropertyList:
		dst, err = r.propertyList(dst, v.b, depth+1)
		return dst, goodIf(isType(typ, typePropertyList)), err
	}
	return append(dst, "null"...), bad, nil // an extension, which nobody knows
}

func goodIf(ok bool) string {
	if ok {
		return good
	}
	return bad
}

// isType says whether typ is one of the types, or not told.
func isType(typ uint32, types ...uint32) bool {
	for _, t := range types {
		if typ == t {
			return true
		}
	}
	return typ == typeUnknown
}

// integers are the integer types with their bits. Signed ones stand on the wire
// in two's complement, in a field that is unsigned (Sparkplug 3.0.0 §6.4.17). A
// DateTime is unsigned there too, but encoders write dates before 1970 into it.
var integers = map[uint32]struct {
	bits   int
	signed bool
}{
	typeInt8: {8, true}, typeInt16: {16, true}, typeInt32: {32, true}, typeInt64: {64, true}, typeDateTime: {64, true},
	typeUInt8: {8, false}, typeUInt16: {16, false}, typeUInt32: {32, false}, typeUInt64: {64, false},
}

// appendInteger appends an integer with all its digits. Some encoders write a
// small signed one in its own width (Int8 -1 as 255), some in that of the field
// (as 4294967295), and some use long_value for UInt32; all of them are understood.
func appendInteger(dst []byte, v value, typ uint32) ([]byte, string) {
	form, ok := integers[typ]
	if !ok {
		quality := bad
		if typ == typeUnknown {
			quality = untyped
		}
		return strconv.AppendUint(dst, v.n, 10), quality
	}
	fits := form.bits == 64 || v.n>>form.bits == 0
	if !form.signed {
		return strconv.AppendUint(dst, v.n, 10), goodIf(fits)
	}
	wide := int64(v.n) // as the field's own two's complement
	if v.kind == kindInt {
		wide = int64(int32(uint32(v.n)))
	}
	unused := 64 - form.bits
	switch {
	case form.bits == 64:
		return strconv.AppendInt(dst, int64(v.n), 10), good
	case fits:
		return strconv.AppendInt(dst, int64(v.n<<unused)>>unused, 10), good
	case wide == wide<<unused>>unused:
		return strconv.AppendInt(dst, wide, 10), good
	}
	return strconv.AppendUint(dst, v.n, 10), bad
}
