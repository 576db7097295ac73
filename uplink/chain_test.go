package uplink

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"sluice/buffer"
	"sluice/drivers"
	"sluice/drivers/loopback"
)

// storedLog is a buffer on disk with one class beside "alarm", and its reader for
// the uplink "central".
type storedLog struct {
	*buffer.Reader
	buf  *buffer.Buffer
	stop func()
	sent map[string]int // events by class
}

func newStoredLog(t *testing.T, dir string) *storedLog {
	t.Helper()
	return openStoredLog(t, buffer.Config{Dir: dir, Uplinks: map[string][]string{"central": nil},
		Classes: []buffer.Class{{Name: "alarm", Priority: 100}, {Name: "process", Priority: 10}}})
}

func openStoredLog(t *testing.T, c buffer.Config) *storedLog {
	t.Helper()
	b, err := buffer.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	l := &storedLog{buf: b, sent: map[string]int{}}
	l.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		l.stop = func() {}
	}
	t.Cleanup(func() { l.stop() })
	if l.Reader, err = b.Reader("central"); err != nil {
		t.Fatal(err)
	}
	return l
}

// put appends n events over seven keys and waits until they are durable.
func (l *storedLog) put(t *testing.T, class string, n int) {
	t.Helper()
	l.add(t, messages(class, l.sent[class], n, 7)...)
	l.sent[class] += n
}

func (l *storedLog) add(t *testing.T, events ...drivers.Event) {
	t.Helper()
	durable := make(chan error, len(events))
	for _, e := range events {
		if err := l.buf.Append(t.Context(), e, func(err error) { durable <- err }); err != nil {
			t.Fatal(err)
		}
	}
	for range events {
		if err := <-durable; err != nil {
			t.Fatal(err)
		}
	}
}

func (l *storedLog) acked(class string) uint64 {
	return l.buf.Stats().Classes[class].Uplinks["central"].Acked
}

// cloud is a Kafka that can be switched off and on.
type cloud struct {
	addr string
	opts []kfake.Opt
	*kfake.Cluster
}

func newCloud(t *testing.T, topics ...string) *cloud {
	t.Helper()
	addr := loopback.Addr(t)
	c := &cloud{addr: addr, opts: []kfake.Opt{kfake.NumBrokers(1), kfake.Ports(portOf(t, addr)), kfake.DataDir(t.TempDir()),
		kfake.SyncWrites(), kfake.SeedTopics(3, topics...)}}
	c.on(t)
	t.Cleanup(c.off)
	return c
}

func (c *cloud) on(t *testing.T) {
	t.Helper()
	k, err := kfake.NewCluster(c.opts...)
	if err != nil {
		t.Fatal(err)
	}
	c.Cluster = k
}

func (c *cloud) off() {
	if c.Cluster != nil {
		c.Close()
		c.Cluster = nil
	}
}

func (c *cloud) records(t *testing.T, topics ...string) []*kgo.Record {
	return consume(t, []string{c.addr}, topics...)
}

// startChain runs an uplink "central" with a failover to "dr".
func startChain(t *testing.T, log Log, classes []string, clouds ...*cloud) (*Chain, func()) {
	t.Helper()
	cfg := ChainConfig{Reader: log, After: 500 * time.Millisecond, Back: 2 * time.Second}
	for i, x := range clouds {
		leg := Leg{Config: Config{Name: []string{"central", "dr"}[i], Agent: "gw-17", Brokers: []string{x.addr}}}
		if i > 0 {
			leg.Classes = classes
		}
		cfg.Legs = append(cfg.Legs, leg)
	}
	c, err := NewChain(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run did not return")
		}
	})
	t.Cleanup(stop)
	return c, stop
}

func waitActive(t *testing.T, c *Chain, want int) {
	t.Helper()
	waitFor(t, fmt.Sprintf("uplink %d to send", want), func() bool { leg, _, _ := c.Active(); return leg == want })
}

