package cli

import (
	"fmt"
	"time"
)

// moment reads a time, or an age before now.
func moment(now time.Time, text string) (time.Time, error) {
	if age, err := time.ParseDuration(text); err == nil && age >= 0 {
		return now.Add(-age), nil
	}
	for _, form := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(form, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time (2026-01-02T03:04:05Z, 2026-01-02T03:04 in this machine's zone, or an age such as 24h)", text)
}
