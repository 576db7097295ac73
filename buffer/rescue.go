package buffer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// rescue makes the next generation of a damaged segment of the blocks that are
// whole in it; end is the first number of the file that follows. The damaged file
// stays as it is; blocks of an incarnation that is not ours are not whole. nil without an error: there is nothing to save.
func (s *segment) rescue(class string, end uint64, ours func(string) bool) (*segment, error) {
	var w *rewriter
	var rescued []span
	err := s.wholeBlocks(class, end, ours, func(r run) (err error) {
		if w == nil {
			a := about{Format: segmentFormat, Class: class, Incarnation: r.incarnation, First: s.about.First, Thinned: s.about.Thinned}
			if w, err = newRewriter(filepath.Dir(s.path), a, s.gen+1, fileSize(s.path)); err != nil {
				return err
			}
		}
		rescued = append(rescued, span{r.first, r.last()})
		return w.put(r)
	})
	if w == nil {
		return nil, err
	}
	if err != nil {
		return nil, errors.Join(err, w.seg.discard())
	}
	fresh, err := w.finish(nil, nil)
	if err != nil {
		return nil, err
	}
	fresh.rescued = rescued
	return fresh, nil
}

// wholeBlocks hands the blocks that are whole in a file to put, by their numbers.
func (s *segment) wholeBlocks(class string, end uint64, ours func(incarnation string) bool, put func(run) error) error {
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer f.Close()
	c, err := newCodec()
	if err != nil {
		return err
	}
	var found []foundBlock
	err = scanBlocks(f, fileSize(s.path), func(at int64, block []byte) error {
		if h, err := parseHeader(block); err == nil && ours(h.incarnation) {
			found = append(found, foundBlock{header: h, at: at, bytes: len(block)})
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, b := range pickBlocks(found, incarnationOf(found), s.about.First, end) {
		r, err := b.read(f, c, class)
		if errors.Is(err, errDamaged) { // whole a moment ago; the disk is dying
			continue
		}
		if err != nil {
			return err
		}
		if r.clamp(end - 1); r.span == 0 {
			continue
		}
		if err = put(r); err != nil {
			return err
		}
	}
	return nil
}

// incarnationOf is the incarnation of most of the blocks: a file has one, and
// what an event carried or the disk held before may have another.
func incarnationOf(found []foundBlock) (incarnation string) {
	votes := map[string]int{}
	for _, b := range found {
		if votes[b.incarnation]++; votes[b.incarnation] > votes[incarnation] {
			incarnation = b.incarnation
		}
	}
	return incarnation
}

// read reads and decodes a block that was found.
func (b *foundBlock) read(f *os.File, c *codec, class string) (run, error) {
	buf := make([]byte, b.bytes)
	if _, err := f.ReadAt(buf, b.at); err != nil {
		return run{}, openError(fmt.Errorf("read %d bytes at %d: %w", b.bytes, b.at, err))
	}
	_, r, err := c.decode(buf, class)
	return r, err
}
