package uplink

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/drivers"
)

// slowListener is an option of a cluster whose connections take in so many bytes
// per second.
func slowListener(rate int) kfake.Opt {
	return kfake.ListenFn(func(network, address string) (net.Listener, error) {
		ln, err := net.Listen(network, address)
		return slowLink{ln, rate}, err
	})
}

type slowLink struct {
	net.Listener
	rate int
}

func (l slowLink) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		if err := tcp.SetReadBuffer(16 << 10); err != nil {
			return nil, err
		}
	}
	return slowConn{c, l.rate}, nil
}

type slowConn struct {
	net.Conn
	rate int
}

func (c slowConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p[:min(len(p), 4<<10)])
	time.Sleep(time.Duration(n) * time.Second / time.Duration(c.rate))
	return n, err
}

// noisy are n events of size bytes that nothing makes smaller, taken at some time.
func noisy(class string, n, size int, at time.Time) []drivers.Event {
	rnd := rand.NewChaCha8([32]byte{7})
	events := make([]drivers.Event, n)
	for i := range events {
		payload := make([]byte, size)
		_, _ = rnd.Read(payload) // it never fails
		events[i] = message(class, fmt.Sprintf("key/%d", i%7), string(payload))
		events[i].Time = at
	}
	return events
}

// follow reads a topic of one partition from its start while it grows, until
// enough.
func follow(t *testing.T, brokers []string, topic string, enough func([]*kgo.Record) bool) (all []*kgo.Record) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	for !enough(all) {
		if all = append(all, cl.PollFetches(ctx).Records()...); ctx.Err() != nil {
			t.Fatalf("gave up with %d records", len(all))
		}
	}
	return all
}

// TestAnAlarmOvertakesABacklog drains a backlog over a slow link and raises alarms
// meanwhile. All go to one partition, so that offsets tell what each alarm had to
// wait for: what the link takes in a few seconds, not what the window may hold.
func TestAnAlarmOvertakesABacklog(t *testing.T) {
	t.Parallel()
	const rate, size, alarms = 256 << 10, 1000, 4
	c := cluster(t, kfake.SeedTopics(1, "all"), slowListener(rate))
	log := newStoredLog(t, t.TempDir())
	log.add(t, noisy("process", 5000, size, time.Now())...)
	k := start(t, Config{Brokers: c.ListenAddrs(), Reader: log, Topic: "all", Compression: "none"})
	before := make([]uint64, alarms) // what was acknowledged of the backlog when the alarm was raised
	for i := range alarms {
		waitFor(t, "the backlog to drain", func() bool { return log.acked("process") > uint64(400*(i+1)) })
		log.put(t, "alarm", 1)
		before[i] = log.acked("process")
	}
	seen := 0
	records := follow(t, c.ListenAddrs(), "all", func(all []*kgo.Record) bool {
		seen = 0
		for _, r := range all {
			if isClass(r, "alarm") {
				seen++
			}
		}
		return seen == alarms
	})
	processes, alarm := 0, 0
	for _, r := range records {
		if !isClass(r, "alarm") {
			processes++
			continue
		}
		waited := (processes - int(before[alarm])) * size
		t.Logf("alarm %d: %d KiB of the backlog between its commit and its arrival, %.1f s of the link", alarm, waited>>10, float64(waited)/rate)
		if waited > 5*rate {
			t.Errorf("alarm %d waited for %d bytes of the backlog", alarm, waited)
		}
		alarm++
	}
	if left := 5000 - processes; left < 500 {
		t.Errorf("%d events of the backlog were left when the last alarm came: nothing was overtaken", left)
	}
	k.stop(t)
}

func isClass(r *kgo.Record, class string) bool {
	return len(header(r, headerID)) > len("gw-17/")+len(class) && header(r, headerID)[len("gw-17/"):len("gw-17/")+len(class)] == class
}

// TestLiveShare drains a backlog over a slow link while new events come faster than
// it, and measures in bytes how both share it. In the middle the agent crashes.
func TestLiveShare(t *testing.T) {
	t.Parallel()
	const share, size, backlog, news = 0.7, 1000, 1500, 3000
	c := cluster(t, kfake.SeedTopics(1, "all"), slowListener(1<<20))
	dir := t.TempDir()
	log := newStoredLog(t, dir)
	log.LiveShare(share)
	log.add(t, noisy("process", backlog, size, time.Now().Add(-time.Hour))...)
	k := start(t, Config{Brokers: c.ListenAddrs(), Reader: log, Topic: "all", Compression: "none"})
	waitFor(t, "the backlog to drain", func() bool { return log.acked("process") > 100 })
	log.add(t, noisy("process", news, size, time.Now())...)
	waitFor(t, "new events to arrive", func() bool {
		return log.buf.Stats().Classes["process"].Uplinks["central"].Lag < backlog+news-1000
	})
	image := t.TempDir() // what a kill leaves
	if err := os.CopyFS(image, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	k.stop(t)
	log.stop()
	killed := len(consume(t, c.ListenAddrs(), "all"))

	again := newStoredLog(t, image)
	again.LiveShare(share)
	start(t, Config{Brokers: c.ListenAddrs(), Reader: again, Topic: "all", Compression: "none"})
	waitFor(t, "the rest to arrive", func() bool { return again.acked("process") >= backlog+news })
	records := consume(t, c.ListenAddrs(), "all")
	if got := shareOf(t, records[:killed], backlog); got < share-0.1 || got > share+0.1 {
		t.Errorf("new events had %.0f %% of the link while a backlog drained, want 70 %%", 100*got)
	}
	seen := map[uint64]int{}
	for _, r := range records {
		seen[seqOf(t, r)]++
	}
	twice := 0
	for seq := uint64(1); seq <= backlog+news; seq++ {
		if seen[seq] == 0 {
			t.Fatalf("seq %d is missing", seq)
		}
		twice += seen[seq] - 1
	}
	t.Logf("%d of %d events came twice after the crash", twice, backlog+news)
	if at := uint64(killed); twice > int(at) {
		t.Errorf("%d came twice, and only %d had come before the crash", twice, at)
	}
	if _, err := os.Stat(filepath.Join(image, "state")); err != nil {
		t.Error(err)
	}
}

// shareOf is the part of new events among the bytes that arrived while there was
// both; it fails where a record is not marked as it should be, or the order within
// one of the two is broken.
func shareOf(t *testing.T, records []*kgo.Record, backlog uint64) float64 {
	t.Helper()
	var last [2]uint64
	var first, end [2]int
	for i, r := range records {
		seq, kind := seqOf(t, r), 0
		if seq > backlog {
			kind = 1
		}
		if late := header(r, headerLate) == "true"; late != (kind == 0) {
			t.Fatalf("seq %d of a backlog up to %d: late %v", seq, backlog, late)
		}
		if seq <= last[kind] {
			t.Fatalf("seq %d after %d", seq, last[kind])
		}
		if last[kind] == 0 {
			first[kind] = i
		}
		last[kind], end[kind] = seq, i
	}
	from, to := max(first[0], first[1]), min(end[0], end[1])
	live := 0
	for _, r := range records[from : to+1] {
		if seqOf(t, r) > backlog {
			live++
		}
	}
	t.Logf("%d of %d records between %d and %d are new", live, to-from+1, from, to)
	if to-from < 500 {
		t.Fatalf("only %d records while there was both", to-from)
	}
	return float64(live) / float64(to-from+1)
}
