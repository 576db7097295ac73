package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/agent/remote"
	"sluice/agent/remote/document"
	"sluice/agent/remote/trust"
)

// acting are agents as an operator sees them: they answer documents and commands
// with statuses.
type acting struct {
	*testing.T
	kafka  string
	dir    string
	client *kgo.Client
	mu     sync.Mutex
	status map[string]*remote.StatusRecord
	bad    map[string]bool // they roll back what they get
	bundle []byte          // what diagnostics send
}

func newActing(t *testing.T, agents int) *acting {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	a := &acting{T: t, kafka: cluster.ListenAddrs()[0], dir: t.TempDir(), status: map[string]*remote.StatusRecord{}, bad: map[string]bool{}}
	a.main(0, "config", "keygen", a.path("op"), "--no-passphrase")
	public, err := os.ReadFile(a.path("op.pub"))
	if err != nil {
		t.Fatal(err)
	}
	a.write("ops.yaml", `version: 1
sources: { line: { mqtt: { servers: [ "tcp://127.0.0.1:1883" ], subscribe: [ { filter: "a/#" } ] } } }
uplinks: { central: { kafka: { brokers: [ "%s" ] } } }
remote: { uplink: central, trust: [ "%s" ] }
`, a.kafka, strings.TrimSpace(string(public)))
	a.write("site.yaml", `version: 1
sources: { line: { mqtt: { servers: [ "tcp://127.0.0.1:1883" ], subscribe: [ { filter: "b/#" } ] } } }
uplinks: { central: { kafka: { brokers: [ "127.0.0.1:9092" ] } } }
`)
	a.main(0, "config", "sign", a.path("site.yaml"), "--target", "agent:nobody", "--version", "1", "--key", a.path("op"), "-o", a.path("first.json"))
	a.main(0, "config", "push", a.path("first.json"), "--create")
	if a.client, err = kgo.NewClient(kgo.SeedBrokers(a.kafka), kgo.ConsumeTopics("sluice.config", "sluice.command"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())); err != nil {
		t.Fatal(err)
	}
	for i := range agents {
		id := fmt.Sprintf("gw-%d", i)
		a.status[id] = &remote.StatusRecord{Agent: id, Version: "test", Boot: "b", Sources: map[string]remote.SourceStatus{"line": {Up: true}},
			Config: remote.ConfigStatus{State: remote.StateApplied, Since: time.Now()}}
		a.tell(id)
	}
	if err := a.client.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); a.act(ctx) }()
	t.Cleanup(func() { stop(); <-ended; a.client.Close() })
	return a
}

func (a *acting) path(name string) string { return filepath.Join(a.dir, name) }

func (a *acting) write(name, format string, args ...any) {
	a.Helper()
	if err := os.WriteFile(a.path(name), fmt.Appendf(nil, format, args...), 0o600); err != nil {
		a.Fatal(err)
	}
}

// main runs a command and returns what it printed.
func (a *acting) main(want int, args ...string) string {
	a.Helper()
	var out bytes.Buffer
	env := func(key string) (string, bool) { return a.path("ops.yaml"), key == "SLUICE_CONFIG" }
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if got := Main(ctx, Process{Args: args, Out: &out, Err: &out, Env: env}); got != want {
		a.Errorf("%v: exit status %d, want %d:\n%s", args, got, want, out.String())
	}
	return out.String()
}

// tell publishes the status of an agent. a.mu is held, or nobody else runs yet.
func (a *acting) tell(id string) {
	a.status[id].Time = time.Now().UTC()
	value, err := json.Marshal(a.status[id])
	if err != nil {
		a.Error(err)
	}
	a.client.Produce(context.Background(), &kgo.Record{Topic: "sluice.status", Key: []byte(id), Value: value}, nil)
}

// act answers records until ctx ends.
func (a *acting) act(ctx context.Context) {
	for ctx.Err() == nil {
		a.client.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
			a.mu.Lock()
			defer a.mu.Unlock()
			env, err := trust.Open(r.Value)
			if err != nil {
				a.Error(err)
				return
			}
			for id := range a.status {
				if r.Topic == "sluice.config" {
					a.config(id, env)
				} else {
					a.command(id, env)
				}
			}
		})
	}
}

func (a *acting) config(id string, env *trust.Envelope) {
	doc, err := document.Parse(env.Payload)
	if err != nil || !doc.For(id, nil) {
		return
	}
	st := a.status[id]
	st.Config.Desired, st.Config.Since = doc.Version, time.Now()
	if a.bad[id] {
		st.Config.State, st.Config.Code, st.Config.Reason = remote.StateRolledBack, "trial-failed", "source line was up and is not"
	} else {
		st.Config = remote.ConfigStatus{Desired: doc.Version, Running: doc.Version, Target: doc.Target.String(), Hash: trust.Digest(env.Payload), State: remote.StateApplied, Since: time.Now()}
	}
	a.tell(id)
}

