package modbus

import (
	"math"
	"math/big"
	"math/bits"
	"strconv"
)

// linear is value = raw × scale + offset. Where scale and offset are decimals
// as manuals give them, it is computed in decimal: 3 × 0.1 is 0.3, and a 64-bit
// counter keeps all its digits.
type linear struct {
	scale, offset float64

	decimal  bool // scale is mul/10^digits and offset is add/10^digits, exactly as written
	mul, add *big.Int
	digits   int // behind the point, 0 to maxShift

	small              bool // mul and add fit these
	smallMul, smallAdd int64
}

// A decimal of up to 15 digits is what was written: a float64 gives all of them
// back. One with more may stand for something else, such as 1/3, and is no
// reason to compute further digits from it.
const sureBelow = 1e15

// maxShift bounds the zeros that bringing scale and offset to a common unit adds.
const maxShift = 60

func newLinear(scale, offset float64) linear {
	l := linear{scale: scale, offset: offset}
	if l.plain() {
		return l
	}
	mul, e1, sure1 := toDecimal(scale)
	add, e2, sure2 := toDecimal(offset)
	unit := min(e1, e2, 0)
	if !sure1 || !sure2 || -unit > maxShift || max(e1, e2)-unit > maxShift {
		return l
	}
	l.decimal, l.digits = true, -unit
	l.mul = mul.Mul(mul, tenTo(e1-unit))
	l.add = add.Mul(add, tenTo(e2-unit))
	if l.small = l.mul.IsInt64() && l.add.IsInt64(); l.small {
		l.smallMul, l.smallAdd = l.mul.Int64(), l.add.Int64()
	}
	return l
}

// toDecimal returns n and e with n × 10^e being the shortest decimal that means f,
// and whether it is surely what was written.
func toDecimal(f float64) (n *big.Int, e int, sure bool) {
	neg, digits, e := split(f, 64)
	n = new(big.Int).SetUint64(digits)
	if neg {
		n.Neg(n)
	}
	return n, e, digits < sureBelow
}

// split returns n and e with n × 10^e being the shortest decimal that means f as a
// float of that precision, and its sign. f is finite.
func split(f float64, precision int) (negative bool, n uint64, e int) {
	var buf [32]byte
	text := strconv.AppendFloat(buf[:0], f, 'e', -1, precision)
	if text[0] == '-' {
		negative, text = true, text[1:]
	}
	point := false
	for i, b := range text {
		switch {
		case b == '.':
			point = true
		case b == 'e':
			exponent, _ := strconv.Atoi(string(text[i+1:])) // strconv wrote it
			return negative, n, e + exponent
		default: // at most 17 digits
			n = 10*n + uint64(b-'0')
			if point {
				e--
			}
		}
	}
	return negative, n, e
}

func tenTo(e int) *big.Int {
	return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(e)), nil)
}

// plain says that the value is the raw one.
func (l *linear) plain() bool { return l.scale == 1 && l.offset == 0 }

// apply computes in floating point.
func (l *linear) apply(raw float64) float64 {
	if l.plain() {
		return raw
	}
	return raw*l.scale + l.offset
}

// appendExact appends the scaled integer in decimal; false, with dst as it was,
// where scale or offset are no sure decimals.
func (l *linear) appendExact(dst []byte, neg bool, mag uint64) ([]byte, bool) {
	switch {
	case l.plain():
		if neg {
			dst = append(dst, '-')
		}
		return strconv.AppendUint(dst, mag, 10), true
	case !l.decimal:
		return dst, false
	}
	if n, ok := l.smallSum(neg, mag, 0); ok {
		var buf [20]byte
		return appendPoint(dst, n < 0, strconv.AppendUint(buf[:0], magnitude(n), 10), l.digits), true
	}
	n := new(big.Int).SetUint64(mag)
	if neg {
		n.Neg(n)
	}
	n.Mul(n, l.mul).Add(n, l.add)
	return appendPoint(dst, n.Sign() < 0, new(big.Int).Abs(n).Append(nil, 10), l.digits), true
}

