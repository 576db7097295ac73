package modbus

import (
	"math"
	"math/bits"
	"strconv"
	"strings"
)

// linear is value = raw × scale + offset. Where scale and offset are short
// decimals, as manuals give them, integers are computed in decimal: 3 × 0.1 is
// 0.3, and a 64-bit counter keeps all its digits.
type linear struct {
	scale, offset float64

	decimal  bool  // scale is mul/10^digits and offset is add/10^digits, exactly as written
	mul, add int64 // in units of the last digit
	digits   int   // behind the point, 0 to 18
}

func newLinear(scale, offset float64) linear {
	l := linear{scale: scale, offset: offset}
	mul, d1, ok1 := toDecimal(scale)
	add, d2, ok2 := toDecimal(offset)
	l.digits = max(d1, d2)
	mul, ok3 := shift(mul, l.digits-d1)
	add, ok4 := shift(add, l.digits-d2)
	l.mul, l.add = mul, add
	l.decimal = ok1 && ok2 && ok3 && ok4
	return l
}

// toDecimal returns n and digits with n/10^digits being the shortest decimal
// that means f; false where that has too many digits.
func toDecimal(f float64) (n int64, digits int, ok bool) {
	mantissa, exponent, _ := strings.Cut(strconv.FormatFloat(f, 'e', -1, 64), "e")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	n, err := strconv.ParseInt(whole+fraction, 10, 64)
	if err != nil {
		return 0, 0, false
	}
	e, err := strconv.Atoi(exponent)
	if err != nil {
		return 0, 0, false
	}
	digits = len(fraction) - e
	if digits < 0 {
		n, ok = shift(n, -digits)
		return n, 0, ok
	}
	return n, digits, digits <= 18
}

// shift returns n × 10^by; false if that is more than an int64 holds.
func shift(n int64, by int) (int64, bool) {
	for ; by > 0 && n != 0; by-- {
		if n > math.MaxInt64/10 || n < math.MinInt64/10 {
			return 0, false
		}
		n *= 10
	}
	return n, true
}

// apply computes in floating point.
func (l *linear) apply(raw float64) float64 {
	if l.scale == 1 && l.offset == 0 {
		return raw
	}
	return raw*l.scale + l.offset
}

// appendExact appends the scaled integer in decimal; false, with dst as it was,
// where that isn't possible.
func (l *linear) appendExact(dst []byte, neg bool, mag uint64) ([]byte, bool) {
	if l.scale == 1 && l.offset == 0 {
		if neg {
			dst = append(dst, '-')
		}
		return strconv.AppendUint(dst, mag, 10), true
	}
	if !l.decimal {
		return dst, false
	}
	mul := l.mul
	if mul < 0 {
		mul, neg = -mul, !neg
	}
	high, low := bits.Mul64(mag, uint64(mul))
	if high != 0 || low > math.MaxInt64 {
		return dst, false
	}
	n := int64(low)
	if neg {
		n = -n
	}
	sum := n + l.add
	if (sum > n) != (l.add > 0) && l.add != 0 {
		return dst, false // overflow
	}
	return appendFixed(dst, sum, l.digits), true
}

// appendFixed appends n/10^digits without zeros at the end of the fraction.
func appendFixed(dst []byte, n int64, digits int) []byte {
	mag := uint64(n)
	if n < 0 {
		dst, mag = append(dst, '-'), -mag
	}
	var buf [20]byte
	s := strconv.AppendUint(buf[:0], mag, 10)
	whole := len(s) - digits
	if whole <= 0 {
		dst = append(dst, '0')
	} else {
		dst = append(dst, s[:whole]...)
	}
	fraction := strings.Repeat("0", max(0, -whole)) + string(s[max(0, whole):])
	if fraction = strings.TrimRight(fraction, "0"); fraction != "" {
		dst = append(append(dst, '.'), fraction...)
	}
	return dst
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
