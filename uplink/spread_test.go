package uplink

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// answering is a connection to a broker that says something.
type answering struct{ net.Conn }

func (answering) Read([]byte) (int, error) { return 1, nil }
func (answering) Close() error             { return nil }

// trying is an agent: clients that each want a connection and try every second or
// two; the first of them is urgent. It returns when each of them got through, after
// the outage.
func trying(t *testing.T, outage time.Duration, clients int) []time.Duration {
	t.Helper()
	var g Spread
	began := time.Now()
	end := began.Add(outage)
	tries := 0
	dial := func(context.Context) (net.Conn, error) {
		if tries++; time.Now().Before(end) {
			return nil, errors.New("refused")
		}
		return answering{}, nil
	}
	at := make([]time.Duration, clients)
	for left, i := clients, 0; left > 0; i++ {
		n := i % clients
		ctx := t.Context()
		if n == 0 {
			ctx = Urgent(ctx)
		}
		if at[n] == 0 {
			if c, err := g.Dial(ctx, "a:1", dial); err == nil {
				_, _ = c.Read(nil)
				at[n], left = time.Since(end)+1, left-1
			}
		}
		time.Sleep(jitter(1500*time.Millisecond) / time.Duration(clients))
	}
	if bound := int(min(outage, spreadAfter)/time.Second)*clients + int(outage/spreadAfter) + clients + 2; tries > bound {
		t.Errorf("%d attempts in %s", tries, outage)
	}
	return at
}

// busiest is the most that lie within any second.
func busiest(list []time.Duration) (most int) {
	slices.Sort(list)
	first := 0
	for i := range list {
		for list[i]-list[first] >= time.Second {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// After an outage of a minute or more a twentieth of a fleet's size is the bound for the
// connections in any second, however many each agent needs, and each has its urgent
// one within a minute; after a short outage everybody makes all of them at once.
func TestAFleetComesBackSpread(t *testing.T) {
	for outage, spread := range map[time.Duration]bool{5 * time.Second: false, time.Minute: true, 3 * time.Minute: true} {
		synctest.Test(t, func(t *testing.T) {
			const agents, clients = 3000, 4 // of 1,000 one run in 200 is above the bound by mere chance
			var all []time.Duration
			var latest, last time.Duration
			for range agents {
				at := trying(t, outage, clients)
				all = append(all, at...)
				latest, last = max(latest, at[0]), max(last, slices.Max(at))
			}
			peak := busiest(all)
			t.Logf("outage %v: at most %d connections of %d agents in a second, the last urgent one after %v, the last after %v", outage, peak, agents, latest.Round(time.Second), last.Round(time.Second))
			switch {
			case spread && (peak > agents/20 || latest > time.Minute || last > 4*time.Minute):
				t.Error("not spread, or too late")
			case !spread && last > 5*time.Second:
				t.Error("a short outage costs time")
			}
		})
	}
}

// An agent that lost all it had makes a connection at once, one for a transaction is not
// held back, and with Release none is.
func TestWhatIsNotSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &Spread{}
		down := true
		try := func(ctx context.Context) (net.Conn, error) {
			c, err := g.Dial(ctx, "a:1", func(context.Context) (net.Conn, error) {
				if down {
					return nil, errors.New("refused")
				}
				return answering{}, nil
			})
			if err == nil {
				_, _ = c.Read(nil)
			}
			return c, err
		}
		back := func() net.Conn {
			for end := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
				down = time.Now().Before(end)
				if c, err := try(t.Context()); err == nil {
					return c
				}
			}
		}
		_ = back()
		if _, err := try(t.Context()); !errors.Is(err, errTurn) || !errors.Is(err, ErrAway) || !IsHeld(err) {
			t.Fatalf("the second connection: %v", err)
		}
		if _, err := try(context.WithValue(t.Context(), atOnce{}, true)); err != nil {
			t.Error("one for a transaction:", err)
		}
		g = &Spread{}
		first := back()
		_ = first.Close()
		_ = first.Close() // counts once
		if _, err := try(t.Context()); err != nil {
			t.Error("without any connection:", err)
		}
		if _, err := try(t.Context()); !errors.Is(err, errTurn) {
			t.Error("with one again:", err)
		}
		g.Release()
		if _, err := try(t.Context()); err != nil {
			t.Error("released:", err)
		}
	})
}

