package buffer

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"sluice/drivers"
)

// running is an open buffer with its writers, verified and closed by stop.
type running struct {
	*Buffer
	t      *testing.T
	cancel context.CancelFunc
	ended  chan struct{}
}

func start(t *testing.T, cfg Config) *running {
	t.Helper()
	b, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := &running{Buffer: b, t: t}
	r.begin()
	return r
}

// begin starts the writers.
func (r *running) begin() {
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.ended = cancel, make(chan struct{})
	go func() {
		defer close(r.ended)
		if err := r.Run(ctx); err != nil {
			r.t.Error(err)
		}
	}()
	r.t.Cleanup(r.stop)
}

// stop ends the buffer in order. It may be called twice.
func (r *running) stop() {
	if r.halt() {
		if err := r.Buffer.Close(); err != nil {
			r.t.Error(err)
		}
	}
}

// crash ends the buffer as kill -9 would: nothing is saved at the end.
func (r *running) crash() {
	if r.halt() {
		for _, l := range r.lanes {
			l.close()
		}
		_ = r.state.close()
		r.lock.Close()
	}
}

func (r *running) halt() bool {
	if r.cancel == nil {
		return false
	}
	r.cancel()
	<-r.ended
	r.cancel = nil
	return true
}

func config(t *testing.T, edit func(*Config)) Config {
	t.Helper()
	c := Config{Dir: t.TempDir(), Classes: []Class{{Name: "process"}}, Uplinks: map[string][]string{"central": nil},
		Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	if edit != nil {
		edit(&c)
	}
	return c
}

func event(class string, n int) drivers.Event {
	return drivers.Event{Class: class, Source: "line", Subject: fmt.Sprintf("factory/m%d", n%7), Type: drivers.TypeMQTTMessage,
		ContentType: drivers.ContentBinary, Time: time.Unix(1_700_000_000, int64(n)).UTC(), Payload: fmt.Appendf(nil, "event %d", n)}
}

// put appends n events numbered from and waits until they are durable.
func (r *running) put(class string, from, n int) {
	r.t.Helper()
	var wg sync.WaitGroup
	wg.Add(n)
	for i := from; i < from+n; i++ {
		err := r.Append(context.Background(), event(class, i), func(err error) {
			if err != nil {
				r.t.Error("not durable:", err)
			}
			wg.Done()
		})
		if err != nil {
			r.t.Fatal(err)
		}
	}
	wg.Wait()
}

func (r *running) reader(uplink string) *Reader {
	r.t.Helper()
	rd, err := r.Reader(uplink)
	if err != nil {
		r.t.Fatal(err)
	}
	return rd
}

func next(t *testing.T, rd *Reader) Batch {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	b, err := rd.Next(ctx)
	if err != nil {
		t.Fatal("next:", err)
	}
	return b
}

// numbered is an event with its number.
type numbered struct {
	seq uint64
	drivers.Event
}

// collect reads until it has n events.
func collect(t *testing.T, rd *Reader, n int) []numbered {
	t.Helper()
	var out []numbered
	for len(out) < n {
		b := next(t, rd)
		for i, e := range b.Events {
			out = append(out, numbered{b.First + uint64(i), e})
		}
	}
	return out
}

func wantEvents(t *testing.T, got []numbered, firstSeq uint64, firstEvent int) {
	t.Helper()
	for i, g := range got {
		want := event(g.Class, firstEvent+i)
		if g.seq != firstSeq+uint64(i) || string(g.Payload) != string(want.Payload) || g.Subject != want.Subject ||
			!g.Time.Equal(want.Time) || g.Source != want.Source || g.Type != want.Type || g.ContentType != want.ContentType {
			t.Fatalf("event %d: seq %d %+v, want seq %d %+v", i, g.seq, g.Event, firstSeq+uint64(i), want)
		}
	}
}

// noise is n bytes that do not compress.
func noise(seed, n int) []byte {
	b := make([]byte, n)
	x := uint64(seed)*0x9E3779B97F4A7C15 + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return b
}
