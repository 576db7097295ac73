package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes.
type Size int64

// Share is a part of a whole, 0 to 1, written in per cent.
type Share float64

// Deadband is a change that is too small to send: absolute, or relative to the
// last value sent when Percent is set. Zero lets every change pass.
type Deadband struct {
	Value   float64 // not negative; per cent when Percent is set
	Percent bool
}

// What a quantity may look like, for problem texts.
const (
	durationForms = "a duration such as 250ms, 5s, 10m or 72h"
	sizeForms     = "a size such as 64KiB, 16MiB or 2GiB"
	shareForms    = "a share such as 5%"
	deadbandForms = "a number such as 0.2, or a share such as 1%"
)

// sizeUnits from the longest suffix to the shortest, so that "KiB" isn't taken
// for "B".
var sizeUnits = []struct {
	suffix string
	bytes  int64
}{
	{"PiB", 1 << 50}, {"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"PB", 1e15}, {"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"kB", 1e3}, {"B", 1},
}

var errNoUnit = errors.New("has no unit")

// parseDuration reads a duration with a unit; a bare 0 is one too.
func parseDuration(s string) (time.Duration, error) {
	if s == "0" {
		return 0, nil
	}
	if isNumber(s) {
		return 0, errNoUnit
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, errors.New("is not a duration")
	}
	return d, nil
}

// parseSize reads a size with a unit; a bare 0 is one too.
func parseSize(s string) (Size, error) {
	if s == "0" {
		return 0, nil
	}
	if isNumber(s) {
		return 0, errNoUnit
	}
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		digits = strings.TrimRight(digits, " ")
		f, err := strconv.ParseFloat(digits, 64)
		if err != nil || !isNumber(digits) {
			break
		}
		if f *= float64(u.bytes); math.Abs(f) < 1<<62 {
			return Size(f), nil
		}
		return 0, errors.New("is too large")
	}
	return 0, errors.New("is not a size")
}

// parseShare reads "5%" as 0.05; a bare 0 is one too.
func parseShare(s string) (Share, error) {
	if s == "0" {
		return 0, nil
	}
	if isNumber(s) {
		return 0, errNoUnit
	}
	digits, ok := strings.CutSuffix(s, "%")
	f, err := strconv.ParseFloat(strings.TrimRight(digits, " "), 64)
	if !ok || err != nil || !isNumber(strings.TrimRight(digits, " ")) {
		return 0, errors.New("is not a share")
	}
	return Share(f / 100), nil
}

// parseDeadband reads "0.2" or "1%".
func parseDeadband(s string) (Deadband, error) {
	digits, percent := strings.CutSuffix(s, "%")
	f, err := strconv.ParseFloat(strings.TrimRight(digits, " "), 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) || f < 0 {
		return Deadband{}, errors.New("is not a deadband")
	}
	return Deadband{Value: f, Percent: percent}, nil
}

// isNumber says whether s is a decimal number without a unit.
func isNumber(s string) bool {
	f, err := strconv.ParseFloat(s, 64)
	return err == nil && !math.IsNaN(f) && !math.IsInf(f, 0) && !strings.ContainsAny(s, "xXpP_")
}

// formatDuration writes d with the largest unit that leaves no rest.
func formatDuration(d time.Duration) string {
	for _, u := range []struct {
		suffix string
		unit   time.Duration
	}{{"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}, {"ms", time.Millisecond}, {"us", time.Microsecond}} {
		if d != 0 && d%u.unit == 0 {
			return strconv.FormatInt(int64(d/u.unit), 10) + u.suffix
		}
	}
	if d == 0 {
		return "0s"
	}
	return strconv.FormatInt(int64(d), 10) + "ns"
}

// String writes the size with the largest binary unit that leaves no rest.
func (s Size) String() string {
	for _, u := range sizeUnits[:5] {
		if s != 0 && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.suffix
		}
	}
	if s == 0 {
		return "0"
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// String writes the share in per cent.
func (s Share) String() string { return formatFloat(float64(s)*100) + "%" }

// String writes the deadband as it stands in the file.
func (d Deadband) String() string {
	if d.Percent {
		return formatFloat(d.Value) + "%"
	}
	return formatFloat(d.Value)
}

// formatFloat writes f in the shortest form that gives it back. Shares pass
// through a division by 100, so 12 digits are kept, which hides the rounding.
func formatFloat(f float64) string {
	if s := strconv.FormatFloat(f, 'g', 12, 64); s != "" {
		if g, err := strconv.ParseFloat(s, 64); err == nil && math.Abs(g-f) <= 1e-12*math.Abs(f) {
			return s
		}
	}
	return fmt.Sprint(f)
}
