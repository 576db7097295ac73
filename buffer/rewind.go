package buffer

import "slices"

// Rewind makes Next begin again right behind what is acknowledged, for an uplink
// that sends again what it was given and could not deliver. From now on Next
// returns these classes only; nil: all that the uplink reads. Next must not run.
func (r *Reader) Rewind(classes []string) {
	for i := range r.lanes {
		p := &r.lanes[i]
		p.rewind()
		p.waits = classes != nil && !slices.Contains(classes, p.lane.class.Name)
	}
}

func (p *place) rewind() {
	p.lane.mu.Lock()
	defer p.lane.mu.Unlock()
	p.next = p.cursor.acked + 1
	p.cursor.read = p.cursor.acked
	p.rest, p.doubt = nil, 0
}

// Incarnation is that of the buffer. Events that were written before it was
// drawn have another one.
func (r *Reader) Incarnation() string { return r.buf.Incarnation() }