// checkUnion fails unless all numbers to n are in one of the clusters at least, each
// cluster has them in the order of each key, and none twice. It returns how many are
// in both.
func checkUnion(t *testing.T, n uint64, clusters ...[]*kgo.Record) (both int) {
	t.Helper()
	union := map[uint64]int{}
	for i, records := range clusters {
		last := map[string]uint64{}
		for _, r := range records {
			seq := seqOf(t, r)
			if seq <= last[string(r.Key)] {
				t.Fatalf("cluster %d, key %s: seq %d comes after %d", i, r.Key, seq, last[string(r.Key)])
			}
			last[string(r.Key)] = seq
			if union[seq]++; union[seq] > 1 {
				both++
			}
		}
	}
	for seq := uint64(1); seq <= n; seq++ {
		if union[seq] == 0 {
			t.Fatalf("seq %d is nowhere", seq)
		}
	}
	if uint64(len(union)) != n {
		t.Errorf("%d different sequence numbers, want %d", len(union), n)
	}
	return both
}

// startPair runs a chain of two clusters, of which the first one has got n events.
func startPair(t *testing.T, n int) (central, dr *cloud, log *storedLog, c *Chain, stop func()) {
	t.Helper()
	central, dr = newCloud(t, "sluice.process"), newCloud(t, "sluice.process")
	log = newStoredLog(t, t.TempDir())
	c, stop = startChain(t, log, nil, central, dr)
	log.put(t, "process", n)
	waitFor(t, "central to have them", func() bool { return log.acked("process") == uint64(n) })
	return central, dr, log, c, stop
}

func TestFailoverThereAndBack(t *testing.T) {
	t.Parallel()
	central, dr, log, c, stop := startPair(t, 500)
	waitFor(t, "both to be seen", func() bool { return c.Legs()[0].Stats().Up && c.Legs()[1].Stats().Up })
	if s := c.Legs()[1].Stats(); s.State != "reachable, stands by" || s.Delivered["process"] != 0 {
		t.Errorf("the other one: %+v", s)
	}

	central.off()
	log.put(t, "process", 3000)
	waitActive(t, c, 1)
	waitFor(t, "dr to have them", func() bool { return log.acked("process") == 3500 })
	first, second := c.Legs()[0].Stats(), c.Legs()[1].Stats()
	if first.Up || first.Delivered["process"] != 500 || !second.Up || second.Delivered["process"] != 3000 {
		t.Errorf("during the outage: %+v and %+v", first, second)
	}

	central.on(t)
	log.put(t, "process", 500)
	waitActive(t, c, 0)
	log.put(t, "process", 1000)
	waitFor(t, "central to have the rest", func() bool { return log.acked("process") == 5000 })
	if _, since, moves := c.Active(); moves != 2 || since.IsZero() {
		t.Errorf("%d moves, the last at %s", moves, since)
	}
	stop()
	if both := checkUnion(t, 5000, central.records(t, "sluice.process"), dr.records(t, "sluice.process")); both > 0 {
		t.Errorf("%d are in both, though nothing was under way when the link broke", both)
	}
}

// TestAReturnWaitsForTheSpread has the first cluster come back after an outage by which
// its connections are spread: one is open, and those for records come later than a
// return has time. Events go back once, and not before they can be sent.
func TestAReturnWaitsForTheSpread(t *testing.T) {
	t.Parallel()
	central, dr, log, c, stop := startPair(t, 500)
	central.off()
	log.put(t, "process", 500)
	waitActive(t, c, 1)
	spread := c.Legs()[0].cfg.Spread
	spread.mu.Lock() // as reached leaves it after a longer outage
	spread.gap, spread.until = 2*stallAfter, time.Now().Add(2*stallAfter)
	spread.mu.Unlock()
	central.on(t)
	more := func() {
		log.put(t, "process", 1)
		time.Sleep(50 * time.Millisecond)
	}
	waitFor(t, "connections to be free", func() bool { more(); return !spread.holds(time.Now()) })
	waitActive(t, c, 0)
	log.put(t, "process", 500)
	waitFor(t, "all to be delivered", func() bool { return log.acked("process") == uint64(log.sent["process"]) })
	if leg, _, moves := c.Active(); leg != 0 || moves != 2 {
		t.Errorf("uplink %d sends after %d moves", leg, moves)
	}
	stop()
	checkUnion(t, uint64(log.sent["process"]), central.records(t, "sluice.process"), dr.records(t, "sluice.process"))
}

