package modbus

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math"
	"math/big"
	"strings"
	"testing"
)

// FuzzEncode asks for anything to be written to a tag of any type. What is taken is
// read back as exactly that.
func FuzzEncode(f *testing.F) {
	names, byteOrders := typeNames(), []string{"ABCD", "BADC", "CDAB", "DCBA"}
	for i := range names {
		f.Add(i, i%4, []byte("12.5"), 0.1, -40.0)
		f.Add(i, i%4, []byte("-1e3"), 1.0, 0.0)
		f.Add(i, i%4, []byte(`"run"`), 0.0, 0.0)
	}
	f.Fuzz(func(t *testing.T, typ, byteOrder int, v []byte, scale, offset float64) {
		name := names[uint(typ)%uint(len(names))]
		form := formats[name]
		if !form.numeric() || form.size < 2 || math.IsNaN(scale+offset) || math.IsInf(scale+offset, 0) {
			return
		}
		x := Tag{Name: "v", Read: "holding", Type: name, Order: byteOrders[uint(byteOrder)%4], Scale: scale, Offset: offset, Write: bounds(-1e308, 1e308)}
		if scale == 0 && form.integer() {
			x.Scale, x.Offset, x.Map, x.Write = 1, 0, map[int64]string{0: "off", 7: "run"}, &Write{}
		}
		x.Scale = or(x.Scale, 1)
		one := newTag(x)
		data, err := one.encode(v)
		if err != nil {
			return
		}
		var back value
		if len(data) != 2*one.count {
			t.Fatalf("%d bytes for %d registers", len(data), one.count)
		}
		if bad := one.registers(&back, data); bad != "" || !sameValue(back.text, bytes.TrimSpace(v)) {
			t.Fatalf("%s of %s × %v + %v is % x, read back as %s %s", v, name, scale, offset, data, back.text, bad)
		}
	})
}

// FuzzBits takes any part of any value, and compares with arithmetic on big numbers.
func FuzzBits(f *testing.F) {
	f.Add(2, 0, 4, 7, []byte("\x12\x34\x56\x78\x9a\xbc\xde\xf0"))
	f.Add(3, 3, 0, 63, []byte("\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, typ, byteOrder, low, high int, data []byte) {
		kinds := []string{"int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"}
		name := kinds[uint(typ)%8]
		order := []string{"ABCD", "BADC", "CDAB", "DCBA"}[uint(byteOrder)%4]
		size := formats[name].size
		low, high = int(uint(low)%uint(8*size)), int(uint(high)%uint(8*size))
		if low > high || len(data) < 8 {
			return
		}
		whole := newTag(Tag{Name: "w", Read: "holding", Type: "uint" + strings.TrimLeft(name, "uint"), Order: order, Scale: 1})
		part := newTag(Tag{Name: "p", Read: "holding", Type: name, Order: order, Scale: 1, Bits: &BitRange{low, high}})
		flag := newTag(Tag{Name: "f", Read: "holding", Type: name, Order: order, Scale: 1, Bit: &low})
		var all, some, one value
		data = data[:2*whole.count]
		if whole.registers(&all, data)+part.registers(&some, data)+flag.registers(&one, data) != "" {
			t.Fatalf("% x is bad", data)
		}
		n := rational(t, string(all.text)).Num()
		want := new(big.Int).Rsh(n, uint(low))
		want.And(want, new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), uint(high-low+1)), big.NewInt(1)))
		if name[0] == 'i' && want.Bit(high-low) == 1 {
			want.Sub(want, new(big.Int).Lsh(big.NewInt(1), uint(high-low+1)))
		}
		if want.String() != string(some.text) || (n.Bit(low) == 1) != (string(one.text) == "true") {
			t.Fatalf("bits %d-%d of %s %s are %s, bit %d is %s, want %s", low, high, name, all.text, some.text, low, one.text, want)
		}
	})
}

func TestDecimalsOfFloatsAreExact(t *testing.T) {
	// Of 0.1 × 3 and its like: what a double computes, and what the manual means.
	for _, test := range []struct {
		wire, want    string
		scale, offset float64
	}{
		{"4008000000000000", "0.3", 0.1, 0},
		{"3fb999999999999a", "0.3", 3, 0},
		{"3fb999999999999a", "0.3", 1, 0.2},
		{"4014000000000000", "-39.5", 0.1, -40},
		{"40a0040000000000", "2.05", 0.001, 0.0},
	} {
		data, err := hex.DecodeString(test.wire)
		if err != nil {
			t.Fatal(err)
		}
		c := codecOf(t, "float64", "ABCD", test.scale, test.offset)
		var v value
		if bad := c.registers(&v, data); bad != "" || string(v.text) != test.want || !json.Valid(v.text) {
			t.Errorf("%s × %v + %v is %s %s, want %s", test.wire, test.scale, test.offset, v.text, bad, test.want)
		}
	}
}
