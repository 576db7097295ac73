package mqtt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// twoFilters is a config that also reads old/#, with a memory in dir.
func twoFilters(sink *testSink, dir, server string) Config {
	cfg := baseConfig(sink, server)
	cfg.SessionDir = dir
	cfg.Subscriptions = append(cfg.Subscriptions, Subscription{Filter: "old/#", QoS: 1, Class: "process"})
	return cfg
}

// oneFilter is the same after old/# was removed from it.
func oneFilter(sink *testSink, dir, server string) Config {
	cfg := twoFilters(sink, dir, server)
	cfg.Subscriptions = cfg.Subscriptions[:1]
	return cfg
}

func TestRemovedFilterIsUnsubscribed(t *testing.T) {
	t.Parallel()
	server, addr := newMochi(t, nil, nil)
	dir := filepath.Join(t.TempDir(), "not", "made", "yet")
	sink := &testSink{}
	src, stop := start(t, twoFilters(sink, dir, "tcp://"+addr))
	waitUp(t, src)
	// This broker has one set of packet ids for both directions: it does nothing on an
	// UNSUBSCRIBE with the id of a message that is on its way, and its UNSUBACK does not
	// say so. So the message that waits gets an id beyond those of the next connection.
	for range 9 {
		send(t, server, "plant/a", "before", 1)
	}
	eventually(t, "the first ones, acknowledged", func() bool {
		cl, ok := server.Clients.Get("gw-1")
		return ok && len(sink.taken()) == 9 && cl.State.Inflight.Len() == 0
	})
	stop()
	send(t, server, "old/a", "while nobody reads", 1)
	sink = &testSink{}
	src, stop = start(t, oneFilter(sink, dir, "tcp://"+addr))
	waitUp(t, src)
	subscribed := func() bool {
		cl, ok := server.Clients.Get("gw-1")
		if !ok {
			return true
		}
		_, has := cl.State.Subscriptions.Get("old/#")
		return has
	}
	eventually(t, "unsubscribed at the broker", func() bool { return !subscribed() })
	send(t, server, "old/a", "nobody wants it", 1)
	send(t, server, "plant/a", "good", 1)
	eventually(t, "the good one", func() bool { return len(sink.taken()) == 1 })
	if got := src.Stats().Rejected[reasonRoute]; got != 1 {
		t.Errorf("no-route: %d, want the one that waited", got)
	}
	stop()
	if got, _ := (memory{ClientID: "gw-1", Server: "tcp://" + addr}).recall(dir); !reflect.DeepEqual(got, []string{"plant/#"}) {
		t.Errorf("remembered: %q", got)
	}
}

// TestMemoryIsWrittenBeforeTheBrokerIs: a kill at any instant must leave
// a memory that names at least what the broker's session holds.
func TestMemoryIsWrittenBeforeTheBrokerIs(t *testing.T) {
	t.Parallel()
	broker, dir := newRawBroker(t), t.TempDir()
	m := memory{ClientID: "gw-1", Server: broker.url()}
	if err := (memory{m.ClientID, m.Server, []string{"$share/g/old", "a/+", "plant/#"}}).save(dir); err != nil {
		t.Fatal(err)
	}
	src, _ := start(t, twoFilters(&testSink{}, dir, broker.url()))
	c := broker.connection()
	type sight struct {
		filter string
		known  []string
	}
	var seen []sight
	c.suback = func(filter string) byte {
		known, err := m.recall(dir)
		if err != nil {
			t.Error(err)
		}
		seen = append(seen, sight{filter, known})
		return 1
	}
	c.deaf = true
	c.send([]byte{0x20, 2, 1, 0})
	waitUp(t, src)
	all := []string{"$share/g/old", "a/+", "old/#", "plant/#"}
	c.mu.Lock()
	want := []sight{{"plant/#", all}, {"old/#", all}}
	if !reflect.DeepEqual(seen, want) {
		t.Errorf("at the SUBSCRIBEs the memory holds %v, want %v", seen, want)
	}
	c.mu.Unlock()
	if got := c.unsubscribed(); !reflect.DeepEqual(got, []string{"$share/g/old", "a/+"}) {
		t.Errorf("unsubscribed %q", got)
	}
	if known, _ := m.recall(dir); !reflect.DeepEqual(known, all) {
		t.Errorf("forgotten without an answer: %q", known)
	}
	_ = c.Close()
	next := broker.accept(true)
	eventually(t, "asked again, and struck off", func() bool {
		known, _ := m.recall(dir)
		return len(next.unsubscribed()) == 2 && reflect.DeepEqual(known, []string{"old/#", "plant/#"})
	})
}

func TestBrokerThatAnswersNoUnsubscribeIsStillRead(t *testing.T) {
	t.Parallel()
	broker, dir, sink := newRawBroker(t), t.TempDir(), &testSink{}
	m := memory{"gw-1", broker.url(), []string{"old/#"}}
	if err := m.save(dir); err != nil {
		t.Fatal(err)
	}
	src, err := New(oneFilter(sink, dir, broker.url()))
	if err != nil {
		t.Fatal(err)
	}
	src.subackWait = 200 * time.Millisecond
	run(t, src)
	connect := func() *rawConn {
		c := broker.connection()
		c.deaf = true
		c.send([]byte{0x20, 2, 1, 0})
		return c
	}
	c := connect()
	eventually(t, "an error that names the filter", func() bool {
		if c.gone() { // a busy machine did not answer the SUBSCRIBE in time either
			c = connect()
		}
		return strings.Contains(src.Stats().LastError, `unsubscribe "old/#": the broker does not answer`)
	})
	c.send(publishFrame(qos1, 1, "plant/a", "x"))
	eventually(t, "acknowledged", func() bool { return len(c.acked()) == 1 })
	if !src.Stats().Up || c.gone() {
		t.Error("the session ended")
	}
	_ = c.Close()
	broker.accept(true) // so that the first session has done all that it does
	if known, _ := m.recall(dir); !reflect.DeepEqual(known, []string{"old/#", "plant/#"}) {
		t.Errorf("forgotten without an answer: %q", known)
	}
}

