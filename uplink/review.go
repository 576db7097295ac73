package uplink

// failure is a record that came back, with the reason.
type failure struct {
	place
	err error
}

// review ends the trouble. It returns what is not delivered, in order within
// each class, and those among it that came back with an error. Nothing may be in
// flight.
func (w *window) review() (open []place, failed []failure) {
	w.gate.Lock()
	w.closed = false
	clear(w.routes)
	w.gate.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.troubled = false
	for _, l := range w.lanes {
		for _, c := range l.chunks {
			for i := c.prefix; i < len(c.records); i++ {
				if c.isSettled(i) {
					continue
				}
				open = append(open, place{c, i})
				if c.errs != nil && c.errs[i] != nil {
					failed = append(failed, failure{place{c, i}, c.errs[i]})
				}
			}
			c.errs = nil
		}
	}
	return open, failed
}

// failures returns the records that came back so far, each with its reason.
func (w *window) failures() (failed []failure) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.lanes {
		for _, c := range l.chunks {
			for i, err := range c.errs {
				if err != nil {
					failed = append(failed, failure{place{c, i}, err})
				}
			}
		}
	}
	return failed
}
