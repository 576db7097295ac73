package buffer

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// TestOverrunUplinksAreToldOfEverything has uplinks that cannot follow, one of them
// with a live share, read a class that drops, over crashes: each number came to
// each of them, or a gap record stands for it.
func TestOverrunUplinksAreToldOfEverything(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	c := config(t, func(c *Config) {
		c.Classes[0].KeepBytes, c.Classes[0].WhenFull, c.Memory, c.Log = 1<<20, DropOldest, 1, slog.New(slog.DiscardHandler)
		c.Uplinks["ahead"] = nil
		c.CommitDelay = time.Millisecond
	})
	seen := map[string]map[uint64]bool{"central": {}, "ahead": {}}
	n, late := 0, 0
	for range 4 {
		r := start(t, c)
		ctx, cancel := context.WithCancel(t.Context())
		var readers sync.WaitGroup
		for uplink := range seen {
			rnd := rand.New(rand.NewPCG(rnd.Uint64(), 2))
			readers.Go(func() {
				if n := r.overrun(ctx, uplink, rnd, seen[uplink]); uplink == "ahead" {
					late += n
				}
			})
		}
		for range 25 {
			putNoise(t, r, n, 80)
			n += 80
		}
		cancel()
		readers.Wait()
		r.crash()
	}
	if late == 0 {
		t.Error("nothing was read ahead of a backlog")
	}
	r := start(t, c)
	for uplink, seen := range seen {
		r.allTold(r.reader(uplink), seen)
	}
}

// overrun reads a little at a time and acknowledges some of it. It returns how many
// batches were of a backlog beside which newer events were returned.
func (r *running) overrun(ctx context.Context, uplink string, rnd *rand.Rand, seen map[uint64]bool) (late int) {
	rd, err := r.Reader(uplink)
	if err != nil {
		r.t.Error(err)
		return 0
	}
	defer rd.Close()
	if uplink == "ahead" {
		rd.LiveShare(0.6)
		rd.lateAfter, rd.againAfter = 5*time.Millisecond, 20*time.Millisecond
	}
	for ctx.Err() == nil {
		b, err := rd.NextUpTo(ctx, 1+rnd.IntN(30), 1<<20)
		if errors.Is(err, context.Canceled) {
			break
		}
		if err != nil {
			r.t.Error(err)
			break
		}
		if b.Late {
			late++
		}
		noteTold(r.t, b, seen)
		if rnd.IntN(3) > 0 {
			rd.AckRun(b.Class, b.Run, b.Last())
		}
		if rnd.IntN(3) == 0 {
			time.Sleep(time.Duration(rnd.IntN(20)) * time.Millisecond)
		}
		if rnd.IntN(50) == 0 {
			rd.Rewind(nil)
		}
	}
	return late
}
