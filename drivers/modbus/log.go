package modbus

import (
	"context"
	"log/slog"
	"time"
)

// logEvery is how often a line about a device is repeated at most.
const logEvery = time.Minute

// calmLog writes lines and holds back their repeats. One goroutine uses it.
type calmLog struct {
	*slog.Logger
	last map[logKey]*logged
}

// logKey is what makes two lines repeats of each other.
type logKey struct{ message, about string }

type logged struct {
	at   time.Time
	held int // lines held back since
}

func newCalmLog(l *slog.Logger) calmLog { return calmLog{Logger: l, last: map[logKey]*logged{}} }

// repeated writes a line about a device, unless the same message about it was
// written less than logEvery ago; the next one says how many were held back.
func (l *calmLog) repeated(now time.Time, level slog.Level, message, device string, attrs ...slog.Attr) {
	l.repeatedAbout(now, level, message, slog.String("device", device), attrs...)
}

// repeatedAbout is repeated about what the first attribute names.
func (l *calmLog) repeatedAbout(now time.Time, level slog.Level, message string, about slog.Attr, attrs ...slog.Attr) {
	key := logKey{message, about.Value.String()}
	last := l.last[key]
	if last == nil {
		last = &logged{}
		l.last[key] = last
	} else if now.Sub(last.at) < logEvery {
		last.held++
		return
	}
	attrs = append(attrs, about)
	if last.held > 0 {
		attrs = append(attrs, slog.Int("repeats", last.held))
	}
	*last = logged{at: now}
	l.LogAttrs(context.Background(), level, message, attrs...) //nolint:sloglint // the callers' messages are constants
}
