package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/agent/remote"
	"sluice/agent/remote/floor"
	"sluice/agent/remote/trust"
	"sluice/agent/web"
	"sluice/drivers/loopback"
)

// TestAConfigIsAdoptedAndStays goes the good way: adopt, patch, restart, withdraw.
func TestAConfigIsAdoptedAndStays(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	stop := f.start(f.file(""), 0)
	defer func() { stop() }()
	f.state(0, remote.StateApplied, 0, "")
	f.publish("factory/1", "before")
	f.publishConfig(signed{target: "all", version: 3, body: f.config(settings{filter: `{ filter: "factory/#" }, { filter: "more/#" }`})})
	f.state(0, remote.StateTrial, 3, "")
	st := f.state(0, remote.StateApplied, 3, "")
	if st.Config.Desired != 3 || st.Config.Target != "all" || len(st.Config.Hash) != 64 || st.Labels["site"] != "p7" || !st.Uplinks["central"].Up || !st.Sources["line"].Up || st.Agent != "gw-1" || st.Boot == "" {
		t.Errorf("%+v", st)
	}
	f.publish("more/1", "by the new filter")
	f.arrives("p.process", "by the new filter")

	// A patch on top, for this agent alone.
	f.publishConfig(signed{version: 1, body: `patch: { "log.level": debug, "sources.line.mqtt.subscribe[1].filter": "other/#" }`})
	f.status(0, "the patch", func(st remote.StatusRecord) bool {
		return st.Config.State == remote.StateApplied && st.Config.Target == "agent:gw-1" && st.Config.Running == 1
	})
	f.publish("other/1", "by the patch")
	f.arrives("p.process", "by the patch")

	// One that makes no whole.
	mark := f.mark()
	f.publishConfig(signed{version: 2, body: `patch: { "sources.line.mqtt.servers": [] }`})
	st = f.state(mark, remote.StateRejected, 1, trust.Invalid)
	if !strings.Contains(st.Config.Reason, "sources.line.mqtt.servers") {
		t.Errorf("reason %q", st.Config.Reason)
	}

	// It is there again after a stop, without a word from the topic.
	stop()
	mark = f.mark()
	stop = f.start(f.file(""), 0)
	f.status(mark, "the patch after a start", func(st remote.StatusRecord) bool { return st.Config.Running == 1 && st.Config.Target == "agent:gw-1" })
	f.publish("other/1", "again")
	f.arrives("p.process", "again")

	// Withdrawn, the document for all counts again, then the file.
	f.publishConfig(signed{version: 3, body: "config: {}"})
	f.status(mark, "the document for all", func(st remote.StatusRecord) bool {
		return st.Config.State == remote.StateApplied && st.Config.Target == "all" && st.Config.Running == 3
	})
	mark = f.mark()
	f.publishConfig(signed{target: "all", version: 4, body: "config: {}"})
	f.state(mark, remote.StateApplied, 0, "")
	if _, err := os.Stat(filepath.Join(f.dir, "data", "remote", "config.good")); !os.IsNotExist(err) {
		t.Error("the withdrawn config is still there:", err)
	}
}

