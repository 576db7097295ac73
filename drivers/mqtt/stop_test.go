package mqtt

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

func TestStop(t *testing.T) {
	t.Run("what is committed meanwhile is acknowledged, then DISCONNECT", func(t *testing.T) {
		t.Parallel()
		broker, sink := newRawBroker(t), &testSink{hold: true}
		src, err := New(baseConfig(sink, broker.url()))
		if err != nil {
			t.Fatal(err)
		}
		src.stopGrace = patience
		stop := run(t, src)
		c := broker.accept(false)
		waitUp(t, src)
		c.send(publishFrame(qos1, 1, "plant/a", "x"))
		eventually(t, "appended", func() bool { return len(sink.taken()) == 1 })
		go func() {
			for src.Stats().State != "stopping" {
				time.Sleep(time.Millisecond)
			}
			sink.commit(1, nil)
		}()
		stop()
		eventually(t, "goodbye", func() bool { return c.gone() })
		if got, want := c.acked(), []string{"PUBACK 1", "DISCONNECT"}; !reflect.DeepEqual(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if st := src.Stats(); st.Up || st.State != "stopped" {
			t.Errorf("stats %+v", st)
		}
	})
	t.Run("the broker reads the last acknowledgements although messages of its own are unread", func(t *testing.T) {
		t.Parallel()
		broker, sink := newRawBroker(t), &testSink{hold: true}
		src, err := New(baseConfig(sink, broker.url()))
		if err != nil {
			t.Fatal(err)
		}
		src.stopGrace = patience
		stop := run(t, src)
		c := broker.accept(false)
		waitUp(t, src)
		c.send(publishFrame(qos1, 1, "plant/a", "x"))
		eventually(t, "appended", func() bool { return len(sink.taken()) == 1 })
		go func() {
			for src.Stats().State != "stopping" {
				time.Sleep(time.Millisecond)
			}
			for id := uint16(2); id < 100; id++ {
				c.send(publishFrame(qos1, id, "plant/a", strings.Repeat("y", 1000)))
			}
			sink.commit(1, nil)
		}()
		stop()
		eventually(t, "goodbye", func() bool { return c.gone() })
		if got := c.acked(); len(got) < 2 || got[0] != "PUBACK 1" || got[len(got)-1] != "DISCONNECT" {
			t.Errorf("got %v", got)
		}
		if !errors.Is(c.endErr, io.EOF) {
			t.Errorf("the connection ended with %v, not in peace", c.endErr)
		}
	})
}

// TestASlowBrokerHasTimeToReadTheLastAcknowledgements: it sends again what it has
// not read of them, to the next process.
func TestASlowBrokerHasTimeToReadTheLastAcknowledgements(t *testing.T) {
	t.Parallel()
	broker, sink := newRawBroker(t), &testSink{}
	src, err := New(baseConfig(sink, broker.url()))
	if err != nil {
		t.Fatal(err)
	}
	src.stopGrace = patience
	stop := run(t, src)
	c := broker.accept(false)
	waitUp(t, src)
	c.mu.Lock()
	c.stuck = true
	c.mu.Unlock()
	c.send(publishFrame(qos1, 1, "plant/a", "x"))
	eventually(t, "acknowledged", func() bool { return len(c.acked()) == 1 }) // the broker is stuck after that
	c.send(publishFrame(qos1, 2, "plant/a", "y"))
	eventually(t, "taken", func() bool { return len(sink.taken()) == 2 })
	go func() {
		for src.Stats().State != "stopping" {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(disconnectWait + 300*time.Millisecond)
		for id := uint16(3); id < 100; id++ {
			c.send(publishFrame(qos1, id, "plant/a", strings.Repeat("y", 1000)))
		}
		time.Sleep(100 * time.Millisecond)
		c.mu.Lock()
		c.stuck = false
		c.mu.Unlock()
	}()
	stop()
	eventually(t, "goodbye", c.gone)
	if got, want := c.acked(), []string{"PUBACK 1", "PUBACK 2", "DISCONNECT"}; !reflect.DeepEqual(got, want) || !errors.Is(c.endErr, io.EOF) {
		t.Errorf("got %v and %v, want %v and the end", got, c.endErr, want)
	}
}

func TestStopIsBounded(t *testing.T) {
	t.Run("a sink that blocks does not hold it up for ever", func(t *testing.T) {
		t.Parallel()
		broker, sink := newRawBroker(t), &testSink{gate: make(chan struct{})}
		src, err := New(baseConfig(sink, broker.url()))
		if err != nil {
			t.Fatal(err)
		}
		src.stopGrace = 50 * time.Millisecond
		stop := run(t, src)
		c := broker.accept(false)
		waitUp(t, src)
		c.send(publishFrame(qos1, 1, "plant/a", "x"))
		eventually(t, "queued", func() bool { return src.queue.len() == 1 })
		stop()
		if got := c.acked(); len(got) > 1 || len(sink.taken()) != 0 {
			t.Errorf("got %v, taken %d", got, len(sink.taken()))
		}
	})
	t.Run("while the broker is away", func(t *testing.T) {
		t.Parallel()
		src, stop := start(t, baseConfig(&testSink{}, "tcp://"+freeAddress(t)))
		eventually(t, "words", func() bool {
			return strings.Contains(src.Stats().LastError, "connection refused: is the broker running there?")
		})
		stop()
	})
	t.Run("within the handshake", func(t *testing.T) {
		t.Parallel()
		broker := newRawBroker(t)
		_, stop := start(t, baseConfig(&testSink{}, broker.url()))
		broker.connection()
		stop()
	})
}

func TestErrorsAreSaidInWords(t *testing.T) {
	cases := []struct {
		err  error
		want string
	}{
		{packets.ErrorRefusedIDRejected, "check client_id"},
		{packets.ErrorRefusedServerUnavailable, "service is unavailable"},
		{packets.ErrorRefusedBadProtocolVersion, "does not speak MQTT 3.1.1"},
		{syscall.EHOSTUNREACH, "the address and the cable"},
		{syscall.ECONNRESET, "reset"},
		{&net.DNSError{Name: "brocker", Err: "no such host"}, `the name "brocker" cannot be resolved`},
		{&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}, "no answer in time"},
		{errors.New("something else"), "something else"},
	}
	for _, tc := range cases {
		if got := explain(fmt.Errorf("network Error : %w", tc.err)); !strings.Contains(got, tc.want) {
			t.Errorf("%v: %q, want %q", tc.err, got, tc.want)
		}
	}
}

func TestRunLeavesNoGoroutines(t *testing.T) {
	before := runtime.NumGoroutine()
	broker, sink := newRawBroker(t), &testSink{}
	src, stop := start(t, baseConfig(sink, broker.url()))
	for id := range uint16(3) {
		c := broker.accept(true)
		c.send(publishFrame(qos1, id+1, "plant/a", fmt.Sprint(id)))
		eventually(t, "acknowledged", func() bool { return len(c.acked()) == 1 })
		waitUp(t, src)
		if id < 2 {
			_ = c.Close()
			eventually(t, "down", func() bool { return !src.Stats().Up })
		}
	}
	stop()
	eventually(t, "all goroutines ended", func() bool { return runtime.NumGoroutine() <= before })
}

func TestSinkThatIsClosedEndsRun(t *testing.T) {
	t.Parallel()
	broker := newRawBroker(t)
	broken := errors.New("the buffer is closed")
	src, err := New(baseConfig(sinkFunc(func() error { return broken }), broker.url()))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- src.Run(t.Context()) }()
	broker.accept(false).send(publishFrame(qos1, 1, "plant/a", "x"))
	select {
	case err := <-ended:
		if !errors.Is(err, broken) {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("Run does not end")
	}
}

func TestPasswordThatCannotBeReadIsSaid(t *testing.T) {
	t.Parallel()
	cfg := baseConfig(&testSink{}, newRawBroker(t).url())
	cfg.Username = word("u")
	cfg.Password = func() (string, error) {
		_, err := os.ReadFile("/nonexistent/secret")
		return "", err
	}
	src, _ := start(t, cfg)
	eventually(t, "an error", func() bool {
		return strings.Contains(src.Stats().LastError, "read the password: open /nonexistent/secret")
	})
}