// The log does not give an error of an outage before as the reason for a change.
func TestReasonOfAMove(t *testing.T) {
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tt := range []struct {
		name string
		s    Stats
		want string
	}{
		{"it works", Stats{Up: true, LastError: "refused", LastErrAt: since.Add(time.Second)}, ""},
		{"it failed", Stats{State: "not connected", LastError: "refused", LastErrAt: since.Add(time.Second)}, "refused"},
		{"it failed before", Stats{State: "nothing acknowledged", LastError: "refused", LastErrAt: since.Add(-time.Second)}, "nothing acknowledged"},
	} {
		if got := reason(tt.s, since); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestFailoverOfWhatWasUnderWay has the answers of the first cluster get lost: what
// was in flight is then in both, and nothing else.
func TestFailoverOfWhatWasUnderWay(t *testing.T) {
	t.Parallel()
	central, dr := newCloud(t, "sluice.process"), newCloud(t, "sluice.process")
	answers := &lossy{key: kmsg.Produce, every: 1}
	answers.idle.Store(true)
	central.off()
	central.opts = append(central.opts, answers.listen())
	central.on(t)
	log := newStoredLog(t, t.TempDir())
	c, stop := startChain(t, log, nil, central, dr)
	log.put(t, "process", 500)
	waitFor(t, "central to have them", func() bool { return log.acked("process") == 500 })
	answers.idle.Store(false)
	log.put(t, "process", 2000)
	waitFor(t, "answers to get lost", func() bool { return answers.lost.Load() > 0 })
	central.off()
	waitActive(t, c, 1)
	log.put(t, "process", 1000)
	waitFor(t, "dr to have them", func() bool { return log.acked("process") == 3500 })
	stop()
	central.on(t)
	both := checkUnion(t, 3500, central.records(t, "sluice.process"), dr.records(t, "sluice.process"))
	if both == 0 || both > 2000 {
		t.Errorf("%d are in both, want some of the 2000 that were under way", both)
	}
}

// TestFailoverOfSomeClasses has the second cluster take one class only: the other
// waits, and goes to the first.
func TestFailoverOfSomeClasses(t *testing.T) {
	t.Parallel()
	central, dr := newCloud(t, "sluice.process", "sluice.alarm"), newCloud(t, "sluice.process", "sluice.alarm")
	log := newStoredLog(t, t.TempDir())
	c, stop := startChain(t, log, []string{"alarm"}, central, dr)
	log.put(t, "process", 100)
	log.put(t, "alarm", 10)
	waitFor(t, "central to have them", func() bool { return log.acked("process") == 100 && log.acked("alarm") == 10 })
	central.off()
	log.put(t, "process", 100)
	log.put(t, "alarm", 10)
	waitFor(t, "dr to have the alarms", func() bool { return log.acked("alarm") == 20 })
	if got := log.acked("process"); got != 100 {
		t.Errorf("the cursor of process moved to %d", got)
	}
	central.on(t)
	waitActive(t, c, 0)
	waitFor(t, "central to have the rest", func() bool { return log.acked("process") == 200 })
	stop()
	checkComplete(t, central.records(t, "sluice.process"), 200)
	if n := len(dr.records(t, "sluice.process")); n > 0 {
		t.Errorf("dr has %d records of a class that it does not take", n)
	}
	checkUnion(t, 20, central.records(t, "sluice.alarm"), dr.records(t, "sluice.alarm"))
}

// TestFailoverToNobody has both clusters away: events wait, and go to whichever
// comes first.
func TestFailoverToNobody(t *testing.T) {
	t.Parallel()
	central, dr := newCloud(t, "sluice.process"), newCloud(t, "sluice.process")
	central.off()
	dr.off()
	log := newStoredLog(t, t.TempDir())
	c, stop := startChain(t, log, nil, central, dr)
	log.put(t, "process", 1000)
	waitFor(t, "both to be seen away", func() bool {
		return strings.Contains(c.Legs()[0].Stats().LastError, "cannot connect") && strings.Contains(c.Legs()[1].Stats().LastError, "cannot connect")
	})
	if leg, _, _ := c.Active(); leg != 0 || log.acked("process") != 0 {
		t.Errorf("uplink %d sends, cursor %d", leg, log.acked("process"))
	}
	dr.on(t)
	waitFor(t, "dr to have them", func() bool { return log.acked("process") == 1000 })
	stop()
	checkUnion(t, 1000, dr.records(t, "sluice.process"))
}

// TestFailoverAcrossARestart stops the agent without a word while the second
// cluster has the events: the next start begins with the first, which is still
// away, and goes on behind the cursor.
func TestFailoverAcrossARestart(t *testing.T) {
	t.Parallel()
	central, dr := newCloud(t, "sluice.process"), newCloud(t, "sluice.process")
	central.off()
	dir := t.TempDir()
	log := newStoredLog(t, dir)
	_, stop := startChain(t, log, nil, central, dr)
	log.put(t, "process", 1000)
	waitFor(t, "dr to have them", func() bool { return log.acked("process") == 1000 })
	stop()
	log.stop()

	again := newStoredLog(t, dir)
	again.sent["process"] = 1000
	c, stop := startChain(t, again, nil, central, dr)
	again.put(t, "process", 1000)
	if leg, _, _ := c.Active(); leg != 0 {
		t.Errorf("uplink %d sends at the start", leg)
	}
	waitFor(t, "dr to have the rest", func() bool { return again.acked("process") == 2000 })
	stop()
	if both := checkUnion(t, 2000, dr.records(t, "sluice.process")); both > 0 {
		t.Errorf("%d twice", both)
	}
}

func TestChainConfig(t *testing.T) {
	ok := func() ChainConfig {
		leg := func(name string) Leg { return Leg{Config: Config{Name: name, Agent: "a", Brokers: []string{"h:9092"}}} }
		return ChainConfig{Legs: []Leg{leg("a"), leg("b")}, Reader: newMemLog(), After: time.Second, Back: time.Second}
	}
	if _, err := NewChain(ok()); err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(*ChainConfig){
		"a chain of 1 uplinks": func(c *ChainConfig) { c.Legs = c.Legs[:1] },
		"after 0s":             func(c *ChainConfig) { c.After = 0 },
		"back 0s":              func(c *ChainConfig) { c.Back = 0 },
		"exactly once":         func(c *ChainConfig) { c.Legs[1].ExactlyOnce = true },
		"brokers is empty":     func(c *ChainConfig) { c.Legs[1].Brokers = nil },
	} {
		c := ok()
		c.Legs = slices.Clone(c.Legs)
		spoil(&c)
		if _, err := NewChain(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q, got %v", want, err)
		}
	}
}

// TestFailoverOfAFlappingLink switches the first cluster off and on at random while
// events come, without and with a live share: nothing may be lost, and in order
// each cluster has the events of a key as they came.
func TestFailoverOfAFlappingLink(t *testing.T) {
	t.Parallel()
	for _, share := range []float64{0, 0.5} {
		t.Run(fmt.Sprint("live share ", share), func(t *testing.T) {
			t.Parallel()
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			rnd := rand.New(rand.NewPCG(seed, 4))
			central, dr := newCloud(t, "sluice.process"), newCloud(t, "sluice.process")
			log := newStoredLog(t, t.TempDir())
			log.LiveShare(share)
			old := messages("process", 0, 3000, 7)
			for i := range old {
				old[i].Time = time.Now().Add(-time.Hour)
			}
			log.add(t, old...)
			log.sent["process"] = 3000
			c, stop := startChain(t, log, nil, central, dr)
			for range 6 {
				central.off()
				log.put(t, "process", 300)
				time.Sleep(time.Duration(rnd.IntN(2500)) * time.Millisecond)
				central.on(t)
				log.put(t, "process", 300)
				time.Sleep(time.Duration(rnd.IntN(2500)) * time.Millisecond)
			}
			waitFor(t, "all to be delivered", func() bool { return log.acked("process") == 6600 })
			stop()
			_, _, moves := c.Active()
			first, second := central.records(t, "sluice.process"), dr.records(t, "sluice.process")
			t.Logf("%d moves, %d records in the first, %d in the second", moves, len(first), len(second))
			if share == 0 {
				checkUnion(t, 6600, first, second)
				return
			}
			seen := map[uint64]bool{}
			for _, r := range slices.Concat(first, second) {
				seen[seqOf(t, r)] = true
			}
			if len(seen) != 6600 {
				t.Errorf("%d of 6600 numbers are there", len(seen))
			}
		})
	}
}