// TestAttacksFromTheTopic: each is refused with its code on the status topic and as
// a security event, while version 5 goes on.
func TestAttacksFromTheTopic(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	stop := f.start(f.file(""), 0)
	defer func() { stop() }()
	good := f.sign(signed{version: 5, body: f.config(settings{level: "warn"})})
	f.put("sluice.config", "agent:gw-1", good)
	f.state(0, remote.StateApplied, 5, "")

	next := signed{version: 6, body: f.config(settings{level: "debug"})}
	tampered := func(change func(e map[string]any)) []byte {
		var e map[string]any
		if err := json.Unmarshal(f.sign(next), &e); err != nil {
			t.Fatal(err)
		}
		change(e)
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var old map[string]any
	if err := json.Unmarshal(good, &old); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	attacks := []struct {
		name  string
		key   string
		value []byte
		code  trust.Code
	}{
		{"unsigned", "agent:gw-1", f.envelope(trust.TypeConfig, next.payload()).Encode(), trust.Unsigned},
		{"wrong key", "agent:gw-1", f.sign(signed{version: 6, body: next.body, by: []byte{9}}), trust.WrongKey},
		{"tampered payload", "agent:gw-1", tampered(func(e map[string]any) { e["payload"] = old["payload"].(string)[:40] + "AAAA" }), trust.Tampered},
		{"tampered envelope", "agent:gw-1", tampered(func(e map[string]any) { e["payloadType"] = trust.TypeCommand }), trust.WrongType},
		{"older", "agent:gw-1", f.sign(signed{version: 4, body: next.body}), trust.Older},
		{"same version, other content", "agent:gw-1", f.sign(signed{version: 5, body: next.body}), trust.SameVersion},
		{"expired", "agent:gw-1", f.sign(signed{version: 6, body: next.body, issued: now.Add(-48 * time.Hour), expires: now.Add(-24 * time.Hour)}), trust.Expired},
		{"wrong target", "agent:gw-1", f.sign(signed{target: "agent:gw-2", version: 6, body: next.body}), trust.WrongTarget},
		{"mix of two", "agent:gw-1", tampered(func(e map[string]any) { e["signatures"] = old["signatures"] }), trust.Tampered},
		{"10 MiB of junk", "agent:gw-1", bytes.Repeat([]byte("junk"), 10<<20/4), trust.TooLarge},
		{"junk", "all", []byte("junk"), trust.Malformed},
		{"invalid config", "agent:gw-1", f.sign(signed{version: 6, body: "config: { version: 1, sources: { x: {} } }"}), trust.Invalid},
		{"unknown fields", "agent:gw-1", f.sign(signed{version: 6, body: next.body + "\nexpire: never"}), trust.Invalid},
		{"unknown fields in the config", "agent:gw-1", f.sign(signed{version: 6, body: next.body + "\n  nonsense: 1"}), trust.Invalid},
	}
	for i, a := range attacks {
		if i == 9 { // ten a minute are told; the rest is counted: a new life counts anew
			stop()
			stop = f.start(f.file(""), 0)
			f.status(f.mark(), "a new life", func(st remote.StatusRecord) bool { return st.Config.Running == 5 })
		}
		mark := f.mark()
		f.put("sluice.config", a.key, a.value)
		st := f.status(mark, a.name, func(st remote.StatusRecord) bool {
			return st.Config.State == remote.StateRejected && st.Config.Code == a.code
		})
		if st.Config.Running != 5 || st.Config.Reason == "" || strings.Contains(st.Config.Reason, "\n") {
			t.Errorf("%s: %+v", a.name, st.Config)
		}
	}
	f.publish("factory/1", "goes on")
	f.arrives("p.process", "goes on")
	found := map[string]bool{}
	for _, v := range f.arrivesN("p.security", len(attacks)) {
		var e struct{ What, Code string }
		if json.Unmarshal([]byte(v), &e) == nil && e.What == "config-refused" {
			found[e.Code] = true
		}
	}
	for _, a := range attacks {
		if !found[string(a.code)] {
			t.Errorf("%s: no security event with %s", a.name, a.code)
		}
	}
	// After all that a good one is adopted.
	mark := f.mark()
	f.publishConfig(next)
	f.state(mark, remote.StateApplied, 6, "")

	// The memory is deleted, the stored config stays: what is older is still refused.
	stop()
	for _, name := range []string{"memory.0", "memory.1"} {
		if err := os.Remove(filepath.Join(f.dir, "data", "remote", name)); err != nil {
			t.Fatal(err)
		}
	}
	mark = f.mark()
	f.put("sluice.config", "agent:gw-1", good)
	stop = f.start(f.file(""), 0)
	f.state(mark, remote.StateRejected, 6, trust.Older)

	// The clock is set back: what has expired by the latest time that was seen stays so.
	stop()
	dir := filepath.Join(f.dir, "data", "remote")
	store, _, err := floor.Open(dir, floor.Applied{}, now)
	if err != nil {
		t.Fatal(err)
	}
	m := store.Memory()
	m.See(now.Add(48 * time.Hour))
	if err := store.Save(m); err != nil {
		t.Fatal(err)
	}
	mark = f.mark()
	f.publishConfig(signed{version: 7, body: next.body, issued: now, expires: now.Add(24 * time.Hour)})
	stop = f.start(f.file(""), 0)
	f.state(mark, remote.StateRejected, 6, trust.Expired)
}

// arrivesN reads records of a topic until n config refusals are among them.
func (f *fleet) arrivesN(topic string, n int) (values []string) {
	f.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(f.cluster.ListenAddrs()...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		f.Fatal(err)
	}
	defer c.Close()
	for end := time.Now().Add(patience); n > 0; {
		if time.Now().After(end) {
			f.Fatalf("%d more refusals were to come", n)
		}
		for _, r := range c.PollFetches(f.Context()).Records() {
			values = append(values, string(r.Value))
			if strings.Contains(string(r.Value), `"what":"config-refused"`) {
				n--
			}
		}
	}
	return values
}

// TestAConfigThatBreaksSomethingIsUndone: each ends as it began, and messages arrive,
// both one that is taken while it is on trial and one after that.
func TestAConfigThatBreaksSomethingIsUndone(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	pages := loopback.Addr(t) // of what is on trial, when the status topic is out of reach
	seen := func(text, addr string) string {
		return strings.Replace(text, `http: ""`, fmt.Sprintf("http: %q", addr), 1)
	}
	defer f.start([]byte(seen(string(f.file("")), pages)), patience)()
	f.trial.Store(int64(4 * time.Second)) // of what comes after the good one
	f.publishConfig(signed{version: 1, body: seen(f.config(settings{}), pages)})
	f.state(0, remote.StateApplied, 1, "")
	before, err := os.ReadFile(filepath.Join(f.dir, "sluice.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	busy, taken := newCounted(t, f.mqtt), 0
	for i, c := range []struct {
		name, why string
		code      trust.Code
		s         settings
		http      string
		takes     bool // messages, while it is on trial
	}{
		{"wrong broker address", "uplink central", remote.TrialFailed, settings{brokers: loopback.Addr(t)}, pages, true},
		{"wrong credentials", "uplink central", remote.TrialFailed, settings{extra: `, sasl: { mechanism: plain, username: u, password: p }`}, pages, true},
		{"a source that was up", "source line", remote.TrialFailed, settings{http: loopback.Addr(t)}, pages, false},
		{"an address that is in use", "address already in use", remote.StartFailed, settings{}, busy.addr, false},
	} {
		mark, version := f.mark(), i+2
		f.publishConfig(signed{version: version, body: seen(f.config(c.s), c.http)})
		during := c.name + ", on trial"
		if c.takes && f.takenOnTrial(pages, uint64(version), during) {
			taken++
		}
		st := f.status(mark, c.name+" rolled back", func(st remote.StatusRecord) bool { // the end of the one before may be told again
			return st.Config.State == remote.StateRolledBack && st.Config.Desired == uint64(version)
		})
		if !strings.Contains(st.Config.Reason, c.why) || st.Config.Running != 1 || st.Config.Code != c.code {
			t.Errorf("%s: %+v", c.name, st.Config)
		}
		waitPage(t, "http://"+pages+"/readyz", "ok") // the source is up again
		f.publish("factory/1", c.name)
		f.arrives("p.process", c.name)
		if c.takes {
			f.arrives("p.process", during)
		}

		// What is refused after that is told, too, and what was rolled back stays desired.
		mark = f.mark()
		f.put("sluice.config", "all", []byte("junk"))
		if st = f.state(mark, remote.StateRejected, 1, trust.Malformed); st.Config.Desired != uint64(version) {
			t.Errorf("%s, then junk: %+v", c.name, st.Config)
		}
	}
	if taken == 0 {
		t.Error("no message was taken during a trial")
	}
	if now, err := os.ReadFile(filepath.Join(f.dir, "sluice.yaml")); err != nil || !bytes.Equal(now, before) {
		t.Error("the file was changed:", err)
	}
}

// takenOnTrial publishes a message while a config is on trial, by the status page, and
// waits until the agent has taken it; false: the trial was over before, since the machine
// stood still.
func (f *fleet) takenOnTrial(pages string, version uint64, payload string) bool {
	f.Helper()
	wait := func(what string, is func(web.Status) bool) (st web.Status) {
		f.Helper()
		for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			if err := json.Unmarshal([]byte(waitPage(f.T, "http://"+pages+"/api/v1/status", `"agent"`)), &st); err != nil {
				f.Fatal(err)
			} else if is(st) {
				return st
			} else if time.Now().After(end) {
				f.Fatalf("%s: never %s: %+v", payload, what, st.Config)
			}
		}
	}
	onTrial := func(st web.Status) bool {
		return st.Config.State == string(remote.StateTrial) && st.Config.Version == version
	}
	before := wait("on trial", func(st web.Status) bool {
		return onTrial(st) || st.Config.State == string(remote.StateRolledBack) && st.Config.Desired == version
	}).Sources["line"].Taken["process"]
	f.publish("factory/1", payload)
	return onTrial(wait("taken", func(st web.Status) bool { return st.Sources["line"].Taken["process"] > before }))
}
