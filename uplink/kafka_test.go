package uplink

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"sluice/drivers/loopback"
)

func TestDeliversEverythingInOrderByKey(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.NumBrokers(3), kfake.SeedTopics(6, "sluice.process"))
	log := newMemLog()
	for i := range 40 {
		log.put(messages("process", i*500, 500, 20)...)
	}
	k := start(t, Config{Brokers: c.ListenAddrs(), Reader: log})
	log.waitCursor(t, "process", 20_000)
	checkComplete(t, consume(t, c.ListenAddrs(), "sluice.process"), 20_000)
	s := k.Stats()
	if s.Delivered["process"] != 20_000 || s.InFlight != 0 || s.SentBytes == 0 || s.LastAck.IsZero() || !s.Up {
		t.Errorf("stats %+v", s)
	}
}

func TestUnreachableAtTheStart(t *testing.T) {
	t.Parallel()
	addr := loopback.Addr(t)
	log := newMemLog()
	log.put(messages("process", 0, 100, 3)...)
	k := start(t, Config{Brokers: []string{addr}, Reader: log})
	waitFor(t, "the error to be said", func() bool {
		return strings.Contains(k.Stats().LastError, "cannot connect to "+addr)
	})
	if s := k.Stats(); s.Up || log.cursor("process") != 0 {
		t.Errorf("cursor %d, stats %+v", log.cursor("process"), s)
	}
	c := cluster(t, kfake.Ports(portOf(t, addr)), kfake.SeedTopics(3, "sluice.process"))
	log.waitCursor(t, "process", 100)
	waitFor(t, "up", func() bool { return k.Stats().Up })
	checkComplete(t, consume(t, c.ListenAddrs(), "sluice.process"), 100)
}

func TestBrokerAwayInTheMiddle(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	port := portOf(t, loopback.Addr(t))
	opts := []kfake.Opt{kfake.NumBrokers(1), kfake.Ports(port), kfake.DataDir(dir), kfake.SyncWrites(), kfake.SeedTopics(3, "sluice.process")}
	c, err := kfake.NewCluster(opts...)
	if err != nil {
		t.Fatal(err)
	}
	log := newMemLog()
	k := start(t, Config{Brokers: c.ListenAddrs(), Reader: log})
	log.put(messages("process", 0, 500, 5)...)
	log.waitCursor(t, "process", 500)
	c.Close()
	for i := range 20 {
		log.put(messages("process", 500+i*500, 500, 5)...)
	}
	waitFor(t, "down", func() bool { return !k.Stats().Up })
	if s := k.Stats(); s.InFlight > DefaultWindowRecords {
		t.Errorf("%d records in flight", s.InFlight)
	}
	c = cluster(t, opts...)
	log.waitCursor(t, "process", 10_500)
	checkComplete(t, consume(t, c.ListenAddrs(), "sluice.process"), 10_500)
	waitFor(t, "up", func() bool { return k.Stats().Up })
}

func TestTooLargeRecordsAreSetAside(t *testing.T) {
	t.Parallel()
	c := cluster(t)
	if err := c.CreateTopic("sluice.process", 3, map[string]string{"max.message.bytes": "20000"}); err != nil {
		t.Fatal(err)
	}
	log := newMemLog()
	events := messages("process", 0, 3000, 5)
	large := []uint64{1, 700, 701, 3000}
	for _, seq := range large {
		events[seq-1].Payload = noise(30_000)
	}
	log.put(events...)
	k := start(t, Config{Brokers: c.ListenAddrs(), Reader: log})
	log.waitCursor(t, "process", 3000)
	checkComplete(t, consume(t, c.ListenAddrs(), "sluice.process"), 3000, large...)
	if got := log.rejects("process"); fmt.Sprint(got) != fmt.Sprint(large) {
		t.Errorf("rejected %v, want %v", got, large)
	}
	if s := k.Stats(); s.Delivered["process"] != 2996 || !strings.Contains(s.LastError, "max.message.bytes") {
		t.Errorf("stats %+v", s)
	}
}

// TestSmallTopicLimit asks that nothing is set aside when only batches are too
// large, not records.
func TestSmallTopicLimit(t *testing.T) {
	t.Parallel()
	c := cluster(t)
	if err := c.CreateTopic("sluice.process", 1, map[string]string{"max.message.bytes": "20000"}); err != nil {
		t.Fatal(err)
	}
	log := newMemLog()
	events := messages("process", 0, 1000, 5)
	for i := range events {
		events[i].Payload = noise(1000)
	}
	log.put(events...)
	start(t, Config{Brokers: c.ListenAddrs(), Reader: log})
	log.waitCursor(t, "process", 1000)
	checkComplete(t, consume(t, c.ListenAddrs(), "sluice.process"), 1000)
	if got := log.rejects("process"); len(got) > 0 {
		t.Errorf("rejected %v", got)
	}
}

