package sparkplug

import (
	"bytes"
	"encoding/binary"
	"math"
	"strconv"
	"unicode/utf8"
)

// widths are the bytes of one element of the array types that are packed little
// endian, Sparkplug 3.0.0 §6.4.17. (Its examples of FloatArray and DoubleArray
// are big endian, and that of DateTimeArray has 6 bytes for each; its text and
// the implementations are as here.)
var widths = map[uint32]int{
	typeInt8Array: 1, typeInt16Array: 2, typeInt32Array: 4, typeInt64Array: 8,
	typeUInt8Array: 1, typeUInt16Array: 2, typeUInt32Array: 4, typeUInt64Array: 8,
	typeFloatArray: 4, typeDoubleArray: 8, typeDateTimeArray: 8,
}

// bytes appends what stands in bytes_value: an array as a list, anything else in
// base64.
func (r *renderer) bytes(dst, b []byte, typ uint32) ([]byte, string, error) {
	start, ok, quality := len(dst), true, good
	var err error
	switch {
	case typ == typeBooleanArray:
		dst, ok, err = r.booleans(dst, b)
	case typ == typeStringArray:
		dst, ok = appendStrings(dst, b)
	case widths[typ] > 0:
		dst, ok, quality, err = r.packed(dst, b, typ)
	case typ == typeUnknown:
		dst, quality = appendBase64(dst, b), untyped // maybe an array
	default:
		dst, quality = appendBase64(dst, b), goodIf(typ == typeBytes || typ == typeFile)
	}
	if !ok && err == nil {
		return appendBase64(dst[:start], b), bad, nil
	}
	return dst, quality, err
}

// packed appends an array of numbers; false where the bytes do not come out even.
func (r *renderer) packed(dst, b []byte, typ uint32) ([]byte, bool, string, error) {
	width, start, quality := widths[typ], len(dst), good
	if len(b)%width != 0 {
		return dst, false, bad, nil
	}
	dst = append(dst, '[')
	for at := 0; at < len(b); at += width {
		if at > 0 {
			dst = append(dst, ',')
		}
		var number bool
		if dst, number = appendElement(dst, b[at:at+width], typ); !number {
			quality = bad
		}
		if len(dst)-start > r.left {
			return dst, false, bad, errLarge
		}
	}
	return append(dst, ']'), true, quality, nil
}

// appendElement appends one number; false for a float that JSON cannot hold.
func appendElement(dst, b []byte, typ uint32) ([]byte, bool) {
	switch typ {
	case typeInt8Array:
		return strconv.AppendInt(dst, int64(int8(b[0])), 10), true
	case typeUInt8Array:
		return strconv.AppendUint(dst, uint64(b[0]), 10), true
	case typeInt16Array:
		return strconv.AppendInt(dst, int64(int16(binary.LittleEndian.Uint16(b))), 10), true
	case typeUInt16Array:
		return strconv.AppendUint(dst, uint64(binary.LittleEndian.Uint16(b)), 10), true
	case typeInt32Array:
		return strconv.AppendInt(dst, int64(int32(binary.LittleEndian.Uint32(b))), 10), true
	case typeUInt32Array:
		return strconv.AppendUint(dst, uint64(binary.LittleEndian.Uint32(b)), 10), true
	case typeUInt64Array:
		return strconv.AppendUint(dst, binary.LittleEndian.Uint64(b), 10), true
	case typeFloatArray:
		return appendFloat(dst, float64(math.Float32frombits(binary.LittleEndian.Uint32(b))), 32)
	case typeDoubleArray:
		return appendFloat(dst, math.Float64frombits(binary.LittleEndian.Uint64(b)), 64)
	}
	return strconv.AppendInt(dst, int64(binary.LittleEndian.Uint64(b)), 10), true // Int64Array, DateTimeArray
}

// booleans appends an array of bits: their number in 4 bytes, then the bits from
// the most significant on, as in the specification's example.
func (r *renderer) booleans(dst, b []byte) ([]byte, bool, error) {
	if len(b) < 4 {
		return dst, false, nil
	}
	n, bits := uint64(binary.LittleEndian.Uint32(b)), b[4:]
	if (n+7)/8 != uint64(len(bits)) {
		return dst, false, nil
	}
	start := len(dst)
	dst = append(dst, '[')
	for i := range n {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendBool(dst, bits[i/8]&(0x80>>(i%8)) != 0)
		if len(dst)-start > r.left {
			return dst, false, errLarge
		}
	}
	return append(dst, ']'), true, nil
}

// appendStrings appends an array of strings, each with a NUL behind it; false
// where the last has none, or one is no UTF-8.
func appendStrings(dst, b []byte) ([]byte, bool) {
	if !utf8.Valid(b) {
		return dst, false
	}
	dst = append(dst, '[')
	for first := true; len(b) > 0; first = false {
		s, rest, ended := bytes.Cut(b, []byte{0})
		if !ended {
			return dst, false
		}
		if !first {
			dst = append(dst, ',')
		}
		dst, b = appendString(dst, string(s)), rest
	}
	return append(dst, ']'), true
}
