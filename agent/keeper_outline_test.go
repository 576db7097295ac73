package agent

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"sluice/agent/remote"
	"sluice/drivers/loopback"
)

// steady has no record come without news.
const steady = 24 * time.Hour

// allUp waits until all is up by the status, from the record with that number on.
func (f *fleet) allUp(from int) {
	f.Helper()
	f.status(from, "all up", func(st remote.StatusRecord) bool {
		for _, s := range st.Sources {
			if !s.Up {
				return false
			}
		}
		for _, u := range st.Uplinks {
			if !u.Up {
				return false
			}
		}
		return st.Config.State == remote.StateApplied
	})
}

// What goes up or down is told without waiting for the minute: after a start, a source
// that goes away, an uplink that comes up late.
func TestWhatGoesUpOrDownIsTold(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.reportEvery = steady
	late := loopback.Addr(t)
	text := strings.Replace(string(f.file("")), "uplinks: {", fmt.Sprintf("uplinks: { late: { kafka: { brokers: [ %q ] } },", late), 1)
	defer f.start([]byte(text), 0)()
	f.status(0, "what is up after a start", func(st remote.StatusRecord) bool {
		return st.Sources["line"].Up && st.Uplinks["central"].Up && !st.Uplinks["late"].Up
	})
	mark := f.mark()
	f.plantEnds()
	f.status(mark, "a source that went away", func(st remote.StatusRecord) bool {
		return !st.Sources["line"].Up && st.Uplinks["central"].Up && !st.Uplinks["late"].Up
	})
	mark = f.mark()
	_, port, _ := strings.Cut(late, ":")
	var n int
	if _, err := fmt.Sscan(port, &n); err != nil {
		t.Fatal(err)
	}
	other, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(n), kfake.DefaultNumPartitions(1), kfake.AllowAutoTopicCreation())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Close)
	f.status(mark, "an uplink that came up", func(st remote.StatusRecord) bool { return st.Uplinks["late"].Up })
}

// A status comes each minute though nothing changes, and has all that is promised.
func TestTheStatusIsToldWithoutNews(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.reportEvery = 100 * time.Millisecond
	defer f.start(f.file(""), 0)()
	st := f.state(0, remote.StateApplied, 0, "")
	if st.Commands == nil || st.Buffer == nil {
		t.Errorf("%+v", st)
	}
	f.allUp(0)
	first := f.mark()
	f.status(first, "twenty more", func(remote.StatusRecord) bool { return f.mark() >= first+20 })
	f.mu.Lock()
	defer f.mu.Unlock()
	same := 0
	for i := first + 1; i < len(f.statuses); i++ {
		a, b := f.statuses[i-1], f.statuses[i]
		if !b.Time.After(a.Time) {
			t.Errorf("one of %s after one of %s", b.Time, a.Time)
		}
		if reflect.DeepEqual(a.Config, b.Config) && a.Sources["line"].Up == b.Sources["line"].Up && a.Uplinks["central"].Up == b.Uplinks["central"].Up {
			same++
		}
	}
	if same < 15 { // news would have come a few times at most
		t.Errorf("%d of %d tell nothing new", same, len(f.statuses)-first)
	}
}

// A flapping source makes a record in ten seconds at most, and the way it is in the end
// is told, by a clock that the test turns.
func TestFlappingIsBounded(t *testing.T) {
	t.Parallel()
	const shown = outlineLook + outlineDelay + 2*judgeEvery // how long a single change takes to be told
	for _, flap := range []time.Duration{judgeEvery, time.Second, 3 * time.Second, 7 * time.Second, 25 * time.Second} {
		now := time.Unix(1_700_000_000, 0)
		o, up, told := outline{told: "down"}, "down", 0
		run := func(length, flap time.Duration) {
			var since time.Duration
			for range length / judgeEvery {
				now = now.Add(judgeEvery)
				if since += judgeEvery; since >= flap {
					since = 0
					up = map[string]string{"up": "down", "down": "up"}[up]
				}
				if o.news(now, func() string { return up }) {
					if up == o.told {
						t.Errorf("each %s: told again: %s", flap, up)
					}
					o.told = up
					told++
				}
			}
		}
		const length = 10 * time.Minute
		run(length, flap)
		if told > int(length/outlineEvery) {
			t.Errorf("each %s: %d records in %s", flap, told, length)
		}
		if told < int(length/max(flap, outlineEvery+shown))/3 && flap > outlineLook {
			t.Errorf("each %s: %d records only in %s", flap, told, length)
		}
		run(outlineEvery+shown, time.Hour)
		if o.told != up {
			t.Errorf("each %s: in the end it is %s, and was told as %s", flap, up, o.told)
		}
		// After a quiet time a change is told at once, whichever way it is.
		run(outlineEvery, time.Hour)
		before := told
		up += " and more"
		run(shown, time.Hour)
		if o.told != up || told != before+1 {
			t.Errorf("each %s: after a quiet time %s was told as %s", flap, up, o.told)
		}
		up = "down"
	}
}

// What a link could not take with it is told over the next one.
func TestWhatWasCutOffIsToldAnew(t *testing.T) {
	t.Parallel()
	k := &keeper{}
	k.told.number, k.told.outline.told = 7, "up"
	k.unsaid(6)
	if k.told.outline.told != "up" {
		t.Error("an older record was cut off")
	}
	k.unsaid(7)
	if !k.told.outline.news(time.Now(), func() string { return "up" }) && !k.told.outline.seen {
		t.Error("it counts as told")
	}
}
