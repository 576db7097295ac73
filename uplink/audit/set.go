package audit

import (
	"iter"
	"slices"
	"sort"
)

// span is a run of numbers, both ends included. No number is above maxSeq, so
// that last+1 is always one, too.
type span struct{ first, last uint64 }

// Sizes of a set, for the account of memory.
const (
	spanBytes  = 16
	blockBytes = 24  // a slice's header
	blockSpans = 128 // an insertion moves no more than these
)

// set holds numbers as ascending spans that neither overlap nor touch. They stand in
// blocks, so that one in the middle costs the same however many there are. The
// zero set is empty.
type set struct {
	blocks [][]span // none is empty
	bytes  int64    // of the blocks
}

func (s *set) empty() bool { return len(s.blocks) == 0 }

// find returns the place of the first span that ends at n or later; at the end of
// the set b is len(blocks).
func (s *set) find(n uint64) (b, i int) {
	b = sort.Search(len(s.blocks), func(b int) bool { k := s.blocks[b]; return k[len(k)-1].last >= n })
	if b == len(s.blocks) {
		return b, 0
	}
	k := s.blocks[b]
	return b, sort.Search(len(k), func(i int) bool { return k[i].last >= n })
}

func (s *set) has(n uint64) bool {
	b, i := s.find(n)
	return b < len(s.blocks) && s.blocks[b][i].first <= n
}

// add adds n and reports whether it was not there before.
func (s *set) add(n uint64) bool {
	if last := len(s.blocks) - 1; last >= 0 { // mostly numbers come in their order
		k := s.blocks[last]
		if e := &k[len(k)-1]; e.last+1 == n {
			e.last = n
			return true
		}
	}
	if s.has(n) {
		return false
	}
	s.addSpan(span{n, n})
	return true
}

// addSpan adds all numbers of n, which begins at 1 or later.
func (s *set) addSpan(n span) {
	for {
		b, i := s.find(n.first - 1)
		if b == len(s.blocks) || s.blocks[b][i].first > n.last+1 {
			s.insert(b, i, n)
			return
		}
		if k := s.blocks[b][i]; k.first <= n.first && n.last <= k.last {
			return
		}
		n.first, n.last = min(n.first, s.blocks[b][i].first), max(n.last, s.blocks[b][i].last)
		s.remove(b, i)
	}
}

func (s *set) insert(b, i int, n span) {
	if b == len(s.blocks) && b > 0 && len(s.blocks[b-1]) < blockSpans {
		b, i = b-1, len(s.blocks[b-1])
	}
	switch {
	case b == len(s.blocks): // behind a full block, or the first of all
		s.blocks = append(s.blocks, []span{n})
		s.bytes += blockBytes + spanBytes
		return
	case len(s.blocks[b]) == blockSpans:
		s.split(b)
		if i > blockSpans/2 {
			b, i = b+1, i-blockSpans/2
		}
	}
	before := cap(s.blocks[b])
	s.blocks[b] = slices.Insert(s.blocks[b], i, n)
	s.bytes += spanBytes * int64(cap(s.blocks[b])-before)
}

// split makes two blocks of one that is full.
func (s *set) split(b int) {
	k := s.blocks[b]
	tail := slices.Clone(k[blockSpans/2:])
	s.blocks[b] = k[:blockSpans/2]
	s.blocks = slices.Insert(s.blocks, b+1, tail)
	s.bytes += blockBytes + spanBytes*int64(cap(tail))
}

func (s *set) remove(b, i int) {
	s.blocks[b] = slices.Delete(s.blocks[b], i, i+1)
	if len(s.blocks[b]) == 0 {
		s.bytes -= blockBytes + spanBytes*int64(cap(s.blocks[b]))
		s.blocks = slices.Delete(s.blocks, b, b+1)
	}
}

// from yields the spans from the one that holds or follows n on.
func (s *set) from(n uint64) iter.Seq[span] {
	return func(yield func(span) bool) {
		b, i := s.find(n)
		for ; b < len(s.blocks); b, i = b+1, 0 {
			for _, k := range s.blocks[b][i:] {
				if !yield(k) {
					return
				}
			}
		}
	}
}

// first is the lowest number; 0: there is none.
func (s *set) first() uint64 {
	if s.empty() {
		return 0
	}
	return s.blocks[0][0].first
}

// without yields the numbers of in, which are ascending, that s lacks, and calls has
// (nil: nobody) with those that it has, before what follows them. Nothing is held in
// memory. Where the spans of in do not touch, neither do those of either kind.
func (s *set) without(in iter.Seq[span], has func(span)) iter.Seq[span] {
	return func(yield func(span) bool) {
		for left := range in {
			for k := range s.from(left.first) {
				if k.first > left.last {
					break
				}
				if k.first > left.first && !yield(span{left.first, k.first - 1}) {
					return
				}
				if has != nil {
					has(span{max(k.first, left.first), min(k.last, left.last)})
				}
				if left.first = k.last + 1; left.first > left.last {
					break
				}
			}
			if left.first <= left.last && !yield(left) {
				return
			}
		}
	}
}

// between yields the spans of in, which are ascending, and calls has with what of all
// is not among them. It is complete when it was used up.
func between(all span, in iter.Seq[span], has func(span)) iter.Seq[span] {
	return func(yield func(span) bool) {
		next := all.first
		for s := range in {
			if next < s.first {
				has(span{next, s.first - 1})
			}
			if next = s.last + 1; !yield(s) {
				return
			}
		}
		if next <= all.last {
			has(span{next, all.last})
		}
	}
}

// runs counts spans and their numbers, and keeps the first few.
type runs struct {
	numbers, spans uint64
	first          []Range
}

func (r *runs) add(s span) {
	r.numbers += s.last - s.first + 1
	if r.spans++; len(r.first) < maxExamples {
		r.first = append(r.first, Range{s.first, s.last})
	}
}

// size is how many numbers there are.
func (s *set) size() (n uint64) {
	for k := range s.from(0) {
		n += k.last - k.first + 1
	}
	return n
}

// one yields a single span, or nothing where it is empty.
func one(s span) iter.Seq[span] {
	return func(yield func(span) bool) {
		if s.first <= s.last {
			yield(s)
		}
	}
}