func TestEveryCompression(t *testing.T) {
	for _, name := range compressions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := cluster(t, kfake.SeedTopics(1, "sluice.process"))
			log := newMemLog()
			log.put(messages("process", 0, 100, 2)...)
			start(t, Config{Brokers: c.ListenAddrs(), Reader: log, Compression: name})
			log.waitCursor(t, "process", 100)
			records := consume(t, c.ListenAddrs(), "sluice.process")
			checkComplete(t, records, 100)
			want := map[string]uint8{"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}[name]
			if got := records[0].Attrs.CompressionType(); got != want {
				t.Errorf("compression type %d, want %d", got, want)
			}
		})
	}
}

func noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

func TestRecreatedTopic(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(2, "sluice.process"))
	log := newMemLog()
	start(t, Config{Brokers: c.ListenAddrs(), Reader: log})
	log.put(messages("process", 0, 10, 2)...)
	log.waitCursor(t, "process", 10)
	if err := c.DeleteTopic("sluice.process"); err != nil {
		t.Fatal(err)
	}
	if err := c.CreateTopic("sluice.process", 2, nil); err != nil {
		t.Fatal(err)
	}
	log.put(messages("process", 10, 10, 2)...)
	log.waitCursor(t, "process", 20)
	if got := consume(t, c.ListenAddrs(), "sluice.process"); len(got) != 10 || seqOf(t, got[0]) < 11 {
		t.Errorf("%d records in the new topic", len(got))
	}
}

func TestMissingTopicIsMadeOrWaitedFor(t *testing.T) {
	t.Parallel()
	t.Run("made by the broker", func(t *testing.T) {
		t.Parallel()
		c := cluster(t, kfake.AllowAutoTopicCreation())
		log := newMemLog()
		log.put(messages("process", 0, 10, 2)...)
		start(t, Config{Brokers: c.ListenAddrs(), Reader: log, Topic: "a.{class}"})
		log.waitCursor(t, "process", 10)
		checkComplete(t, consume(t, c.ListenAddrs(), "a.process"), 10)
	})
	t.Run("waited for", func(t *testing.T) {
		t.Parallel()
		c := cluster(t)
		log := newMemLog()
		log.put(messages("process", 0, 10, 2)...)
		k := start(t, Config{Brokers: c.ListenAddrs(), Reader: log})
		waitFor(t, "the error to be said", func() bool {
			return strings.Contains(k.Stats().LastError, `topic "sluice.process" does not exist`)
		})
		if err := c.CreateTopic("sluice.process", 1, nil); err != nil {
			t.Fatal(err)
		}
		log.waitCursor(t, "process", 10)
	})
}

func TestLogin(t *testing.T) {
	t.Parallel()
	password := func(p string) func() (string, error) { return func() (string, error) { return p, nil } }
	for _, mechanism := range []string{"plain", "scram-sha-256", "scram-sha-512"} {
		t.Run(mechanism, func(t *testing.T) {
			t.Parallel()
			c := cluster(t, kfake.EnableSASL(), kfake.Superuser(strings.ToUpper(mechanism), "gw", "right"),
				kfake.SeedTopics(1, "sluice.process"))
			log := newMemLog()
			log.put(messages("process", 0, 10, 2)...)
			wrong := start(t, Config{Brokers: c.ListenAddrs(), Reader: log,
				SASL: SASL{Mechanism: mechanism, Username: "gw", Password: password("wrong")}})
			waitFor(t, "the refusal to be said", func() bool {
				return strings.Contains(wrong.Stats().LastError, "refused the login: check sasl.username/password")
			})
			if s := wrong.Stats(); s.Up || s.Delivered["process"] != 0 || strings.Contains(s.LastError, "wrong") {
				t.Errorf("stats %+v", s)
			}
			wrong.stop(t)

			log = newMemLog()
			log.put(messages("process", 0, 10, 2)...)
			start(t, Config{Brokers: c.ListenAddrs(), Reader: log,
				SASL: SASL{Mechanism: mechanism, Username: "gw", Password: password("right")}})
			log.waitCursor(t, "process", 10)
		})
	}
}

