package mqtt

import (
	"crypto/tls"
	"net"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

// told collects what OnRefused is told.
type told struct {
	mu  sync.Mutex
	all []Refusal
}

func (l *told) add(r Refusal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, r)
}

func (l *told) list() []Refusal {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Refusal(nil), l.all...)
}

func (l *told) has(reason string) bool {
	for _, r := range l.list() {
		if r.Reason == reason {
			return true
		}
	}
	return false
}

func TestRefusedMessagesAreTold(t *testing.T) {
	long := "plant/" + strings.Repeat("ä", 300)
	for _, c := range []struct {
		name   string
		frame  []byte
		decode string
		want   Refusal
	}{
		{"no route", publishFrame(qos1, 7, "office/a", "xyz"), DecodeRaw, Refusal{Reason: reasonRoute, Topic: "office/a", Bytes: 3, QoS: 1}},
		{"a wildcard", publishFrame(qos2, 7, "plant/#", "x"), DecodeRaw, Refusal{Reason: reasonTopic, Topic: "plant/#", Bytes: 1, QoS: 2}},
		{"NUL", publishFrame(qos1, 7, "plant/\x00\x1b[2J", "x"), DecodeRaw, Refusal{Reason: reasonTopic, Topic: "plant/??[2J", Bytes: 1, QoS: 1}},
		{"broken UTF-8", publishFrame(qos1, 7, "plant/\xff\xfe!", "x"), DecodeRaw, Refusal{Reason: reasonTopic, Topic: "plant/?!", Bytes: 1, QoS: 1}},
		{"too large", publishFrame(qos1, 7, long, strings.Repeat("x", 2<<20)), DecodeRaw,
			Refusal{Reason: reasonTooLarge, Topic: long[:256], Bytes: 2 << 20, QoS: 1}},
		{"QoS 3", publishFrame(qos1|qos2, 7, "plant/a", "x"), DecodeRaw, Refusal{Reason: reasonMalformed, Bytes: 12, QoS: 3}},
		{"packet id 0", publishFrame(qos1, 0, "plant/a", "x"), DecodeRaw, Refusal{Reason: reasonMalformed, Topic: "plant/a", Bytes: 1, QoS: 1}},
		{"not JSON", publishFrame(qos1, 7, "plant/a", "{x"), DecodeJSON, Refusal{Reason: reasonNotJSON, Topic: "plant/a", Bytes: 2, QoS: 1}},
		{"QoS 0, not JSON", publishFrame(0, 0, "plant/a", "{x"), DecodeJSON, Refusal{Reason: reasonNotJSON, Topic: "plant/a", Bytes: 2}},
		{"not Sparkplug", publishFrame(qos1, 7, "plant/a", "x"), DecodeSparkplug, Refusal{Reason: reasonSparkplug, Topic: "plant/a", Bytes: 1, QoS: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			broker, log := newRawBroker(t), &told{}
			cfg := baseConfig(&testSink{}, broker.url())
			cfg.Decode, cfg.OnRefused = c.decode, log.add
			src, stop := start(t, cfg)
			raw := broker.accept(false)
			waitUp(t, src)
			raw.send(c.frame)
			eventually(t, "a call", func() bool { return len(log.list()) > 0 })
			stop()
			want := c.want
			want.Server, want.Count = broker.url(), 1
			if got := log.list(); !reflect.DeepEqual(got, []Refusal{want}) {
				t.Errorf("got %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestFullQueueIsNoRefusal(t *testing.T) {
	t.Parallel()
	broker, log, sink := newRawBroker(t), &told{}, &testSink{gate: make(chan struct{})}
	cfg := baseConfig(sink, broker.url())
	cfg.QueueCount, cfg.OnRefused = 1, log.add
	src, stop := start(t, cfg)
	c := broker.accept(false)
	waitUp(t, src)
	for range 10 {
		c.send(publishFrame(0, 0, "plant/a", "x"))
	}
	eventually(t, "dropped", func() bool { return src.Stats().Rejected[reasonQueueFull] == 9 })
	close(sink.gate)
	stop()
	if got := log.list(); len(got) > 0 {
		t.Errorf("told of %+v", got)
	}
}

// TestRefusalsAreToldOnceAMinute runs in the time of a bubble.
func TestRefusalsAreToldOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &told{}
		r := newRefusals(log.add)
		stop := r.start()
		note := func(reason, topic string, n int) {
			for range n {
				r.note(Refusal{Reason: reason}, []byte(topic))
			}
			synctest.Wait()
		}
		want := func(when string, want ...Refusal) {
			t.Helper()
			if got := log.list(); len(got) != len(want) || len(got) > 0 && !reflect.DeepEqual(got, want) {
				t.Errorf("%s: got %+v, want %+v", when, got, want)
			}
			log.mu.Lock()
			log.all = nil
			log.mu.Unlock()
		}
		note("a", "first", 1)
		want("at once", Refusal{Reason: "a", Topic: "first", Count: 1})
		note("a", "second", 1)
		note("a", "third", 40)
		note("b", "other", 1)
		want("another reason", Refusal{Reason: "b", Topic: "other", Count: 1})
		time.Sleep(refusalEvery - time.Second)
		synctest.Wait()
		want("within the minute")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		want("after it", Refusal{Reason: "a", Topic: "second", Count: 41})
		time.Sleep(10 * refusalEvery)
		synctest.Wait()
		want("in silence")
		note("a", "much later", 1)
		want("at once again", Refusal{Reason: "a", Topic: "much later", Count: 1})
		note("a", "too soon", 1)
		stop()
		want("at the end")
	})
}

func TestAHookThatHangsHoldsNoReaderUp(t *testing.T) {
	t.Parallel()
	broker, sink := newRawBroker(t), &testSink{}
	hang := make(chan struct{})
	cfg := baseConfig(sink, broker.url())
	cfg.OnRefused = func(Refusal) { <-hang }
	src, stop := start(t, cfg)
	c := broker.accept(false)
	waitUp(t, src)
	for range 1000 {
		c.send(publishFrame(qos1, 7, "office/a", "x"))
	}
	c.send(publishFrame(qos1, 8, "plant/a", "good"))
	eventually(t, "the good one", func() bool { return len(sink.taken()) == 1 })
	if got := src.Stats().Rejected[reasonRoute]; got != 1000 {
		t.Errorf("%d refused, want 1000", got)
	}
	close(hang)
	stop()
}

func TestBrokersThatDoNotTrustAreTold(t *testing.T) {
	for code, want := range map[byte]string{2: reasonAuth, 4: reasonAuth, 5: reasonAuth, 77: reasonProtocol} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			broker, log := newRawBroker(t), &told{}
			cfg := baseConfig(&testSink{}, broker.url())
			cfg.OnRefused = log.add
			start(t, cfg)
			broker.connection().send([]byte{0x20, 2, 0, code})
			eventually(t, want, func() bool { return log.has(want) })
			if got := log.list()[0]; !reflect.DeepEqual(got, Refusal{Reason: want, Server: broker.url(), Count: 1}) {
				t.Errorf("told %+v", got)
			}
		})
	}
}

