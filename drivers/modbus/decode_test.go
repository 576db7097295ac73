package modbus

import (
	"encoding/hex"
	"encoding/json"
	"math"
	"math/big"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

func codecOf(t testing.TB, typ, byteOrder string, scale, offset float64) codec {
	t.Helper()
	form, ok := formats[typ]
	o, known := orders[byteOrder]
	if !ok || !known {
		t.Fatalf("no type %s or order %s", typ, byteOrder)
	}
	return codec{format: form, order: o, linear: newLinear(scale, offset)}
}

func TestEveryTypeInEveryOrder(t *testing.T) {
	// The bytes as they stand on the wire in the orders ABCD, BADC, CDAB, DCBA.
	tests := []struct {
		typ, want string
		wire      [4]string
	}{
		{"int8", "-2", [4]string{"00fe", "fe00", "00fe", "fe00"}},
		{"uint8", "254", [4]string{"00fe", "fe00", "00fe", "fe00"}},
		{"uint8", "18", [4]string{"ff12", "12ff", "ff12", "12ff"}},
		{"int16", "-2", [4]string{"fffe", "feff", "fffe", "feff"}},
		{"uint16", "4660", [4]string{"1234", "3412", "1234", "3412"}},
		{"int32", "-2147483647", [4]string{"80000001", "00800100", "00018000", "01000080"}},
		{"uint32", "305419896", [4]string{"12345678", "34127856", "56781234", "78563412"}},
		{"int64", "-9223372036854775807", [4]string{"8000000000000001", "0080000000000100", "0001000000008000", "0100000000000080"}},
		{"uint64", "18364758544493064720", [4]string{"fedcba9876543210", "dcfe98ba54761032", "32107654ba98fedc", "1032547698badcfe"}},
		{"float16", "1.5", [4]string{"3e00", "003e", "3e00", "003e"}},
		{"float32", "12.3", [4]string{"4144cccd", "4441cdcc", "cccd4144", "cdcc4441"}},
		{"float64", "12.3", [4]string{"402899999999999a", "2840999999999a99", "999a999999994028", "9a99999999992840"}},
		{"string", `"AB"`, [4]string{"4142", "4241", "4142", "4241"}},
		{"string", `"Meter"`, [4]string{"4d6574657200", "654d65740072", "4d6574657200", "654d65740072"}},
		{"bytes", `"00ff10"`, [4]string{"", "", "", ""}},
		{"bytes", `"00ff1020"`, [4]string{"00ff1020", "ff002010", "00ff1020", "ff002010"}},
	}
	for _, test := range tests {
		for i, byteOrder := range []string{"ABCD", "BADC", "CDAB", "DCBA"} {
			if test.wire[i] == "" {
				continue
			}
			data, err := hex.DecodeString(test.wire[i])
			if err != nil {
				t.Fatal(err)
			}
			c := codecOf(t, test.typ, byteOrder, 1, 0)
			var v value
			if bad := c.registers(&v, data); bad != "" || string(v.text) != test.want {
				t.Errorf("%s %s of %s: %s %q, want %s", test.typ, byteOrder, test.wire[i], v.text, bad, test.want)
			}
		}
	}
}

func TestNumbersAreScaled(t *testing.T) {
	tests := []struct {
		name, typ     string
		scale, offset float64
		wire, want    string
	}{
		{"a tenth stays short", "uint16", 0.1, 0, "0003", "0.3"},
		{"zero", "uint16", 0.1, 0, "0000", "0"},
		{"negative and offset", "int16", 0.1, -40, "ffff", "-40.1"},
		{"whole result has no point", "int16", 0.1, -40, "00d2", "-19"},
		{"negative scale", "uint16", -0.5, 0, "0003", "-1.5"},
		{"scale above one", "uint16", 1000, 0, "0007", "7000"},
		{"scale in exponent form", "uint16", 1e-7, 0, "0001", "0.0000001"},
		{"offset with more digits than scale", "uint16", 10, 0.25, "0001", "10.25"},
		{"counter keeps its digits", "uint64", 0.001, 0, "0020000000000001", "9007199254740.993"},
		{"largest unsigned", "uint64", 1, 0, "ffffffffffffffff", "18446744073709551615"},
		{"smallest signed", "int64", 1, 0, "8000000000000000", "-9223372036854775808"},
		{"beyond 64 bits", "uint64", 0.1, 0, "ffffffffffffffff", "1844674407370955161.5"},
		{"sum beyond 64 bits", "int64", 1, 1, "7fffffffffffffff", "9223372036854775808"},
		{"scale with too many digits goes by float64", "uint32", 1.0 / 3, 0, "ffffffff", "1431655765"},
		{"float32 stays short when scaled", "float32", 10, 0, "4144cccd", "123"},
		{"float32 with offset", "float32", 1, 1000000.5, "4144cccd", "1000012.8"},
		{"float32 scaled out of its range", "float32", 10, 0, "7f7fffff", "3.4028235e+39"},
		{"float32 scaled below its range", "float32", 1e-30, 0, "00800000", "1.1754944e-68"},
		{"smallest float32", "float32", 1, 0, "00000001", "1e-45"},
		{"negative zero", "float32", 1, 0, "80000000", "-0"},
		{"largest half", "float16", 1, 0, "7bff", "65504"},
		{"smallest half", "float16", 1, 0, "0001", "5.9604645e-8"},
		{"negative half", "float16", 1, 0, "c000", "-2"},
		{"float64 is scaled in decimal", "float64", 0.1, 0, "4008000000000000", "0.3"},
		{"float64 with an offset", "float64", 1.8, 32, "402899999999999a", "54.14"},
		{"float64 that is scaled by a long number", "float64", 123456.789, -0.001, "3fd5555555555555", "41152.261999999995"},
		{"huge float64 with an offset", "float64", 2, 1, "7e37e43c8800759c", "2e+300"},
		{"tiny float32 with an offset", "float32", 1, 20.5, "00000001", "20.5"},
		{"float32 in Fahrenheit", "float32", 1.8, 32, "41b9999a", "73.76"},
		{"integer in Fahrenheit", "int16", 0.18, 32, "00e8", "73.76"},
		{"scale with a large exponent", "uint16", 1e20, 0, "0007", "700000000000000000000"},
		{"scale with a huge exponent goes by float64", "uint16", 1e90, 0, "0007", "7e+90"},
		{"float64 keeps its digits", "float64", 1, 0, "3fb999999999999a", "0.1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			data, err := hex.DecodeString(test.wire)
			if err != nil {
				t.Fatal(err)
			}
			c := codecOf(t, test.typ, "ABCD", test.scale, test.offset)
			var v value
			if bad := c.registers(&v, data); bad != "" || !sameJSON(string(v.text), test.want) {
				t.Errorf("got %s %q, want %s", v.text, bad, test.want)
			}
		})
	}
}