func TestNewSessionIsNotUnsubscribed(t *testing.T) {
	t.Parallel()
	broker, dir := newRawBroker(t), t.TempDir()
	m := memory{"gw-1", broker.url(), []string{"old/#"}}
	if err := m.save(dir); err != nil {
		t.Fatal(err)
	}
	src, _ := start(t, oneFilter(&testSink{}, dir, broker.url()))
	c := broker.accept(false)
	waitUp(t, src)
	if got := c.unsubscribed(); len(got) != 0 {
		t.Errorf("unsubscribed %q of a session that is empty", got)
	}
	if known, _ := m.recall(dir); !reflect.DeepEqual(known, []string{"plant/#"}) {
		t.Errorf("remembered: %q", known)
	}
}

func TestBadMemoryIsSaidAndStopsNothing(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, dir, path string)
		says  string
	}{
		{"no JSON", func(t *testing.T, _, path string) { write(t, path, "{") }, "read the filters of the last run: "},
		{"of another session", func(t *testing.T, _, path string) {
			write(t, path, strings.Replace(read(t, path), "gw-1", "gw-2", 1))
		}, "is that of another session"},
		{"of another server", func(t *testing.T, _, path string) {
			write(t, path, strings.Replace(read(t, path), "tcp://", "ssl://", 1))
		}, "is that of another session"},
		{"cannot be read", func(t *testing.T, _, path string) {
			if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
				t.Fatal(err)
			}
		}, "write down which filters are subscribed"},
		{"no directory", func(t *testing.T, dir, _ string) {
			_ = os.RemoveAll(dir)
			write(t, dir, "a file")
		}, "write down which filters are subscribed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			broker, sink, dir := newRawBroker(t), &testSink{}, filepath.Join(t.TempDir(), "mqtt")
			m := memory{"gw-1", broker.url(), []string{"plant/#"}}
			if err := m.save(dir); err != nil {
				t.Fatal(err)
			}
			c.spoil(t, dir, m.path(dir))
			src, _ := start(t, oneFilter(sink, dir, broker.url()))
			conn := broker.accept(true)
			waitUp(t, src)
			conn.send(publishFrame(qos1, 1, "plant/a", "x"))
			eventually(t, "acknowledged", func() bool { return len(conn.acked()) == 1 })
			if got := src.Stats().LastError; !strings.Contains(got, c.says) {
				t.Errorf("last error %q, want %q", got, c.says)
			}
		})
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// FuzzMemory: whatever the file holds, what comes out of it may be sent in an
// UNSUBSCRIBE; and what is saved is what is recalled.
func FuzzMemory(f *testing.F) {
	m := memory{ClientID: "gw-1", Server: "tcp://h:1883"}
	f.Add([]byte(`{"client_id":"gw-1","server":"tcp://h:1883","filters":["a/#","$share/g/b"]}`))
	f.Add([]byte(`{"client_id":"gw-1","server":"tcp://h:1883","filters":["a/#/b","","\u0000","x"]}`))
	f.Add([]byte(`{"filters":null}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		filters, err := m.decode(text)
		if err != nil {
			return
		}
		for _, filter := range filters {
			if err := checkFilter(filter); err != nil {
				t.Fatalf("%q: %v", filter, err)
			}
		}
		dir := t.TempDir()
		if err := (memory{m.ClientID, m.Server, filters}).save(dir); err != nil {
			t.Fatal(err)
		}
		if again, err := m.recall(dir); err != nil || !slices.Equal(again, filters) {
			t.Fatalf("saved %q, recalled %q (%v)", filters, again, err)
		}
	})
}

func TestSessionsHaveFilesOfTheirOwn(t *testing.T) {
	paths := map[string]bool{}
	for _, m := range []memory{{ClientID: "a", Server: "b"}, {ClientID: "ab"}, {ClientID: "a", Server: "c"}, {ClientID: "../../x", Server: "b"}} {
		p := m.path("/dir")
		if paths[p] || filepath.Dir(p) != "/dir" {
			t.Errorf("%+v has %s", m, p)
		}
		paths[p] = true
	}
	if n := len(paths); n != 4 {
		t.Error(fmt.Sprint(n, " files"))
	}
}

// TestABrokerThatForgotTheSessionIsTold, unless the session is the first one.
func TestABrokerThatForgotTheSessionIsTold(t *testing.T) {
	t.Parallel()
	broker := newRawBroker(t)
	cfg := baseConfig(&testSink{}, broker.url())
	cfg.SessionDir = t.TempDir()
	for _, c := range []struct {
		name          string
		present, told bool
	}{
		{"the first connect", false, false},
		{"the session is there", true, false},
		{"the session is gone", false, true},
	} {
		src, stop := start(t, cfg)
		broker.accept(c.present)
		waitUp(t, src)
		if got := src.Stats().LastError; strings.Contains(got, errForgotten.Error()) != c.told {
			t.Errorf("%s: last error %q", c.name, got)
		}
		stop()
	}
}
