package buffer

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"sluice/drivers"
)

// readRange reads the events of a range by number.
func (r *running) readRange(from, to time.Time) (map[uint64]drivers.Event, *RangeReader) {
	r.t.Helper()
	rd, err := r.Range("process", from, to)
	if err != nil {
		r.t.Fatal(err)
	}
	got, last := map[uint64]drivers.Event{}, uint64(0)
	for {
		b, err := rd.Next(r.t.Context())
		if errors.Is(err, io.EOF) {
			return got, rd
		}
		if err != nil {
			r.t.Fatal(err)
		}
		if b.First <= last || b.Class != "process" || b.Incarnation != r.Incarnation() {
			r.t.Fatalf("batch %s/%s/%d after %d", b.Class, b.Incarnation, b.First, last)
		}
		last = b.Last()
		for i, e := range b.Events {
			got[b.First+uint64(i)] = e
		}
	}
}

func TestARangeOfTimeIsReadAgain(t *testing.T) {
	c := config(t, func(c *Config) { c.Classes[0].KeepBytes, c.Classes[0].Retain = 64<<20, time.Hour })
	r := start(t, c)
	defer r.follow("central")() // delivered is no obstacle
	r.signals(0, 2000, 3)
	from, to := signalTime(500), signalTime(1200)
	for _, life := range []string{"running", "reopened"} {
		got, rd := r.readRange(from, to)
		if len(got) != 700*3 {
			t.Errorf("%s: %d events, want %d", life, len(got), 700*3)
		}
		for seq, e := range got {
			if want := signalTime(int(seq-1) / 3); !e.Time.Equal(want) {
				t.Fatalf("%s: number %d has the time %s, want %s", life, seq, e.Time, want)
			}
		}
		if m := rd.Missing(); len(m) > 0 {
			t.Errorf("%s: missing %v", life, m)
		}
		if life == "running" {
			r.stop()
			r = start(t, c)
		}
	}
	if got, _ := r.readRange(to.Add(time.Hour), to.Add(2*time.Hour)); len(got) != 0 {
		t.Errorf("%d events in a range without any", len(got))
	}
}

func TestARangeFindsEventsFromBeforeTheClockWasSetBack(t *testing.T) {
	r := start(t, config(t, nil))
	for _, i := range []int{0, 5000, 5001, 100, 101, 6000} { // one batch, times out of order
		e := event("process", i)
		e.Time = signalTime(i)
		if err := r.Append(t.Context(), e, nil); err != nil {
			t.Fatal(err)
		}
	}
	waitFor(t, "commits", func() bool { return r.Stats().Classes["process"].Committed == 6 })
	got, _ := r.readRange(signalTime(100), signalTime(102))
	if len(got) != 2 || !got[4].Time.Equal(signalTime(100)) || !got[5].Time.Equal(signalTime(101)) {
		t.Errorf("got %v", got)
	}
}

func TestARangeSaysWhatIsMissing(t *testing.T) {
	c := thinning(t, DropOldest, time.Second)
	r := start(t, c)
	r.signals(0, 900, 10)
	got, rd := r.readRange(signalTime(0), signalTime(900))
	missing := uint64(0)
	for _, m := range rd.Missing() {
		missing += m.Last - m.First + 1
		if got[m.First].Type != "" || got[m.Last].Type != "" {
			t.Errorf("%v is there", m)
		}
	}
	if missing == 0 || missing+uint64(len(got)) != 9000 {
		t.Errorf("%d missing, %d there, 9000 stored", missing, len(got))
	}
}

func TestARangeReaderHoldsNothingBackAndSurvivesTrimming(t *testing.T) {
	c := config(t, func(c *Config) { c.Classes[0].KeepBytes, c.Memory = 2<<20, 1 })
	r := start(t, c)
	rd := r.reader("central")
	putNoise(t, r, 0, 600)
	rr, err := r.Range("process", time.Unix(0, 0), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	b, err := rr.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	rd.Ack("process", 600)
	waitFor(t, "trimming of what was not read yet", func() bool { return r.Stats().Classes["process"].First > b.Last()+1 })
	for err == nil {
		_, err = rr.Next(t.Context())
	}
	if !errors.Is(err, io.EOF) || len(rr.Missing()) == 0 {
		t.Errorf("%v, missing %v", err, rr.Missing())
	}
}

func TestRangeRefusesWhatCannotWork(t *testing.T) {
	r := start(t, config(t, nil))
	now := time.Now()
	if _, err := r.Range("other", now, now.Add(1)); !errors.Is(err, ErrClass) {
		t.Error(err)
	}
	if _, err := r.Range("process", now, now); err == nil {
		t.Error("an empty range was taken")
	}
	rd, err := r.Range("process", now, now.Add(1))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = rd.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestBlocksOfAFileThatBboltCannotOpenAreSaved(t *testing.T) {
	c := config(t, func(c *Config) { c.Classes[0].KeepBytes, c.Memory = 8<<20, 1 })
	r := start(t, c)
	putNoise(t, r, 0, 600)
	r.stop()
	files := segmentFiles(t, c.Dir)
	ruinMiddle(t, files[0])
	ruinMetas(t, files[0])
	r = start(t, c)
	reasons := r.account(r.reader("central"), func(uint64, drivers.Event) {})
	t.Logf("%v", reasons)
	if reasons[reasonCorrupt] == 0 || reasons[reasonCorrupt] > 120 {
		t.Errorf("reasons %v, want most of the file saved", reasons)
	}
	if st := r.Stats().Classes["process"]; st.Dropped[reasonCorrupt] == 0 {
		t.Errorf("dropped %v", st.Dropped)
	}
}
