package uplink

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// tally counts what a broker's sockets receive, and holds it against a rate.
type tally struct {
	rate, slack float64 // bytes per second; bytes that may be there beyond it
	start       time.Time

	mu    sync.Mutex
	bytes int64
	conns int
	over  float64 // bytes beyond what the rate allows by then, at worst
}

// listen is an option of the cluster.
func (y *tally) listen() kfake.Opt {
	return kfake.ListenFn(func(network, address string) (net.Listener, error) {
		ln, err := net.Listen(network, address)
		return tallyListener{ln, y}, err
	})
}

type tallyListener struct {
	net.Listener
	y *tally
}

func (l tallyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.y.mu.Lock()
	l.y.conns++
	l.y.mu.Unlock()
	return tallyConn{c, l.y}, nil
}

type tallyConn struct {
	net.Conn
	y *tally
}

func (c tallyConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.y.mu.Lock()
	defer c.y.mu.Unlock()
	c.y.bytes += int64(n)
	c.y.over = max(c.y.over, float64(c.y.bytes)-c.y.rate*time.Since(c.y.start).Seconds()-c.y.slack)
	return n, err
}

func (y *tally) seen() (bytes int64, conns int, over float64) {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.bytes, y.conns, y.over
}

// TestMaxRate counts the bytes that arrive at the sockets of a cluster. At no time
// may there be more than the rate allows by then; how long it takes is not looked at,
// but that follows.
func TestMaxRate(t *testing.T) {
	t.Parallel()
	const rate, events, size = 128 << 10, 64, 5000
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS() // for its certificate, which is made for 127.0.0.1
	t.Cleanup(server.Close)
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	for _, tt := range []struct {
		name          string
		secure, exact bool
	}{{"plain", false, false}, {"TLS", true, false}, {"exactly once", false, true}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			// A second's worth at once, and what is written while the bucket is empty: a piece by
			// each broker's connection, logins and questions.
			y := &tally{rate: rate, slack: rate + 3*rate/8 + 16<<10, start: time.Now()}
			opts := []kfake.Opt{kfake.NumBrokers(3), kfake.SeedTopics(3, "sluice.process"), y.listen()}
			cfg := Config{MaxRate: rate, Compression: "none", ExactlyOnce: tt.exact}
			if tt.secure {
				opts = append(opts, kfake.TLS(server.TLS.Clone()))
				cfg.TLS = fixedTLS(&tls.Config{RootCAs: pool})
			}
			c := cluster(t, opts...)
			log := newMemLog()
			for i := range events {
				e := message("process", fmt.Sprint("key/", i%9), "")
				e.Payload = noise(size)
				log.put(e)
			}
			cfg.Brokers, cfg.Reader = c.ListenAddrs(), log
			k := start(t, cfg)
			log.waitCursor(t, "process", events)
			k.stop(t)
			waitFor(t, "the bytes that were sent", func() bool { n, _, _ := y.seen(); return uint64(n) >= k.Stats().SentBytes })
			bytes, _, over := y.seen()
			if over > 0 {
				t.Errorf("%.0f bytes too many at one time", over)
			}
			if sent := k.Stats().SentBytes; sent != uint64(bytes) || bytes < events*size {
				t.Errorf("%d bytes arrived, %d are counted, %d were to be sent", bytes, sent, events*size)
			}
			if !tt.secure {
				checkComplete(t, consumeAll(t, tt.exact, c.ListenAddrs(), "sluice.process"), events)
			}
		})
	}
}

