package cli

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"sluice/agent/remote"
	"sluice/agent/remote/document"
)

// ward is the agents of one step of a rollout, as they were when it was published.
type ward struct {
	target  document.Target
	percent int
	version uint64
	digest  string // of the document

	began time.Time
	was   map[string]*remote.StatusRecord
	heard map[string]time.Time // when an agent's status changed last, by our clock
	seen  map[string]string    // the status' own time and boot
}

func newWard(latest map[string][]byte, target document.Target, percent int) *ward {
	w := &ward{target: target, percent: percent, began: time.Now(), heard: map[string]time.Time{}, seen: map[string]string{}}
	w.was, _ = agentsOf(latest)
	for id, st := range w.was {
		w.seen[id] = stamp(st)
	}
	return w
}

// stamp is another one in each report.
func stamp(st *remote.StatusRecord) string { return st.Boot + " " + st.Time.String() }

// verdict is what is said of an agent.
type verdict struct{ agent, why string }

// tally is how a step stands.
type tally struct {
	well   int       // run it, proven, with all that worked before
	open   []verdict // not yet
	failed []verdict
	away   int // had not reported for a while before the step, nor since
	own    int // have a document of a more specific target
}

func (t tally) String() string {
	s := fmt.Sprintf("%d of %d agents run it and are well", t.well, t.well+len(t.open)+len(t.failed))
	for _, part := range []struct {
		n    int
		what string
	}{{len(t.open), "to come"}, {len(t.failed), "failed"}, {t.away, "away and not waited for"}, {t.own, "with a document of their own"}} {
		if part.n > 0 {
			s += fmt.Sprintf(", %d %s", part.n, part.what)
		}
	}
	return s
}

// look judges all agents that the step is for.
func (w *ward) look(latest map[string][]byte, now time.Time) tally {
	var t tally
	agents, _ := agentsOf(latest)
	for _, id := range slices.Sorted(maps.Keys(agents)) {
		st := agents[id]
		if s := stamp(st); s != w.seen[id] {
			w.seen[id], w.heard[id] = s, now
		}
		if !w.target.Matches(id, st.Labels) || document.Share(id) >= w.percent {
			continue
		}
		if running, err := document.ParseTarget(st.Config.Target); err == nil && running.Kind > w.target.Kind {
			t.own++
			continue
		}
		heard, has := w.heard[id]
		if !has {
			if was := w.was[id]; was == nil || w.began.Sub(was.Time) > silentAfter {
				t.away++
				continue
			}
			heard = w.began
		}
		switch why, failed := w.judge(st, w.was[id]); {
		case now.Sub(heard) > silentAfter:
			t.failed = append(t.failed, verdict{id, fmt.Sprintf("silent for %s", now.Sub(heard).Round(time.Second))})
		case failed:
			t.failed = append(t.failed, verdict{id, why})
		case why != "":
			t.open = append(t.open, verdict{id, why})
		default:
			t.well++
		}
	}
	return t
}

// judge says what stands against an agent that reports; empty: it is well. was is
// how it was before the step; nil: unknown.
func (w *ward) judge(st, was *remote.StatusRecord) (why string, failed bool) {
	c := st.Config
	said := fmt.Sprintf("%s %s: %s", c.State, c.Code, c.Reason)
	changed := was == nil || !c.Since.Equal(was.Config.Since) || c.Refused != was.Config.Refused
	switch {
	case c.State == remote.StateRolledBack && c.Desired == w.version:
		return said, true
	case c.State == remote.StateRejected && c.Hash != w.digest && changed:
		return said, true
	case c.Hash != w.digest:
		return fmt.Sprintf("runs version %d, %s", c.Running, said), false
	case c.State == remote.StateApplying || c.State == remote.StateTrial:
		return string(c.State), false
	case was == nil:
		return "", false
	}
	for _, name := range slices.Sorted(maps.Keys(was.Sources)) {
		if now, has := st.Sources[name]; has && was.Sources[name].Up && !now.Up {
			return fmt.Sprintf("source %s was up and is %s", name, now.State), false
		}
	}
	for _, name := range slices.Sorted(maps.Keys(was.Uplinks)) {
		if now, has := st.Uplinks[name]; has && was.Uplinks[name].Up && !now.Up {
			return fmt.Sprintf("uplink %s was up and is %s", name, now.State), false
		}
	}
	return "", false
}
