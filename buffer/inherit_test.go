package buffer

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"sluice/drivers"
)

// TestAnotherBufferTakesWhatIsQueued fills a class until it blocks, closes it and
// opens it with more room.
func TestAnotherBufferTakesWhatIsQueued(t *testing.T) {
	dir := t.TempDir()
	open := func(keep int64) *Buffer {
		b, err := Open(Config{Dir: dir, Classes: []Class{{Name: "a", KeepBytes: keep}, {Name: "b"}}, Uplinks: map[string][]string{"u": nil}, Segment: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	run := func(b *Buffer) (stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- b.Run(ctx) }()
		return func() { cancel(); <-ended }
	}
	b := open(1 << 20)
	stop := run(b)
	told := make(chan string, 1<<16)
	queued := 0
	for ; ; queued++ {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		name := fmt.Sprint(queued)
		p := append([]byte(name+" "), noise(queued, 16<<10)...) // so large that nothing is merged, which would make room
		err := b.Append(ctx, drivers.Event{Class: "a", Subject: name, Time: time.Now(), Payload: p}, func(err error) { told <- fmt.Sprint(name, " ", err) })
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			if b.Stats().Classes["a"].Blocked {
				break
			}
			queued-- // a busy disk; it comes again
		} else if err != nil {
			t.Fatal(err)
		}
	}
	b.Retire()
	stop()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	left := queued - len(told)
	if left == 0 {
		t.Fatal("nothing was left behind: the class did not block")
	}
	if err := b.Append(t.Context(), drivers.Event{Class: "a"}, nil); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	c := open(256 << 20)
	c.Inherit(b)
	stop = run(c)
	for i := range queued {
		select {
		case got := <-told:
			if want := fmt.Sprint(i, " <nil>"); got != want {
				t.Fatalf("told %q, want %q", got, want)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%d of %d were told, %d were left behind", i, queued, left)
		}
	}
	stop()
	if st := c.Stats().Classes["a"]; st.Next != uint64(queued)+1 || st.Events != uint64(queued) {
		t.Errorf("%+v", st)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}
