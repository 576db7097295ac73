// Package gate says whether a link may be used now: by a schedule, and by whether it
// is metered, which a file or a command tells.
package gate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"
)

// lookEvery is how often the clock is looked at, at least: it may be set meanwhile.
const lookEvery = 10 * time.Second

// keepAnswers is for how many questions without an answer the last answer counts.
const keepAnswers = 3

// Config configures New. Its zero value is a link that is always open.
type Config struct {
	Schedule []string // when the link is open (ParseSchedule); none: always
	Zone     string   // of the schedule (func Zone); empty: UTC

	// Metered says whether the link is paid for by the byte; nil: it isn't.
	Metered *Question

	// OnlyMetered opens the link only while it is metered (true) or is not (false); nil:
	// both. Needs Metered. While nothing is known the link counts as metered.
	OnlyMetered *bool

	Log *slog.Logger // nil: discarded
}

// Link is one link. A nil Link is always open and not metered. All methods but Run
// may be called by any goroutine and don't block.
type Link struct {
	cfg      Config
	schedule Schedule
	zone     *time.Location

	mu      sync.Mutex
	state   State
	changed chan struct{} // closed when state.Open changes
}

// State is how a link is at one moment.
type State struct {
	Open    bool
	Why     string // why it is not open, in words; empty: it is
	Metered bool   // it is paid for by the byte, or that is not known
	Unknown string // why that is not known; empty: it is
}

// New checks cfg and says what is wrong with it. Nothing is asked before Run.
func New(cfg Config) (*Link, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	schedule, scheduleErr := ParseSchedule(cfg.Schedule)
	zone, zoneErr := Zone(cfg.Zone)
	err := errors.Join(scheduleErr, zoneErr)
	if q := cfg.Metered; q != nil {
		err = errors.Join(err, q.check())
	} else if cfg.OnlyMetered != nil {
		err = errors.Join(err, errors.New("only_if: metered needs a file or a command that says whether it is"))
	}
	if err != nil {
		return nil, err
	}
	l := &Link{cfg: cfg, schedule: schedule, zone: zone, changed: make(chan struct{})}
	l.state = l.judge(time.Now(), l.noAnswer())
	return l, nil
}

func (q *Question) check() error {
	switch {
	case (q.File == "") == (len(q.Command) == 0):
		return errors.New("metered needs either a file or a command")
	case len(q.Command) > 0 && !filepath.IsAbs(q.Command[0]):
		return fmt.Errorf("metered.command: %q is no absolute path of a program", q.Command[0])
	case q.Every <= 0 || q.Timeout <= 0:
		return fmt.Errorf("metered: every %s, timeout %s (more than 0)", q.Every, q.Timeout)
	}
	return nil
}

// State returns how the link is now.
func (l *Link) State() State {
	if l == nil {
		return State{Open: true}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state
}

// Look asks once and returns how the link is, for those that do not Run it. It blocks
// as long as the command may take.
func (l *Link) Look(ctx context.Context) State {
	a := l.noAnswer()
	if l.cfg.Metered != nil {
		a.metered, a.err = l.cfg.Metered.ask(ctx)
	}
	return l.judge(time.Now(), a)
}

// Changed returns the state, and a channel that is closed when the link opens or
// closes after that; nil for a nil Link.
func (l *Link) Changed() (State, <-chan struct{}) {
	if l == nil {
		return State{Open: true}, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state, l.changed
}

// answer is the last answer to whether the link is metered.
type answer struct {
	metered bool
	err     error // there is none
	failed  int   // questions in a row that had no answer
}

// noAnswer is what is known before the first question.
func (l *Link) noAnswer() (a answer) {
	if l.cfg.Metered != nil {
		a.err = errors.New("not asked yet")
	}
	return a
}

// Run looks at the clock and asks, until ctx ends; then it returns nil.
func (l *Link) Run(ctx context.Context) error {
	last, asked := l.noAnswer(), time.Time{}
	for {
		if q := l.cfg.Metered; q != nil && (asked.IsZero() || time.Since(asked) >= q.Every) {
			asked = time.Now()
			last = l.ask(ctx, last)
			if ctx.Err() != nil {
				return nil
			}
		}
		l.set(l.judge(time.Now(), last))
		t := time.NewTimer(l.wait(asked))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
	}
}

// wait returns how long nothing has to be looked at.
func (l *Link) wait(asked time.Time) time.Duration {
	now := time.Now()
	d := min(lookEvery, now.Truncate(time.Minute).Add(time.Minute).Sub(now))
	if q := l.cfg.Metered; q != nil {
		d = min(d, q.Every-time.Since(asked))
	}
	return max(d, time.Millisecond)
}

func (l *Link) ask(ctx context.Context, last answer) answer {
	metered, err := l.cfg.Metered.ask(ctx)
	if err == nil {
		return answer{metered: metered}
	}
	if last.failed == 0 && ctx.Err() == nil {
		l.cfg.Log.Warn("cannot tell whether the link is metered", "error", err)
	}
	if last.failed++; last.err != nil || last.failed >= keepAnswers {
		last.err = err
	}
	return last
}

// judge makes a state of the time and the answer.
func (l *Link) judge(now time.Time, a answer) State {
	now = now.In(l.zone)
	s := State{Open: true, Metered: a.metered}
	if a.err != nil {
		s.Metered, s.Unknown = true, a.err.Error()
	}
	only := l.cfg.OnlyMetered
	switch {
	case !l.schedule.Includes(now):
		s.Open, s.Why = false, "closed by its schedule"+l.until(now)
	case only != nil && *only != s.Metered && s.Unknown != "":
		s.Open, s.Why = false, "closed, since it is not known whether the link is metered: "+s.Unknown
	case only != nil && *only != s.Metered:
		s.Open, s.Why = false, fmt.Sprintf("closed while the link is %s (%s)", map[bool]string{true: "metered", false: "not metered"}[s.Metered], l.cfg.Metered)
	}
	return s
}

// until says when the schedule opens the link.
func (l *Link) until(now time.Time) string {
	at := l.schedule.Next(now)
	if at.IsZero() {
		return ""
	}
	return " until " + at.Format("Mon 15:04 MST")
}

// set publishes a state.
func (l *Link) set(s State) {
	l.mu.Lock()
	moved := s.Open != l.state.Open
	l.state = s
	if moved {
		close(l.changed)
		l.changed = make(chan struct{})
	}
	l.mu.Unlock()
	if moved {
		l.cfg.Log.Info("link", "open", s.Open, "why", s.Why, "metered", s.Metered)
	}
}
