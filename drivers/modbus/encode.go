package modbus

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// Bounds of a number that is to be written, so that no text makes long work.
const (
	longestNumber   = 64
	largestExponent = 400
)

// encode returns the bytes on the wire that are read back as v, a JSON value, and
// nothing else. The error says why there are none; v may come from anywhere.
func (t *tag) encode(v json.RawMessage) ([]byte, error) {
	var text string
	switch isText := json.Unmarshal(v, &text) == nil && bytes.HasPrefix(bytes.TrimSpace(v), []byte(`"`)); {
	case t.words != nil && isText:
		return t.encodeWord(text)
	case t.words != nil:
		return nil, errors.New("the value must be one of the words of the map, in quotes")
	case t.kind == kindBool:
		var on bool
		if json.Unmarshal(v, &on) != nil || bytes.Equal(bytes.TrimSpace(v), []byte("null")) {
			return nil, errors.New("the value must be true or false")
		}
		return coilBytes(on), nil
	}
	want, err := exactNumber(v)
	if err != nil {
		return nil, err
	}
	if low, high := ratOf(*t.write.Min), ratOf(*t.write.Max); want.Cmp(low) < 0 || want.Cmp(high) > 0 {
		return nil, fmt.Errorf("%s is out of bounds (allowed: %v to %v)", v, *t.write.Min, *t.write.Max)
	}
	return t.encodeNumber(want)
}

func coilBytes(on bool) []byte {
	if on {
		return []byte{0xff, 0} // Modbus Application Protocol V1.1b3 §6.5
	}
	return []byte{0, 0}
}

// encodeWord finds the number of a word.
func (c *codec) encodeWord(word string) ([]byte, error) {
	key, found := uint64(0), 0
	want := appendString(nil, word)
	for n, known := range c.words {
		if bytes.Equal(known, want) {
			key = n
			found++
		}
	}
	switch {
	case found == 0:
		return nil, fmt.Errorf("%q is no word of the map", word)
	case found > 1:
		return nil, fmt.Errorf("%q stands for several numbers in the map", word)
	case c.kind == kindBool:
		return coilBytes(key == 1), nil
	case c.kind == kindBCD:
		key, _ = toBCD(key, c.size)
	}
	return c.onWire(key), nil
}

// exactNumber reads a JSON number without loss.
func exactNumber(v json.RawMessage) (*big.Rat, error) {
	var n json.Number
	text := string(bytes.TrimSpace(v))
	if strings.HasPrefix(text, `"`) || len(text) > longestNumber || json.Unmarshal(v, &n) != nil || n == "" {
		return nil, fmt.Errorf("the value must be a number, of %d characters at most", longestNumber)
	}
	if _, e, has := strings.Cut(strings.ToLower(text), "e"); has {
		if exponent, err := strconv.Atoi(e); err != nil || exponent < -largestExponent || exponent > largestExponent {
			return nil, fmt.Errorf("the value's exponent is out of range (-%d to %d)", largestExponent, largestExponent)
		}
	}
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		return nil, errors.New("the value must be a number")
	}
	return r, nil
}

// ratOf returns the shortest decimal that means f, which is finite.
func ratOf(f float64) *big.Rat {
	r, _ := new(big.Rat).SetString(strconv.FormatFloat(f, 'g', -1, 64)) // made by strconv
	return r
}

// encodeNumber finds the raw number that is nearest to want and takes it if it
// is read as want.
func (c *codec) encodeNumber(want *big.Rat) ([]byte, error) {
	exact := new(big.Rat).Sub(want, ratOf(c.offset))
	exact.Quo(exact, ratOf(c.scale))
	raw, ok := c.nearest(exact)
	if !ok {
		return nil, fmt.Errorf("%s doesn't fit into the registers", decimalText(want))
	}
	data := c.onWire(raw)
	var back value
	if bad := c.registers(&back, data); bad != "" {
		return nil, fmt.Errorf("%s would be read back as %s", decimalText(want), bad)
	}
	got, ok := new(big.Rat).SetString(string(back.text))
	if !ok || got.Cmp(want) != 0 {
		return nil, fmt.Errorf("%s can't be held exactly (the nearest value is %s)", decimalText(want), back.text)
	}
	return data, nil
}

// nearest returns the raw bits of the number nearest to x; false if it is out of
// the type's range.
func (c *codec) nearest(x *big.Rat) (raw uint64, ok bool) {
	width := 8 * c.size
	if c.kind == kindFloat {
		f, _ := x.Float64()
		switch c.size {
		case 2:
			return toHalf(f)
		case 4:
			f32, _ := x.Float32()
			return uint64(math.Float32bits(f32)), !math.IsInf(float64(f32), 0)
		}
		return math.Float64bits(f), !math.IsInf(f, 0)
	}
	n := rounded(x)
	switch c.kind {
	case kindInt:
		limit := new(big.Int).Lsh(big.NewInt(1), uint(width-1))
		ok = n.Cmp(limit) < 0 && n.Cmp(new(big.Int).Neg(limit)) >= 0
		return uint64(n.Int64()), ok
	case kindBCD:
		if !n.IsUint64() {
			return 0, false
		}
		return toBCD(n.Uint64(), c.size)
	}
	return n.Uint64(), n.Sign() >= 0 && n.BitLen() <= width
}

// rounded returns the whole number nearest to x.
func rounded(x *big.Rat) *big.Int {
	twice := new(big.Int).Lsh(x.Num(), 1)
	twice.Add(twice, x.Denom())
	n := new(big.Int)
	return n.Div(twice, new(big.Int).Lsh(x.Denom(), 1)) // Euclidean: down, as the denominator is positive
}

// toHalf returns the bits of an IEEE 754 binary16 that is exactly f, or near it;
// false if it is too large for one.
func toHalf(f float64) (uint64, bool) {
	sign, abs := uint64(0), f
	if math.Signbit(f) {
		sign, abs = 0x8000, -f
	}
	if abs > 65504 {
		return 0, false
	}
	if abs < 0x1p-14 {
		return sign | uint64(math.Round(abs*0x1p24)), true
	}
	fraction, exponent := math.Frexp(abs) // abs = fraction × 2^exponent, fraction from 0.5 to 1
	return sign | (uint64(exponent+13)<<10 + uint64(math.Round(fraction*2048))), true
}

// toBCD is the inverse of fromBCD; false if n has more digits than size bytes hold.
func toBCD(n uint64, size int) (out uint64, ok bool) {
	for i := range 2 * size {
		out |= n % 10 << (4 * i)
		n /= 10
	}
	return out, n == 0
}

// onWire returns the low bytes of raw in the order in which they are sent.
func (c *codec) onWire(raw uint64) []byte {
	b := binary.BigEndian.AppendUint64(nil, raw)[8-2*c.count(0):]
	data := make([]byte, len(b))
	c.arrange(data, b) // its own inverse
	return data
}

// decimalText writes x for people.
func decimalText(x *big.Rat) string {
	if x.IsInt() && x.Num().BitLen() <= 80 {
		return x.Num().String()
	}
	return new(big.Float).SetPrec(200).SetRat(x).Text('g', 20)
}
