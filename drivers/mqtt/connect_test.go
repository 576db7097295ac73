package mqtt

import (
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/mochi-mqtt/server/v2/listeners"
)

func TestWaitsGrowAndDiffer(t *testing.T) {
	cfg := baseConfig(&testSink{}, "tcp://127.0.0.1:1")
	cfg.RetryMin, cfg.RetryMax = time.Second, 30*time.Second
	src, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[time.Duration]bool{}
	for range 20 {
		retry := src.newBackoff()
		for i, seconds := range []int{1, 2, 4, 8, 16, 30, 30} {
			wait, top := retry.next(), time.Duration(seconds)*time.Second
			if wait < top/2 || wait > top {
				t.Errorf("wait %d is %s, want %s to %s", i, wait, top/2, top)
			}
			seen[wait] = true
		}
	}
	if len(seen) < 130 { // of 140
		t.Errorf("a fleet would come back together: %d different waits of 140", len(seen))
	}
}

// TestTheFirstServerIsTriedFirstAgain moves a source to its second server and
// back.
func TestTheFirstServerIsTriedFirstAgain(t *testing.T) {
	t.Parallel()
	first, second := newRawBroker(t), newRawBroker(t)
	src, _ := start(t, baseConfig(&testSink{}, first.url(), second.url()))
	_ = first.connection().Close()
	c := second.accept(false)
	waitUp(t, src)
	_ = c.Close()
	first.accept(false)
	eventually(t, "up at the first", func() bool { return src.Stats().State == "connected to "+first.url()+", 1 filter" })
}

// TestBadCertificateFilesAreSaid: settings come with a complaint about the files
// that would have replaced them.
func TestBadCertificateFilesAreSaid(t *testing.T) {
	cert, roots := selfSigned(t, time.Now().Add(time.Hour))
	server, addr := newMochi(t, nil, func(id string) listeners.Listener {
		return listeners.NewTCP(listeners.Config{ID: id, Address: "127.0.0.1:0", TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}})
	})
	good := &tls.Config{RootCAs: roots}
	for _, c := range []struct {
		name   string
		config *tls.Config
		err    error
		up     bool
		says   string
	}{
		{"old settings and a complaint", good, errors.New("ca: bad.pem"), true, "tls: ca: bad.pem"},
		{"settings that do not help, and a complaint", &tls.Config{}, errors.New("ca: bad.pem"), false, "unknown authority: check tls.ca; tls: ca: bad.pem"},
		{"no settings", nil, errors.New("ca: bad.pem"), false, "tls: ca: bad.pem"},
	} {
		t.Run(c.name, func(t *testing.T) {
			sink := &testSink{}
			cfg := baseConfig(sink, "ssl://"+addr)
			var calls atomic.Int64
			cfg.TLS = func() (*tls.Config, error) { calls.Add(1); return c.config, c.err }
			src, stop := start(t, cfg)
			eventually(t, "the complaint", func() bool { return strings.Contains(src.Stats().LastError, c.says) })
			if c.up {
				waitUp(t, src)
				send(t, server, "plant/a", "x", 1)
				eventually(t, "taken", func() bool { return len(sink.taken()) == 1 })
			} else if eventually(t, "asked at each connect", func() bool { return calls.Load() > 2 }); src.Stats().Up {
				t.Error("up without TLS")
			}
			stop()
		})
	}
}

// TestAnotherServersIdsAreItsOwn: what a server sends again is known by the packet
// ids of its own session, also when another server's messages came in between.
func TestAnotherServersIdsAreItsOwn(t *testing.T) {
	t.Parallel()
	first, second, sink := newRawBroker(t), newRawBroker(t), &testSink{}
	src, _ := start(t, baseConfig(sink, first.url(), second.url()))
	c := first.accept(true)
	waitUp(t, src)
	c.send(publishFrame(qos1, 3, "plant/a", "on"))
	eventually(t, "acknowledged", func() bool { return len(c.acked()) == 1 })
	_ = c.Close()
	_ = first.connection().Close()
	c = second.accept(true)
	c.send(publishFrame(qos1|dup, 3, "plant/a", "on")) // to an agent before this one, perhaps
	eventually(t, "acknowledged by the second", func() bool { return len(c.acked()) == 1 })
	_ = c.Close()
	c = first.accept(true)
	c.send(publishFrame(qos1|dup, 3, "plant/a", "on"), publishFrame(qos1, 4, "plant/a", "end"))
	eventually(t, "acknowledged by the first", func() bool { return len(c.acked()) == 2 })
	if got, want := sink.payloads(), []string{"on", "on", "end"}; !slices.Equal(got, want) {
		t.Errorf("taken %q, want %q", got, want)
	}
}

// TestAWebsocketThatEndsIsSaidInWords and counts as ended by the broker.
func TestAWebsocketThatEndsIsSaidInWords(t *testing.T) {
	t.Parallel()
	upgrade := websocket.Upgrader{Subprotocols: []string{"mqtt"}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, err := upgrade.Upgrade(w, r, nil); err == nil {
			_ = c.WriteMessage(websocket.BinaryMessage, []byte{0x20, 2, 0, 0})
			_ = c.Close()
		}
	}))
	t.Cleanup(server.Close)
	src, _ := start(t, baseConfig(&testSink{}, "ws"+strings.TrimPrefix(server.URL, "http")+"/mqtt"))
	eventually(t, "words", func() bool { return strings.Contains(src.Stats().LastError, "the broker closed the connection") })
	eventually(t, "suspicion", func() bool { return strings.Contains(src.Stats().LastError, errTaken.Error()) })
}
