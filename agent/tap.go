package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"sluice/agent/web"
	"sluice/buffer"
	"sluice/drivers"
)

const (
	tapQueue = 256 // events that a slow watcher may be behind; what is more is left out and counted
	tapLimit = 8   // watchers at a time
)

// taps shows passing events to whoever watches. Nothing waits for a watcher,
// and without one it costs a load of a counter an event.
type taps struct {
	watchers atomic.Int32
	mu       sync.Mutex
	open     map[*tap]struct{}
}

// tap is one watcher.
type tap struct {
	filter web.Filter
	events chan web.Event
	missed atomic.Uint64
}

// watch adds a watcher; false: there are enough. close must be called once.
func (t *taps) watch(f web.Filter) (_ *tap, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.open) >= tapLimit {
		return nil, false
	}
	w := &tap{filter: f, events: make(chan web.Event, tapQueue)}
	if t.open == nil {
		t.open = map[*tap]struct{}{}
	}
	t.open[w] = struct{}{}
	t.watchers.Add(1)
	return w, true
}

func (t *taps) close(w *tap) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, w)
	t.watchers.Add(-1)
}

func (t *taps) watched() bool { return t.watchers.Load() > 0 }

// pass shows an event to those who asked for it.
func (t *taps) pass(x web.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for w := range t.open {
		if !w.filter.Takes(x) {
			continue
		}
		select {
		case w.events <- x:
		default:
			w.missed.Add(1)
		}
	}
}

// tappedSink shows what a source hands over once it is committed.
type tappedSink struct {
	drivers.Sink
	taps *taps
}

// Append implements drivers.Sink.
func (s tappedSink) Append(ctx context.Context, e drivers.Event, done func(error)) error {
	if !s.taps.watched() {
		return s.Sink.Append(ctx, e, done)
	}
	return s.Sink.Append(ctx, e, func(err error) {
		if done != nil {
			done(err)
		}
		if err == nil {
			s.taps.pass(web.EventOf("", 0, &e))
		}
	})
}

// Room implements drivers.Roomy.
func (s tappedSink) Room(class string) bool {
	roomy, ok := s.Sink.(drivers.Roomy)
	return !ok || roomy.Room(class)
}

// tappedLog shows what an uplink reads in order to send it.
type tappedLog struct {
	*buffer.Reader
	uplink string
	taps   *taps
}

// NextUpTo implements uplink.Log.
func (l tappedLog) NextUpTo(ctx context.Context, events int, bytes int64) (buffer.Batch, error) {
	b, err := l.Reader.NextUpTo(ctx, events, bytes)
	if err == nil && l.taps.watched() {
		for i := range b.Events {
			x := web.EventOf(b.Incarnation, b.First+uint64(i), &b.Events[i])
			x.Uplink = l.uplink
			l.taps.pass(x)
		}
	}
	return b, err
}

// Stream implements web.View.
func (a *Agent) Stream(f web.Filter) (*web.Stream, error) {
	if err := a.knows(f); err != nil {
		return nil, err
	}
	w, ok := a.taps.watch(f)
	if !ok {
		return nil, fmt.Errorf("%w: %d watch already (close one)", web.ErrBusy, tapLimit)
	}
	return &web.Stream{Events: w.events, Missed: w.missed.Load, Close: func() { a.taps.close(w) }}, nil
}

// knows says what there is when a filter names what there isn't.
func (a *Agent) knows(f web.Filter) error {
	p := a.parts()
	var sources, uplinks []string
	for _, s := range p.sources {
		sources = append(sources, s.name)
	}
	for _, u := range p.uplinks {
		uplinks = append(uplinks, u.name)
	}
	for _, x := range []struct {
		kind, name string
		known      []string
	}{
		{"source", f.Source, sources},
		{"class", f.Class, slices.Sorted(maps.Keys(p.buffer.Stats().Classes))},
		{"uplink", f.Uplink, uplinks},
	} {
		if x.name != "" && !slices.Contains(x.known, x.name) {
			return fmt.Errorf("there is no %s %q (%s)", x.kind, x.name, strings.Join(x.known, ", "))
		}
	}
	return nil
}