func TestPasswordIsReadAgain(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.EnableSASL(), kfake.Superuser("PLAIN", "gw", "new"), kfake.SeedTopics(1, "sluice.process"))
	answers := make(chan func() (string, error), 2)
	answers <- func() (string, error) { return "", errors.New("open /run/secrets/x: no such file") }
	answers <- func() (string, error) { return "old", nil }
	log := newMemLog()
	log.put(messages("process", 0, 10, 2)...)
	k := start(t, Config{Brokers: c.ListenAddrs(), Reader: log, SASL: SASL{Mechanism: "plain", Username: "gw",
		Password: func() (string, error) {
			select {
			case a := <-answers:
				return a()
			default:
				return "new", nil
			}
		}}})
	log.waitCursor(t, "process", 10)
	if e := k.Stats().LastError; e == "" {
		t.Error("no error was noted")
	}
}

func TestNoPermission(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.EnableSASL(), kfake.EnableACLs(), kfake.User("PLAIN", "gw", "pw"),
		kfake.Superuser("PLAIN", "root", "pw"), kfake.SeedTopics(1, "sluice.process"))
	log := newMemLog()
	log.put(messages("process", 0, 10, 2)...)
	k := start(t, Config{Brokers: c.ListenAddrs(), Reader: log, SASL: SASL{Mechanism: "plain", Username: "gw",
		Password: func() (string, error) { return "pw", nil }}})
	waitFor(t, "the refusal to be said", func() bool {
		s := k.Stats()
		return !s.Up && strings.HasPrefix(s.State, `cannot send: no permission to write topic "sluice.process"`) && s.State == "cannot send: "+s.LastError
	})
	if n := log.cursor("process"); n != 0 {
		t.Errorf("cursor at %d", n)
	}
	allow(t, c, "gw", "sluice.process")
	log.waitCursor(t, "process", 10)
	waitFor(t, "up", func() bool { return k.Stats().Up })
}

// allow grants what a producer needs on a topic.
func allow(t *testing.T, c *kfake.Cluster, user, topic string) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.SASL(plain.Auth{User: "root", Pass: "pw"}.AsMechanism()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	results, err := kadm.NewClient(cl).CreateACLs(ctx, kadm.NewACLs().Allow("User:"+user).AllowHosts("*").
		Topics(topic).ResourcePatternType(kadm.ACLPatternLiteral).Operations(kadm.OpWrite, kadm.OpDescribe))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Err != nil {
			t.Fatal(r.Err)
		}
	}
}

// TestRecordLargerThanABatch sends records beyond the client's limit for a batch:
// the broker decides about them.
func TestRecordLargerThanABatch(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(1, "sluice.process"))
	log := newMemLog()
	events := messages("process", 0, 20, 2)
	events[4].Payload = bytes.Repeat([]byte("0123456789"), 120_000) // fits when it is compressed
	events[9].Payload = noise(1_500_000)                            // doesn't
	log.put(events...)
	k := start(t, Config{Brokers: c.ListenAddrs(), Reader: log})
	log.waitCursor(t, "process", 20)
	records := consume(t, c.ListenAddrs(), "sluice.process")
	checkComplete(t, records, 20, 10)
	if got := log.rejects("process"); fmt.Sprint(got) != "[10]" {
		t.Errorf("rejected %v", got)
	}
	if d := k.Stats().Delivered["process"]; d != 19 {
		t.Errorf("delivered %d", d)
	}
	for _, r := range records {
		if seqOf(t, r) == 5 && !bytes.Equal(r.Value, events[4].Payload) {
			t.Error("the large payload changed")
		}
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS() // for its certificate, which is made for 127.0.0.1
	defer server.Close()
	c := cluster(t, kfake.TLS(server.TLS.Clone()), kfake.SeedTopics(1, "sluice.process"))

	log := newMemLog()
	log.put(messages("process", 0, 10, 2)...)
	untrusting := start(t, Config{Brokers: c.ListenAddrs(), Reader: log, TLS: fixedTLS(&tls.Config{})})
	waitFor(t, "the refusal to be said", func() bool {
		return strings.Contains(untrusting.Stats().LastError, "certificate was not accepted: check tls.ca")
	})
	untrusting.stop(t)

	log = newMemLog()
	log.put(messages("process", 0, 10, 2)...)
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	var exchanged atomic.Bool
	k := start(t, Config{Brokers: c.ListenAddrs(), Reader: log, TLS: func() (*tls.Config, error) {
		if exchanged.Load() {
			return &tls.Config{RootCAs: pool}, nil
		}
		return &tls.Config{}, nil
	}})
	waitFor(t, "the refusal", func() bool { return strings.Contains(k.Stats().LastError, "check tls.ca") })
	exchanged.Store(true) // of the authorities, under a running uplink
	log.waitCursor(t, "process", 10)
}

