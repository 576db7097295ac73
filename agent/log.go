package agent

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"sluice/agent/config"
)

// Logs is the agent's own log, whose level and form change while it is in use. It
// is safe for concurrent use.
type Logs struct {
	out   *recent
	level slog.LevelVar
	form  atomic.Pointer[slog.Handler]
}

// NewLogs returns a log that writes to w as c says.
func NewLogs(w io.Writer, c config.Log) *Logs {
	l := &Logs{out: &recent{out: w}}
	l.Set(c)
	return l
}

// Set changes level and form, also of loggers that were made before.
func (l *Logs) Set(c config.Log) {
	l.SetLevel(c.Level)
	opt := &slog.HandlerOptions{Level: &l.level}
	var h slog.Handler = slog.NewTextHandler(l.out, opt)
	if c.Format == "json" {
		h = slog.NewJSONHandler(l.out, opt)
	}
	l.form.Store(&h)
}

// SetLevel changes the level: debug, info, warn or error; anything else is info.
func (l *Logs) SetLevel(level string) {
	var to slog.Level
	if to.UnmarshalText([]byte(level)) != nil {
		to = slog.LevelInfo // the config has been checked
	}
	l.level.Set(to)
}

// Recent are the last lines that were written, 64 KiB at most, the oldest first.
func (l *Logs) Recent() string { return l.out.text() }

// recentBytes is how much of what was written is kept.
const recentBytes = 64 << 10

// recent passes on what is written and keeps the end of it. It is safe for
// concurrent use.
type recent struct {
	out  io.Writer
	mu   sync.Mutex
	ring []byte
	at   int // the oldest byte, once the ring is full
}

// Write implements io.Writer.
func (r *recent) Write(p []byte) (int, error) {
	r.keep(p)
	return r.out.Write(p)
}

func (r *recent) keep(p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p = p[max(0, len(p)-recentBytes):]
	if room := min(recentBytes-len(r.ring), len(p)); room > 0 {
		r.ring = append(r.ring, p[:room]...)
		p = p[room:]
	}
	for len(p) > 0 {
		n := copy(r.ring[r.at:], p)
		p, r.at = p[n:], (r.at+n)%recentBytes
	}
}

// text is what is kept, from its first whole line on.
func (r *recent) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := string(r.ring[r.at:]) + string(r.ring[:r.at])
	if len(r.ring) == recentBytes {
		_, s, _ = strings.Cut(s, "\n")
	}
	return s
}

// Logger returns a logger that follows what Set sets.
func (l *Logs) Logger() *slog.Logger { return slog.New(logHandler{logs: l}) }

// logHandler hands records to the form of the moment, with the attributes and
// groups that its logger was given.
type logHandler struct {
	logs *Logs
	with []func(slog.Handler) slog.Handler
}

// Enabled implements slog.Handler.
func (h logHandler) Enabled(_ context.Context, level slog.Level) bool {
	return level >= h.logs.level.Level()
}

// Handle implements slog.Handler.
func (h logHandler) Handle(ctx context.Context, r slog.Record) error {
	form := *h.logs.form.Load()
	for _, f := range h.with {
		form = f(form)
	}
	return form.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.and(func(form slog.Handler) slog.Handler { return form.WithAttrs(attrs) })
}

// WithGroup implements slog.Handler.
func (h logHandler) WithGroup(name string) slog.Handler {
	return h.and(func(form slog.Handler) slog.Handler { return form.WithGroup(name) })
}

func (h logHandler) and(f func(slog.Handler) slog.Handler) logHandler {
	h.with = append(h.with[:len(h.with):len(h.with)], f)
	return h
}

// outcome is how something ended, for a line of the log.
func outcome(err error) string {
	if err != nil {
		return err.Error()
	}
	return "done"
}
