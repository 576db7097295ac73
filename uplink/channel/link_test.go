package channel

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// All agents lose a cluster in the same moment and try again by away. When it
// comes back after an outage no more than a twentieth of them come in any second,
// and all of them within a minute.
func TestAFleetComesBackSpread(t *testing.T) {
	const agents = 10_000
	for _, outage := range []time.Duration{0, time.Second, 5 * time.Second, 20 * time.Second, time.Minute, 10 * time.Minute} {
		perSecond := map[time.Duration]int{}
		var last time.Duration
		for range agents {
			at := time.Duration(0)
			for n := 1; n == 1 || at < outage; n++ {
				at += away(n)
			}
			last = max(last, at-outage)
			perSecond[(at-outage)/time.Second]++
		}
		peak := 0
		for _, n := range perSecond {
			peak = max(peak, n)
		}
		t.Logf("outage %v: peak %d/s of %d agents, the last after %v", outage, peak, agents, last.Round(time.Second))
		if peak > agents/20 {
			t.Errorf("after %v: %d agents in one second", outage, peak)
		}
		if last > time.Minute {
			t.Errorf("after %v: the last agent comes after %v", outage, last)
		}
	}
}

// Without a cluster nothing is tried in a loop, and it is said.
func TestNoClusterIsNoLoop(t *testing.T) {
	var dials atomic.Int64
	c, err := New(Config{ConfigTopic: configs, CommandTopic: commands, StatusTopic: statuses, Wanted: func(string) bool { return true },
		Client: []kgo.Opt{kgo.SeedBrokers("127.0.0.1:1", "127.0.0.2:1"), kgo.Dialer(func(context.Context, string, string) (net.Conn, error) {
			dials.Add(1)
			return nil, errors.New("no way")
		})}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 3*time.Second)
	defer stop()
	s := newSeen()
	ended := make(chan error)
	go func() { ended <- c.Run(ctx, s) }()
	s.until(t, "unreachable", 1)
	if err := c.Publish(ctx, "gw", []byte("x")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("publish without a cluster: %v", err)
	}
	if err := <-ended; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Run ended with %v", err)
	}
	if n := dials.Load(); n > 12 {
		t.Errorf("%d dials in 3 s", n)
	}
}

// Where attempts are spread already, the channel adds no long wait of its own; but
// the first wait after a link broke is spread all the same.
func TestItFollowsWhoGetsThrough(t *testing.T) {
	c := &Channel{cfg: Config{Spread: true}}
	var longest time.Duration
	for range 100 {
		longest = max(longest, c.awayFor(1))
		if d := c.awayFor(2); d < time.Second || d > followEvery {
			t.Fatalf("it waits for %v", d)
		}
	}
	if longest < followEvery {
		t.Errorf("the first wait is %v at most", longest)
	}
}
