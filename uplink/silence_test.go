package uplink

import (
	"fmt"
	"math"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// nat is what lies between the agent and a broker: it forgets connections without
// telling either end. The agent's kernel still gets its bytes acknowledged.
type nat struct {
	forgotten atomic.Int64 // connections with a lower number are dead
	opened    atomic.Int64
	requests  bool // still get through on dead connections; their answers do not
}

func (n *nat) listen() kfake.Opt {
	return kfake.ListenFn(func(network, address string) (net.Listener, error) {
		ln, err := net.Listen(network, address)
		return natListener{ln, n}, err
	})
}

// forget makes all connections dead that are open now.
func (n *nat) forget() { n.forgotten.Store(n.opened.Load() + 1) }

type natListener struct {
	net.Listener
	nat *nat
}

func (l natListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &natConn{c, l.nat, l.nat.opened.Add(1)}, nil
}

type natConn struct {
	net.Conn
	nat    *nat
	number int64
}

func (c *natConn) dead() bool { return c.number < c.nat.forgotten.Load() }

func (c *natConn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if err != nil || c.nat.requests || !c.dead() {
			return n, err
		}
	}
}

func (c *natConn) Write(p []byte) (int, error) {
	if c.dead() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// TestSilentConnection asks that records go on soon after the connections were
// forgotten in the middle, and not only when the client's 15 s are over.
func TestSilentConnection(t *testing.T) {
	t.Parallel()
	for _, exact := range []bool{false, true} {
		for _, requests := range []bool{false, true} {
			t.Run(fmt.Sprintf("exact=%t requests=%t", exact, requests), func(t *testing.T) {
				t.Parallel()
				between := &nat{requests: requests}
				c := cluster(t, between.listen(), kfake.SeedTopics(2, "sluice.process"))
				log := newMemLog()
				k := start(t, Config{Brokers: c.ListenAddrs(), Reader: log, ExactlyOnce: exact})
				log.put(messages("process", 0, 100, 7)...)
				log.waitCursor(t, "process", 100)
				between.forget()
				log.put(messages("process", 100, 100, 7)...)
				began := time.Now()
				log.waitCursor(t, "process", 200)
				if took := time.Since(began); took > mostPatience*2/3 {
					t.Errorf("it took %s", took)
				} else {
					t.Logf("first acknowledgement after %s, %d questions", took.Round(time.Millisecond), k.silence.asks.Load())
				}
				if k.silence.asks.Load() == 0 {
					t.Error("nobody asked")
				}
				checkComplete(t, consumeAll(t, exact, c.ListenAddrs(), "sluice.process"), 200)
			})
		}
	}
}

// TestSlowBrokerIsNotSilent asks that a broker that needs longer for each answer
// than the patience at first gets on, is left alone when that is known, and gets
// nothing twice.
func TestSlowBrokerIsNotSilent(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(2, "sluice.process"))
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		c.SleepControl(func() { time.Sleep(3 * time.Second) })
		return nil, nil, false
	})
	log := newMemLog()
	log.put(messages("process", 0, 100, 7)...)
	k := start(t, Config{Brokers: c.ListenAddrs(), Reader: log})
	log.waitCursor(t, "process", 100)
	asked := k.silence.asks.Load()
	for i := range 2 {
		log.put(messages("process", 100*(i+1), 100, 7)...)
		log.waitCursor(t, "process", uint64(100*(i+2)))
	}
	if now := k.silence.asks.Load(); asked == 0 || asked > 4 || now != asked {
		t.Errorf("asked %d times until the first answer, %d in all", asked, now)
	}
	checkComplete(t, consume(t, c.ListenAddrs(), "sluice.process"), 300)
}

// TestSlowCommitIsNotSilent asks the same of a coordinator.
func TestSlowCommitIsNotSilent(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(2, "sluice.process"))
	c.ControlKey(int16(kmsg.EndTxn), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		c.SleepControl(func() { time.Sleep(3 * time.Second) })
		return nil, nil, false
	})
	log := newMemLog()
	log.put(messages("process", 0, 100, 7)...)
	k := start(t, exactConfig(c, log))
	log.waitCursor(t, "process", 100)
	asked := k.silence.asks.Load()
	log.put(messages("process", 100, 100, 7)...)
	log.waitCursor(t, "process", 200)
	if now := k.silence.asks.Load(); asked == 0 || asked > 4 || now != asked {
		t.Errorf("asked %d times until the first commit, %d in all", asked, now)
	}
	checkComplete(t, committed(t, c.ListenAddrs(), "sluice.process"), 200)
}

// asking has 100 events delivered, then nothing pass any more, 100 more wait, and the
// first question asked.
func asking(t *testing.T) (c *kfake.Cluster, between *nat, log *memLog, k *running) {
	t.Helper()
	between = &nat{}
	c = cluster(t, between.listen(), kfake.SeedTopics(2, "sluice.process"))
	log = newMemLog()
	k = start(t, Config{Brokers: c.ListenAddrs(), Reader: log})
	log.put(messages("process", 0, 100, 7)...)
	log.waitCursor(t, "process", 100)
	between.forgotten.Store(math.MaxInt64)
	log.put(messages("process", 100, 100, 7)...)
	waitFor(t, "a question", func() bool { return k.silence.asks.Load() > 0 })
	return c, between, log, k
}

// TestBlackHoleIsLeftAlone asks that a link that carries nothing costs a few
// questions, and no connection before the client's time is over.
func TestBlackHoleIsLeftAlone(t *testing.T) {
	t.Parallel()
	c, between, log, k := asking(t)
	began := time.Now()
	waitFor(t, "the client to give up", func() bool { return len(k.silence.waiting()) == 0 })
	if took := time.Since(began); took < leastPatience+askLimit {
		t.Errorf("the connection was closed after %s although no other was answered", took)
	}
	if n := k.silence.asks.Load(); n > 4 {
		t.Errorf("asked %d times", n)
	}
	between.forgotten.Store(0)
	log.waitCursor(t, "process", 200)
	checkComplete(t, consume(t, c.ListenAddrs(), "sluice.process"), 200)
}

// TestStopsWhileItAsks asks that a question that nobody answers does not hold up the
// end.
func TestStopsWhileItAsks(t *testing.T) {
	t.Parallel()
	_, _, _, k := asking(t)
	k.stop(t)
	if n := len(k.silence.waiting()); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

func TestPatience(t *testing.T) {
	q, other := question{"10.0.0.5:9092", keyProduce}, question{"10.0.0.5:9092", keyEndTxn}
	s := newSilence()
	socket, _ := net.Pipe()
	g := newGuard(socket, nil)
	g.socket = newMeter(socket, newPace(0))
	s.watch(g, q.addr)
	want := func(d time.Duration) {
		t.Helper()
		if got := s.patience(q); got != d {
			t.Errorf("patience %s, want %s", got, d)
		}
	}
	want(time.Second)
	for _, d := range []time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second, 15 * time.Second, 15 * time.Second} {
		_ = s.close(g, q, time.Now())
		want(d)
	}
	s.answered(q, 2*time.Second)
	want(15 * time.Second)
	for range 8 {
		s.answered(q, 10*time.Millisecond)
	}
	want(time.Second)
	s.answered(q, time.Second)
	want(4 * time.Second)
	if got := s.patience(other); got != time.Second {
		t.Errorf("patience for another request: %s", got)
	}
}
