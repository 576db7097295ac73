package modbus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sluice/drivers"
)

// polls returns how often a device was polled with a result.
func (r *running) polls(device, result string) int {
	for _, d := range r.Stats().Devices {
		if d.Name == device {
			return int(d.Polls[result])
		}
	}
	return -1
}

func keys[V any](m map[string]V) string {
	return strings.Join(slices.Sorted(maps.Keys(m)), " ")
}

func registersFrom(at, count int) map[uint16]uint16 {
	m := map[uint16]uint16{}
	for i := range count {
		m[uint16(at+i)] = uint16(at + i)
	}
	return m
}

func TestReadingIsOneEventWithEveryTagInConfigOrder(t *testing.T) {
	t.Parallel()
	url := serve(t, &plant{
		holding: map[uint16]uint16{3059: 0x4144, 3060: 0xcccd}, input: map[uint16]uint16{100: 0, 101: 0, 102: 0, 103: 5},
		coils: map[uint16]bool{1: true},
	})
	sink := newMemory()
	var observed atomic.Int64
	s := start(t, Config{
		Name: "bus-a", Connection: url, Sink: sink, ObservePoll: func(time.Duration) { observed.Add(1) },
		Devices: []Device{{Name: "meter-1", Unit: 1, Every: 20 * time.Millisecond, Tags: []Tag{
			{Name: "running", Read: "coil", At: 1, Type: "bool"},
			{Name: `the "power"`, Read: "holding", At: 3060, Base: 1, Type: "float32"},
			{Name: "energy", Read: "input", At: 100, Type: "uint64", Scale: 0.001},
		}}},
	})
	r := sink.next(t)
	e := r.event
	want := fmt.Sprintf(`{"device":"meter-1","time":%q,"values":{"running":true,"the \"power\"":12.3,"energy":0.005}}`, e.Time.Format(timeLayout))
	if string(e.Payload) != want {
		t.Errorf("payload %s\nwant    %s", e.Payload, want)
	}
	if e.Time.Location() != time.UTC || !r.Time.Equal(e.Time) {
		t.Errorf("time %v in the event, %v in the payload", e.Time, r.Time)
	}
	e.Time, e.Payload = time.Time{}, nil
	if fmt.Sprintf("%+v", e) != fmt.Sprintf("%+v", drivers.Event{
		Class: "process", Source: "bus-a", Device: "meter-1", Subject: "meter-1",
		Type: "sluice.modbus.reading.v1", ContentType: "application/json",
	}) {
		t.Errorf("event %+v", e)
	}
	sink.next(t)
	stats := s.Stats()
	if !stats.Up || !stats.Devices[0].Up || stats.Taken["process"] == 0 || stats.Devices[0].Polls["ok"] == 0 || observed.Load() == 0 {
		t.Errorf("stats %+v, %d observed", stats, observed.Load())
	}
	if err := s.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if s.Stats().Up {
		t.Error("up after Run has ended")
	}
}

func TestTagOfAnotherClassMakesAnEventOfItsOwn(t *testing.T) {
	t.Parallel()
	url := serve(t, &plant{holding: registersFrom(0, 3), discretes: map[uint16]bool{12: true}})
	sink := newMemory()
	start(t, Config{Name: "bus", Connection: url, Sink: sink, Devices: []Device{{Name: "d", Unit: 1, Every: time.Hour, Tags: []Tag{
		{Name: "a", Read: "holding", At: 0, Type: "uint16"},
		{Name: "alarm", Read: "discrete", At: 12, Class: "alarm"},
		{Name: "b", Read: "holding", At: 1, Type: "uint16"},
		{Name: "fast", Read: "holding", At: 2, Type: "uint16", Every: 2 * time.Hour},
	}}}})
	got := map[string]string{}
	for range 3 {
		r := sink.next(t)
		got[keys(r.Values)] = r.event.Class
	}
	if !maps.Equal(got, map[string]string{"a b": "process", "alarm": "alarm", "fast": "process"}) {
		t.Errorf("events %v", got)
	}
}

