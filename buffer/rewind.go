package buffer

import "slices"

// Rewind makes Next begin again right behind what is acknowledged, for an uplink
// that sends again what it was given and could not deliver. From now on Next
// returns these classes only; nil: all that the uplink reads. Next must not run.
func (r *Reader) Rewind(classes []string) {
	for _, t := range r.tiers {
		for i := range t.tracks {
			k := &t.tracks[i]
			k.rewind()
			k.waits = classes != nil && !slices.Contains(classes, k.lane.class.Name)
		}
	}
}

// Incarnation is that of the buffer. Events that were written before it was
// drawn have another one.
func (r *Reader) Incarnation() string { return r.buf.Incarnation() }
