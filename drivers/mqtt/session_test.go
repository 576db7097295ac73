package mqtt

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"sluice/drivers"
)

func TestEventHoldsWhatCame(t *testing.T) {
	t.Parallel()
	broker, sink := newRawBroker(t), &testSink{}
	src, _ := start(t, baseConfig(sink, broker.url()))
	c := broker.accept(false)
	cases := []struct{ payload, content string }{
		{`{"a":1}`, drivers.ContentJSON},
		{" \n[1,2]", drivers.ContentJSON},
		{`{"a":`, drivers.ContentBinary},
		{`42`, drivers.ContentBinary},
		{`"text"`, drivers.ContentBinary},
		{"", drivers.ContentBinary},
		{"\x00\xff", drivers.ContentBinary},
	}
	before := time.Now()
	for i, tc := range cases {
		c.send(publishFrame(qos1, uint16(i+1), "plant/m1", tc.payload))
	}
	eventually(t, "all taken", func() bool { return len(sink.taken()) == len(cases) })
	for i, e := range sink.taken() {
		want := drivers.Event{
			Class: "process", Source: "line-mqtt", Subject: "plant/m1", Type: drivers.TypeMQTTMessage,
			ContentType: cases[i].content, Time: e.Time, Payload: []byte(cases[i].payload),
		}
		if !reflect.DeepEqual(e, want) {
			t.Errorf("event %d: %+v, want %+v", i, e, want)
		}
		if e.Payload == nil || e.Time.Location() != time.UTC || e.Time.Before(before.Add(-time.Second)) || e.Time.After(time.Now()) {
			t.Errorf("event %d: payload %v, time %v", i, e.Payload, e.Time)
		}
	}
	eventually(t, "counted", func() bool { return src.Stats().Taken["process"] == uint64(len(cases)) })
}

func TestAcksComeAfterCommitAndInOrder(t *testing.T) {
	t.Parallel()
	broker, sink := newRawBroker(t), &testSink{hold: true}
	start(t, baseConfig(sink, broker.url()))
	c := broker.accept(false)
	for id := uint16(1); id <= 4; id++ {
		c.send(publishFrame(qos1, id, "plant/a", fmt.Sprint(id)))
	}
	c.send(publishFrame(qos1, 5, "elsewhere", "refused, but waits for its turn"))
	eventually(t, "appended", func() bool { return len(sink.taken()) == 4 })
	if got := c.acked(); len(got) != 0 {
		t.Fatalf("acknowledged before the commit: %v", got)
	}
	sink.mu.Lock()
	second := sink.dones[1]
	sink.dones = append(sink.dones[:1], sink.dones[2:]...)
	sink.mu.Unlock()
	second(nil) // another class may commit earlier
	sink.commit(1, nil)
	eventually(t, "two acks", func() bool { return len(c.acked()) >= 2 })
	sink.commit(2, nil)
	eventually(t, "all acks", func() bool { return len(c.acked()) >= 5 })
	want := []string{"PUBACK 1", "PUBACK 2", "PUBACK 3", "PUBACK 4", "PUBACK 5"}
	if got := c.acked(); !reflect.DeepEqual(got, want) {
		t.Errorf("acks %v, want %v", got, want)
	}
}

func TestQoS2IsTakenOnceUntilReleased(t *testing.T) {
	t.Parallel()
	broker, sink := newRawBroker(t), &testSink{}
	start(t, baseConfig(sink, broker.url()))
	c := broker.accept(false)
	c.send(publishFrame(qos2, 9, "plant/a", "x"))
	eventually(t, "PUBREC", func() bool { return len(c.acked()) == 1 })
	c.send(publishFrame(qos2|dup, 9, "plant/a", "x"))
	eventually(t, "PUBREC twice", func() bool { return len(c.acked()) == 2 })
	c.send([]byte{0x62, 2, 0, 9})
	eventually(t, "PUBCOMP", func() bool { return len(c.acked()) == 3 })
	c.send(publishFrame(qos2, 9, "plant/a", "x")) // the id is free, so this is another message
	eventually(t, "PUBREC again", func() bool { return len(c.acked()) == 4 })
	if want, got := []string{"PUBREC 9", "PUBREC 9", "PUBCOMP 9", "PUBREC 9"}, c.acked(); !reflect.DeepEqual(got, want) {
		t.Errorf("acks %v, want %v", got, want)
	}
	if n := len(sink.taken()); n != 2 {
		t.Errorf("taken %d times, want 2", n)
	}
}

