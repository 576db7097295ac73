package sparkplug

import "strconv"

// Data types, Sparkplug 3.0.0 §6.4.16.
const (
	typeInt8          = 1
	typeInt16         = 2
	typeInt32         = 3
	typeInt64         = 4
	typeUInt8         = 5
	typeUInt16        = 6
	typeUInt32        = 7
	typeUInt64        = 8
	typeFloat         = 9
	typeDouble        = 10
	typeBoolean       = 11
	typeString        = 12
	typeDateTime      = 13
	typeText          = 14
	typeUUID          = 15
	typeDataSet       = 16
	typeBytes         = 17
	typeFile          = 18
	typeTemplate      = 19
	typePropertySet   = 20
	typePropertyList  = 21
	typeInt8Array     = 22
	typeInt16Array    = 23
	typeInt32Array    = 24
	typeInt64Array    = 25
	typeUInt8Array    = 26
	typeUInt16Array   = 27
	typeUInt32Array   = 28
	typeUInt64Array   = 29
	typeFloatArray    = 30
	typeDoubleArray   = 31
	typeBooleanArray  = 32
	typeStringArray   = 33
	typeDateTimeArray = 34

	typeUnknown = 0
)

// typeNames are the names of the specification, by number.
var typeNames = [...]string{
	"Unknown", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float", "Double", "Boolean",
	"String", "DateTime", "Text", "UUID", "DataSet", "Bytes", "File", "Template", "PropertySet", "PropertySetList",
	"Int8Array", "Int16Array", "Int32Array", "Int64Array", "UInt8Array", "UInt16Array", "UInt32Array", "UInt64Array",
	"FloatArray", "DoubleArray", "BooleanArray", "StringArray", "DateTimeArray",
}

// typeName is the name of a data type, or its number where it has none.
func typeName(typ uint32) string {
	if int(typ) < len(typeNames) {
		return typeNames[typ]
	}
	return strconv.FormatUint(uint64(typ), 10)
}

// knownType returns typ, or typeUnknown for a number that the specification
// does not have.
func knownType(typ uint32) uint32 {
	if int(typ) < len(typeNames) {
		return typ
	}
	return typeUnknown
}

// kind is the form in which a value stands on the wire: the member of its oneof,
// Sparkplug 3.0.0 §6.4.1.
type kind byte

const (
	kindNone kind = iota
	kindInt
	kindLong
	kindFloat
	kindDouble
	kindBool
	kindString
	kindBytes
	kindDataSet
	kindTemplate
	kindPropertySet
	kindPropertyList
	kindExtension
)

// wires is the wire type of each kind.
var wires = [...]byte{
	kindInt: wireVarint, kindLong: wireVarint, kindFloat: wireFixed32, kindDouble: wireFixed64, kindBool: wireVarint,
	kindString: wireBytes, kindBytes: wireBytes, kindDataSet: wireBytes, kindTemplate: wireBytes,
	kindPropertySet: wireBytes, kindPropertyList: wireBytes, kindExtension: wireBytes,
}

// The value fields of the messages that have one, from the field number of the
// first on.
var (
	metricKinds    = []kind{kindInt, kindLong, kindFloat, kindDouble, kindBool, kindString, kindBytes, kindDataSet, kindTemplate, kindExtension}
	propertyKinds  = []kind{kindInt, kindLong, kindFloat, kindDouble, kindBool, kindString, kindPropertySet, kindPropertyList, kindExtension}
	parameterKinds = []kind{kindInt, kindLong, kindFloat, kindDouble, kindBool, kindString, kindExtension}
	cellKinds      = parameterKinds
)

// value is a value as it stands on the wire.
type value struct {
	kind kind
	n    uint64
	b    []byte
}

// set takes the value that f holds, if f is one of the value fields, which begin
// at first. A field of another wire type than it should have is unknown, as
// Protocol Buffers have it.
func (v *value) set(f *field, first uint64, kinds []kind) {
	if f.number < first || f.number-first >= uint64(len(kinds)) {
		return
	}
	k := kinds[f.number-first]
	if wires[k] != f.wire {
		return
	}
	*v = value{kind: k, n: f.n, b: f.b}
	if k == kindInt {
		v.n = uint64(uint32(f.n)) // uint32 on the wire may have been a negative int32 of ten bytes
	}
}