// TestMaxRateIsNoBrokenLink sends records that take much longer to go out than a
// broker may take to answer: the connection stays, and the link is up.
func TestMaxRateIsNoBrokenLink(t *testing.T) {
	t.Parallel()
	y := &tally{start: time.Now()}
	c := cluster(t, kfake.SeedTopics(1, "sluice.process"), y.listen())
	log := newMemLog()
	k := startWith(t, Config{Brokers: c.ListenAddrs(), Reader: log, MaxRate: 4 << 10}, func(k *Kafka) {
		k.options = append(k.options, kgo.RequestTimeoutOverhead(200*time.Millisecond))
	})
	first := message("process", "key", "0")
	log.put(first)
	log.waitCursor(t, "process", 1)
	waitFor(t, "up", func() bool { return k.Stats().Up })
	_, before, _ := y.seen()
	large := message("process", "key", "")
	large.Payload = noise(14 << 10) // 2.5 s after the burst
	log.put(large)
	held := false
	waitFor(t, "the large one", func() bool {
		s := k.Stats()
		if !s.Up || s.Stuck > 0 {
			t.Fatalf("stats %+v", s)
		}
		held = held || s.State == fmt.Sprintf("connected to %s, 1 records in flight, held to max_rate", c.ListenAddrs()[0])
		return log.cursor("process") == 2
	})
	if _, after, _ := y.seen(); after != before {
		t.Errorf("%d new connections", after-before)
	}
	if !held {
		t.Error("the state does not say that max_rate is what it waits for")
	}
}

// produceRequest is a frame of so many bytes with records in it.
func produceRequest(n int) []byte {
	return request(int16(kmsg.Produce), 9, 1, make([]byte, n-requestHeader))
}

// sink takes all that is written to it.
type sink struct {
	net.Conn
	mu       sync.Mutex
	deadline time.Time
	pieces   []int
	late     int
}

func (s *sink) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.deadline.IsZero() && time.Now().After(s.deadline) {
		s.late++
	}
	s.pieces = append(s.pieces, len(b))
	return len(b), nil
}

func (s *sink) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = t
	return nil
}

func (s *sink) Close() error { return nil }

func TestPacedConn(t *testing.T) {
	const rate = 8000
	for _, tt := range []struct {
		name  string
		write []byte
		act   func(net.Conn) // after a while; may be nil
		want  error
		took  time.Duration // at least, and not a second longer
	}{
		{"records wait beyond what fits into a second", produceRequest(5 * rate), nil, nil, 4*time.Second - pieceTime},
		{"what is not records does not", request(int16(kmsg.Metadata), 9, 1, make([]byte, 5*rate)), nil, nil, 0},
		{"a short write does not", make([]byte, 5), nil, nil, 0},
		{"a close interrupts", produceRequest(50 * rate), func(c net.Conn) { _ = c.Close() }, net.ErrClosed, 10 * time.Second},
		{"a deadline in the past interrupts", produceRequest(50 * rate), func(c net.Conn) { _ = c.SetWriteDeadline(time.Unix(1, 0)) }, os.ErrDeadlineExceeded, 10 * time.Second},
		{"a new deadline does not", produceRequest(5 * rate), func(c net.Conn) { _ = c.SetWriteDeadline(time.Now().Add(time.Second)) }, nil, 4*time.Second - pieceTime},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, p := &sink{}, newPace(rate)
				c := newPacedConn(newMeter(s, p), p)
				_ = c.SetWriteDeadline(time.Now().Add(time.Second))
				if tt.act != nil {
					time.AfterFunc(min(tt.took, 10*time.Second), func() { tt.act(c) })
				}
				begin := time.Now()
				n, err := c.Write(tt.write)
				took := time.Since(begin)
				if !errors.Is(err, tt.want) || err == nil && n != len(tt.write) || took < tt.took || took > tt.took+time.Second {
					t.Errorf("wrote %d of %d, %v, in %v", n, len(tt.write), err, took)
				}
				if s.late > 0 {
					t.Errorf("%d pieces came after their deadline", s.late)
				}
				if sent := p.sent.Load(); sent != uint64(n) {
					t.Errorf("%d bytes are counted", sent)
				}
			})
		})
	}
}

func TestPaceWithoutARate(t *testing.T) {
	p := newPace(0)
	s := &sink{}
	if c := newPacedConn(s, p); c != net.Conn(s) {
		t.Error("there is something between")
	}
	p.spend(1 << 30)
	if d := p.sinceHeld(); d < time.Hour || p.window(1<<20) != 1<<20 {
		t.Errorf("held %v ago", d)
	}
}
