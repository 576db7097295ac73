package modbus

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"time"
	"unicode/utf8"
)

// checkPart checks which bits of its value a tag takes.
func checkPart(p *problems, t Tag, form format) {
	last := 8*form.size - 1
	switch {
	case t.Bit == nil && t.Bits == nil:
	case t.Bit != nil && t.Bits != nil:
		p.addf("it has both bit and bits (one of them)")
	case form.kind != kindInt && form.kind != kindUint:
		p.addf("bit and bits can't be taken from type %s in %s (only from whole numbers in registers)", t.Type, t.Read)
	case t.Bit != nil:
		between(p, "bit", *t.Bit, 0, last)
	case t.Bits.Low < 0 || t.Bits.Low > t.Bits.High || t.Bits.High > last:
		p.addf("bits is %d-%d (allowed: from 0 to %d, the lower one first)", t.Bits.Low, t.Bits.High, last)
	}
}

// missingBits reads the number that stands for "not available": the bits of a
// whole register value. A negative one is in two's complement. nil: the text is
// empty.
func missingBits(text string, form format) (*uint64, error) {
	if text == "" {
		return nil, nil
	}
	n, ok := new(big.Int).SetString(text, 0)
	width := 8 * form.size
	switch {
	case width < 16:
		return nil, errors.New("missing makes no sense with this type (only with numbers of whole registers)")
	case !ok || n.BitLen() > width || n.Sign() < 0 && n.Cmp(new(big.Int).Neg(new(big.Int).Lsh(big.NewInt(1), uint(width-1)))) < 0:
		return nil, fmt.Errorf("missing is %q (allowed: a whole number of %d bits, such as 0x8000)", text, width)
	}
	if n.Sign() < 0 {
		n.Add(n, new(big.Int).Lsh(big.NewInt(1), uint(width)))
	}
	bits := n.Uint64()
	return &bits, nil
}

// checkMap checks the words of a tag.
func checkMap(p *problems, t Tag, form format) {
	if t.Map == nil {
		return
	}
	if !form.integer() && form.kind != kindBool {
		p.addf("map makes no sense with type %s (only with whole numbers and bool)", t.Type)
		return
	}
	if t.Scale != 1 || t.Offset != 0 || t.Deadband.Width > 0 {
		p.addf("scale, offset and a deadband above 0 make no sense with a map (it has words for raw numbers)")
	}
	low, high := rawRange(t, form)
	for n, word := range t.Map {
		if n < low || n > high {
			p.addf("map: %d can't be read (possible: %d to %d)", n, low, high)
		}
		if word == "" || len(word) > 128 || !utf8.ValidString(word) {
			p.addf("map: the word for %d is %q (allowed: 1 to 128 bytes of UTF-8)", n, word)
		}
	}
	if len(t.Map) == 0 {
		p.addf("map is empty (at least one word is needed)")
	}
}

// rawRange returns the raw numbers that a tag can be read as, as far as an int64
// holds them.
func rawRange(t Tag, form format) (low, high int64) {
	width := 8 * form.size
	switch {
	case form.kind == kindBool || t.Bit != nil:
		return 0, 1
	case form.kind == kindBCD:
		return 0, int64(math.Pow10(2*form.size)) - 1
	case t.Bits != nil:
		width = min(max(t.Bits.High-t.Bits.Low+1, 1), 64)
	}
	switch {
	case form.kind == kindInt:
		return -1 << (width - 1), 1<<(width-1) - 1
	case width >= 63:
		return 0, math.MaxInt64
	}
	return 0, 1<<width - 1
}

// checkWrite checks what may be written to a tag.
func checkWrite(p *problems, t Tag, form format) {
	w := t.Write
	if w == nil {
		return
	}
	if w.Expire != 0 {
		between(p, "write.expire", w.Expire, 100*time.Millisecond, 24*time.Hour)
	}
	number := form.numeric() && t.Map == nil
	switch {
	case t.Read != "holding" && t.Read != "coil":
		p.addf("write makes no sense with read: %s (only holding and coil can be written)", t.Read)
	case t.Bit != nil || t.Bits != nil || form.size == 1 && form.kind != kindBool:
		p.addf("write can't be combined with bit, bits or an 8-bit type (a register is only written as a whole)")
	case form.size == 0:
		p.addf("write can't be combined with type %s (only with numbers and bool)", t.Type)
	case !number && (w.Min != nil || w.Max != nil):
		p.addf("write.min and write.max make no sense with bool or a map (only with numbers)")
	case number && (w.Min == nil || w.Max == nil):
		p.addf("write.min or write.max is missing (a number has both)")
	case number && !(*w.Min <= *w.Max && !math.IsInf(*w.Min, 0) && !math.IsInf(*w.Max, 0)):
		p.addf("write.min is %v and write.max is %v (allowed: finite numbers, the lower one first)", *w.Min, *w.Max)
	}
}