func TestRefusedMessagesNeverStallTheSession(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 2000)
	cases := []struct {
		name, reason string
		frame        []byte
		ack          string
	}{
		{"payload over max_payload", reasonTooLarge, publishFrame(qos1, 7, "plant/a", long), "PUBACK 7"},
		{"payload over max_payload, QoS 2", reasonTooLarge, publishFrame(qos2, 7, "plant/a", long), "PUBREC 7"},
		{"payload over max_payload, QoS 0", reasonTooLarge, publishFrame(0, 0, "plant/a", long), ""},
		{"empty topic", reasonTopic, publishFrame(qos1, 7, "", "x"), "PUBACK 7"},
		{"topic with +", reasonTopic, publishFrame(qos1, 7, "plant/+/a", "x"), "PUBACK 7"},
		{"topic with #", reasonTopic, publishFrame(qos1, 7, "plant/#", "x"), "PUBACK 7"},
		{"topic with NUL", reasonTopic, publishFrame(qos1, 7, "plant/\x00", "x"), "PUBACK 7"},
		{"topic not UTF-8", reasonTopic, publishFrame(qos1, 7, "plant/\xff\xfe", "x"), "PUBACK 7"},
		{"topic with a surrogate", reasonTopic, publishFrame(qos1, 7, "plant/\xed\xa0\x80", "x"), "PUBACK 7"},
		{"topic of 65,535 bytes without a route", reasonRoute, publishFrame(qos1, 7, strings.Repeat("a", 65535), "x"), "PUBACK 7"},
		{"30,000 levels without a route", reasonRoute, publishFrame(qos1, 7, strings.Repeat("/", 30000), "x"), "PUBACK 7"},
		{"never subscribed", reasonRoute, publishFrame(qos1, 7, "office/a", "x"), "PUBACK 7"},
		{"$ topic", reasonRoute, publishFrame(qos1, 7, "$SYS/a", "x"), "PUBACK 7"},
		{"QoS 3", reasonMalformed, publishFrame(qos1|qos2, 7, "plant/a", "x"), ""},
		{"packet id 0", reasonMalformed, publishFrame(qos1, 0, "plant/a", "x"), ""},
		{"no topic length", reasonMalformed, frameOf(0x32, []byte{0}), ""},
		{"nothing at all", reasonMalformed, frameOf(0x32, nil), ""},
		{"topic longer than the packet", reasonMalformed, frameOf(0x32, []byte{0, 9, 'a'}), ""},
		{"no packet id", reasonMalformed, frameOf(0x32, []byte{0, 1, 'a'}), ""},
		{"not JSON", reasonNotJSON, publishFrame(qos1, 7, "plant/a", "{nope"), "PUBACK 7"},
		{"not JSON, QoS 0", reasonNotJSON, publishFrame(0, 0, "plant/a", ""), ""},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			broker, sink := newRawBroker(t), &testSink{}
			cfg := baseConfig(sink, broker.url())
			cfg.MaxPayload, cfg.Decode = 1000, DecodeJSON
			src, _ := start(t, cfg)
			c := broker.accept(false)
			c.send(tc.frame, publishFrame(qos1, 8, "plant/b", `"good"`))
			want := []string{"PUBACK 8"}
			if tc.ack != "" {
				want = []string{tc.ack, "PUBACK 8"}
			}
			eventually(t, "acknowledged", func() bool { return len(c.acked()) >= len(want) })
			if got := c.acked(); !reflect.DeepEqual(got, want) {
				t.Errorf("acks %v, want %v", got, want)
			}
			if got := sink.payloads(); !reflect.DeepEqual(got, []string{`"good"`}) {
				t.Errorf("taken %q", got)
			}
			for reason, n := range src.Stats().Rejected {
				if (reason == tc.reason) != (n == 1) || n > 1 {
					t.Errorf("rejected %s: %d", reason, n)
				}
			}
		})
	}
}

