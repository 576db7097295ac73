package modbus

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"
)

// kind is how the bytes of a tag are read.
type kind uint8

const (
	kindBool kind = iota
	kindInt
	kindUint
	kindFloat
	kindString
	kindBytes
)

// format is a type of the config.
type format struct {
	kind kind
	size int // bytes of the value; 0: as many as the tag's length says
}

// formats are the types by their names in the config.
var formats = map[string]format{
	"bool":    {kindBool, 1},
	"int8":    {kindInt, 1},
	"int16":   {kindInt, 2},
	"int32":   {kindInt, 4},
	"int64":   {kindInt, 8},
	"uint8":   {kindUint, 1},
	"uint16":  {kindUint, 2},
	"uint32":  {kindUint, 4},
	"uint64":  {kindUint, 8},
	"float16": {kindFloat, 2},
	"float32": {kindFloat, 4},
	"float64": {kindFloat, 8},
	"string":  {kindString, 0},
	"bytes":   {kindBytes, 0},
}

func typeNames() []string {
	var names []string
	for name := range formats {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (f format) numeric() bool { return f.kind == kindInt || f.kind == kindUint || f.kind == kindFloat }

// count returns how many registers (bool: bits) a value of this type takes.
func (f format) count(length int) int {
	if f.size == 0 {
		return length
	}
	return (f.size + 1) / 2
}

// order says how the bytes of a value stand on the wire, where each register
// is sent high byte first (Modbus Application Protocol V1.1b3 §4.2).
type order struct {
	swapBytes bool // the two bytes of each register are exchanged
	swapWords bool // the register with the least significant bits comes first
}

// orders are the byte orders by their names in the config. ABCD is the order of
// the specification; A is the byte with the most significant bits.
var orders = map[string]order{
	"ABCD": {},
	"BADC": {swapBytes: true},
	"CDAB": {swapWords: true},
	"DCBA": {swapBytes: true, swapWords: true},
}

// arrange copies the registers of src to dst, which is as long, most
// significant byte first.
func (o order) arrange(dst, src []byte) {
	for i := 0; i+1 < len(src); i += 2 {
		from := i
		if o.swapWords {
			from = len(src) - 2 - i
		}
		dst[i], dst[i+1] = src[from], src[from+1]
		if o.swapBytes {
			dst[i], dst[i+1] = dst[i+1], dst[i]
		}
	}
}

// codec turns the registers of one tag into its value.
type codec struct {
	format
	order
	linear
}

// value is what a tag was read as.
type value struct {
	text []byte  // as it stands in the JSON of the reading
	raw  uint64  // integers: the bits, sign-extended
	f    float64 // numbers: scaled
}

// Why a value that arrived is none. They stand in the `bad` of a reading.
const (
	badNumber = "not-a-number"
	badText   = "not-text"
)

// bit reads one coil or discrete input.
func (c *codec) bit(v *value, on bool) {
	v.text = strconv.AppendBool(v.text[:0], on)
}

// registers reads the tag's own registers, as many bytes as its count says. It
// returns why they are no value, or "". It keeps nothing of data.
func (c *codec) registers(v *value, data []byte) (bad string) {
	if c.size == 0 {
		return c.chars(v, data)
	}
	var buf [8]byte
	b := buf[:len(data)]
	c.arrange(b, data)
	if c.size == 1 {
		b = b[1:] // the low byte of the register
	}
	switch c.kind {
	case kindFloat:
		return c.float(v, b)
	case kindInt:
		v.raw = uint64(signed(b))
	default:
		v.raw = unsigned(b)
	}
	return c.integer(v)
}

func unsigned(b []byte) uint64 {
	var u uint64
	for _, x := range b {
		u = u<<8 | uint64(x)
	}
	return u
}

func signed(b []byte) int64 {
	unused := 64 - 8*len(b)
	return int64(unsigned(b)<<unused) >> unused
}

// chars reads a string or bytes. A string ends at its first NUL, and spaces
// that pad it are left out.
func (c *codec) chars(v *value, data []byte) (bad string) {
	text := make([]byte, len(data))
	order{swapBytes: c.swapBytes}.arrange(text, data)
	if c.kind == kindBytes {
		v.text = append(v.text[:0], '"')
		v.text = hex.AppendEncode(v.text, text)
		v.text = append(v.text, '"')
		return ""
	}
	if i := slices.Index(text, 0); i >= 0 {
		text = text[:i]
	}
	for len(text) > 0 && text[len(text)-1] == ' ' {
		text = text[:len(text)-1]
	}
	if !utf8.Valid(text) {
		return badText
	}
	v.text = appendString(v.text[:0], string(text))
	return ""
}

// integer renders v.raw.
func (c *codec) integer(v *value) (bad string) {
	neg, mag := c.kind == kindInt && int64(v.raw) < 0, v.raw
	if neg {
		mag = -mag
	}
	var exact bool
	if v.text, exact = c.appendExact(v.text[:0], neg, mag); exact {
		v.f = c.apply(toFloat(neg, mag))
		return ""
	}
	return c.appendFloat(v, c.apply(toFloat(neg, mag)), 64)
}

func toFloat(neg bool, mag uint64) float64 {
	if neg {
		return -float64(mag)
	}
	return float64(mag)
}

// float reads a float16, float32 or float64 (IEEE 754).
func (c *codec) float(v *value, b []byte) (bad string) {
	var f float64
	precision := 32
	switch len(b) {
	case 2:
		f = half(binary.BigEndian.Uint16(b))
	case 4:
		f = float64(math.Float32frombits(binary.BigEndian.Uint32(b)))
	default:
		f, precision = math.Float64frombits(binary.BigEndian.Uint64(b)), 64
	}
	if c.offset != 0 && precision == 32 {
		// With an offset the sum can need more digits than a float32 has, so it
		// is a float64 of what the device meant: 12.3, not 12.300000190734863.
		f, precision = shortest(f), 64
	}
	return c.appendFloat(v, c.apply(f), precision)
}

// half converts an IEEE 754 binary16: 1 bit sign, 5 bits exponent with bias 15,
// 10 bits fraction.
func half(h uint16) float64 {
	exponent, fraction := int(h>>10&0x1f), float64(h&0x3ff)
	var f float64
	switch exponent {
	case 0:
		f = math.Ldexp(fraction, -24)
	case 0x1f:
		f = math.Inf(1)
		if fraction != 0 {
			f = math.NaN()
		}
	default:
		f = math.Ldexp(1024+fraction, exponent-25)
	}
	if h&0x8000 != 0 {
		f = -f
	}
	return f
}

// shortest returns the float64 of the shortest decimal that means this float32.
func shortest(f float64) float64 {
	s, err := strconv.ParseFloat(strconv.FormatFloat(f, 'g', -1, 32), 64)
	if err != nil {
		return f
	}
	return s
}
