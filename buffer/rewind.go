package buffer

// Rewind makes Next begin again right behind what is acknowledged, for an uplink
// that sends again what it was given and could not deliver. Next must not run.
func (r *Reader) Rewind() {
	for i := range r.lanes {
		r.lanes[i].rewind()
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