func (a *acting) command(id string, env *trust.Envelope) {
	c, err := document.ParseCommand(env.Payload)
	if err != nil || !c.Target.Matches(id, nil) {
		return
	}
	answer := remote.CommandStatus{ID: c.ID, Kind: c.Kind, State: remote.CommandDone, Result: json.RawMessage(`{"level":"debug"}`)}
	if a.bad[id] {
		answer = remote.CommandStatus{ID: c.ID, Kind: c.Kind, State: remote.CommandFailed, Reason: "no\nway"}
	}
	for i, p := range remote.Split(c.ID, a.bundle) {
		if c.Kind == "diagnostics" {
			value, _ := json.Marshal(p)
			a.client.Produce(context.Background(), &kgo.Record{Topic: "sluice.status", Key: []byte(remote.PartKey(id, i)), Value: value}, nil)
		}
	}
	a.status[id].Commands = append(a.status[id].Commands, answer)
	a.tell(id)
}

func wantText(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("no %q in\n%s", p, text)
		}
	}
}

func TestARolloutReachesAllOrStops(t *testing.T) {
	a := newActing(t, 20)
	rollout := func(want int, args ...string) string {
		t.Helper()
		return a.main(want, append([]string{"fleet", "rollout", a.path("site.yaml"), "--target", "all", "--key", a.path("op"), "--settle", "0s"}, args...)...)
	}
	// Of gw-0 to gw-19 these are the first that take part in a canary of so much.
	var one, half string
	for i := range 20 {
		id := fmt.Sprintf("gw-%d", i)
		switch share := document.Share(id); {
		case share < 30 && one == "":
			one = id
		case share >= 30 && share < 60 && half == "":
			half = id
		}
	}
	a.mu.Lock()
	a.bad[half] = true
	a.mu.Unlock()
	text := rollout(3, "--steps", "30,60,100")
	wantText(t, text, "30 % of all: pushed all/canary epoch 0 version 1", "60 % of all: pushed all/canary epoch 0 version 2", ", 1 failed",
		"stopped at 60 % of all: agents failed", half+": rolled_back trial-failed: source line was up and is not", "no further agent gets it")
	if strings.Contains(text, "100 %") {
		t.Errorf("it went on:\n%s", text)
	}
	wantText(t, a.main(0, "fleet", one), "1 agents: 1 applied")
	wantText(t, a.main(0, "fleet", "--state", "rolled_back"), half, "1 agents: 1 rolled_back")
	// The same command finds it as it was.
	wantText(t, rollout(3, "--steps", "30,60,100"), "30 % of all: done before", "stopped at 60 %")
	// It may be borne, and then all get it.
	a.mu.Lock()
	delete(a.bad, half)
	a.mu.Unlock()
	text = rollout(0, "--steps", "30,60,100", "--max-failed", "1", "--wait", "5s")
	wantText(t, text, "60 % of all: ", "100 % of all: 20 of 20 agents run it and are well", "promotion to all: 20 of 20 agents run it and are well", "done: promotion to all, version 4")
	wantText(t, a.main(0, "fleet"), "20 agents: 20 applied")
}

func TestCommandsAreAnswered(t *testing.T) {
	a := newActing(t, 3)
	a.bad["gw-1"] = true
	text := a.main(3, "fleet", "command", "all", "log-level", "level=debug", "for=1h", "--key", a.path("op"))
	wantText(t, text, "for 3 agents", `gw-0   done    {"level":"debug"}`, "gw-1   failed  no?way")
	text = a.main(0, "fleet", "command", "agent:gw-2", "log-level", "level=debug", "--key", a.path("op"), "--json", "--id", "mine")
	wantText(t, text, `{"agent":"gw-2","id":"mine","kind":"log-level","state":"done","result":{"level":"debug"}`)
}

func TestDiagnosticsAreCollected(t *testing.T) {
	a := newActing(t, 2)
	var packed bytes.Buffer
	for _, text := range []string{`{"status":{"agent":"gw-0"},"config":"version: 1\n","log":"a line\n","../../evil":1}`} {
		packed.Reset()
		gzipTo(t, &packed, text)
	}
	a.bundle = packed.Bytes()
	a.bad["gw-1"] = true
	dir := a.path("bundle")
	wantText(t, a.main(0, "fleet", "diagnostics", "gw-0", "--key", a.path("op"), "-o", dir), "unpacked to "+dir)
	for name, want := range map[string]string{"status.json": "{\n  \"agent\": \"gw-0\"\n}\n", "config.yaml": "version: 1\n", "log.txt": "a line\n", "evil.json": "1\n"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	wantText(t, a.main(1, "fleet", "diagnostics", "gw-0", "--last", "-o", dir), "file exists")
	wantText(t, a.main(0, "fleet", "diagnostics", "gw-0", "--last", "-o", dir+"2"), "unpacked to")
	wantText(t, a.main(1, "fleet", "diagnostics", "gw-1", "--key", a.path("op"), "-o", dir+"3"), "the agent has sent no bundle: failed no?way")
}