func TestHostileBrokerCostsOnlyItsConnection(t *testing.T) {
	t.Parallel()
	connack := []byte{0x20, 2, 0, 0}
	cases := []struct {
		name   string
		bytes  []byte
		reason string
	}{
		{"CONNACK with a reserved code", []byte{0x20, 2, 0, 77}, "impossible CONNACK"},
		{"CONNACK of one byte", []byte{0x20, 1, 0}, "type 2 of 1 bytes"},
		{"a second CONNACK", append(connack[:4:4], connack...), "impossible CONNACK"},
		{"PUBLISH before CONNACK", publishFrame(qos1, 1, "plant/a", "x"), "before CONNACK"},
		{"HTTP", []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), "is this an MQTT broker?"},
		{"length of five bytes", append(connack[:4:4], 0x30, 0xff, 0xff, 0xff, 0xff, 1), "more than 4 bytes"},
		{"SUBACK with more codes than filters", append(connack[:4:4], 0x90, 5, 0, 1, 0, 0, 0), "type 9 of 5 bytes"},
		{"SUBACK without a code", append(connack[:4:4], 0x90, 2, 0, 1), "type 9 of 2 bytes"},
		{"PINGRESP with a body of 256 MB", append(connack[:4:4], 0xd0, 0xff, 0xff, 0xff, 0x7f), "type 13"},
		{"PUBACK for nothing", append(connack[:4:4], 0x40, 2, 0, 1), "type 4"},
		{"packet type 0", append(connack[:4:4], 0, 0), "type 0"},
		{"packet type 15", append(connack[:4:4], 0xf0, 0), "type 15"},
		{"CONNECT from the broker", append(connack[:4:4], 0x10, 0), "type 1 "},
		{"end within a header", append(connack[:4:4], 0x30, 0x80), "closed the connection"},
		{"end within a topic", append(connack[:4:4], 0x30, 9, 0, 5, 'a'), "closed the connection"},
		{"end within a payload", append(connack[:4:4], publishFrame(qos1, 1, "plant/a", "xyz")[:14]...), "closed the connection"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			broker, sink := newRawBroker(t), &testSink{}
			src, _ := start(t, baseConfig(sink, broker.url()))
			c := broker.connection()
			c.send(tc.bytes)
			_ = c.Conn.(interface{ CloseWrite() error }).CloseWrite()
			next := broker.accept(false)
			next.send(publishFrame(qos1, 3, "plant/a", "good"))
			eventually(t, "the next connection works", func() bool { return len(next.acked()) == 1 })
			if got := sink.payloads(); !reflect.DeepEqual(got, []string{"good"}) {
				t.Errorf("taken %q", got)
			}
			if got := src.Stats(); !strings.Contains(got.LastError, tc.reason) || got.LastErrAt.IsZero() {
				t.Errorf("last error %q does not say %q", got.LastError, tc.reason)
			}
			if held := src.queue.len(); held != 0 {
				t.Errorf("%d messages still hold room in the queue", held)
			}
		})
	}
}

func TestHugePayloadIsSkippedWithoutMemory(t *testing.T) {
	broker, sink := newRawBroker(t), &testSink{}
	src, _ := start(t, baseConfig(sink, broker.url()))
	c := broker.accept(false)
	waitUp(t, src)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const size = 32 << 20
	head := []byte{0x32, 0x80 | size&0x7f, 0x80 | size>>7&0x7f, 0x80 | size>>14&0x7f, size >> 21}
	body := publishFrame(qos1, 5, "plant/a", "")[2:]
	c.send(head, body)
	chunk := bytes.Repeat([]byte("x"), 1<<20)
	for left := size - len(body); left > 0; {
		n := min(left, len(chunk))
		c.send(chunk[:n])
		left -= n
	}
	c.send(publishFrame(qos1, 6, "plant/a", "good"))
	eventually(t, "both acknowledged", func() bool { return len(c.acked()) == 2 })
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 8<<20 {
		t.Errorf("a refused payload of %d bytes allocated %d", size, grown)
	}
	if got := src.Stats().Rejected[reasonTooLarge]; got != 1 {
		t.Errorf("too-large: %d", got)
	}
}

