package modbus

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestIllegalAddressSpoilsNoNeighbour(t *testing.T) {
	t.Parallel()
	p := &plant{holding: registersFrom(0, 40)}
	delete(p.holding, 13)
	delete(p.holding, 27) // a gap between tags
	sink := newMemory()
	d := Device{Name: "d", Unit: 1, Every: 20 * time.Millisecond}
	for at := range 40 {
		if at != 27 {
			d.Tags = append(d.Tags, Tag{Name: fmt.Sprint(at), Read: "holding", At: at, Type: "uint16"})
		}
	}
	s := start(t, Config{Name: "bus", Connection: serve(t, p), Sink: sink, Devices: []Device{d}})
	for i := range 3 {
		r := sink.next(t)
		if len(r.Bad) != 1 || r.Bad["13"] != "exception-2" || len(r.Values) != 38 {
			t.Fatalf("reading %d: %s", i, r.event.Payload)
		}
		for name, v := range r.Values {
			if name != string(v) {
				t.Errorf("tag %s is %s", name, v)
			}
		}
	}
	if n := s.polls("d", "exception-2"); n < 1 {
		t.Error("no poll counted as exception-2")
	}
	if !s.Stats().Devices[0].Up {
		t.Error("the device is down, though it answers")
	}
	s.stop()
	// What was learned: two requests, which leave out the tag that is refused.
	before, g := p.served(), s.schedule.groups[0]
	g.device.lessons.refused[g.tags[13]].next = time.Now().Add(time.Hour)
	if err := s.poll(context.Background(), g); err != nil {
		t.Fatal(err)
	}
	if n := p.served() - before; n != 3 || len(g.requests) != 3 {
		t.Errorf("%d requests of %d planned, want 3: around the refused tag and the gap", n, len(g.requests))
	}
	p.change(func() { p.holding[13], p.holding[27] = 13, 27 })
	g.device.lessons.refused[g.tags[13]].next = time.Now()
	for c := range g.device.lessons.cuts {
		g.device.lessons.cuts[c] = time.Now()
	}
	for range 2 {
		if err := s.poll(context.Background(), g); err != nil {
			t.Fatal(err)
		}
	}
	if len(g.requests) != 1 {
		t.Errorf("%d requests after the addresses came into being, want 1", len(g.requests))
	}
}

func TestDeviceThatRefusesEverythingIsNotSplitForGood(t *testing.T) {
	t.Parallel()
	p := &plant{holding: registersFrom(0, 8), refuse: true}
	sink := newMemory()
	d := Device{Name: "d", Unit: 1, Every: 10 * time.Millisecond}
	for at := range 8 {
		d.Tags = append(d.Tags, Tag{Name: fmt.Sprint(at), Read: "holding", At: at, Type: "uint16"})
	}
	s := start(t, Config{Name: "bus", Connection: serve(t, p), Sink: sink, Devices: []Device{d}})
	if r := sink.next(t); len(r.Bad) != 8 {
		t.Fatalf("first reading %s, want all bad", r.event.Payload)
	}
	if !s.Stats().Devices[0].Up {
		t.Error("the device is down, though it answers")
	}
	p.change(func() { p.refuse = false })
	for len(sink.next(t).Values) != 8 {
	}
	s.stop()
	if n := len(s.schedule.groups[0].requests); n != 1 {
		t.Errorf("%d requests, want the merged one", n)
	}
}

func TestSilentDeviceSaysSoOnceThenEachHeartbeat(t *testing.T) {
	t.Parallel()
	calmly(t, func() (wrong string) { return silentDevice(t) })
}

