package modbus

import (
	"testing"
	"time"
)

// What tells a busy machine: a goroutine that looks at the clock every lookEvery comes late by more than busy.
const (
	lookEvery = 2 * time.Millisecond
	busy      = 20 * time.Millisecond
	mostTries = 5
)

// calmly runs f, which says what is wrong or nothing, and whose outcome hangs on times that a busy machine cannot
// keep. What is wrong counts at once on a machine that was calm meanwhile; else f runs again, four times at most. What
// may be wrong on no machine, a wrong value above all, f reports to t itself.
func calmly(t *testing.T, f func() (wrong string)) {
	t.Helper()
	for try := 1; ; try++ {
		worst := watchClock()
		wrong := f()
		late := worst()
		if wrong == "" {
			return
		}
		if late <= busy || try == mostTries {
			t.Fatalf("%s (try %d; the clock was looked at %v late at most)", wrong, try, late)
		}
		t.Logf("once more, since the clock was looked at %v late: %s", late, wrong)
	}
}

// watchClock looks at the clock until the function that it returns is called, which says how late that was at most.
func watchClock() (worst func() time.Duration) {
	stop, result := make(chan struct{}), make(chan time.Duration)
	go func() {
		late, before := time.Duration(0), time.Now()
		for {
			select {
			case <-stop:
				result <- late
				return
			case <-time.After(lookEvery):
				now := time.Now()
				late, before = max(late, now.Sub(before)-lookEvery), now
			}
		}
	}()
	return func() time.Duration {
		close(stop)
		return <-result
	}
}