func TestFullQueueHoldsTheBrokerAndKeepsTheSession(t *testing.T) {
	t.Parallel()
	broker := newRawBroker(t)
	sink := &testSink{gate: make(chan struct{})}
	cfg := baseConfig(sink, broker.url())
	cfg.KeepAlive, cfg.MaxPayload, cfg.QueueCount, cfg.QueueBytes = 2*time.Second, 1<<14, 100, 1<<18
	src, _ := start(t, cfg)
	c := broker.accept(false)
	waitUp(t, src)
	const n = 1500
	go func() { // more than the socket's buffers hold, so this blocks
		for id := 1; id <= n; id++ {
			c.send(publishFrame(qos1, uint16(id), "plant/a", fmt.Sprintf("%-8000d", id)))
		}
	}()
	// Each ping of the keep-alive needs its answer within two seconds. One comes every two seconds at most, and
	// one a second to see whether the broker is there: the tenth proves that two of the first kind were answered,
	// so that the session would stay for ever.
	eventually(t, "ten pings while the sink is full", func() bool { return c.pinged() >= 10 })
	if st := src.Stats(); !st.Up || c.gone() || !strings.HasSuffix(st.State, "1 filter, waiting for room in the buffer") {
		t.Errorf("the session ended: %+v", st)
	}
	src.queue.mu.Lock()
	count, size := src.queue.count, src.queue.bytes
	src.queue.mu.Unlock()
	if count > 100 || size > 1<<18 || count == 0 {
		t.Errorf("the queue holds %d messages, %d bytes", count, size)
	}
	if got := c.acked(); len(got) != 0 {
		t.Errorf("acknowledged while nothing is stored: %v", got)
	}
	close(sink.gate)
	eventually(t, "everything acknowledged", func() bool { return len(c.acked()) == n })
	for i, got := range sink.payloads() {
		if want := fmt.Sprintf("%-8000d", i+1); got != want {
			t.Fatalf("event %d out of order: %.8s", i, got)
		}
	}
}

func TestSubackBehindWhatTheBufferHasNoRoomFor(t *testing.T) {
	t.Parallel()
	broker := newRawBroker(t)
	sink := &testSink{gate: make(chan struct{})}
	cfg := baseConfig(sink, broker.url())
	cfg.KeepAlive, cfg.QueueCount = 2*time.Second, 10
	src, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	src.subackWait = holdCheck * 3 / 2 // so that what is held up has looked in between
	run(t, src)
	c := broker.connection()
	backlog := []byte{0x20, 2, 1, 0}
	for id := uint16(1); id <= 50; id++ {
		backlog = append(backlog, publishFrame(qos1|dup, id, "plant/a", "x")...)
	}
	c.send(backlog)
	eventually(t, "two pings", func() bool { return c.pinged() >= 2 })
	if st := src.Stats(); c.gone() || st.LastError != "" || st.Up {
		t.Errorf("the session did not wait: %+v", st)
	}
	close(sink.gate)
	waitUp(t, src)
	eventually(t, "all acknowledged", func() bool { return len(c.acked()) == 50 })
}

func TestBrokerThatAnswersNoSubscriptionIsLeft(t *testing.T) {
	t.Parallel()
	broker := newRawBroker(t)
	src, err := New(baseConfig(&testSink{}, broker.url()))
	if err != nil {
		t.Fatal(err)
	}
	src.subackWait = 20 * time.Millisecond
	run(t, src)
	c := broker.connection()
	c.suback = func(string) byte { return silent }
	c.send([]byte{0x20, 2, 0, 0})
	broker.accept(false)
	if got := src.Stats().LastError; !strings.Contains(got, `subscribe "plant/#": the broker does not answer`) {
		t.Errorf("last error %q", got)
	}
}

