package modbus

import "time"

// breaker decides whether a unit is polled. It opens after a number of polls in
// a row that the unit didn't answer; then one attempt is allowed at a time, with
// waits between them that double. One goroutine uses it.
type breaker struct {
	openAfter int // 0: it never opens
	retry     time.Duration
	max       time.Duration

	failures int
	reason   string        // of the last failure
	wait     time.Duration // 0: closed
	until    time.Time     // no attempt before
}

func (b *breaker) open() bool { return b.wait > 0 }

// allows says whether the unit may be polled now. While the breaker is open a
// poll is an attempt: one request, once.
func (b *breaker) allows(now time.Time) bool {
	return !b.open() || !now.Before(b.until)
}

// succeeded closes the breaker.
func (b *breaker) succeeded() {
	b.failures, b.wait = 0, 0
}

// failed counts a poll without an answer, and says whether the breaker opened
// with it.
func (b *breaker) failed(now time.Time, reason string) (opened bool) {
	b.reason = reason
	if b.failures++; b.openAfter == 0 || b.failures < b.openAfter {
		return false
	}
	opened = !b.open()
	b.wait = min(max(2*b.wait, b.retry), b.max)
	b.until = now.Add(b.wait)
	return opened
}
