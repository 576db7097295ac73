package channel

// skip finds the first offset behind a batch that is too large to be read: the
// client gives a response up at its length, so that nothing is known of the
// batch but that it is there. Twice as far each time until something can be
// read, then half of what is left: 2·log2 of the batch's records attempts, and
// no record behind it is missed.
type skip struct {
	active bool
	low    int64 // too large
	high   int64 // can be read; 0: none found yet
	step   int64
}

// tooLarge notes that what is at the offset is too large and returns the offset
// to try next.
func (s *skip) tooLarge(at int64) int64 {
	if !s.active {
		*s = skip{active: true, step: 1}
	}
	s.low = at
	return s.next()
}

func (s *skip) next() int64 {
	if s.high == 0 {
		s.step *= 2
		return s.low + s.step/2
	}
	return s.low + max(1, (s.high-s.low)/2)
}

// found notes that what is at the offset can be read. again says that it is not
// known to be the first behind the batch, and next which offset to try.
func (s *skip) found(at int64) (next int64, again bool) {
	if !s.active {
		return 0, false
	}
	if at-s.low <= 1 {
		*s = skip{}
		return 0, false
	}
	s.high = at
	return s.next(), true
}
