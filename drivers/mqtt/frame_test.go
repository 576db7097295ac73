package mqtt

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"sluice/drivers"
)

// scriptConn is a socket that gives fixed bytes in pieces of a fixed size.
type scriptConn struct {
	net.Conn // nil: nothing else of it is used
	rest     []byte
	piece    int
}

func (c *scriptConn) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), c.piece)], c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *scriptConn) Write(p []byte) (int, error)      { return len(p), nil }
func (c *scriptConn) SetWriteDeadline(time.Time) error { return nil }
func (c *scriptConn) SetDeadline(time.Time) error      { return nil }
func (c *scriptConn) Close() error                     { return nil }

// parse runs a connection over input and returns what paho and the queue got.
func parse(t *testing.T, input []byte, piece int) (control []byte, taken []item, rejected map[string]uint64, why string) {
	t.Helper()
	src, err := New(Config{
		Name: "s", ClientID: "c", Servers: []string{"tcp://127.0.0.1:1"}, Sink: &testSink{},
		MaxPayload: 64, QueueCount: 1 << 20, QueueBytes: 1 << 30,
		Subscriptions: []Subscription{{Filter: "a/#", Class: "process"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	c := newConn(&scriptConn{rest: input, piece: piece}, "tcp://127.0.0.1:1", src.intake)
	control, err = io.ReadAll(io.LimitReader(c, 1<<20))
	c.finish()
	src.queue.mu.Lock()
	taken = src.queue.items
	src.queue.mu.Unlock()
	if src.queue.len() != len(taken) {
		t.Fatalf("%d messages hold room, %d are there", src.queue.len(), len(taken))
	}
	return control, taken, src.Stats().Rejected, fmt.Sprint(err)
}

// FuzzConn feeds a broker's bytes to the parser. It must not panic; how the
// bytes are cut into segments must make no difference; what it passes on must
// be within its limits; and what it took must, encoded again, be taken again.
func FuzzConn(f *testing.F) {
	hello := []byte{0x20, 2, 0, 0}
	f.Add(hello)
	f.Add(append(hello[:4:4], publishFrame(qos1, 1, "a/b", "payload")...))
	f.Add(append(hello[:4:4], publishFrame(qos2|dup, 65535, "a", "")...))
	f.Add(append(hello[:4:4], publishFrame(0, 0, "a/b/c", string(make([]byte, 65)))...))
	f.Add(append(hello[:4:4], publishFrame(retain, 0, "b", "no route")...))
	f.Add(append(hello[:4:4], 0x90, 3, 0, 1, 0x80, 0xd0, 0, 0x62, 2, 0, 1))
	f.Add(append(hello[:4:4], 0xb0, 2, 0, 1, 0xb0, 3, 0, 1, 0))
	f.Add(append(hello[:4:4], 0x32, 0xff, 0xff, 0xff, 0x7f, 0, 1, 'a', 0, 1))
	f.Add([]byte{0x30, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, input []byte) {
		control, taken, rejected, why := parse(t, input, len(input)+1)
		control2, taken2, rejected2, why2 := parse(t, input, 1)
		if !bytes.Equal(control, control2) || len(taken) != len(taken2) || fmt.Sprint(rejected) != fmt.Sprint(rejected2) || why != why2 {
			t.Fatalf("in one piece: %x %d %v %s\nbyte by byte: %x %d %v %s",
				control, len(taken), rejected, why, control2, len(taken2), rejected2, why2)
		}
		again := []byte{0x20, 2, 0, 0}
		for i, it := range taken {
			if len(it.payload) > 64 || !checkTopic([]byte(it.name)) || it.class != "process" || !bytes.Equal(it.payload, taken2[i].payload) {
				t.Fatalf("took %+v", it)
			}
			again = append(again, publishFrame(qos1, uint16(i%65535+1), it.name, string(it.payload))...)
		}
		_, taken3, _, _ := parse(t, again, 7)
		if len(taken) < 65535 && len(taken3) != len(taken) {
			t.Fatalf("of %d messages %d were taken again", len(taken), len(taken3))
		}
		for i, it := range taken3 {
			if it.name != taken[i].name || !bytes.Equal(it.payload, taken[i].payload) {
				t.Fatalf("took %q %x, and then %q %x", taken[i].name, taken[i].payload, it.name, it.payload)
			}
		}
	})
}

// FuzzPublish: what the decoder of PUBLISH accepts is, encoded again, what came.
func FuzzPublish(f *testing.F) {
	f.Add(publishFrame(qos1, 1, "a/b", "payload"))
	f.Add(publishFrame(qos2|dup|retain, 65535, "a", ""))
	f.Add(publishFrame(0, 0, "", "x"))
	f.Add(publishFrame(qos1|qos2, 1, "a", "x"))
	f.Add([]byte{0x32, 0x85, 0x80, 0, 0, 1, 'a', 0, 1})
	f.Fuzz(func(t *testing.T, input []byte) {
		r := bufio.NewReader(bytes.NewReader(input))
		h, err := readHeader(r)
		if err != nil || h.kind != typePublish {
			return
		}
		p, topic, _, err := readPublish(r, h, nil)
		if err != nil {
			return
		}
		rest, err := io.ReadAll(r)
		if err != nil || p.malformed || p.left > len(rest) {
			return
		}
		head := len(input) - len(rest) // of the fixed header, whose length may be longer than needed, and the variable one
		fixed := head - (h.length - p.left)
		want := frameOf(input[0], input[fixed:fixed+h.length])
		if got := publishFrame(h.flags, p.id, string(topic), string(rest[:p.left])); !bytes.Equal(got, want) {
			t.Fatalf("%x came, %x after decoding", want, got)
		}
		if p.dup != (h.flags&dup != 0) || p.retain != (h.flags&retain != 0) || p.qos != h.flags>>1&3 {
			t.Fatalf("flags %x are %+v", h.flags, p)
		}
	})
}

// FuzzFilter checks that filters and topics never panic, that a filter without
// wildcards matches itself and that # matches every topic but those with $.
func FuzzFilter(f *testing.F) {
	f.Add("a/+/#", "a/b/c")
	f.Add("$share/g/+", "x")
	f.Add("#", "$SYS")
	f.Fuzz(func(t *testing.T, filter, name string) {
		if checkFilter(filter) != nil || !checkTopic([]byte(name)) {
			return
		}
		_ = newRoutes([]Subscription{{Filter: filter}})[0].match(name)
		if len(name) > 7 && name[:7] == "$share/" {
			return
		}
		if !newRoutes([]Subscription{{Filter: name}})[0].match(name) {
			t.Errorf("%q does not match itself", name)
		}
		if newRoutes([]Subscription{{Filter: "#"}})[0].match(name) == (name[0] == '$') {
			t.Errorf("# and %q", name)
		}
	})
}

// BenchmarkIntake drains QoS 1 messages of 190 bytes from a broker with
// a window of 1,000 into a sink that commits at once from another goroutine.
func BenchmarkIntake(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	sink := &countSink{dones: make(chan func(error), 1024), all: make(chan struct{}), want: int64(b.N)}
	src, err := New(baseConfig(sink, "tcp://"+ln.Addr().String()))
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- src.Run(ctx) }()
	go sink.commit(ctx)
	nc, err := ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	go blast(nc, b.N)
	<-sink.all
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}

// countSink commits from a goroutine of its own, as the buffer does.
type countSink struct {
	dones chan func(error)
	all   chan struct{}
	n     atomic.Int64
	want  int64
}

func (s *countSink) Append(ctx context.Context, _ drivers.Event, done func(error)) error {
	select {
	case s.dones <- done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *countSink) commit(ctx context.Context) {
	for {
		select {
		case done := <-s.dones:
			done(nil)
			if s.n.Add(1) == s.want {
				close(s.all)
			}
		case <-ctx.Done():
			return
		}
	}
}

// blast is a broker that sends n messages with a window of 1,000.
func blast(nc net.Conn, n int) {
	defer func() { _ = nc.Close() }()
	buf := make([]byte, 64<<10)
	if _, err := nc.Read(buf); err != nil { // CONNECT
		return
	}
	_, _ = nc.Write([]byte{0x20, 2, 0, 0})
	if _, err := nc.Read(buf); err != nil { // SUBSCRIBE
		return
	}
	_, _ = nc.Write([]byte{0x90, 3, 0, 1, 1})
	frame := publishFrame(qos1, 0, "plant/line-1/machine-07/telemetry", string(bytes.Repeat([]byte("x"), 190)))
	id := len(frame) - 190 - 2
	sent, acked := 0, 0
	var out []byte
	for acked/4 < n {
		out = out[:0]
		for sent < n && sent-acked/4 < 1000 && len(out) < 32<<10 {
			sent++
			binary.BigEndian.PutUint16(frame[id:], uint16(sent%65535+1))
			out = append(out, frame...)
		}
		if len(out) > 0 {
			if _, err := nc.Write(out); err != nil {
				return
			}
			if sent-acked/4 < 1000 && sent < n {
				continue
			}
		}
		got, err := nc.Read(buf)
		if err != nil {
			return
		}
		acked += got
	}
	_, _ = nc.Read(buf)
}
