package sparkplug

import (
	"encoding/binary"
	"time"
)

// Wait between two requests to the same node: it doubles from the first to the
// second, and starts over when none was needed for as long as the second.
const (
	firstWait = 10 * time.Second
	lastWait  = 10 * time.Minute
)

// limiter spaces the requests to one node: a birth is much larger than a request
// for it, and a node may not be able to answer.
type limiter struct {
	asked time.Time // zero: never
	wait  time.Duration
}

func newLimiter() limiter { return limiter{wait: firstWait} }

// ask says whether a request may go out now, and then counts on it.
func (l *limiter) ask(now time.Time) bool {
	if l.asked.IsZero() {
		l.asked = now
		return true
	}
	since := now.Sub(l.asked)
	switch {
	case since < l.wait:
		return false
	case since >= l.wait+lastWait:
		l.wait = firstWait
	default:
		l.wait = min(2*l.wait, lastWait)
	}
	l.asked = now
	return true
}

// RebirthRequest is the payload of a command that makes an edge node send its
// NBIRTH and all DBIRTHs again, Sparkplug 3.0.0 §5.17 and §6.4.23: the time, one
// metric, no seq.
func RebirthRequest(at time.Time) []byte {
	stamp := uint64(at.UnixMilli())
	metric := appendBytes(nil, 1, []byte("Node Control/Rebirth"))
	metric = appendNumber(metric, 3, stamp)
	metric = appendNumber(metric, 4, typeBoolean)
	metric = appendNumber(metric, 14, 1) // boolean_value
	return appendBytes(appendNumber(nil, 1, stamp), 2, metric)
}

func appendNumber(dst []byte, number, n uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(dst, number<<3|wireVarint), n)
}

func appendBytes(dst []byte, number uint64, b []byte) []byte {
	dst = binary.AppendUvarint(dst, number<<3|wireBytes)
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}