func TestFullQueueDropsQoS0(t *testing.T) {
	t.Parallel()
	broker := newRawBroker(t)
	sink := &testSink{gate: make(chan struct{})}
	cfg := baseConfig(sink, broker.url())
	cfg.QueueCount = 10
	src, _ := start(t, cfg)
	c := broker.accept(false)
	for i := range 100 {
		c.send(publishFrame(0, 0, "plant/a", fmt.Sprint(i)))
	}
	eventually(t, "dropped", func() bool { return src.Stats().Rejected[reasonQueueFull] == 90 })
	close(sink.gate)
	eventually(t, "the rest taken", func() bool { return len(sink.taken()) == 10 })
}

func TestSlowPayloadAnswersForThePings(t *testing.T) {
	t.Parallel()
	broker, sink := newRawBroker(t), &testSink{}
	cfg := baseConfig(sink, broker.url())
	cfg.KeepAlive = time.Second
	src, _ := start(t, cfg)
	c := broker.accept(false)
	waitUp(t, src)
	c.mu.Lock()
	c.mute = true // its answers would stand behind the payload
	c.mu.Unlock()
	frame := publishFrame(qos1, 1, "plant/a", strings.Repeat("x", 100000))
	c.send(frame[:20])
	rest := frame[20:]
	for c.pinged() < 2 && !c.gone() {
		c.send(rest[:10])
		rest = rest[10:]
		time.Sleep(20 * time.Millisecond)
	}
	c.send(rest)
	eventually(t, "acknowledged on the same connection", func() bool { return len(c.acked()) == 1 || c.gone() })
	if c.gone() {
		t.Fatal("the session ended within the payload")
	}
}

func TestBrokerThatAnswersNoPingsIsLeft(t *testing.T) {
	t.Parallel()
	broker := newRawBroker(t)
	cfg := baseConfig(&testSink{}, broker.url())
	cfg.KeepAlive = time.Second
	src, _ := start(t, cfg)
	c := broker.accept(false)
	c.mu.Lock()
	c.mute = true
	c.mu.Unlock()
	broker.accept(false)
	if got := src.Stats().LastError; !strings.Contains(got, "does not answer pings") {
		t.Errorf("last error %q", got)
	}
}

func TestRedeliveryIsNotStoredTwice(t *testing.T) {
	cases := []struct {
		name           string
		committed      bool // before the connection breaks
		sessionPresent bool
		again          []byte
		stored         int
	}{
		{"pending, comes again", false, true, publishFrame(qos1|dup, 3, "plant/a", "x"), 1},
		{"acknowledged, but the ack got lost", true, true, publishFrame(qos1|dup, 3, "plant/a", "x"), 1},
		{"acknowledged, another message under the same id", true, true, publishFrame(qos1|dup, 3, "plant/a", "y"), 2},
		{"acknowledged, same content without DUP is new", true, true, publishFrame(qos1, 3, "plant/a", "x"), 2},
		{"acknowledged, but the broker lost the session", true, false, publishFrame(qos1|dup, 3, "plant/a", "x"), 2},
		{"QoS 2, PUBREC got lost", true, true, publishFrame(qos2|dup, 4, "plant/a", "x"), 1},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			broker, sink := newRawBroker(t), &testSink{hold: true}
			src, _ := start(t, baseConfig(sink, broker.url()))
			c := broker.accept(false)
			waitUp(t, src)
			flags, id, ack := byte(qos1), uint16(3), "PUBACK 3"
			if tc.again[0]&qos2 != 0 {
				flags, id, ack = qos2, 4, "PUBREC 4"
			}
			c.send(publishFrame(flags, id, "plant/a", "x"))
			eventually(t, "appended", func() bool { return len(sink.taken()) == 1 })
			if tc.committed {
				sink.commit(1, nil)
				eventually(t, "acknowledged", func() bool { return len(c.acked()) == 1 })
			}
			_ = c.Close()
			next := broker.accept(tc.sessionPresent)
			next.send(tc.again, publishFrame(qos1, 50, "plant/end", "end"))
			eventually(t, "the last one appended", func() bool { return len(sink.taken()) == tc.stored+1 })
			sink.mu.Lock()
			sink.hold = false
			held := len(sink.dones)
			sink.mu.Unlock()
			sink.commit(held, nil)
			eventually(t, "acknowledged on the new connection", func() bool { return len(next.acked()) == 2 })
			if got, want := next.acked(), []string{ack, "PUBACK 50"}; !reflect.DeepEqual(got, want) {
				t.Errorf("acks %v, want %v", got, want)
			}
		})
	}
}