func silentDevice(t *testing.T) (wrong string) {
	var silent atomic.Bool
	p := newPeer(t, func(c net.Conn, _ int, req []byte) {
		if !silent.Load() {
			c.Write(dataOf(req, make([]byte, 2*binary.BigEndian.Uint16(req[10:]))...))
		}
	}, nil)
	sink := newMemory()
	s := start(t, Config{
		Name: "bus", Connection: p.url(), Sink: sink, Timeout: 150 * time.Millisecond,
		Breaker: Breaker{OpenAfter: 1, Retry: 10 * time.Millisecond, Max: 20 * time.Millisecond},
		Devices: []Device{{Name: "d", Unit: 1, Every: 10 * time.Millisecond, Heartbeat: 400 * time.Millisecond, Tags: []Tag{
			{Name: "still", Read: "holding", At: 0, Type: "uint16", Deadband: Deadband{OnChange: true}, Heartbeat: time.Hour},
			{Name: "rare", Read: "holding", At: 1, Type: "uint16", Every: time.Hour},
		}}},
	})
	defer s.stop()
	if a, b := sink.next(t), sink.next(t); keys(a.Values)+" "+keys(b.Values) != "still rare" {
		return fmt.Sprintf("first readings %s %s", a.event.Payload, b.event.Payload)
	}
	silent.Store(true)
	first, second := sink.next(t), sink.next(t)
	for _, r := range []reading{first, second} {
		if len(r.Values) != 0 || r.Bad["still"] != badTimeout || r.Bad["rare"] != badTimeout {
			return fmt.Sprintf("reading of the silent device %s, want both tags bad", r.event.Payload)
		}
	}
	if gap := second.Time.Sub(first.Time); gap < 400*time.Millisecond {
		return fmt.Sprintf("said it again after %v, the heartbeat is 400ms", gap)
	}
	if st := s.Stats(); st.Devices[0].LastErrAt.IsZero() || st.Up || st.Devices[0].Up || !strings.Contains(st.LastError, "device d: read holding 0 to 0 of unit 1: no answer in time: check unit number and wiring") {
		return fmt.Sprintf("stats of a silent device: %+v", st)
	}
	silent.Store(false)
	var back []string
	for len(back) < 2 {
		if r := sink.next(t); len(r.Bad) == 0 {
			back = append(back, keys(r.Values))
		}
	}
	if strings.Join(back, " ") != "still rare" {
		return fmt.Sprintf("after it is back came %v, want all values at once", back)
	}
	if s.polls("d", resultBreaker) == 0 {
		return "the breaker never held a poll back"
	}
	return ""
}

func TestServerThatIsGoneIsFoundAgain(t *testing.T) {
	t.Parallel()
	p := &plant{holding: registersFrom(0, 1)}
	url := "tcp://" + freeAddress(t)
	sink := newMemory()
	s := start(t, Config{
		Name: "bus", Connection: url, Sink: sink, Breaker: Breaker{Retry: 20 * time.Millisecond},
		Devices: []Device{{Name: "d", Unit: 1, Every: 10 * time.Millisecond, Tags: []Tag{{Name: "v", Read: "holding", Type: "uint16"}}}},
	})
	if r := sink.next(t); r.Bad["v"] != badConnection {
		t.Fatalf("first reading %s, want bad: connection", r.event.Payload)
	}
	if st := s.Stats(); st.Up || !strings.HasPrefix(st.State, "not connected to tcp://127.0.0.1") {
		t.Errorf("stats without a server: %+v", st)
	}
	for round := range 2 {
		server, err := serveAt(t, p, url)
		if err != nil {
			t.Fatal(err)
		}
		if r := sink.next(t); string(r.Values["v"]) != "0" {
			t.Fatalf("round %d: %s, want the value", round, r.event.Payload)
		}
		server.Stop()
		r := sink.next(t)
		for ; r.Bad == nil; r = sink.next(t) {
		}
		if r.Bad["v"] != badConnection {
			t.Fatalf("round %d: %s, want bad: connection", round, r.event.Payload)
		}
	}
}

func TestDeadUnitDoesNotStarveTheOthers(t *testing.T) {
	t.Parallel()
	calmly(t, func() (wrong string) { return deadUnit(t) })
}

