package agent

import (
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"sluice/agent/config"
	"sluice/agent/remote"
	"sluice/buffer"
	"sluice/drivers/loopback"
)

// During a trial the buffer keeps what either config keeps.
func TestATrialNarrowsNothing(t *testing.T) {
	parse := func(text string) *config.Config {
		t.Helper()
		cfg, err := config.Parse("c.yaml", []byte(`version: 1
agent: { id: a, data_dir: /nowhere }
sources: { line: { mqtt: { servers: [ "tcp://h:1883" ], subscribe: [ { filter: a } ] } } }
`+text), config.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	before := parse(`classes:
  process: { keep: { bytes: 64MiB, age: 0s }, retain: 1h, when_full: block }
  alarm: { keep: { bytes: 2MiB, age: 2h }, when_full: drop_oldest }
  old: {}
buffer: { min_free: 5% }
uplinks: { a: { kafka: { brokers: [ "h:1" ], classes: [ process, alarm ] } }, b: { kafka: { brokers: [ "h:1" ] } }, c: { kafka: { brokers: [ "h:1" ], classes: [ alarm ] } } }
`)
	next := parse(`classes:
  process: { keep: { bytes: 2MiB, age: 1h }, when_full: drop_oldest }
  alarm: { keep: { bytes: 4MiB, age: 1h }, when_full: block }
buffer: { min_free: 50% }
uplinks: { a: { kafka: { brokers: [ "h:1" ], classes: [ process ] } }, b: { removed: true }, c: { kafka: { brokers: [ "h:1" ] } }, d: { kafka: { brokers: [ "h:1" ] } } }
`)
	a := &Agent{back: &ground{cfg: before}}
	got := a.wantedBuffer(next)
	classes := map[string]buffer.Class{}
	for _, c := range got.Classes {
		classes[c.Name] = c
	}
	for name, want := range map[string]buffer.Class{
		"process": {Name: "process", Priority: 10, KeepBytes: 64 << 20, Retain: time.Hour, WhenFull: buffer.Block},
		"alarm":   {Name: "alarm", Priority: 10, KeepBytes: 4 << 20, KeepAge: 2 * time.Hour, WhenFull: buffer.DropOldest},
		"old":     {Name: "old", Priority: 10, KeepBytes: 1 << 30, WhenFull: buffer.Block},
	} {
		if !reflect.DeepEqual(classes[name], want) {
			t.Errorf("%+v, want %+v", classes[name], want)
		}
	}
	if want := map[string][]string{"a": {"alarm", "process"}, "b": nil, "c": nil, "d": nil}; !reflect.DeepEqual(got.Uplinks, want) || got.Removed != nil || got.MinFree != 0.05 {
		t.Errorf("uplinks %v, removed %v, %g free", got.Uplinks, got.Removed, got.MinFree)
	}
	a.back = nil
	if got := a.wantedBuffer(next); !reflect.DeepEqual(got, bufferConfig(next)) {
		t.Errorf("without a trial: %+v", got)
	}
}

// TestARollbackLeavesTheBacklogAsItWas tries a config that gives an uplink up, with
// its backlog, shrinks a class, and brings an uplink of its own; also where the trial
// goes on over a start.
func TestARollbackLeavesTheBacklogAsItWas(t *testing.T) {
	for name, again := range map[string]bool{"in one life": false, "over a start": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rollsBackWithBacklog(t, again)
		})
	}
}

func rollsBackWithBacklog(t *testing.T, again bool) {
	f := newFleet(t)
	text := func(mqtt, uplinks, more string) string {
		return fmt.Sprintf("version: 1\nsources: { line: { mqtt: { servers: [ \"tcp://%s\" ], subscribe: [ { filter: \"factory/#\" } ] } } }\n"+
			"uplinks: { central: { kafka: { brokers: [ %q ], topic: \"p.{class}\" } }, %s }\nobserve: { http: \"\" }\n%s\n", mqtt, f.cluster.ListenAddrs()[0], uplinks, more)
	}
	f.session()
	file := []byte(text(f.mqtt, `far: { kafka: { brokers: [ "127.0.0.1:1" ] } }`, fmt.Sprintf("agent: { id: gw-1, data_dir: %s }\nremote: { uplink: central, trust: [ %q ] }",
		filepath.Join(f.dir, "data"), publicKey(1))))
	stop := f.start(file, 3*time.Second)
	f.state(0, remote.StateApplied, 0, "")
	f.subscribed(2) // that of session was the first
	for i := range 20 {
		f.publish("factory/1", fmt.Sprint(i))
	}
	f.arrives("p.process", "19")
	mark := f.mark()
	f.publishConfig(signed{version: 1, body: "config:\n  " + strings.ReplaceAll(strings.TrimSpace(text(loopback.Addr(t), `far: { removed: true }, fresh: { kafka: { brokers: [ "127.0.0.1:1" ] } }`,
		"classes: { process: { keep: { bytes: 1MiB, age: 1ms }, when_full: drop_oldest } }")), "\n", "\n  ")})
	if again {
		f.state(mark, remote.StateTrial, 1, "")
		for range 2 {
			stop()
			f.waits(map[string]uint64{"far": 20, "fresh": 20})
			mark = f.mark()
			stop = f.start(file, 3*time.Second)
			f.state(mark, remote.StateTrial, 1, "")
		}
	}
	st := f.state(mark, remote.StateRolledBack, 0, remote.TrialFailed)
	if strings.Contains(st.Config.Reason, "far") || !strings.Contains(st.Config.Reason, "source line") {
		t.Errorf("%+v", st.Config)
	}
	f.status(mark, "the backlog", func(st remote.StatusRecord) bool { return st.Uplinks["far"].Lag >= 20 })
	stop()
	f.waits(map[string]uint64{"far": 20})
}

// waits checks how many events of class process wait for uplinks other than central. No
// agent runs.
func (f *fleet) waits(want map[string]uint64) {
	f.Helper()
	stranded, err := buffer.Stranded(filepath.Join(f.dir, "data"), map[string][]string{"central": nil}, nil)
	if err != nil {
		f.Fatal(err)
	}
	got := map[string]uint64{}
	for _, s := range stranded {
		if s.Class == "process" {
			got[s.Uplink] = s.Events
		}
	}
	if !maps.Equal(got, want) {
		f.Errorf("events of class process that wait: %v, want %v", got, want)
	}
}
