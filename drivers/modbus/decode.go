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
	kindBCD
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
	"bcd16":   {kindBCD, 2},
	"bcd32":   {kindBCD, 4},
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

func (f format) numeric() bool { return f.integer() || f.kind == kindFloat }

// integer says whether the raw value is a whole number.
func (f format) integer() bool { return f.kind == kindInt || f.kind == kindUint || f.kind == kindBCD }

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
	part  part
	words map[uint64][]byte // by raw value, in JSON; nil: the number itself is the value

	missing *uint64 // the bits that stand for "not available"; nil: there are none
}

// part is a run of bits of a register value, 0 the least significant. The zero
// value is the whole value.
type part struct {
	low, width int
	flag       bool // one bit that is true or false, not a number
}

// cut takes the part out of a value whose bytes b are most significant first,
// and extends its sign if it has one.
func (p part) cut(b []byte, hasSign bool) uint64 {
	u, width := unsigned(b), 8*len(b)
	if p.width > 0 {
		u, width = u>>p.low, p.width
	}
	unused := 64 - width
	if hasSign {
		return uint64(int64(u<<unused) >> unused)
	}
	return u << unused >> unused
}

// value is what a tag was read as.
type value struct {
	text []byte  // as it stands in the JSON of the reading
	raw  uint64  // integers: the bits, sign-extended
	f    float64 // numbers: scaled
}

// Why a value that arrived is none. They stand in the `bad` of a reading.
const (
	badNumber  = "not-a-number"
	badText    = "not-text"
	badMissing = "missing"
	unmapped   = "unmapped-" // and the number for which the map has no word
)

// bit reads one coil or discrete input.
func (c *codec) bit(v *value, on bool) (bad string) {
	v.raw = 0
	if on {
		v.raw = 1
	}
	if c.words != nil {
		return c.word(v)
	}
	v.text = strconv.AppendBool(v.text[:0], on)
	return ""
}

// word renders v.raw as its word in the map. A number without one is no value:
// whoever reads the words would take any text for one of them.
func (c *codec) word(v *value) (bad string) {
	word, known := c.words[v.raw]
	switch {
	case known:
		v.text = append(v.text[:0], word...)
		return ""
	case c.kind == kindInt:
		return unmapped + strconv.FormatInt(int64(v.raw), 10)
	}
	return unmapped + strconv.FormatUint(v.raw, 10)
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
	if c.missing != nil && unsigned(b) == *c.missing {
		return badMissing
	}
	if c.size == 1 {
		b = b[1:] // the low byte of the register
	}
	switch c.kind {
	case kindFloat:
		return c.float(v, b)
	case kindBCD:
		var ok bool
		if v.raw, ok = fromBCD(b); !ok {
			return badNumber
		}
	default:
		v.raw = c.part.cut(b, c.kind == kindInt && !c.part.flag)
	}
	switch {
	case c.part.flag:
		return c.bit(v, v.raw == 1)
	case c.words != nil:
		return c.word(v)
	}
	return c.number(v)
}

// fromBCD reads four bits for each decimal digit; false where four bits are none.
func fromBCD(b []byte) (n uint64, ok bool) {
	for _, x := range b {
		high, low := uint64(x>>4), uint64(x&15)
		if high > 9 || low > 9 {
			return 0, false
		}
		n = 100*n + 10*high + low
	}
	return n, true
}

func unsigned(b []byte) uint64 {
	var u uint64
	for _, x := range b {
		u = u<<8 | uint64(x)
	}
	return u
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

// number renders v.raw.
func (c *codec) number(v *value) (bad string) {
	neg, mag := c.kind == kindInt && int64(v.raw) < 0, v.raw
	if neg {
		mag = -mag
	}
	var exact bool
	v.f = c.apply(toFloat(neg, mag))
	if v.text, exact = c.appendExact(v.text[:0], neg, mag); exact {
		return ""
	}
	return c.appendFloat(v, v.f, 64)
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
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return badNumber
	}
	if c.plain() {
		return c.appendFloat(v, f, precision)
	}
	if !c.decimal {
		if c.offset != 0 && precision == 32 {
			// The sum can need more digits than a float32 has, so it is a float64
			// of what the device meant: 12.3, not 12.300000190734863.
			f, precision = shortest(f), 64
		}
		return c.appendFloat(v, c.apply(f), precision)
	}
	return c.appendFloat(v, c.applyDecimal(f, precision), 64)
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
