package uplink

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestSwallowedRecords has the broker leave records without an answer while it
// answers all else: another client is tried, and it shows.
func TestSwallowedRecords(t *testing.T) {
	t.Parallel()
	for _, exact := range []bool{false, true} {
		t.Run(map[bool]string{false: "at least once", true: "exactly once"}[exact], func(t *testing.T) {
			t.Parallel()
			c := cluster(t, kfake.SeedTopics(2, "sluice.process"))
			log := newMemLog()
			cfg := Config{Brokers: c.ListenAddrs(), Reader: log, ExactlyOnce: exact}
			k := startWith(t, cfg, func(k *Kafka) { k.renewAfter = stallAfter })
			log.put(messages("process", 0, 100, 7)...)
			log.waitCursor(t, "process", 100)
			var open atomic.Bool
			c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
				c.KeepControl()
				return nil, nil, !open.Load()
			})
			made := k.renewed()
			log.put(messages("process", 100, 100, 7)...)
			waitFor(t, "it to be noticed", func() bool { return k.Stats().Stuck > stallAfter })
			if s := k.Stats(); s.Up || s.InFlight != 100 {
				t.Errorf("stats %+v", s)
			}
			if !exact {
				waitFor(t, "another client", func() bool { return k.renewed() != made })
			}
			open.Store(true)
			log.waitCursor(t, "process", 200)
			waitFor(t, "it to be well", func() bool { s := k.Stats(); return s.Up && s.Stuck == 0 })
			checkComplete(t, consumeAll(t, exact, c.ListenAddrs(), "sluice.process"), 200)
		})
	}
}

// TestRefusalsAreNotStuck asks that a cluster that says no is not taken for one
// that says nothing: neither a new client nor a restart would mend it.
func TestRefusalsAreNotStuck(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(2, "sluice.process"))
	no := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.NotEnoughReplicas, Count: -1})
	log := newMemLog()
	log.put(messages("process", 0, 100, 7)...)
	k := start(t, Config{Brokers: c.ListenAddrs(), Reader: log})
	waitFor(t, "a standstill", func() bool { return k.window.progress().stalled > stallAfter+2*time.Second })
	if s := k.Stats(); s.Stuck != 0 || s.Up {
		t.Errorf("stats %+v", s)
	}
	no.Remove()
	log.waitCursor(t, "process", 100)
}
