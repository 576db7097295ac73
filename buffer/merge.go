package buffer

import (
	"context"
	"errors"
)

// Commits of a few events make small blocks: they compress badly and fill the
// class's limit early. A sealed segment of such blocks that will stay, since its
// uplinks are behind, is written again with large ones, beside the writer.

const (
	// A segment with fewer events and bytes per block than this, and this many blocks,
	// is worth it: writing it again costs a small part of what its commits cost.
	mergeEvents = blockEvents / 8
	mergeBytes  = 12 << 10
	mergeBlocks = 32
)

// errFew says that a segment is not worth being merged.
var errFew = errors.New("its blocks are large enough")

// merged is what a merge made of a segment; fresh is nil when it failed.
type merged struct {
	old, fresh *segment
	blocks     uint64 // of old
	err        error
}

// few reports whether s has too few blocks, or large enough ones.
func (s *segment) few(blocks uint64) bool {
	return blocks < mergeBlocks || s.tally.events/blocks >= mergeEvents || uint64(s.bytes)/blocks >= mergeBytes
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
		if s == l.active || s.keepAsIs || s.tally.events == 0 || s.blocks == 0 && s.gen > 0 || s.blocks > 0 && s.few(s.blocks) {
			continue // what was made anew is as it should be
		}
		if low >= s.about.First+s.tally.events/2 { // most of it will be gone soon
			continue
		}
		if l.disk.short(s.bytes) || l.elsewhere() != nil { // there would be two of it for a while
			return
		}
		l.merging, s.keepAsIs = true, true
		cursors := l.ackedCursors()
		m := merged{old: s, blocks: s.blocks}
		go func() {
			if m.blocks == 0 { // of an earlier process
				m.blocks, m.err = s.count()
			}
			if m.err == nil && s.few(m.blocks) {
				m.err = errFew
			}
			if m.err == nil {
				m.fresh, m.err = rewriteLarger(ctx, l.dir, s, cursors)
			}
			l.merges <- m
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
	l.mu.Lock()
	m.old.blocks = max(m.blocks, 1)
	l.mu.Unlock()
	switch {
	case m.err == nil:
		l.replace(m.old, m.fresh)
	case errors.Is(m.err, errFew):
		m.old.keepAsIs = false
		l.used(m.old)
	case !errors.Is(m.err, context.Canceled):
		l.log.Warn("cannot merge the small blocks of a segment; it stays as it is", "file", m.old.path, "error", m.err)
	}
}

// count counts the blocks.
func (s *segment) count() (n uint64, err error) {
	err = s.each(func(uint64, []byte) error { n++; return nil })
	return n, err
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
