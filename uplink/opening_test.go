package uplink

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"sluice/uplink/gate"
)

// flagged is a link that is open while its file is not there.
func flagged(t *testing.T) (link *gate.Link, set func(metered bool)) {
	t.Helper()
	flag := filepath.Join(t.TempDir(), "metered")
	unmetered := false
	link, err := gate.New(gate.Config{Metered: &gate.Question{File: flag, Every: 10 * time.Millisecond, Timeout: time.Second}, OnlyMetered: &unmetered})
	if err != nil {
		t.Fatal(err)
	}
	return link, func(metered bool) {
		t.Helper()
		err := os.WriteFile(flag, nil, 0o600)
		if !metered {
			err = os.Remove(flag)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestAClosedLinkCarriesNothing closes a link before anything was sent and again in
// the middle of a stream: not a byte arrives then, and nothing is missing or double
// at the end.
func TestAClosedLinkCarriesNothing(t *testing.T) {
	t.Parallel()
	for _, exact := range []bool{false, true} {
		t.Run(map[bool]string{false: "at least once", true: "exactly once"}[exact], func(t *testing.T) {
			t.Parallel()
			y := &tally{start: time.Now()}
			c := cluster(t, kfake.SeedTopics(3, "sluice.process"), y.listen())
			link, meter := flagged(t)
			meter(true)
			log := newMemLog()
			log.put(messages("process", 0, 1000, 7)...)
			k := start(t, Config{Brokers: c.ListenAddrs(), Reader: log, ExactlyOnce: exact, Link: link, WindowRecords: 100})
			waitFor(t, "the answer", func() bool { return k.Link().Unknown == "" })
			time.Sleep(300 * time.Millisecond)
			if bytes, conns, _ := y.seen(); bytes > 0 || conns > 0 {
				t.Errorf("%d bytes over %d connections", bytes, conns)
			}
			if s := k.Stats(); s.Up || !s.Closed || !s.Metered || s.Stuck > 0 || !strings.HasPrefix(s.State, "closed while the link is metered (file ") {
				t.Errorf("stats %+v", s)
			}
			if _, err := k.Replay(t.Context(), Replay{}); !errors.Is(err, errClosed) {
				t.Errorf("replay: %v", err)
			}
			meter(false)
			waitFor(t, "the first ones", func() bool { return log.cursor("process") > 0 })
			next := 1000
			for range 5 {
				for range 20 {
					log.put(messages("process", next, 100, 7)...)
					next += 100
				}
				meter(true)
				waitFor(t, "the client to be gone", func() bool { return k.Stats().Closed && k.link() == nil })
				before, _, _ := y.seen()
				log.put(messages("process", next, 100, 7)...)
				next += 100
				time.Sleep(50 * time.Millisecond)
				if after, _, _ := y.seen(); after != before || k.Stats().SentBytes != uint64(after) {
					t.Errorf("%d bytes while it is closed; %d are counted, %d were seen", after-before, k.Stats().SentBytes, after)
				}
				meter(false)
				log.waitCursor(t, "process", uint64(next))
			}
			waitFor(t, "up", func() bool { return k.Stats().Up })
			checkComplete(t, consumeAll(t, exact, c.ListenAddrs(), "sluice.process"), uint64(next))
			if d := k.Stats().Delivered["process"]; d != uint64(next) {
				t.Errorf("%d are counted as delivered, of %d", d, next)
			}
		})
	}
}

// TestAlarmsPassAClosedLink sends one class all the same, with a client that is given
// up when nothing more comes.
func TestAlarmsPassAClosedLink(t *testing.T) {
	t.Parallel()
	for _, exact := range []bool{false, true} {
		t.Run(map[bool]string{false: "at least once", true: "exactly once"}[exact], func(t *testing.T) {
			t.Parallel()
			c := cluster(t, kfake.SeedTopics(3, "sluice.process", "sluice.alarm"))
			link, meter := flagged(t)
			meter(true)
			log := newMemLog()
			cfg := Config{Brokers: c.ListenAddrs(), Reader: log, ExactlyOnce: exact, Link: link, Always: []string{"alarm"}}
			k := startWith(t, cfg, func(k *Kafka) { k.quietAfter = time.Second })
			for i := range 2 {
				log.put(messages("process", i*100, 100, 7)...)
				if k.link() != nil {
					t.Error("there is a client already")
				}
				log.put(messages("alarm", i*10, 10, 7)...)
				log.waitCursor(t, "alarm", uint64(10*i+10))
				if s := k.Stats(); s.Up || !strings.HasSuffix(s.State, "; sent all the same: alarm") {
					t.Errorf("stats %+v", s)
				}
				waitFor(t, "the client to be gone", func() bool { return k.link() == nil })
			}
			if n := log.cursor("process"); n > 0 {
				t.Errorf("%d others were sent", n)
			}
			meter(false)
			log.waitCursor(t, "process", 200)
			log.put(messages("alarm", 20, 10, 7)...)
			log.waitCursor(t, "alarm", 30)
			checkComplete(t, consumeAll(t, exact, c.ListenAddrs(), "sluice.process"), 200)
			checkComplete(t, consumeAll(t, exact, c.ListenAddrs(), "sluice.alarm"), 30)
		})
	}
}
