package agent

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/agent/remote"
	"sluice/agent/remote/trust"
	"sluice/drivers/loopback"
)

func code(want trust.Code, running uint64) func(remote.StatusRecord) bool {
	return func(st remote.StatusRecord) bool {
		return st.Config.Code == want && st.Config.Running == running && st.Config.State == remote.StateApplied
	}
}

// TestWhateverBecomesOfTheTopicTheLastGoodConfigRuns deletes the record, the topic,
// and compaction.
func TestWhateverBecomesOfTheTopicTheLastGoodConfigRuns(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	stop := f.start(f.file(""), 0)
	defer func() { stop() }()
	f.publishConfig(signed{version: 1, body: f.config(settings{filter: `{ filter: "mine/#" }`})})
	f.state(0, remote.StateApplied, 1, "")

	f.put("sluice.config", "agent:gw-1", nil)
	f.status(0, "a deleted record", code(remote.TopicEmpty, 1))

	anew := func(policy string) {
		t.Helper()
		stop()
		f.recreate(policy)
		stop = f.start(f.file(""), 0)
	}
	mark := f.mark()
	anew("delete")
	f.status(mark, "a topic that is not compacted", code(remote.TopicPolicy, 1))
	mark = f.mark()
	anew("compact")
	st := f.status(mark, "a topic that was made anew", code(remote.TopicNew, 1))
	if !strings.Contains(st.Config.Reason, "goes on") {
		t.Errorf("%+v", st.Config)
	}
	f.publish("mine/1", "the last good one runs")
	f.arrives("p.process", "the last good one runs")

	// An old document is no way back, a new one is adopted.
	mark = f.mark()
	f.publishConfig(signed{version: 1, body: f.config(settings{level: "debug"})})
	f.state(mark, remote.StateRejected, 1, trust.SameVersion)
	f.publishConfig(signed{version: 2, body: f.config(settings{level: "debug"})})
	f.state(mark, remote.StateApplied, 2, "")
}

// recreate makes the config topic anew, without a record.
func (f *fleet) recreate(policy string) {
	f.Helper()
	if _, err := f.admin.DeleteTopics(f.Context(), "sluice.config"); err != nil {
		f.Fatal(err)
	}
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		resp, err := f.admin.CreateTopic(f.Context(), 1, 1, map[string]*string{"cleanup.policy": &policy}, "sluice.config")
		if err == nil && resp.Err == nil {
			return
		} else if time.Now().After(end) {
			f.Fatal(err, resp.Err)
		}
	}
}

// TestATopicThatIsMadeAnewDuringATrial: the trial goes its way, to the end that it would
// have had, also over a restart; the status says what became of the topic.
func TestATopicThatIsMadeAnewDuringATrial(t *testing.T) {
	t.Parallel()
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprint("restart ", killed), func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			stop := f.start(f.file(""), patience)
			defer func() { stop() }()
			f.trial.Store(int64(4 * time.Second)) // of what comes after the good one
			f.publishConfig(signed{version: 1, body: f.config(settings{filter: `{ filter: "mine/#" }`})})
			f.state(0, remote.StateApplied, 1, "")
			bad := signed{version: 2, body: f.config(settings{http: loopback.Addr(t)})} // a source that was up
			mark := f.mark()
			f.publishConfig(bad)
			f.state(mark, remote.StateTrial, 2, "")
			f.recreate("compact")
			if killed {
				stop()
				stop = f.start(f.file(""), 4*time.Second)
			}
			f.state(mark, remote.StateRolledBack, 1, remote.TrialFailed)
			f.publish("mine/1", "the last good one runs")
			f.arrives("p.process", "the last good one runs")

			mark = f.mark()
			f.put("sluice.config", "agent:gw-1", f.sign(bad)) // what failed is not tried again, whoever puts it back
			f.publishConfig(signed{target: "all", version: 9, body: "config: {}"})
			f.state(mark, remote.StateRejected, 1, trust.SameVersion)
			stop()
			stop = f.start(f.file(""), patience)
			mark = f.mark()
			f.publishConfig(signed{version: 3, body: f.config(settings{filter: `{ filter: "mine/#" }`, level: "debug"})})
			f.state(mark, remote.StateApplied, 3, "")
		})
	}
}

