package uplink

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// trying is an agent: two clients that try every two seconds. It returns when each
// of them got through, after the outage.
func trying(t *testing.T, outage time.Duration) (first, last time.Duration) {
	t.Helper()
	var g Spread
	began := time.Now()
	end := began.Add(outage)
	tries := 0
	dial := func(context.Context) (net.Conn, error) {
		if tries++; time.Now().Before(end) {
			return nil, errors.New("refused")
		}
		return nil, nil
	}
	done := map[int]time.Duration{}
	for i := 0; len(done) < 2; i++ {
		if _, err := g.Dial(t.Context(), "a:1", dial); err == nil && done[i%2] == 0 {
			done[i%2] = time.Since(end) + 1
		}
		time.Sleep(jitter(time.Second))
	}
	if bound := int(min(outage, spreadAfter)/time.Second)*4/3 + int(outage/spreadAfter) + 4; tries > bound {
		t.Errorf("%d attempts in %s", tries, outage)
	}
	return min(done[0], done[1]), max(done[0], done[1])
}

// After an outage of a minute or more a fortieth of a fleet comes back in a second
// (a twentieth is the bound), and all of it within a minute; after a short one
// everybody does at once.
func TestAFleetComesBackSpread(t *testing.T) {
	for outage, spread := range map[time.Duration]bool{5 * time.Second: false, time.Minute: true, 3 * time.Minute: true, 20 * time.Minute: true} {
		synctest.Test(t, func(t *testing.T) {
			const agents = 1000
			perSecond := map[time.Duration]int{}
			var latest time.Duration
			for range agents {
				first, last := trying(t, outage)
				perSecond[first/time.Second]++
				latest = max(latest, last)
			}
			peak := 0
			for _, n := range perSecond {
				peak = max(peak, n)
			}
			t.Logf("outage %v: at most %d of %d agents in a second, the last after %v", outage, peak, agents, latest.Round(time.Second))
			switch {
			case spread && (peak > agents/20 || latest > time.Minute):
				t.Error("not spread, or too late")
			case !spread && latest > 5*time.Second:
				t.Error("a short outage costs time")
			}
		})
	}
}

// Each broker is tried in an attempt, also while one of them only lets time pass.
func TestAnAttemptTriesEachBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Spread
		dials := map[string]int{}
		try := func(addr string, takes time.Duration) error {
			_, err := g.Dial(t.Context(), addr, func(context.Context) (net.Conn, error) {
				dials[addr]++
				time.Sleep(takes)
				return nil, errors.New("no answer")
			})
			return err
		}
		for end := time.Now().Add(spreadAfter + time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			_ = try("a:1", 0)
		}
		clear(dials)
		for errors.Is(try("a:1", 10*time.Second), ErrAway) {
			time.Sleep(time.Second)
		}
		for range 3 {
			_ = try("b:1", 10*time.Second)
			_ = try("c:1", 10*time.Second)
		}
		if dials["a:1"] != 1 || dials["b:1"] != 1 || dials["c:1"] != 1 {
			t.Errorf("%v", dials)
		}
		time.Sleep(spreadOver * 2)
		if _, err := g.Dial(t.Context(), "b:1", func(context.Context) (net.Conn, error) { return nil, nil }); err != nil {
			t.Error(err)
		}
		if err := g.pass(time.Now(), "a:1"); err != nil {
			t.Error("one got through, and others may not:", err)
		}
	})
}

func TestASpreadSaysWhyItIsShut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Spread
		refused := &net.OpError{Op: "dial", Err: errors.New("refused")}
		dials := 0
		dial := func(context.Context) (net.Conn, error) { dials++; return nil, refused }
		var err error
		for end := time.Now().Add(spreadAfter + 10*time.Second); time.Now().Before(end) && !errors.Is(err, ErrAway); time.Sleep(100 * time.Millisecond) {
			_, err = g.Dial(t.Context(), "a:1", dial)
		}
		var op *net.OpError
		if !errors.Is(err, ErrAway) || !errors.As(err, &op) {
			t.Fatalf("after %d dials: %v", dials, err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		var other Spread
		for range 100 { // an end of ours is none of the cluster's
			_, _ = other.Dial(ended, "a:1", dial)
			time.Sleep(time.Second)
		}
		if err := other.pass(time.Now(), "a:1"); err != nil {
			t.Error(err)
		}
	})
}