// sameJSON compares numbers by their text, but for the sign and zeros of an
// exponent.
func sameJSON(a, b string) bool {
	tidy := strings.NewReplacer("e-0", "e-", "e+0", "e+")
	return tidy.Replace(a) == tidy.Replace(b)
}

func TestWhatIsNoValueIsBad(t *testing.T) {
	tests := []struct{ name, typ, wire, want string }{
		{"half NaN", "float16", "7e00", badNumber},
		{"half infinity", "float16", "fc00", badNumber},
		{"float32 NaN", "float32", "7fc00000", badNumber},
		{"float32 signalling NaN", "float32", "7f800001", badNumber},
		{"float32 infinity", "float32", "7f800000", badNumber},
		{"float64 NaN", "float64", "7ff8000000000000", badNumber},
		{"float64 minus infinity", "float64", "fff0000000000000", badNumber},
		{"text in Latin-1", "string", "b043", badText},
		{"unset text", "string", "ffffffff", badText},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			data, err := hex.DecodeString(test.wire)
			if err != nil {
				t.Fatal(err)
			}
			c := codecOf(t, test.typ, "ABCD", 1, 0)
			var v value
			if bad := c.registers(&v, data); bad != test.want {
				t.Errorf("got %q (%s), want %q", bad, v.text, test.want)
			}
		})
	}
	c := codecOf(t, "float64", "ABCD", 1e300, 0)
	if bad := c.registers(new(value), []byte{0x7f, 0xe0, 0, 0, 0, 0, 0, 0}); bad != badNumber {
		t.Errorf("scaled to infinity: %q, want %q", bad, badNumber)
	}
}

