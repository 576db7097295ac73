package buffer

import (
	"context"
	"errors"
)

// Commits of a few events make small blocks: they compress badly and fill the
// class's limit early. A sealed segment of such blocks that will stay, since its
// uplinks are behind, is written again with large ones, beside the writer.

const (
	// A segment with fewer events per block than this, and this many blocks, is
	// worth it: writing it again costs a small part of what its commits cost.
	mergeEvents = blockEvents / 8
	mergeBlocks = 32
)

// merged is what a merge made of a segment; fresh is nil when it failed.
type merged struct {
	old, fresh *segment
	err        error
}

// mergeSmall begins to merge the newest sealed segment that is worth it, unless a
// merge is under way.
func (l *lane) mergeSmall(ctx context.Context) {
	if l.merging {
		return
	}
	l.mu.Lock()
	low := l.minAcked()
	l.mu.Unlock()
	for _, s := range l.segments {
		if s == l.active || s.keepAsIs || s.blocks < mergeBlocks || s.tally.events/s.blocks >= mergeEvents {
			continue
		}
		if low >= s.about.First+s.tally.events/2 { // most of it will be gone soon
			continue
		}
		l.merging, s.keepAsIs = true, true
		cursors := l.ackedCursors()
		go func() {
			fresh, err := rewriteLarger(ctx, l.dir, s, cursors)
			l.merges <- merged{s, fresh, err}
		}()
		return
	}
}

// endMerge takes up a merge that has ended; wait waits for one that is under way.
func (l *lane) endMerge(wait bool) {
	if !l.merging {
		return
	}
	var m merged
	if wait {
		m = <-l.merges
	} else {
		select {
		case m = <-l.merges:
		default:
			return
		}
	}
	l.merging = false
	switch {
	case m.err == nil:
		l.replace(m.old, m.fresh)
	case !errors.Is(m.err, context.Canceled):
		l.log.Warn("cannot merge the small blocks of a segment; it stays as it is", "file", m.old.path, "error", m.err)
	}
}

// rewriteLarger makes the next generation of s, with blocks as large as may be.
func rewriteLarger(ctx context.Context, dir string, s *segment, cursors map[string]uint64) (*segment, error) {
	w, err := newRewriter(dir, s.about, s.gen+1, s.bytes)
	if err != nil {
		return nil, err
	}
	err = s.pour(w.codec, func(r run) error { return errors.Join(ctx.Err(), w.put(r)) })
	if err != nil {
		return nil, errors.Join(err, w.seg.discard())
	}
	return w.finish(s.skips, cursors)
}
