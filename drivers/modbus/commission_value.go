package modbus

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
)

// Form is how registers are read as a value and a value is written into them.
// The fields are those of Tag.
type Form struct {
	Type   string
	Order  string  // empty: ABCD
	Scale  float64 // 0: 1
	Offset float64
	Length int // registers of a string or of bytes

	Bit     *int
	Bits    *BitRange
	Map     map[int64]string // also of a coil or discrete input
	Missing string
}

// Types are the names of the types that registers can have, in the order of a
// table for people: the integers first, the short ones before the long ones.
func Types() []string {
	names := slices.DeleteFunc(typeNames(), func(name string) bool { return formats[name].kind == kindBool })
	slices.SortStableFunc(names, func(a, b string) int {
		fa, fb := formats[a], formats[b]
		if (fa.size == 0) != (fb.size == 0) {
			return fb.size - fa.size // those of any length last
		}
		if fa.size != fb.size {
			return fa.size - fb.size
		}
		return int(fa.kind) - int(fb.kind)
	})
	return names
}

// Orders are the names of the byte orders, that of the specification first.
func Orders() []string { return []string{"ABCD", "CDAB", "BADC", "DCBA"} }

// codec checks the form.
func (f Form) codec() (*codec, error) {
	t := tagDefaults(Tag{Read: "holding", Type: f.Type, Order: f.Order, Scale: f.Scale, Offset: f.Offset, Length: f.Length,
		Bit: f.Bit, Bits: f.Bits, Map: f.Map, Missing: f.Missing}, Device{})
	form, known := formats[t.Type]
	if !known || form.kind == kindBool {
		return nil, fmt.Errorf("the type is %q (allowed: %s)", f.Type, strings.Join(Types(), ", "))
	}
	if _, known := orders[t.Order]; !known {
		return nil, fmt.Errorf("the order is %q (allowed: %s)", f.Order, strings.Join(Orders(), ", "))
	}
	var p problems
	checkNumber(&p, t, form)
	checkPart(&p, t, form)
	checkMap(&p, t, form)
	if _, err := missingBits(t.Missing, form); err != nil {
		p.addf("%w", err)
	}
	switch {
	case form.size == 0:
		between(&p, "length", f.Length, 1, maxRegisters)
	case f.Length != 0:
		p.addf("length is %d (only string and bytes have one)", f.Length)
	}
	if len(p) > 0 {
		return nil, errors.Join(p...)
	}
	c := newCodec(t)
	return &c, nil
}

// Registers checks the form and returns how many registers a value takes.
func (f Form) Registers() (int, error) {
	c, err := f.codec()
	if err != nil {
		return 0, err
	}
	return c.count(f.Length), nil
}

// Decode returns the value in registers, two bytes each, as it stands in a
// reading's JSON; bad says why there is none (not-a-number, not-text, missing, unmapped-N).
func (f Form) Decode(data []byte) (text, bad string, err error) {
	c, err := f.codec()
	if err != nil {
		return "", "", err
	}
	if len(data) != 2*c.count(f.Length) {
		return "", "", fmt.Errorf("%s takes %d registers, and there are %d", f.Type, c.count(f.Length), len(data)/2)
	}
	var v value
	bad = c.registers(&v, data)
	return string(v.text), bad, nil
}

// DecodeBit returns the value of a coil or discrete input as it stands in a
// reading's JSON; bad says why there is none (unmapped-N).
func (f Form) DecodeBit(on bool) (text, bad string) {
	c := newCodec(Tag{Type: "bool", Scale: 1, Map: f.Map})
	var v value
	bad = c.bit(&v, on)
	return string(v.text), bad
}

// EncodeBit is the inverse of DecodeBit for a form with a map.
func (f Form) EncodeBit(word string) (on bool, err error) {
	c := newCodec(Tag{Type: "bool", Scale: 1, Map: f.Map})
	data, err := c.encodeWord(word)
	return err == nil && data[0] != 0, err
}

// Encode makes the registers of a value: a number as people write it, a word of
// the map, the text of a string, the hex of bytes. A value that would read back as
// another one is an error, and so are an 8-bit type and a bit or some bits, which
// share their register with others.
func (f Form) Encode(text string) ([]byte, error) {
	c, err := f.codec()
	if err != nil {
		return nil, err
	}
	switch {
	case c.size == 0:
		return f.encodeText(c, text)
	case f.Bit != nil || f.Bits != nil:
		return nil, errors.New("it is some bits of a register, and the others would be lost (write the whole register by its address)")
	case c.words != nil && c.size > 1:
		return c.encodeWord(text)
	}
	if c.size == 1 {
		return nil, fmt.Errorf("%s is one byte of a register, and the other one would be lost (write the whole register as uint16)", f.Type)
	}
	want, ok := new(big.Rat).SetString(text)
	if !ok || strings.Contains(text, "/") {
		return nil, fmt.Errorf("%q is no number (such as 12.5, -3 or 0x1f)", text)
	}
	if want.Sign() == 0 && strings.HasPrefix(text, "-") && c.kind == kindFloat && c.plain() {
		return c.onWire(1 << (8*c.size - 1)), nil // -0
	}
	return c.encodeNumber(want)
}

// encodeText makes the registers of a string, padded with NUL, or of bytes.
func (f Form) encodeText(c *codec, text string) ([]byte, error) {
	raw := []byte(text)
	if c.kind == kindBytes {
		var err error
		if raw, err = hex.DecodeString(strings.TrimPrefix(text, "0x")); err != nil || len(raw) != 2*f.Length {
			return nil, fmt.Errorf("%q is not the hex of %d bytes", text, 2*f.Length)
		}
	}
	if len(raw) > 2*f.Length {
		return nil, fmt.Errorf("the text has %d bytes, and %d registers hold %d", len(raw), f.Length, 2*f.Length)
	}
	padded := make([]byte, 2*f.Length)
	copy(padded, raw)
	out := make([]byte, 2*f.Length)
	order{swapBytes: c.swapBytes}.arrange(out, padded)
	shown, bad, err := f.Decode(out)
	var back string
	if err != nil || bad != "" || json.Unmarshal([]byte(shown), &back) != nil || c.kind == kindString && back != text {
		return nil, fmt.Errorf("%q would read back as another text (UTF-8 without NUL and without spaces at the end)", text)
	}
	return out, nil
}
