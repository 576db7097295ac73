package document

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"sluice/agent/remote/tree"
)

// Levels are those of log-level.
var Levels = []string{"debug", "info", "warn", "error"}

// Bounds of a log-level's time.
const (
	DefaultLevelTime = 15 * time.Minute
	MaxLevelTime     = 24 * time.Hour
)

// Replay is what a command replay asks for.
type Replay struct {
	Class, Uplink string
	Topic         string // a template; empty: the uplink's
	From, To      time.Time
}

// LogLevel is what a command log-level asks for.
type LogLevel struct {
	Level string        // one of Levels
	For   time.Duration // then it is as the config has it: 1 s to MaxLevelTime
}

// ModbusWrite is what a command modbus-write asks for.
type ModbusWrite struct {
	Source, Device, Tag string
	Value               json.RawMessage // a number, a text, true or false
}

// Replay reads the arguments of a replay: class, uplink, from, and perhaps to (the
// time of issue) and topic. Times are as RFC 3339 writes them, or ages such as
// 90m, counted back from the time of issue.
func (c *Command) Replay() (Replay, error) {
	f := &form{root: c.Args}
	r := Replay{Class: f.text("class", true), Uplink: f.text("uplink", true), Topic: f.text("topic", false),
		From: f.moment("from", c.Issued), To: c.Issued}
	if f.has("to") {
		r.To = f.moment("to", c.Issued)
	}
	if f.take("to"); len(f.errs) == 0 && !r.From.Before(r.To) {
		f.wrong("to: is not after from")
	}
	return r, f.end()
}

// LogLevel reads the arguments of a log-level: level, and perhaps for
// (DefaultLevelTime).
func (c *Command) LogLevel() (LogLevel, error) {
	f := &form{root: c.Args}
	l := LogLevel{Level: f.text("level", true), For: DefaultLevelTime}
	if l.Level != "" && !slices.Contains(Levels, l.Level) {
		f.wrong("level: %.40q is unknown (%s)", l.Level, strings.Join(Levels, ", "))
	}
	if text := f.text("for", false); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil || d < time.Second || d > MaxLevelTime {
			f.wrong("for: %.40q is no duration from 1s to %s", text, MaxLevelTime)
		}
		l.For = d
	}
	return l, f.end()
}

// ModbusWrite reads the arguments of a modbus-write: source, device, tag, value.
func (c *Command) ModbusWrite() (ModbusWrite, error) {
	f := &form{root: c.Args}
	w := ModbusWrite{Source: f.text("source", true), Device: f.text("device", true), Tag: f.text("tag", true)}
	text := f.text("value", true)
	switch n := f.root.Get("value"); {
	case n == nil || n.Kind != tree.Scalar:
	case !n.Bare:
		w.Value, _ = json.Marshal(text) // a string always encodes
	case json.Valid([]byte(text)):
		w.Value = json.RawMessage(text)
	default:
		f.wrong("value: %.40q is no number as JSON writes it, true or false", text)
	}
	return w, f.end()
}

// check says what is wrong with the arguments. Those of update are judged by
// whoever carries it out.
func (c *Command) check() (err error) {
	switch c.Kind {
	case "replay":
		_, err = c.Replay()
	case "log-level":
		_, err = c.LogLevel()
	case "modbus-write":
		_, err = c.ModbusWrite()
	case "diagnostics", "restart":
		err = (&form{root: c.Args}).end()
	}
	if err != nil {
		return fmt.Errorf("args: %w", err)
	}
	return nil
}

// moment is a point in time, or an age before issued.
func (f *form) moment(key string, issued time.Time) time.Time {
	text := f.text(key, true)
	if age, err := time.ParseDuration(text); err == nil && age >= 0 {
		return issued.Add(-age)
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil && text != "" {
		f.wrong("%s: %.40q is neither a time (2026-01-02T03:04:05Z) nor an age (90m)", key, text)
	}
	return t.UTC()
}