// Where there is one address only, that it refuses is no reason to ask for metadata by
// another connection; with others it is.
func TestARefusedDialAndMetadata(t *testing.T) {
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	for brokers, held := range map[int]bool{1: true, 2: false} {
		g := Spread{Brokers: brokers}
		_, err := g.Dial(t.Context(), "a:1", func(context.Context) (net.Conn, error) { return nil, refused })
		if IsHeld(err) != held || errors.Is(err, ErrAway) {
			t.Errorf("%d brokers: %v", brokers, err)
		}
		if text := explain(err, ""); !strings.Contains(text, "is Kafka running there?") {
			t.Errorf("%d brokers: %s", brokers, text)
		}
		if _, again := g.Dial(t.Context(), "a:1", func(context.Context) (net.Conn, error) { t.Error("it is dialed twice"); return nil, nil }); again == nil {
			t.Error("no error")
		}
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
		c, err := g.Dial(t.Context(), "b:1", func(context.Context) (net.Conn, error) { return answering{}, nil })
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Read(nil)
		if err := g.pass(time.Now(), "a:1", sometime, false); err != nil {
			t.Error("one got through, and others may not:", err)
		}
	})
}

// What stands in front of a cluster takes connections while that is away: they count as
// failed until somebody answers.
func TestATakenConnectionIsNoCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Spread
		dials := 0
		hangUp := func() error {
			c, err := g.Dial(t.Context(), "a:1", func(context.Context) (net.Conn, error) { dials++; return &net.TCPConn{}, nil })
			if err == nil {
				time.Sleep(10 * time.Millisecond)
				_ = c.Close() // of one that is not open
				_ = c.Close()
			}
			return err
		}
		away, tries := 0, 0
		for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); time.Sleep(time.Second) {
			tries++
			switch err := hangUp(); {
			case errors.Is(err, ErrAway):
				away++
			case err != nil:
				t.Fatal(err)
			}
		}
		if dials > 30 || away != tries-dials {
			t.Errorf("%d tries, %d dials, %d held back", tries, dials, away)
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
		if !errors.Is(err, ErrAway) || explain(err, "") != explain(refused, "") {
			t.Fatalf("after %d dials: %v", dials, err)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		var other Spread
		for range 100 { // an end of ours is none of the cluster's
			_, _ = other.Dial(ended, "a:1", dial)
			time.Sleep(time.Second)
		}
		if err := other.pass(time.Now(), "a:1", sometime, false); err != nil {
			t.Error(err)
		}
	})
}

// A broker that stays away does not keep others from being tried, however much a
// connection to it is wanted and whoever comes first in an attempt.
func TestABrokerThatStaysAwayHoldsNothingUp(t *testing.T) {
	for _, outage := range []time.Duration{30 * time.Second, 10 * time.Minute} {
		for range 20 {
			synctest.Test(t, func(t *testing.T) {
				g := Spread{Brokers: 3}
				end := time.Now().Add(outage)
				try := func(r rank, addr string) error {
					_, err := g.Dial(withRank(t.Context(), r), addr, func(context.Context) (net.Conn, error) {
						if addr == "c:1" || time.Now().Before(end) {
							return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
						}
						return answering{}, nil
					})
					return err
				}
				for i := 0; time.Since(end) < spreadOver*6/5; i++ {
					_ = try(first, "c:1") // a status, to the leader it had
					time.Sleep(700 * time.Millisecond)
					if i%2 == 0 && (try(waiting, "a:1") == nil || try(waiting, "b:1") == nil) {
						return
					}
					time.Sleep(300 * time.Millisecond)
				}
				t.Errorf("nothing was reached in %s after an outage of %s", time.Since(end), outage)
			})
		}
	}
}