func TestCertificatesThatAreNotTrustedAreTold(t *testing.T) {
	cert, roots := selfSigned(t, time.Now().Add(time.Hour))
	old, oldRoots := selfSigned(t, time.Now().Add(-time.Minute))
	for _, c := range []struct {
		name           string
		server, client *tls.Config
		want           string
	}{
		{"unknown authority", &tls.Config{Certificates: []tls.Certificate{cert}}, &tls.Config{}, reasonUntrusted},
		{"another name", &tls.Config{Certificates: []tls.Certificate{cert}}, &tls.Config{RootCAs: roots, ServerName: "elsewhere"}, reasonUntrusted},
		{"out of date", &tls.Config{Certificates: []tls.Certificate{old}}, &tls.Config{RootCAs: oldRoots}, reasonUntrusted},
		{"our certificate is missing", &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert},
			&tls.Config{RootCAs: roots}, reasonAuth},
	} {
		for _, scheme := range []string{"ssl", "wss"} {
			t.Run(c.name+" "+scheme, func(t *testing.T) {
				t.Parallel()
				ln, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = ln.Close() })
				go shakeHands(ln, c.server)
				log := &told{}
				cfg := baseConfig(&testSink{}, scheme+"://"+ln.Addr().String())
				cfg.TLS, cfg.OnRefused = always(c.client), log.add
				src, _ := start(t, cfg)
				eventually(t, "an error", func() bool { return src.Stats().LastError != "" })
				eventually(t, c.want+" after "+src.Stats().LastError, func() bool { return log.has(c.want) })
			})
		}
	}
}

func TestARefusedFilterIsTold(t *testing.T) {
	t.Parallel()
	broker, log := newRawBroker(t), &told{}
	cfg := baseConfig(&testSink{}, broker.url())
	cfg.OnRefused = log.add
	start(t, cfg)
	c := broker.connection()
	c.mu.Lock()
	c.suback = func(string) byte { return 0x80 }
	c.mu.Unlock()
	c.send([]byte{0x20, 2, 0, 0})
	eventually(t, "a call", func() bool { return len(log.list()) > 0 })
	if got, want := log.list()[0], (Refusal{Reason: reasonFilter, Server: broker.url(), Topic: "plant/#", QoS: 1, Count: 1}); got != want {
		t.Errorf("told %+v, want %+v", got, want)
	}
}

// TestASessionThatIsTakenAgainAndAgainIsTold: the broker ends each connection soon
// after it took it. A broker that was never reached is another matter.
func TestASessionThatIsTakenAgainAndAgainIsTold(t *testing.T) {
	t.Parallel()
	broker, log := newRawBroker(t), &told{}
	cfg := baseConfig(&testSink{}, broker.url())
	cfg.OnRefused = log.add
	src, _ := start(t, cfg)
	for i := range takenTimes + 2 {
		_ = broker.connection().Close() // before CONNACK: counts for nothing
		if i == takenTimes-1 && log.has(reasonTaken) {
			t.Errorf("told after %d connections", i)
		}
		c := broker.accept(true)
		waitUp(t, src)
		_ = c.Close()
		eventually(t, "down", func() bool { return !src.Stats().Up })
	}
	eventually(t, "a call", func() bool { return log.has(reasonTaken) })
	eventually(t, "words", func() bool {
		return strings.Contains(src.Stats().LastError, "does another client use the same client_id")
	})
}

func TestTopicsAreMadeClean(t *testing.T) {
	for _, topic := range []string{"", "a/b", "ä", "\xff", strings.Repeat("\xe2\x82", 200), strings.Repeat("€", 100), "a\nb\x7f\x00"} {
		for size := range 300 {
			got := cleanTopic([]byte(topic), size)
			if len(got) > size || !utf8.ValidString(got) || strings.ContainsAny(got, "\x00\n\x7f") {
				t.Fatalf("%q cut to %d: %q", topic, size, got)
			}
		}
	}
	if got := cleanTopic([]byte("plant/ä"), 256); got != "plant/ä" {
		t.Errorf("%q", got)
	}
}