// TestSeveralClasses asks that each class has a cursor of its own and that one
// event per batch is no problem.
func TestSeveralClasses(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(2, "sluice.alarm", "sluice.process"))
	log := newMemLog()
	for i := range 3000 {
		log.put(messages("process", i, 1, 5)...)
		if i%10 == 0 {
			log.put(messages("alarm", i/10, 1, 5)...)
		}
	}
	k := start(t, Config{Brokers: c.ListenAddrs(), Reader: log, Compression: "none", WindowRecords: 100})
	log.waitCursor(t, "process", 3000)
	log.waitCursor(t, "alarm", 300)
	checkComplete(t, consume(t, c.ListenAddrs(), "sluice.process"), 3000)
	checkComplete(t, consume(t, c.ListenAddrs(), "sluice.alarm"), 300)
	if d := k.Stats().Delivered; d["process"] != 3000 || d["alarm"] != 300 {
		t.Errorf("delivered %v", d)
	}
}

// TestDroppedConnections has the broker close connections without an answer, so
// that requests are repeated by the client, and asks for no duplicate.
func TestDroppedConnections(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(3, "sluice.process"))
	var produces, dropped atomic.Int64
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if n := produces.Add(1); n%5 == 0 && dropped.Load() < 4 {
			dropped.Add(1)
			return nil, errors.New("hang up"), true
		}
		return nil, nil, false
	})
	log := newMemLog()
	for i := range 40 {
		log.put(messages("process", i*200, 200, 7)...)
	}
	start(t, Config{Brokers: c.ListenAddrs(), Reader: log, WindowRecords: 500})
	log.waitCursor(t, "process", 8000)
	checkComplete(t, consume(t, c.ListenAddrs(), "sluice.process"), 8000)
	if dropped.Load() == 0 {
		t.Error("no connection was dropped")
	}
}

// TestCursorWaitsForTheOldest holds back one of two partitions and asks that
// the cursor stands before its first record although later ones arrived.
func TestCursorWaitsForTheOldest(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(1, "a", "b"))
	held := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "a", Err: kerr.NotEnoughReplicas, Count: -1})
	log := newMemLog()
	log.put(message("process", "b", "1"), message("process", "b", "2"), message("process", "a", "3"),
		message("process", "b", "4"), message("process", "b", "5"))
	k := start(t, Config{Brokers: c.ListenAddrs(), Reader: log, Topic: "{mqtt.topic}"})
	waitFor(t, "all of b", func() bool { return k.Stats().Delivered["process"] == 4 })
	log.waitCursor(t, "process", 2)
	held.Remove()
	log.waitCursor(t, "process", 5)
}

func TestStopAcknowledgesWhatArrived(t *testing.T) {
	c := cluster(t, kfake.SeedTopics(3, "sluice.process"))
	before := runtime.NumGoroutine()
	log := newMemLog()
	for i := range 200 {
		log.put(messages("process", i*100, 100, 9)...)
	}
	k := start(t, Config{Brokers: c.ListenAddrs(), Reader: log})
	waitFor(t, "the first ones", func() bool { return log.cursor("process") > 0 })
	k.stop(t)
	records := consume(t, c.ListenAddrs(), "sluice.process")
	checkComplete(t, records, log.cursor("process"))
	waitFor(t, "goroutines to end", func() bool { return runtime.NumGoroutine() <= before+2 })
}

func TestStopWhileTheBrokerIsAway(t *testing.T) {
	t.Parallel()
	log := newMemLog()
	log.put(messages("process", 0, 100, 9)...)
	k := start(t, Config{Brokers: []string{loopback.Addr(t)}, Reader: log})
	waitFor(t, "records in flight", func() bool { return k.Stats().InFlight == 100 })
	k.stop(t)
	if s := k.Stats(); s.InFlight != 0 || log.cursor("process") != 0 {
		t.Errorf("cursor %d, stats %+v", log.cursor("process"), s)
	}
}

func TestBrokenLogEndsRun(t *testing.T) {
	t.Parallel()
	c := cluster(t, kfake.SeedTopics(1, "sluice.process"))
	log := newMemLog()
	log.broken = errors.New("disk gone")
	k, err := New(Config{Name: "central", Agent: "gw", Brokers: c.ListenAddrs(), Reader: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := k.Run(ctx); !errors.Is(err, log.broken) || !strings.Contains(err.Error(), `uplink "central"`) {
		t.Errorf("Run: %v", err)
	}
}
