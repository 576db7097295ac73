package audit

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestSetIsWhatAMapIs compares random operations with a map of numbers.
func TestSetIsWhatAMapIs(t *testing.T) {
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var s set
		model := map[uint64]bool{}
		top := uint64(1000 + rnd.IntN(9000)) // dense and sparse
		for range 4000 {
			n := 1 + rnd.Uint64N(top)
			if rnd.IntN(20) == 0 {
				last := n + rnd.Uint64N(40)
				s.addSpan(span{n, last})
				for ; n <= last; n++ {
					model[n] = true
				}
				continue
			}
			if fresh := s.add(n); fresh == model[n] {
				t.Fatalf("seed %d: add(%d) says %t, and it was there: %t", seed, n, fresh, model[n])
			}
			model[n] = true
		}
		checkSet(t, seed, &s, model, top+50)
	}
}

func checkSet(t *testing.T, seed uint64, s *set, model map[uint64]bool, top uint64) {
	t.Helper()
	var want []span
	for n := uint64(1); n <= top; n++ {
		switch {
		case model[n] && len(want) > 0 && want[len(want)-1].last == n-1:
			want[len(want)-1].last = n
		case model[n]:
			want = append(want, span{n, n})
		}
		if s.has(n) != model[n] {
			t.Fatalf("seed %d: has(%d) says %t", seed, n, s.has(n))
		}
	}
	if got := slices.Collect(s.from(0)); !slices.Equal(got, want) {
		t.Fatalf("seed %d: %d spans, want %d", seed, len(got), len(want))
	}
	if s.size() != uint64(len(model)) || s.first() != want[0].first {
		t.Fatalf("seed %d: size %d, want %d; first %d", seed, s.size(), len(model), s.first())
	}
	var missing []uint64
	var has []span
	for k := range s.without(one(span{1, top}), func(k span) { has = append(has, k) }) {
		for n := k.first; n <= k.last; n++ {
			missing = append(missing, n)
		}
	}
	if len(missing) != int(top)-len(model) || slices.ContainsFunc(missing, func(n uint64) bool { return model[n] }) {
		t.Fatalf("seed %d: without: %d numbers, want %d", seed, len(missing), int(top)-len(model))
	}
	if !slices.Equal(has, want) {
		t.Fatalf("seed %d: without: has %d spans, want %d", seed, len(has), len(want))
	}
	var bytes int64
	for _, b := range s.blocks {
		bytes += blockBytes + spanBytes*int64(cap(b))
	}
	if s.bytes != bytes {
		t.Fatalf("seed %d: accounts for %d bytes, has %d", seed, s.bytes, bytes)
	}
}

func TestSetTakesTheLargestNumbers(t *testing.T) {
	var s set
	s.add(maxSeq)
	s.addSpan(span{1, 3})
	s.add(maxSeq - 1)
	if got, want := slices.Collect(s.from(0)), []span{{1, 3}, {maxSeq - 1, maxSeq}}; !slices.Equal(got, want) {
		t.Fatalf("spans %v, want %v", got, want)
	}
	if got, want := slices.Collect(s.without(one(span{2, maxSeq}), nil)), []span{{4, maxSeq - 2}}; !slices.Equal(got, want) {
		t.Fatalf("without %v, want %v", got, want)
	}
}
