package modbus

import (
	"context"
	"encoding/binary"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/drivers"
)

// crowded is a sink of which single classes can be full: it says so, or blocks
// without having said it.
type crowded struct {
	*memory
	mu    sync.Mutex
	full  []string
	mute  bool // Room is always true
	tries atomic.Int64
}

func (c *crowded) set(mute bool, full ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mute, c.full = mute, full
}

func (c *crowded) isFull(class string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.full, class)
}

func (c *crowded) Room(class string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mute || !slices.Contains(c.full, class)
}

func (c *crowded) Append(ctx context.Context, e drivers.Event, done func(error)) error {
	c.tries.Add(1)
	for c.isFull(e.Class) {
		if err := sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	return c.memory.Append(ctx, e, done)
}

// twoClasses is a bus with a device of one class, one of another, and one of both
// whose tags are read by one request.
func twoClasses(sink drivers.Sink, url string) Config {
	const every = 20 * time.Millisecond
	return Config{Name: "bus", Connection: url, Sink: sink, Devices: []Device{
		{Name: "slow", Unit: 1, Every: every, Tags: []Tag{{Name: "v", Read: "holding", At: 0, Type: "uint16"}}},
		{Name: "urgent", Unit: 1, Every: every, Class: "alarm", Tags: []Tag{{Name: "v", Read: "holding", At: 10, Type: "uint16"}}},
		{Name: "both", Unit: 1, Every: every, Tags: []Tag{
			{Name: "p", Read: "holding", At: 20, Type: "uint16"},
			{Name: "a", Read: "holding", At: 21, Type: "uint16", Class: "alarm"},
			{Name: "far", Read: "holding", At: 1000, Type: "uint16"},
		}},
	}}
}

// asked counts requests by their first address.
type asked struct{ byAddress [2000]atomic.Int64 }

func (a *asked) answer(c net.Conn, _ int, req []byte) {
	a.byAddress[binary.BigEndian.Uint16(req[8:])].Add(1)
	c.Write(dataOf(req, make([]byte, 2*binary.BigEndian.Uint16(req[10:]))...))
}

func (s *running) countOf(class string) int { return int(s.Stats().Taken[class]) }

// TestFullClassHoldsNoOther fills one class, with and without a sink that says so
// beforehand: the other class goes on, and what is held is not asked for.
func TestFullClassHoldsNoOther(t *testing.T) {
	for _, mute := range []bool{false, true} {
		name := "the sink says so"
		if mute {
			name = "the sink just blocks"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var a asked
			sink := &crowded{memory: newMemory()}
			s := start(t, twoClasses(sink, newPeer(t, a.answer, nil).url()))
			until(t, "both classes flow", func() bool { return s.countOf("process") > 3 && s.countOf("alarm") > 3 })
			sink.set(mute, "process")
			until(t, "the class is held", func() bool { return s.polls("slow", resultHeld) > 3 && s.polls("both", resultHeld) == 0 })
			if st := s.Stats().State; !strings.Contains(st, "polls of class process are held: the buffer is full") {
				t.Errorf("state %q", st)
			}
			process, alarm := s.countOf("process"), s.countOf("alarm")
			quiet, far := a.byAddress[0].Load(), a.byAddress[1000].Load()
			until(t, "the other class goes on", func() bool { return s.countOf("alarm") > alarm+10 })
			if n := s.countOf("process"); n != process {
				t.Errorf("%d events of the full class", n-process)
			}
			if n := a.byAddress[0].Load() - quiet + a.byAddress[1000].Load() - far; n != 0 {
				t.Errorf("%d requests for what is held", n)
			}
			sink.set(false)
			until(t, "the class flows again", func() bool { return s.countOf("process") > process+5 })
			until(t, "the state says nothing of it", func() bool { return !strings.Contains(s.Stats().State, "held") })
			s.stop()
			last := map[string]time.Time{}
			for len(sink.events) > 0 {
				e := <-sink.events
				if key := e.Class + e.Device; e.Time.Before(last[key]) {
					t.Fatalf("%s went back in time", key)
				} else {
					last[key] = e.Time
				}
			}
		})
	}
}

func TestHourlyValueNeedsNoFurtherHourAfterAHold(t *testing.T) {
	t.Parallel()
	var a asked
	sink := &crowded{memory: newMemory()}
	sink.set(false, "process")
	c := twoClasses(sink, newPeer(t, a.answer, nil).url())
	c.Devices = c.Devices[:1]
	c.Devices[0].Every = time.Hour
	s := start(t, c)
	until(t, "the poll is held", func() bool { return s.polls("slow", resultHeld) == 1 })
	sink.set(false)
	sink.next(t)
	if n := s.polls("slow", resultHeld); n != 1 {
		t.Errorf("%d slots counted as held, want 1", n)
	}
}

// TestSilentDeviceIsToldWhenThereIsRoom has a device with two classes fall silent
// while one is full.
func TestSilentDeviceIsToldWhenThereIsRoom(t *testing.T) {
	t.Parallel()
	sink := &crowded{memory: newMemory()}
	sink.set(false, "process")
	c := twoClasses(sink, newPeer(t, func(net.Conn, int, []byte) {}, nil).url())
	c.Devices, c.Timeout, c.Retries = c.Devices[2:], 30*time.Millisecond, None
	start(t, c)
	if r := sink.next(t); r.event.Class != "alarm" || r.Bad["a"] != badTimeout {
		t.Fatalf("got %s", r.event.Payload)
	}
	sink.set(false)
	if r := sink.next(t); r.event.Class != "process" || r.Bad["p"] != badTimeout || r.Bad["far"] != badTimeout {
		t.Fatalf("got %s", r.event.Payload)
	}
}

func TestLateErrorOfTheSinkEndsRun(t *testing.T) {
	t.Parallel()
	var a asked
	sink := &failing{}
	s := start(t, twoClasses(sink, newPeer(t, a.answer, nil).url()))
	<-s.ended
	if s.err == nil || !strings.Contains(s.err.Error(), errBroken.Error()) {
		t.Errorf("Run: %v", s.err)
	}
}

// failing takes its time and then breaks.
type failing struct{}

func (failing) Append(ctx context.Context, _ drivers.Event, _ func(error)) error {
	if err := sleep(ctx, 3*shortWait); err != nil {
		return err
	}
	return errBroken
}