func deadUnit(t *testing.T) (wrong string) {
	var dead atomic.Int64
	p := newPeer(t, func(c net.Conn, _ int, req []byte) {
		if req[6] == 9 {
			dead.Add(1)
			return
		}
		c.Write(dataOf(req, 0, 1))
	}, nil)
	sink := newMemory()
	c := Config{Name: "bus", Connection: p.url(), Sink: sink, Timeout: 150 * time.Millisecond, Breaker: Breaker{OpenAfter: 2, Retry: time.Hour}}
	for i, unit := range []int{1, 2, 9, 9} {
		c.Devices = append(c.Devices, Device{Name: fmt.Sprint("d", i), Unit: unit, Every: 10 * time.Millisecond, Tags: []Tag{{Name: "v", Read: "holding", Type: "uint16"}}})
	}
	s := start(t, c)
	defer s.stop()
	until(t, "the live units are polled", func() bool { return s.polls("d0", "ok") > 50 && s.polls("d1", "ok") > 50 })
	if n := dead.Load(); n != 4 {
		return fmt.Sprintf("the dead unit got %d requests, want 4: two polls with a retry each", n)
	}
	s.stop()
	bad := map[string]int{}
	for len(sink.events) > 0 {
		if r := sink.next(t); r.Bad["v"] == badTimeout {
			bad[r.Device]++
		}
	}
	if !maps.Equal(bad, map[string]int{"d2": 1, "d3": 1}) {
		return fmt.Sprintf("bad readings %v, want one of each device of the dead unit", bad)
	}
	return ""
}

// TestLivingUnitsKeepTheirRate counts the polls of four units beside a dead one, and
// those of the same four on a bus of their own, which runs at the same time: what
// else the machine does slows both down.
func TestLivingUnitsKeepTheirRate(t *testing.T) {
	t.Parallel()
	calmly(t, func() (wrong string) { return rateBesideADeadUnit(t) })
}

func rateBesideADeadUnit(t *testing.T) (wrong string) {
	const deadUnit = 9
	answer := func(c net.Conn, _ int, req []byte) {
		if req[6] != deadUnit {
			c.Write(dataOf(req, 0, 1))
		}
	}
	bus := func(units ...int) *running {
		c := Config{Name: "bus", Connection: newPeer(t, answer, nil).url(), Sink: newMemory(), Timeout: 50 * time.Millisecond, Breaker: Breaker{Retry: 500 * time.Millisecond}}
		for _, unit := range units {
			c.Devices = append(c.Devices, Device{Name: fmt.Sprint(unit), Unit: unit, Every: 100 * time.Millisecond, Tags: []Tag{{Name: "v", Read: "holding", Type: "uint16"}}})
		}
		return start(t, c)
	}
	with, without := bus(1, 2, 3, 4, deadUnit), bus(1, 2, 3, 4)
	defer with.stop()
	defer without.stop()
	count := func(s *running) (n int) {
		for unit := range 4 {
			n += s.polls(fmt.Sprint(unit+1), resultOK)
		}
		return n
	}
	until(t, "160 polls of the living", func() bool { return count(without) >= 160 })
	got, want := count(with), count(without)
	polls := fmt.Sprintf("%d polls beside a dead unit, %d without it", got, want)
	if float64(got) < 0.9*float64(want) {
		return polls
	}
	t.Log(polls)
	return ""
}

func TestSilentAddressesAreNoSilentDevice(t *testing.T) {
	t.Parallel()
	calmly(t, func() (wrong string) { return silentAddressesOnly(t) })
}

func silentAddressesOnly(t *testing.T) (wrong string) {
	p := newPeer(t, func(c net.Conn, _ int, req []byte) {
		if binary.BigEndian.Uint16(req[8:]) < 100 {
			c.Write(dataOf(req, 0, 1))
		}
	}, nil)
	sink := newMemory()
	s := start(t, Config{
		Name: "bus", Connection: p.url(), Sink: sink, Timeout: 150 * time.Millisecond, Retries: None, Breaker: Breaker{OpenAfter: None},
		Devices: []Device{{Name: "d", Unit: 1, Every: 10 * time.Millisecond, Tags: []Tag{
			{Name: "mute", Read: "holding", At: 500, Type: "uint16"},
			{Name: "well", Read: "holding", At: 0, Type: "uint16"},
			{Name: "slow mute", Read: "holding", At: 600, Type: "uint16", Every: 35 * time.Millisecond},
		}}},
	})
	defer s.stop()
	got := map[string]int{}
	for range 20 {
		r := sink.next(t)
		got[keys(r.Values)+"|"+keys(r.Bad)]++
	}
	if got["|slow mute"] == 0 || got["well|mute"] == 0 || len(got) != 2 {
		return fmt.Sprintf("readings %v, want 'well' always, the others bad", got)
	}
	if !s.Stats().Up {
		return fmt.Sprintf("stats %+v", s.Stats())
	}
	return ""
}

