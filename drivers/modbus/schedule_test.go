package modbus

import (
	"slices"
	"testing"
	"time"
)

// simulate plays a schedule for a while on a clock of its own, where a poll of a
// group takes as long as cost says. It returns when each group was polled, and
// how many slots it missed.
func simulate(s *schedule, length time.Duration, cost func(g *group) time.Duration) (polls map[*group][]time.Duration, missed map[*group]int) {
	polls, missed = map[*group][]time.Duration{}, map[*group]int{}
	begin := time.Unix(1_000_000, 0)
	s.start(begin)
	for now := begin; ; {
		at, g, _ := s.next()
		if at.After(now) {
			now = at
		}
		if now.Sub(begin) >= length {
			return polls, missed
		}
		polls[g] = append(polls[g], now.Sub(begin))
		now = now.Add(cost(g))
		missed[g] += g.advance(now)
	}
}

// TestDeadUnitTakesLittleOfTheBus plays a bus of five units, the last of which is
// dead, with a time-out of a second, default retries and breaker, on a clock of its own.
func TestDeadUnitTakesLittleOfTheBus(t *testing.T) {
	const timeout, length = time.Second, 10 * time.Minute
	rate := func(openAfter int) (worst float64) {
		s := groupsOf(time.Second, time.Second, time.Second, time.Second, time.Second)
		groups := slices.Clone(s.groups)
		dead, now := groups[4], time.Unix(1_000_000, 0)
		b := &breaker{openAfter: openAfter, retry: defaultRetry, max: defaultBreakerMax}
		polls, _ := simulate(s, length, func(g *group) time.Duration {
			now = g.due
			switch {
			case g != dead:
				return 20 * time.Millisecond
			case !b.allows(now):
				return 0
			}
			probing := b.open()
			b.failed(now, badTimeout)
			if probing {
				return timeout
			}
			return 2 * timeout
		})
		worst = 1
		for _, g := range groups[:4] {
			worst = min(worst, float64(len(polls[g]))/length.Seconds())
		}
		return worst
	}
	if got := rate(defaultOpenAfter); got < 0.95 {
		t.Errorf("a living unit has %.1f %% of its rate", 100*got)
	}
	if got := rate(0); got > 0.95 {
		t.Errorf("without a breaker it would have %.1f %% as well: this test shows nothing", 100*got)
	}
}

// TestManyDevicesMissNothing plays 200 devices that keep the bus busy for most of
// the time.
func TestManyDevicesMissNothing(t *testing.T) {
	every := make([]time.Duration, 200)
	for i := range every {
		every[i] = time.Second
	}
	s := groupsOf(every...)
	groups := slices.Clone(s.groups)
	polls, missed := simulate(s, time.Minute, func(*group) time.Duration { return 4500 * time.Microsecond })
	for i, g := range groups {
		if missed[g] != 0 || len(polls[g]) < 60 {
			t.Errorf("device %d was polled %d times and missed %d slots", i, len(polls[g]), missed[g])
		}
	}
}

func groupsOf(every ...time.Duration) *schedule {
	s := &schedule{}
	for _, e := range every {
		d := &device{}
		s.devices = append(s.devices, d)
		s.groups = append(s.groups, &group{device: d, every: e})
	}
	return s
}

func TestPollsKeepTheirIntervalAndAreSpread(t *testing.T) {
	s := groupsOf(time.Second, time.Second, time.Second, time.Second)
	groups := slices.Clone(s.groups)
	polls, missed := simulate(s, 10*time.Second, func(*group) time.Duration { return time.Millisecond })
	for i, g := range groups {
		if missed[g] != 0 {
			t.Errorf("group %d missed %d slots", i, missed[g])
		}
		first, rest := polls[g][0], polls[g][1:]
		if first > 10*time.Millisecond {
			t.Errorf("group %d was first polled after %v, want at once", i, first)
		}
		for n, at := range rest {
			slot := time.Duration(i)*250*time.Millisecond + time.Duration(n)*time.Second
			if i == 0 {
				slot += time.Second // the first poll was its slot's
			}
			if at != slot {
				t.Fatalf("group %d, poll %d was at %v, want %v", i, n+1, at, slot)
			}
		}
	}
}

func TestMissedSlotsAreCountedAndNotMadeUpFor(t *testing.T) {
	s := groupsOf(100 * time.Millisecond)
	g := s.groups[0]
	first := true
	polls, missed := simulate(s, 2*time.Second, func(*group) time.Duration {
		if first {
			first = false
			return 1050 * time.Millisecond // blocked for ten slots
		}
		return time.Millisecond
	})
	if missed[g] != 10 {
		t.Errorf("missed %d slots, want 10", missed[g])
	}
	if got := polls[g][1]; got != 1100*time.Millisecond {
		t.Errorf("the poll after the block was at %v, want in the next slot", got)
	}
	if n := len(polls[g]); n != 10 {
		t.Errorf("%d polls, want 10: one and those of the 9 slots that were left", n)
	}
}

func TestOverloadStarvesNobody(t *testing.T) {
	s := groupsOf(10*time.Millisecond, 10*time.Millisecond, time.Second, 5*time.Second)
	groups := slices.Clone(s.groups)
	polls, _ := simulate(s, 60*time.Second, func(*group) time.Duration { return 15 * time.Millisecond })
	for i, want := range []int{1500, 1500, 58, 11} {
		if got := len(polls[groups[i]]); got < want {
			t.Errorf("group %d was polled %d times, want at least %d", i, got, want)
		}
	}
}

func TestSilentDeviceReportsAtItsHeartbeat(t *testing.T) {
	s := groupsOf(time.Hour, time.Hour)
	now := time.Unix(1_000_000, 0)
	s.start(now)
	for _, g := range s.groups {
		g.advance(now)
	}
	silent := s.devices[1]
	silent.reason, silent.beat = badTimeout, now.Add(time.Minute)
	if at, g, d := s.next(); d != silent || g != nil || at != now.Add(time.Minute) {
		t.Errorf("next is %v %v at %v, want the silent device in a minute", g, d, at)
	}
}

func TestBreaker(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	b := breaker{openAfter: 3, retry: 5 * time.Second, max: 30 * time.Second}
	for i := range 3 {
		if !b.allows(now) || b.open() {
			t.Fatalf("open after %d failures", i)
		}
		if opened := b.failed(now, badTimeout); opened != (i == 2) {
			t.Fatalf("failure %d: opened is %v", i, opened)
		}
	}
	for _, seconds := range []int{5, 10, 20, 30, 30} {
		wait := time.Duration(seconds) * time.Second
		if b.allows(now.Add(wait - 1)) {
			t.Errorf("an attempt before %s", wait)
		}
		now = now.Add(wait)
		if !b.allows(now) || !b.open() {
			t.Errorf("no attempt after %s", wait)
		}
		if b.failed(now, badTimeout) {
			t.Error("said again that it opened")
		}
	}
	b.succeeded()
	if !b.allows(now) || b.open() {
		t.Error("still open after an answer")
	}
	if b.failed(now, badTimeout) || b.open() {
		t.Error("opened by the first failure after an answer")
	}
	never := breaker{retry: time.Second, max: time.Second}
	for range 100 {
		never.failed(now, badTimeout)
	}
	if never.open() {
		t.Error("opened though it is off")
	}
}
