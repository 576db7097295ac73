package cli

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"testing"
	"time"

	"sluice/agent/remote"
	"sluice/agent/remote/document"
)

func gzipTo(t *testing.T, w io.Writer, text string) {
	t.Helper()
	z := gzip.NewWriter(w)
	if _, err := io.WriteString(z, text); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
}

// Each is what one agent reported before a step and after it.
func TestAStepIsJudged(t *testing.T) {
	now := time.Now()
	long := now.Add(-10 * time.Minute)
	status := func(change func(*remote.StatusRecord)) *remote.StatusRecord {
		st := &remote.StatusRecord{Boot: "b", Time: now, Config: remote.ConfigStatus{State: remote.StateApplied, Running: 4, Desired: 4, Target: "all", Hash: "old", Since: long},
			Sources: map[string]remote.SourceStatus{"up": {Up: true}, "down": {}}, Uplinks: map[string]remote.UplinkStatus{"central": {Up: true}}}
		if change != nil {
			change(st)
		}
		return st
	}
	runs := func(st *remote.StatusRecord) {
		st.Time = now.Add(time.Second)
		st.Config = remote.ConfigStatus{State: remote.StateApplied, Running: 5, Desired: 5, Target: "all/canary", Hash: "new", Since: now}
	}
	and := func(more func(*remote.StatusRecord)) func(*remote.StatusRecord) {
		return func(st *remote.StatusRecord) { runs(st); more(st) }
	}
	for name, tt := range map[string]struct {
		was, is *remote.StatusRecord
		after   time.Duration // when it is judged
		want    string
	}{
		"not yet":                         {status(nil), status(nil), time.Second, "open"},
		"runs it":                         {status(nil), status(runs), time.Second, "well"},
		"on trial":                        {status(nil), status(and(func(st *remote.StatusRecord) { st.Config.State = remote.StateTrial })), time.Second, "open"},
		"a source that was up is not":     {status(nil), status(and(func(st *remote.StatusRecord) { st.Sources["up"] = remote.SourceStatus{State: "refused"} })), time.Second, "open"},
		"a source that was up is gone":    {status(nil), status(and(func(st *remote.StatusRecord) { delete(st.Sources, "up") })), time.Second, "well"},
		"an uplink that was up is not":    {status(nil), status(and(func(st *remote.StatusRecord) { st.Uplinks["central"] = remote.UplinkStatus{} })), time.Second, "open"},
		"rolled back":                     {status(nil), status(func(st *remote.StatusRecord) { st.Config.State, st.Config.Desired = remote.StateRolledBack, 5 }), time.Second, "failed"},
		"rolled back from another":        {status(nil), status(func(st *remote.StatusRecord) { st.Config.State = remote.StateRolledBack }), time.Second, "open"},
		"rejected":                        {status(nil), status(func(st *remote.StatusRecord) { st.Config.State, st.Config.Since = remote.StateRejected, now }), time.Second, "failed"},
		"rejected, before too":            {status(func(st *remote.StatusRecord) { st.Config.State = remote.StateRejected }), status(func(st *remote.StatusRecord) { st.Config.State = remote.StateRejected }), time.Second, "open"},
		"rejected again":                  {status(func(st *remote.StatusRecord) { st.Config.State = remote.StateRejected }), status(func(st *remote.StatusRecord) { st.Config.State, st.Config.Refused = remote.StateRejected, 2 }), time.Second, "failed"},
		"runs it and rejects another":     {status(nil), status(and(func(st *remote.StatusRecord) { st.Config.State = remote.StateRejected })), time.Second, "well"},
		"silent since":                    {status(nil), status(nil), 4 * time.Minute, "failed"},
		"silent since it runs it":         {status(nil), status(runs), 4 * time.Minute, "well"}, // heard when it is judged first
		"silent before":                   {status(func(st *remote.StatusRecord) { st.Time = long }), status(func(st *remote.StatusRecord) { st.Time = long }), 4 * time.Minute, "away"},
		"silent before, back":             {status(func(st *remote.StatusRecord) { st.Time = long }), status(nil), time.Second, "open"},
		"silent before, back, its clock":  {status(func(st *remote.StatusRecord) { st.Time = long }), status(and(func(st *remote.StatusRecord) { st.Time = long.Add(time.Second) })), time.Second, "well"},
		"a document of its own":           {status(func(st *remote.StatusRecord) { st.Config.Target = "agent:gw-1" }), status(func(st *remote.StatusRecord) { st.Config.Target = "agent:gw-1" }), time.Second, "own"},
		"new":                             {nil, status(runs), time.Second, "well"},
		"new, with something else to run": {nil, status(nil), time.Second, "open"},
	} {
		t.Run(name, func(t *testing.T) {
			latest := func(st *remote.StatusRecord) map[string][]byte {
				if st == nil {
					return map[string][]byte{}
				}
				b, err := json.Marshal(st)
				if err != nil {
					t.Fatal(err)
				}
				return map[string][]byte{"gw-1": b}
			}
			w := newWard(latest(tt.was), document.Target{Kind: document.All, Canary: true}, 100)
			w.version, w.digest = 5, "new"
			got := w.look(latest(tt.is), w.began.Add(tt.after))
			is := map[string]int{"well": got.well, "open": len(got.open), "failed": len(got.failed), "away": got.away, "own": got.own}
			for what, n := range is {
				if (n == 1) != (what == tt.want) {
					t.Errorf("%s: %d, want %s; %+v", what, n, tt.want, got)
				}
			}
		})
	}
	w := newWard(nil, document.Target{Kind: document.All, Canary: true}, 0)
	if got := w.look(map[string][]byte{"gw-1": []byte(`{}`)}, now); got.String() != "0 of 0 agents run it and are well" {
		t.Errorf("a step of nobody: %s", got)
	}
}