// TestTheFileIsChangedUnderARemoteConfig: what is locked counts, the rest goes on.
func TestTheFileIsChangedUnderARemoteConfig(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	locked := func(level, v string) []byte {
		text := strings.Replace(string(f.file("")), "trial: 60s", "trial: 60s, locked: [ agent.labels ]", 1)
		return []byte(strings.NewReplacer("site: p7", "v: "+v, "level: info", "level: "+level).Replace(text))
	}
	file := filepath.Join(f.dir, "sluice.yaml")
	if err := os.WriteFile(file, locked("info", "one"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := supervisor(f.dir, fixed(0))
	s.Out = f.Output()
	reload := make(chan os.Signal, 1)
	s.Reload = reload
	ended := make(chan error, 1)
	ctx, cancel := contextOf(t)
	go func() { ended <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	f.publishConfig(signed{version: 1, body: f.labelled(settings{filter: `{ filter: "mine/#" }`})})
	if st := f.state(0, remote.StateApplied, 1, ""); st.Labels["v"] != "one" {
		t.Errorf("a document changed what is locked: %v", st.Labels)
	}
	mark := f.mark()
	if err := os.WriteFile(file, locked("debug", "two"), 0o600); err != nil {
		t.Fatal(err)
	}
	reload <- syscall.SIGHUP
	f.status(mark, "the file's new label", func(st remote.StatusRecord) bool {
		return st.Config.Running == 1 && st.Config.State == remote.StateApplied && st.Labels["v"] == "two"
	})
	f.publish("mine/1", "goes on")
	f.arrives("p.process", "goes on")

	// Other keys in the file: the old ones are believed no more.
	if err := os.WriteFile(file, []byte(strings.Replace(string(locked("info", "two")), publicKey(1).String(), publicKey(2).String(), 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	reload <- syscall.SIGHUP
	f.status(mark, "the old key refused", func(st remote.StatusRecord) bool { return st.Config.Code == trust.WrongKey && st.Config.Running == 1 })
	f.publishConfig(signed{version: 2, body: f.config(settings{}), by: []byte{2}})
	f.state(mark, remote.StateApplied, 2, "")
}

// TestKeysAreRotated: a config that was signed with a key that the gateway does not
// know yet is adopted once the trust document has come.
func TestKeysAreRotated(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.publishConfig(signed{version: 1, body: f.config(settings{}), by: []byte{2}})
	stop := f.start(f.file(""), 0)
	defer func() { stop() }()
	f.state(0, remote.StateRejected, 0, trust.WrongKey)
	rotation := fmt.Appendf(nil, "number: 1\nissued: %s\nthreshold: 1\ntrust: [ %q ]\n", time.Now().UTC().Format(time.RFC3339), publicKey(2))
	f.put("sluice.config", "trust:1", f.envelope(trust.TypeTrust, rotation, 1, 2).Encode())
	f.state(0, remote.StateApplied, 1, "")
	stop()
	mark := f.mark()
	stop = f.start(f.file(""), 0)
	f.state(mark, remote.StateApplied, 1, "")
	f.publishConfig(signed{version: 2, body: f.config(settings{}), by: []byte{1}})
	f.state(mark, remote.StateRejected, 1, trust.WrongKey)
}

// TestADocumentWaitsForTheClock: one that may have expired is not adopted in 1970, and
// looked at again once the clock is set.
func TestADocumentWaitsForTheClock(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		expires time.Duration
		state   remote.State
		running uint64
		code    trust.Code
	}{
		"it holds":       {time.Hour, remote.StateApplied, 1, ""},
		"it has expired": {-time.Hour, remote.StateRejected, 0, trust.Expired},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			f.ahead.Store(int64(-time.Since(time.Unix(1000, 0))))
			f.publishConfig(signed{version: 1, body: f.config(settings{level: "debug"}), issued: time.Now().Add(-2 * time.Hour), expires: time.Now().Add(tt.expires)})
			stop := f.start(f.file(""), 0)
			defer stop()
			f.state(0, remote.StateRejected, 0, trust.NotYet)
			f.ahead.Store(0)
			f.state(0, tt.state, tt.running, tt.code)
		})
	}
}

// TestCommandsRunOnce sends one, again, too late, and by a stranger.
func TestCommandsRunOnce(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	stop := f.start(f.file(""), 0)
	defer func() { stop() }()
	f.state(0, remote.StateApplied, 0, "")
	order := func(id string, issued time.Time, life time.Duration, key byte) []byte {
		return f.envelope(trust.TypeCommand, fmt.Appendf(nil, "id: %s\ntarget: agent:gw-1\nissued: %s\nexpires: %s\nkind: log-level\nargs: { level: debug, for: 1m }\n",
			id, issued.UTC().Format(time.RFC3339), issued.Add(life).UTC().Format(time.RFC3339)), key).Encode()
	}
	told := func(mark int, id string, state remote.CommandState, code trust.Code) remote.CommandStatus {
		t.Helper()
		var found remote.CommandStatus
		f.status(mark, fmt.Sprint("command ", id, " ", state), func(st remote.StatusRecord) bool {
			for _, c := range st.Commands {
				if c.ID == id && c.State == state && c.Code == code {
					found = c
					return true
				}
			}
			return false
		})
		return found
	}
	now := time.Now().Add(time.Second) // after the memory began
	f.put("sluice.command", "agent:gw-1", order("c-1", now, time.Hour, 1))
	done := told(0, "c-1", remote.CommandDone, "")
	var result struct{ Level string }
	if err := json.Unmarshal(done.Result, &result); err != nil || result.Level != "debug" {
		t.Errorf("%s %v", done.Result, err)
	}
	f.put("sluice.command", "agent:gw-1", order("c-2", now.Add(-2*time.Hour), time.Hour, 1))
	told(0, "c-2", remote.CommandRefused, trust.Expired)
	f.put("sluice.command", "agent:gw-1", order("c-3", now, time.Hour, 9))
	told(0, "", remote.CommandRefused, trust.WrongKey)

	// Another command with the id of one that is done is refused; the answer stands.
	f.put("sluice.command", "agent:gw-1", order("c-1", now, 2*time.Hour, 1))
	before := f.status(0, "three refusals", func(st remote.StatusRecord) bool { return st.Config.Refused == 3 }).Commands

	// After a start the topic is read again: nothing runs twice or is told twice, and
	// what was told stands. It does so when the key is not trusted any more, too.
	stop()
	mark := f.mark()
	stop = f.start([]byte(strings.Replace(string(f.file("")), publicKey(1).String(), publicKey(2).String(), 1)), 0)
	f.put("sluice.command", "agent:gw-1", order("c-4", now, time.Hour, 2))
	told(mark, "c-4", remote.CommandDone, "")
	stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, st := range f.statuses[mark:] {
		if st.Config.Refused != 0 || len(st.Commands) < len(before) || !reflect.DeepEqual(st.Commands[:len(before)], before) {
			t.Errorf("after a start: %d refused, %+v, before: %+v", st.Config.Refused, st.Commands, before)
		}
	}
}
