package buffer

import (
	"encoding/binary"
	"time"

	"sluice/drivers"
)

// A stored event is a run of fields; a string is its length as uvarint and its
// bytes:
//
//	varint   time minus the block's first time, ns
//	string   source, device, subject, type, content type
//	string   payload
//	uvarint  number of attributes, 0 in this version; each two strings

// appendEvent appends e's stored form to b. base is the block's first time.
func appendEvent(b []byte, e *drivers.Event, base int64) []byte {
	b = binary.AppendVarint(b, e.Time.UnixNano()-base)
	for _, s := range [...]string{e.Source, e.Device, e.Subject, e.Type, e.ContentType} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	b = binary.AppendUvarint(b, uint64(len(e.Payload)))
	b = append(b, e.Payload...)
	return binary.AppendUvarint(b, 0)
}

// decoder walks the events of one block. Strings are cut out of text, payloads
// out of raw, so that a block costs a handful of allocations.
type decoder struct {
	raw   []byte
	text  string
	at    int
	base  int64
	class string
}

// numbers reads the numbers of a thinned block's events; false where they are
// not ascending within its span.
func (d *decoder) numbers(r *run) bool {
	r.seqs = make([]uint64, len(r.events))
	at := r.first
	for i := range r.seqs {
		delta, ok := d.uvarint()
		if !ok || i > 0 && delta == 0 || delta > r.last()-at {
			return false
		}
		at += delta
		r.seqs[i] = at
	}
	return true
}

// event reads the next event; false where the bytes end early.
func (d *decoder) event(e *drivers.Event) bool {
	delta, n := binary.Varint(d.raw[d.at:])
	if n <= 0 {
		return false
	}
	d.at += n
	e.Class = d.class
	e.Time = time.Unix(0, d.base+delta).UTC()
	for _, s := range [...]*string{&e.Source, &e.Device, &e.Subject, &e.Type, &e.ContentType} {
		from, to, ok := d.span()
		if !ok {
			return false
		}
		*s = d.text[from:to]
	}
	from, to, ok := d.span()
	if !ok {
		return false
	}
	e.Payload = d.raw[from:to:to]
	attributes, ok := d.uvarint()
	for ; ok && attributes > 0; attributes-- {
		if _, _, ok = d.span(); ok {
			_, _, ok = d.span()
		}
	}
	return ok
}

func (d *decoder) uvarint() (uint64, bool) {
	v, n := binary.Uvarint(d.raw[d.at:])
	if n <= 0 {
		return 0, false
	}
	d.at += n
	return v, true
}

// span reads a length and returns where the bytes that follow lie.
func (d *decoder) span() (from, to int, ok bool) {
	n, ok := d.uvarint()
	if !ok || n > uint64(len(d.raw)-d.at) {
		return 0, 0, false
	}
	from = d.at
	d.at += int(n)
	return from, d.at, true
}

// cost is about what an event holds in memory.
func cost(e *drivers.Event) int64 {
	return int64(len(e.Payload) + len(e.Subject) + 192)
}