// TestSilentAddressesDoNotTakeTheOthersTime has a device that keeps silent to one of its
// requests: to wait for it in each poll would take the bus from the other device.
func TestSilentAddressesDoNotTakeTheOthersTime(t *testing.T) {
	t.Parallel()
	calmly(t, func() (wrong string) { return silentAddresses(t) })
}

func silentAddresses(t *testing.T) (wrong string) {
	var heals atomic.Bool
	var mute atomic.Int64
	p := newPeer(t, func(c net.Conn, _ int, req []byte) {
		if at := binary.BigEndian.Uint16(req[8:]); at >= 500 && !heals.Load() {
			mute.Add(1)
			return
		}
		c.Write(dataOf(req, 0, 1))
	}, nil)
	sink := newMemory()
	s := start(t, Config{
		Name: "bus", Connection: p.url(), Sink: sink, Timeout: 100 * time.Millisecond, Breaker: Breaker{OpenAfter: 2, Retry: time.Second, Max: time.Second},
		Devices: []Device{
			{Name: "half", Unit: 1, Every: 50 * time.Millisecond, Tags: []Tag{
				{Name: "mute", Read: "holding", At: 500, Type: "uint16"},
				{Name: "well", Read: "holding", At: 0, Type: "uint16"},
				{Name: "alone", Read: "holding", At: 600, Type: "uint16", Every: 60 * time.Millisecond},
			}},
			{Name: "other", Unit: 2, Every: 50 * time.Millisecond, Tags: []Tag{{Name: "v", Read: "holding", At: 0, Type: "uint16"}}},
		},
	})
	defer s.stop()
	until(t, "polls of the other device", func() bool { return s.polls("other", resultOK) >= 60 })
	// 3 s or more: 2 polls of 2 attempts for each of both, then one each second.
	if ok, n := s.polls("other", resultOK), mute.Load(); n > 8+int64(ok)/8 {
		return fmt.Sprintf("asked %d times in vain beside %d polls of the other device", n, ok)
	}
	if !s.Stats().Devices[0].Up || s.polls("half", resultBreaker) == 0 {
		return fmt.Sprintf("stats %+v", s.Stats().Devices[0])
	}
	heals.Store(true)
	healed := map[string]bool{}
	for !healed["mute"] || !healed["alone"] {
		r := sink.next(t)
		if r.Device == "half" && r.Values["well"] == nil && r.Bad["well"] != "" {
			return fmt.Sprintf("got %s, want 'well' always", r.event.Payload)
		}
		for name := range r.Values {
			healed[name] = true
		}
	}
	return ""
}

// TestDeviceThatDiesWithinAPollIsGivenUp: waiting for each of its requests would
// take the bus from the others for many time-outs.
func TestDeviceThatDiesWithinAPollIsGivenUp(t *testing.T) {
	t.Parallel()
	calmly(t, func() (wrong string) { return deviceThatDies(t) })
}

func deviceThatDies(t *testing.T) (wrong string) {
	var dead atomic.Bool
	var vain atomic.Int64
	p := newPeer(t, func(c net.Conn, _ int, req []byte) {
		at := binary.BigEndian.Uint16(req[8:])
		if vain.Load() > 0 || dead.Load() && at == 200 {
			vain.Add(1)
			return
		}
		c.Write(dataOf(req, 0, 1))
	}, nil)
	d := Device{Name: "d", Unit: 1, Every: 20 * time.Millisecond}
	for i := range 20 {
		d.Tags = append(d.Tags, Tag{Name: fmt.Sprint(i), Read: "holding", At: 100 * i, Type: "uint16"})
	}
	sink := newMemory()
	s := start(t, Config{Name: "bus", Connection: p.url(), Sink: sink, Timeout: 100 * time.Millisecond, Retries: None, Devices: []Device{d}})
	defer s.stop()
	for range 3 {
		sink.next(t)
	}
	dead.Store(true)
	for r := sink.next(t); len(r.Bad) == 0; r = sink.next(t) {
	}
	if n := vain.Load(); n > 4 { // one of the next poll perhaps
		return fmt.Sprintf("asked %d times in vain in a poll of 20 requests", n)
	}
	s.stop()
	return ""
}

