package buffer

import (
	"context"
	"errors"
	"testing"
	"time"

	"sluice/drivers"
)

var _ drivers.Roomy = (*Buffer)(nil)

// TestAFullClassHasNoRoomUntilItIsDelivered offers events as a source does that asks
// first, and nothing else: room must come back without an Append that waits for it.
func TestAFullClassHasNoRoomUntilItIsDelivered(t *testing.T) {
	r := start(t, config(t, func(c *Config) {
		c.Classes = []Class{{Name: "process", KeepBytes: 1 << 20}, {Name: "alarm"}}
		c.Memory = 1 << 20
	}))
	if !r.Room("process") || !r.Room("alarm") || !r.Room("unknown") {
		t.Fatal("an empty buffer has no room")
	}
	ctx, cancel := context.WithCancel(t.Context()) // the class may become full between Room and Append, which waits then
	go func() {
		defer cancel()
		for r.Room("process") && t.Context().Err() == nil {
			time.Sleep(time.Millisecond)
		}
	}()
	n := 0
	for ; r.Room("process"); n++ {
		e := event("process", n)
		e.Payload = noise(n, 4096)
		if err := r.Append(ctx, e, nil); errors.Is(err, context.Canceled) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	<-ctx.Done()
	if !r.Stats().Classes["process"].Blocked || !r.Room("alarm") {
		t.Errorf("no room after %d events, alarm %v, %+v", n, r.Room("alarm"), r.Stats().Classes["process"])
	}
	rd := r.reader("central")
	for i := 0; i < n; {
		b := next(t, rd)
		i += len(b.Events)
		rd.Ack("process", b.Last())
	}
	waitFor(t, "room", func() bool { return r.Room("process") })
}

// TestAReaderNeverBlocksTheWriter holds a read of the segment that is written, until it is
// full and the next ones are: a file whose map has to grow would wait for it.
func TestAReaderNeverBlocksTheWriter(t *testing.T) {
	r := start(t, config(t, func(c *Config) { c.Segment, c.Classes[0].KeepBytes, c.Log = 4<<20, 64<<20, nil }))
	putNoise(t, r, 0, 1)
	l := r.lanes["process"]
	l.mu.Lock()
	held := l.active
	l.mu.Unlock()
	reading, err := held.db.Begin(false)
	if err != nil {
		t.Fatal(err)
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		putNoise(t, r, 1, 8000) // 20 MB
	}()
	select {
	case <-written:
	case <-time.After(time.Minute):
		t.Error("the writer waits for a reader")
	}
	if err := reading.Rollback(); err != nil {
		t.Error(err)
	}
	<-written
	if size := held.bytes; size < 4<<20 {
		t.Errorf("the segment that was read has %d bytes", size)
	}
}
