package config

import (
	"errors"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// The types that a scalar fills.
var (
	durationType = reflect.TypeFor[time.Duration]()
	sizeType     = reflect.TypeFor[Size]()
	shareType    = reflect.TypeFor[Share]()
	deadbandType = reflect.TypeFor[Deadband]()
	secretType   = reflect.TypeFor[Secret]()
	whenFullType = reflect.TypeFor[WhenFull]()
)

// isScalar says whether a type is written as one word in the file; WhenFull has
// a second form.
func isScalar(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Bool, reflect.Int, reflect.Int64, reflect.Float64, reflect.String:
		return true
	}
	return t == deadbandType || t == secretType || t == whenFullType
}

// setScalar fills v from text, without looking at bounds. It serves values,
// defaults and bounds alike. Secret is not among its types.
func setScalar(v reflect.Value, text string) (err error) {
	switch v.Type() {
	case durationType:
		return set(v, parseDuration, text)
	case sizeType:
		return set(v, parseSize, text)
	case shareType:
		return set(v, parseShare, text)
	case deadbandType:
		return set(v, parseDeadband, text)
	case whenFullType:
		v.Set(reflect.ValueOf(WhenFull{Word: text}))
		return nil
	}
	switch v.Kind() {
	case reflect.Bool:
		return set(v, parseBool, text)
	case reflect.Int:
		return set(v, parseInt, text)
	case reflect.Float64:
		return set(v, parseFloat, text)
	default:
		v.SetString(text)
		return nil
	}
}

func set[T any](v reflect.Value, parse func(string) (T, error), text string) error {
	parsed, err := parse(text)
	if err == nil {
		v.Set(reflect.ValueOf(parsed))
	}
	return err
}

func parseBool(s string) (bool, error) {
	if s != "true" && s != "false" {
		return false, errors.New("is not true or false")
	}
	return s == "true", nil
}

// parseInt reads a decimal number or one with 0x, as manuals write addresses.
// A leading 0 is refused: for some readers of YAML it means octal.
func parseInt(s string) (int, error) {
	digits, base := strings.TrimPrefix(s, "-"), 10
	if hex, ok := strings.CutPrefix(digits, "0x"); ok {
		digits, base = hex, 16
	} else if len(digits) > 1 && digits[0] == '0' {
		return 0, errors.New("starts with a 0")
	}
	n, err := strconv.ParseUint(digits, base, 31)
	if errors.Is(err, strconv.ErrRange) {
		return 0, errors.New("is out of range")
	}
	if err != nil {
		return 0, errors.New("is not a whole number")
	}
	if s[0] == '-' {
		return -int(n), nil
	}
	return int(n), nil
}

func parseFloat(s string) (float64, error) {
	f, err := strconv.ParseFloat(s, 64)
	if errors.Is(err, strconv.ErrRange) {
		return 0, errors.New("is out of range")
	}
	if err != nil || !isNumber(s) {
		return 0, errors.New("is not a number")
	}
	return f, nil
}

// inRange says whether v is within the field's bounds.
func (f field) inRange(v reflect.Value) bool {
	if f.low == "" {
		return true
	}
	low, high := reflect.New(v.Type()).Elem(), reflect.New(v.Type()).Elem()
	if setScalar(low, f.low) != nil || setScalar(high, f.high) != nil {
		return false // a wrong tag: a test looks at all of them
	}
	return number(low) <= number(v) && number(v) <= number(high)
}

// number makes values comparable. Durations and sizes below 2^53 lose nothing.
func number(v reflect.Value) float64 {
	switch {
	case v.CanInt():
		return float64(v.Int())
	case v.CanFloat():
		return v.Float()
	}
	return math.NaN()
}

// scalarText writes v as it stands in the file; the inverse of setScalar.
func scalarText(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case time.Duration:
		return formatDuration(x)
	case Size:
		return x.String()
	case Share:
		return x.String()
	case Deadband:
		return x.String()
	case WhenFull:
		return x.Word
	case bool:
		return strconv.FormatBool(x)
	case int:
		return strconv.Itoa(x)
	case float64:
		return formatFloat(x)
	}
	return v.String()
}