func TestStopRecordsWhatWasRead(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 10)
	p := newPeer(t, func(c net.Conn, n int, req []byte) {
		if n == 0 {
			c.Write(dataOf(req, 0, 7))
			return
		}
		asked <- struct{}{} // and no answer
	}, nil)
	sink := newMemory()
	s := start(t, Config{Name: "bus", Connection: p.url(), Sink: sink, Timeout: time.Minute, Devices: []Device{
		{Name: "d", Unit: 1, Tags: []Tag{{Name: "first", Read: "holding", At: 0, Type: "uint16"}, {Name: "second", Read: "input", At: 0, Type: "uint16"}}},
	}})
	<-asked
	if err := s.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if r := sink.next(t); string(r.Values["first"]) != "7" || len(r.Values) != 1 || len(r.Bad) != 0 {
		t.Errorf("got %s, want the first value alone", r.event.Payload)
	}
	if len(sink.events) != 0 {
		t.Error("more than one event")
	}
}

func TestStopOffersAReadingOnceMore(t *testing.T) {
	t.Parallel()
	p := newPeer(t, func(c net.Conn, _ int, req []byte) { c.Write(dataOf(req, 0, 7)) }, nil)
	sink := newMemory()
	sink.full.Store(true)
	s := start(t, Config{Name: "bus", Connection: p.url(), Sink: sink, Devices: []Device{
		{Name: "d", Unit: 1, Tags: []Tag{{Name: "v", Read: "holding", Type: "uint16"}}},
	}})
	until(t, "the reading waits in the background", func() bool { return sink.turned.Load() == 2 })
	s.cancel()
	until(t, "it is offered once more", func() bool { return sink.turned.Load() == 3 })
	sink.full.Store(false)
	if r := sink.next(t); string(r.Values["v"]) != "7" {
		t.Errorf("got %s", r.event.Payload)
	}
	if err := s.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
}

// broken is a sink that takes nothing.
type broken struct{}

var errBroken = errors.New("the sink is broken")

func (broken) Append(context.Context, drivers.Event, func(error)) error { return errBroken }

func TestBrokenSinkEndsRun(t *testing.T) {
	t.Parallel()
	p := newPeer(t, func(c net.Conn, _ int, req []byte) { c.Write(dataOf(req, 0, 7)) }, nil)
	s := start(t, Config{Name: "bus", Connection: p.url(), Sink: broken{}, Devices: []Device{
		{Name: "d", Unit: 1, Tags: []Tag{{Name: "v", Read: "holding", Type: "uint16"}}},
	}})
	<-s.ended
	if !errors.Is(s.err, errBroken) {
		t.Errorf("Run: %v, want the sink's error", s.err)
	}
}

func TestFrameGapIsKept(t *testing.T) {
	t.Parallel()
	var last atomic.Int64
	var shortest atomic.Int64
	shortest.Store(int64(time.Hour))
	p := newPeer(t, func(c net.Conn, n int, req []byte) {
		now := time.Now().UnixNano()
		if n > 0 {
			shortest.Store(min(shortest.Load(), now-last.Load()))
		}
		c.Write(dataOf(req, 0, 7))
		last.Store(time.Now().UnixNano())
	}, nil)
	sink := newMemory()
	start(t, Config{Name: "bus", Connection: p.url(), Sink: sink, FrameGap: 30 * time.Millisecond, Devices: []Device{
		{Name: "d", Unit: 1, Every: 10 * time.Millisecond, Tags: []Tag{{Name: "v", Read: "holding", Type: "uint16"}}},
	}})
	for range 4 {
		sink.next(t)
	}
	if got := time.Duration(shortest.Load()); got < 25*time.Millisecond {
		t.Errorf("a request %v after an answer, want 30ms", got)
	}
}

// TestReadyIsNotUp tells a line that is open from devices that answer: a source is
// ready as soon as it is connected, long before the first request is given up.
func TestReadyIsNotUp(t *testing.T) {
	t.Parallel()
	silent := newPeer(t, func(net.Conn, int, []byte) {}, nil)
	for name, c := range map[string]struct {
		url   string
		ready bool
		state string
	}{
		"nobody answers":     {silent.url(), true, "polling " + silent.url() + ", 0 of 1 devices answer"},
		"connection refused": {"tcp://" + freeAddress(t), false, "not connected to tcp://"},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, Config{
				Name: "bus", Connection: c.url, Sink: newMemory(), Timeout: time.Minute,
				Devices: []Device{{Name: "d", Unit: 1, Tags: []Tag{{Name: "v", Read: "holding", Type: "uint16"}}}},
			})
			until(t, c.state, func() bool { return strings.HasPrefix(s.Stats().State, c.state) })
			if st := s.Stats(); st.Ready != c.ready || st.Up {
				t.Errorf("ready %v, up %v, want ready %v, up false", st.Ready, st.Up, c.ready)
			}
			if s.stop(); s.Stats().Ready {
				t.Error("ready after the stop")
			}
		})
	}
}