func TestStringsAreTrimmedAndEscaped(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"up to the first NUL", "AB\x00CDE", `"AB"`},
		{"without the spaces that pad it", "AB    ", `"AB"`},
		{"spaces before a NUL too", "AB  \x00\x00", `"AB"`},
		{"leading spaces stay", "  AB", `"  AB"`},
		{"empty", "\x00\x00", `""`},
		{"quotes and backslash", `a"\b`, `"a\"\\b"`},
		{"control characters", "a\n\x1f\x7f", "\"a\\u000a\\u001f\\u007f\""},
		{"beyond ASCII", "°C\x00", `"°C"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := codecOf(t, "string", "ABCD", 1, 0)
			var v value
			if bad := c.registers(&v, []byte(test.in)); bad != "" || string(v.text) != test.want {
				t.Errorf("got %s %q, want %s", v.text, bad, test.want)
			}
		})
	}
}

func TestDecimalScalingIsExact(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 20000 {
		scale, offset := decimal(r), decimal(r)
		raw := int64(r.Uint64()) >> r.IntN(64)
		l := newLinear(parseFloat(t, scale), parseFloat(t, offset))
		neg, mag := raw < 0, uint64(raw)
		if neg {
			mag = -mag
		}
		text, exact := l.appendExact(nil, neg, mag)
		if !exact {
			continue
		}
		want := new(big.Rat).SetInt64(raw)
		want.Mul(want, rational(t, scale)).Add(want, rational(t, offset))
		if got := rational(t, string(text)); got.Cmp(want) != 0 || !json.Valid(text) {
			t.Fatalf("%d × %s + %s is %s, want %s", raw, scale, offset, text, want.FloatString(20))
		}
	}
}

// decimal makes a short decimal other than 0, such as -12.5.
func decimal(r *rand.Rand) string {
	n := r.IntN(2000) - 1000
	if n == 0 {
		n = 1
	}
	return strconv.Itoa(n) + "e" + strconv.Itoa(r.IntN(8)-6)
}

func parseFloat(t *testing.T, s string) float64 {
	t.Helper()
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func rational(t *testing.T, s string) *big.Rat {
	t.Helper()
	v, ok := new(big.Rat).SetString(s)
	if !ok {
		t.Fatalf("%q is no number", s)
	}
	return v
}

// FuzzDecode reads any bytes as any type in any order. What is accepted is valid
// JSON, and unscaled it encodes back to the same bytes.
func FuzzDecode(f *testing.F) {
	names, byteOrders := typeNames(), []string{"ABCD", "BADC", "CDAB", "DCBA"}
	for i := range names {
		f.Add(i, i%4, []byte("\x41\x44\xcc\xcd\x00\xff\x80\x01"), 0.1, -40.0)
		f.Add(i, i%4, []byte("\x7f\xff\xff\xff\xff\xff\xff\xff"), 1.0, 0.0)
	}
	f.Fuzz(func(t *testing.T, typ, byteOrder int, data []byte, scale, offset float64) {
		name := names[uint(typ)%uint(len(names))]
		c := codecOf(t, name, byteOrders[uint(byteOrder)%4], 1, 0)
		count := c.count(len(data) / 2)
		if c.kind == kindBool || count == 0 || count > maxRegisters || len(data) < 2*count {
			return
		}
		data = data[:2*count]
		var v value
		if bad := c.registers(&v, data); bad == "" {
			checkBack(t, name, c, v.text, data)
		}
		if math.IsNaN(scale) || math.IsInf(scale, 0) || math.IsNaN(offset) || math.IsInf(offset, 0) || !c.numeric() {
			return
		}
		c.linear = newLinear(scale, offset)
		if bad := c.registers(&v, data); bad == "" && !json.Valid(v.text) {
			t.Fatalf("%s × %v + %v of % x is %s: no JSON", name, scale, offset, data, v.text)
		}
	})
}

// checkBack encodes a value and compares.
func checkBack(t *testing.T, name string, c codec, text, data []byte) {
	t.Helper()
	if !json.Valid(text) || !utf8.Valid(text) {
		t.Fatalf("%s of % x is %q: no JSON", name, data, text)
	}
	arranged := make([]byte, len(data))
	o := c.order
	o.swapWords = o.swapWords && c.size > 0
	o.arrange(arranged, data)
	if c.size == 1 {
		arranged = arranged[1:]
	}
	var same bool
	switch c.kind {
	case kindInt:
		n, err := strconv.ParseInt(string(text), 10, 8*c.size)
		same = err == nil && n == int64(part{}.cut(arranged, true))
	case kindUint:
		n, err := strconv.ParseUint(string(text), 10, 8*c.size)
		same = err == nil && n == unsigned(arranged)
	case kindBCD:
		same = "00000000"[len(text):]+string(text) == "00000000"[2*c.size:]+hex.EncodeToString(arranged)
	case kindFloat:
		same = floatBits(t, c.size, string(text)) == unsigned(arranged)
	case kindBytes:
		same = string(text) == `"`+hex.EncodeToString(arranged)+`"`
	case kindString:
		var s string
		err := json.Unmarshal(text, &s)
		same = err == nil && strings.HasPrefix(string(arranged), s)
	}
	if !same {
		t.Fatalf("%s of % x is %s, which doesn't encode back", name, data, text)
	}
}

// floatBits encodes a float.
func floatBits(t *testing.T, size int, text string) uint64 {
	t.Helper()
	f := parseFloat(t, text)
	switch size {
	case 8:
		return math.Float64bits(f)
	case 4:
		return uint64(math.Float32bits(float32(f)))
	}
	return halfBits(float64(float32(f)))
}

// halfBits encodes a float that a binary16 holds exactly.
func halfBits(f float64) uint64 {
	var sign uint64
	if math.Signbit(f) {
		sign, f = 0x8000, -f
	}
	if f < 0x1p-14 {
		return sign | uint64(f*0x1p24)
	}
	fraction, exponent := math.Frexp(f) // f = fraction × 2^exponent, fraction from 0.5 to 1
	return sign | uint64(exponent+14)<<10 | uint64(fraction*2048-1024)
}

func TestEveryHalf(t *testing.T) {
	c := codecOf(t, "float16", "ABCD", 1, 0)
	for h := range 1 << 16 {
		var v value
		bad := c.registers(&v, []byte{byte(h >> 8), byte(h)})
		if special := h&0x7c00 == 0x7c00; special != (bad == badNumber) {
			t.Fatalf("half %04x: bad is %q", h, bad)
		}
		if bad == "" && floatBits(t, 2, string(v.text)) != uint64(h) {
			t.Fatalf("half %04x is %s, which doesn't encode back", h, v.text)
		}
	}
}

// FuzzString makes JSON of any text, as tag names and device names are.
func FuzzString(f *testing.F) {
	f.Add("power")
	f.Add("a\"b\\\x00\u2028\xff°")
	f.Fuzz(func(t *testing.T, s string) {
		var back string
		text := appendString(nil, s)
		if err := json.Unmarshal(text, &back); err != nil || back != strings.ToValidUTF8(back, "") {
			t.Fatalf("%q is %s: %v", s, text, err)
		}
		if utf8.ValidString(s) && back != s {
			t.Fatalf("%q became %q", s, back)
		}
	})
}