func TestRetainedMessagesAreNotTakenAgainAtEachConnect(t *testing.T) {
	t.Parallel()
	broker, sink := newRawBroker(t), &testSink{}
	start(t, baseConfig(sink, broker.url()))
	c := broker.accept(false)
	c.send(publishFrame(qos1|retain, 1, "plant/a", "on"), publishFrame(qos1, 2, "plant/a", "off"))
	eventually(t, "taken", func() bool { return len(c.acked()) == 2 })
	_ = c.Close()
	c = broker.accept(true)
	c.send(publishFrame(qos1|retain, 3, "plant/a", "off"), publishFrame(qos1|retain, 4, "plant/a", "off"))
	eventually(t, "acknowledged", func() bool { return len(c.acked()) == 2 })
	if got, want := sink.payloads(), []string{"on", "off", "off"}; !reflect.DeepEqual(got, want) {
		t.Errorf("taken %q, want %q", got, want)
	}
}

func TestMessageThatTheSinkGaveBackComesAgain(t *testing.T) {
	t.Parallel()
	broker, sink := newRawBroker(t), &testSink{hold: true}
	src, _ := start(t, baseConfig(sink, broker.url()))
	c := broker.accept(false)
	waitUp(t, src)
	c.send(publishFrame(qos1, 3, "plant/a", "x"))
	eventually(t, "appended", func() bool { return len(sink.taken()) == 1 })
	sink.commit(1, errors.New("disk broke"))
	next := broker.accept(true)
	next.send(publishFrame(qos1|dup, 3, "plant/a", "x"))
	eventually(t, "appended again", func() bool { return len(sink.taken()) == 2 })
	sink.commit(1, nil)
	eventually(t, "acknowledged", func() bool { return len(next.acked()) == 1 })
	if got := c.acked(); len(got) != 0 {
		t.Errorf("acknowledged although it was not stored: %v", got)
	}
}

func TestRefusedFilterIsSeenAndAskedForAgain(t *testing.T) {
	t.Parallel()
	broker, sink := newRawBroker(t), &testSink{}
	cfg := baseConfig(sink, broker.url())
	cfg.Subscriptions = append(cfg.Subscriptions, Subscription{Filter: "$share/g/secret/+", QoS: 1, Class: "alarm"})
	src, _ := start(t, cfg)
	c := broker.connection()
	allowed := false
	c.suback = func(filter string) byte {
		if strings.HasPrefix(filter, "$share/") && !allowed {
			return 0x80
		}
		return 1
	}
	c.send([]byte{0x20, 2, 0, 0})
	eventually(t, "an error that names the filter", func() bool {
		return strings.Contains(src.Stats().LastError, `"$share/g/secret/+"`)
	})
	if st := src.Stats(); st.Up || !strings.Contains(st.State, "1 of 2 filters refused") {
		t.Errorf("stats %+v", st)
	}
	c.send(publishFrame(qos1, 1, "plant/a", "x"))
	eventually(t, "the other filter works", func() bool { return len(c.acked()) == 1 })
	c.mu.Lock()
	allowed = true
	c.mu.Unlock()
	waitUp(t, src)
}