func TestDeviceIsFoundAliveBehindSilentAddresses(t *testing.T) {
	t.Parallel()
	calmly(t, func() (wrong string) { return deviceBehindSilence(t) })
}

func deviceBehindSilence(t *testing.T) (wrong string) {
	p := newPeer(t, func(c net.Conn, _ int, req []byte) {
		if binary.BigEndian.Uint16(req[8:]) >= 500 {
			c.Write(dataOf(req, 0, 1))
		}
	}, nil)
	sink := newMemory()
	s := start(t, Config{
		Name: "bus", Connection: p.url(), Sink: sink, Timeout: 150 * time.Millisecond, Retries: None,
		Devices: []Device{{Name: "d", Unit: 1, Every: 10 * time.Millisecond, Tags: []Tag{
			{Name: "mute 1", Read: "holding", At: 0, Type: "uint16"},
			{Name: "mute 2", Read: "holding", At: 100, Type: "uint16"},
			{Name: "well", Read: "holding", At: 500, Type: "uint16"},
		}}},
	})
	defer s.stop()
	for i, want := range []string{"|mute 1 mute 2 well", "well|mute 1 mute 2", "well|mute 1 mute 2"} {
		if r := sink.next(t); keys(r.Values)+"|"+keys(r.Bad) != want {
			return fmt.Sprintf("reading %d is %s, want %s", i, r.event.Payload, want)
		}
	}
	return ""
}

func TestUnitThatItsGatewayCannotReachIsDown(t *testing.T) {
	t.Parallel()
	url := serve(t, &plant{holding: registersFrom(0, 1)})
	sink := newMemory()
	s := start(t, Config{Name: "bus", Connection: url, Sink: sink, Breaker: Breaker{OpenAfter: 2}, Devices: []Device{
		{Name: "d", Unit: 7, Every: 10 * time.Millisecond, Tags: []Tag{{Name: "v", Read: "holding", Type: "uint16"}}},
	}})
	if r := sink.next(t); r.Bad["v"] != "exception-11" {
		t.Errorf("got %s", r.event.Payload)
	}
	until(t, "the breaker opens", func() bool { return s.polls("d", resultBreaker) > 0 })
	if s.Stats().Devices[0].Up || s.polls("d", "exception-11") != 2 || len(sink.events) > 0 {
		t.Errorf("stats %+v, %d more readings", s.Stats().Devices[0], len(sink.events))
	}
}

func TestHowMuchASilentUnitIsAsked(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		o        outcome
		hopeless bool
		attempts int
	}{
		{"first request", outcome{}, false, 3},
		{"second request, the first was lost", outcome{silent: 1}, false, 1},
		{"two were lost", outcome{silent: 2}, true, 1},
		{"some were lost, some were not", outcome{silent: 5, alive: true}, false, 3},
		{"attempt while the breaker is open", outcome{probing: true}, false, 1},
		{"attempt that was lost", outcome{probing: true, silent: 1}, true, 1},
		{"attempt that was answered", outcome{probing: true, alive: true}, false, 3},
		{"no connection", outcome{noLink: true, silent: 1}, true, 1},
	}
	for _, test := range tests {
		if got := test.o.hopeless(); got != test.hopeless {
			t.Errorf("%s: hopeless is %v", test.name, got)
		}
		if got := test.o.attempts(2); got != test.attempts {
			t.Errorf("%s: %d attempts, want %d", test.name, got, test.attempts)
		}
	}
}

func TestLostAnswerIsRetried(t *testing.T) {
	t.Parallel()
	p := newPeer(t, func(c net.Conn, n int, req []byte) {
		if n%2 == 0 {
			c.Close()
			return
		}
		c.Write(dataOf(req, 0, 1))
	}, nil)
	sink := newMemory()
	s := start(t, Config{Name: "bus", Connection: p.url(), Sink: sink, Devices: []Device{
		{Name: "d", Unit: 1, Every: 10 * time.Millisecond, Tags: []Tag{{Name: "v", Read: "holding", Type: "uint16"}}},
	}})
	for range 5 {
		if r := sink.next(t); string(r.Values["v"]) != "1" {
			t.Fatalf("got %s, want the value of the second attempt", r.event.Payload)
		}
	}
	if n := s.polls("d", badConnection); n != 0 {
		t.Errorf("%d polls failed", n)
	}
}