// smallSum returns ±mag × mul + add × 10^shift, if 64 bits are enough for each step.
func (l *linear) smallSum(neg bool, mag uint64, shift int) (int64, bool) {
	if !l.small {
		return 0, false
	}
	high, low := bits.Mul64(mag, magnitude(l.smallMul))
	add := l.smallAdd
	for ; shift > 0 && add != 0; shift-- {
		if magnitude(add) > math.MaxInt64/10 {
			return 0, false
		}
		add *= 10
	}
	if high != 0 || low > math.MaxInt64 {
		return 0, false
	}
	n := int64(low)
	if neg != (l.smallMul < 0) {
		n = -n
	}
	sum := n + add
	if add != 0 && (sum > n) != (add > 0) {
		return 0, false // overflow
	}
	return sum, true
}

func magnitude(n int64) uint64 {
	if n < 0 {
		return -uint64(n)
	}
	return uint64(n)
}

// appendPoint appends digits/10^behind without zeros at the end of the fraction.
func appendPoint(dst []byte, neg bool, digits []byte, behind int) []byte {
	for behind > 0 && len(digits) > 0 && digits[len(digits)-1] == '0' {
		digits, behind = digits[:len(digits)-1], behind-1
	}
	if len(digits) == 0 {
		return append(dst, '0')
	}
	if neg {
		dst = append(dst, '-')
	}
	whole := len(digits) - behind
	if whole > 0 {
		dst = append(dst, digits[:whole]...)
		digits = digits[whole:]
	} else {
		dst = append(dst, '0')
	}
	if behind > 0 {
		dst = append(dst, '.')
		for ; whole < 0; whole++ {
			dst = append(dst, '0')
		}
		dst = append(dst, digits...)
	}
	return dst
}

// applyDecimal scales what a float of that precision means, 12.3 and not
// 12.300000190734863, in decimal, and rounds once. The result may be infinite.
func (l *linear) applyDecimal(f float64, precision int) float64 {
	neg, n, e := split(f, precision)
	// ±n × 10^e × mul / 10^digits + add / 10^digits, in units of 10^(min(e,0)-digits).
	if e <= 0 {
		if sum, ok := l.smallSum(neg, n, -e); ok {
			return quotient(sum, l.digits-e)
		}
	}
	x := new(big.Int).SetUint64(n)
	if neg {
		x.Neg(x)
	}
	x.Mul(x, l.mul).Mul(x, tenTo(max(e, 0)))
	x.Add(x, new(big.Int).Mul(l.add, tenTo(max(-e, 0))))
	return parsed(x.String(), l.digits-min(e, 0))
}

// exactTens are the powers of ten that a float64 holds exactly.
var exactTens = [...]float64{1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22}

// quotient returns the float64 that is nearest to n/10^behind.
func quotient(n int64, behind int) float64 {
	if magnitude(n) <= 1<<53 && behind < len(exactTens) {
		return float64(n) / exactTens[behind] // of two exact numbers, so rounded once
	}
	return parsed(strconv.FormatInt(n, 10), behind)
}

// parsed is quotient for any number of digits.
func parsed(digits string, behind int) float64 {
	f, _ := strconv.ParseFloat(digits+"e-"+strconv.Itoa(behind), 64) // out of range it is infinite
	return f
}

// smallestNormal32 is the smallest float32 that has all its digits.
const smallestNormal32 = 0x1p-126

// appendFloat renders f with as few digits as mean the same number of that
// precision (32 or 64 bits). NaN and infinities are no JSON and no value.
func (l *linear) appendFloat(v *value, f float64, precision int) (bad string) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return badNumber
	}
	v.f = f
	abs := math.Abs(f)
	if l.scale != 1 && (abs > math.MaxFloat32 || abs < smallestNormal32) {
		precision = 64 // scaled out of what a float32 holds
	}
	layout := byte('f')
	if abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		layout = 'e'
	}
	v.text = strconv.AppendFloat(v.text[:0], f, layout, -1, precision)
	return ""
}
