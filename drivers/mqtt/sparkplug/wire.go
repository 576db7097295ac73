package sparkplug

import (
	"encoding/binary"
	"errors"
	"strings"
)

// Wire types of Protocol Buffers, https://protobuf.dev/programming-guides/encoding/.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireGroup   = 3 // deprecated; ends with wireEnd
	wireEnd     = 4
	wireFixed32 = 5
)

// maxGroups bounds the nesting of groups, which only unknown fields can be.
const maxGroups = 16

// maxField is the highest field number that there is.
const maxField = 1<<29 - 1

// Errors of a payload that is not what it should be.
var (
	errShort  = errors.New("a field ends behind the end of its message")
	errVarint = errors.New("a number of more than 64 bits")
	errField  = errors.New("an impossible field number or wire type")
	errGroups = errors.New("groups that are nested too deep, or not closed")
)

// field is one field of a message, as it stands on the wire.
type field struct {
	number uint64
	wire   byte
	n      uint64 // of wireVarint, wireFixed64 and wireFixed32
	b      []byte // of wireBytes: a part of the payload, not a copy
}

// fields walks a message field by field.
type fields struct {
	rest []byte
	err  error
}

// next reads a field; false at the end, or when err is set. Groups are skipped.
func (r *fields) next(f *field) bool {
	for r.err == nil && len(r.rest) > 0 {
		if r.read(f); r.err == nil && f.wire != wireGroup {
			return true
		}
		if r.err == nil {
			r.skipGroup(f.number)
		}
	}
	return false
}

// read reads a field, and of a group its beginning or end.
func (r *fields) read(f *field) {
	tag := r.varint()
	f.number, f.wire = tag>>3, byte(tag&7)
	if r.err == nil && (f.number == 0 || f.number > maxField) {
		r.err = errField
	}
	if r.err != nil {
		return
	}
	switch f.wire {
	case wireVarint:
		f.n = r.varint()
	case wireFixed64:
		if b := r.take(8); r.err == nil {
			f.n = binary.LittleEndian.Uint64(b)
		}
	case wireFixed32:
		if b := r.take(4); r.err == nil {
			f.n = uint64(binary.LittleEndian.Uint32(b))
		}
	case wireBytes:
		if n := r.varint(); r.err == nil {
			f.b = r.take(n)
		}
	case wireGroup:
	default: // also the end of a group that never began
		r.err = errField
	}
}

// skipGroup reads to the end of a group.
func (r *fields) skipGroup(number uint64) {
	open := []uint64{number}
	for len(open) > 0 && r.err == nil {
		if len(r.rest) == 0 || len(open) > maxGroups {
			r.err = errGroups
			return
		}
		tag, n := binary.Uvarint(r.rest)
		if n > 0 && tag&7 == wireEnd {
			if tag>>3 != open[len(open)-1] {
				r.err = errGroups
				return
			}
			r.rest, open = r.rest[n:], open[:len(open)-1]
			continue
		}
		var f field
		if r.read(&f); f.wire == wireGroup {
			open = append(open, f.number)
		}
	}
}

func (r *fields) varint() uint64 {
	v, n := binary.Uvarint(r.rest)
	switch {
	case n > 0:
		r.rest = r.rest[n:]
	case n == 0:
		r.err = errShort
	default:
		r.err = errVarint
	}
	return v
}

func (r *fields) take(n uint64) []byte {
	if r.err != nil || n > uint64(len(r.rest)) {
		r.err = errShort
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

// text is a string of the payload. Protocol Buffers want UTF-8; what is not
// becomes U+FFFD, so that one bad name does not cost a whole birth.
func text(b []byte) string { return strings.ToValidUTF8(string(b), "\uFFFD") }
