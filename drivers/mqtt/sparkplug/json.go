package sparkplug

import (
	"encoding/base64"
	"math"
	"strconv"
	"time"

	"sluice/drivers"
)

// timeLayout is RFC 3339 in UTC with the milliseconds that Sparkplug has.
const timeLayout = "2006-01-02T15:04:05.000Z"

// lastTime is the last millisecond that RFC 3339 can tell, in the year 9999.
const lastTime = 253402300799999

// appendString appends s as a JSON string.
func appendString(dst []byte, s string) []byte { return drivers.AppendJSON(dst, s) }

func appendBase64(dst, b []byte) []byte {
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, b)
	return append(dst, '"')
}

// appendFloat appends f with as few digits as mean the same number of that
// precision (32 or 64 bits); null, and false, for what JSON has no number for.
func appendFloat(dst []byte, f float64, precision int) ([]byte, bool) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return append(dst, "null"...), false
	}
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(dst, f, format, -1, precision), true
}

// appendTime appends ms since 1970 as RFC 3339, or null where it cannot tell it.
func appendTime(dst []byte, ms uint64) []byte {
	if ms > lastTime {
		return append(dst, "null"...)
	}
	dst = append(dst, '"')
	dst = time.UnixMilli(int64(ms)).UTC().AppendFormat(dst, timeLayout)
	return append(dst, '"')
}

// appendKey appends a member's name, with a comma before it where dst holds
// something already.
func appendKey(dst []byte, name string) []byte {
	if len(dst) > 0 && dst[len(dst)-1] != '{' {
		dst = append(dst, ',')
	}
	return append(appendString(dst, name), ':')
}
