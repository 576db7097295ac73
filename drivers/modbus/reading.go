package modbus

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/big"
	"time"

	"sluice/drivers"
)

// timeLayout is RFC 3339 in UTC with all nine digits of the nanoseconds.
const timeLayout = "2006-01-02T15:04:05.000000000Z"

// tag is a Tag at run time.
type tag struct {
	*spec

	now    state     // what this poll read
	sent   state     // what was recorded last
	sentAt time.Time // with a monotonic clock, so that heartbeats outlive a clock that is set
}

// spec is what never changes of a tag. Devices of the same profile share it, since
// there may be thousands of them.
type spec struct {
	name  string
	key   []byte // the name in JSON, with the colon
	class string
	table table
	at    int // on the wire
	count int // registers or bits
	codec
	deadband  Deadband
	heartbeat time.Duration
	write     *Write // nil: it can't be written
	measure   string // kW
}

// specs are the specs of a source, by what makes them differ. Tags with a map or a
// write have one of their own.
type specs map[specKey]*spec

type specKey struct {
	name, class, read, kind, order, missing, measure string
	at, length, bit, low, high                       int
	scale, offset                                    float64
	deadband                                         Deadband
	heartbeat                                        time.Duration
}

// tag compiles a tag that was checked.
func (known specs) tag(t Tag) *tag {
	if t.Map != nil || t.Write != nil {
		return newTag(t)
	}
	key := specKey{t.Name, t.Class, t.Read, t.Type, t.Order, t.Missing, t.Unit, t.At - t.Base, t.Length, -1, -1, -1, t.Scale, t.Offset, t.Deadband, t.Heartbeat}
	if t.Bit != nil {
		key.bit = *t.Bit
	}
	if t.Bits != nil {
		key.low, key.high = t.Bits.Low, t.Bits.High
	}
	if known[key] == nil {
		known[key] = newTag(t).spec
	}
	return &tag{spec: known[key]}
}

// state is what a tag was read as: a value, or bad.
type state struct {
	known bool // false: nothing was read, or nothing was sent
	value value
	bad   string // the reason; empty: it has a value
}

func (s *state) set(bad string) { s.known, s.bad = true, bad }

// newTag compiles a tag that was checked.
func newTag(t Tag) *tag {
	out := &spec{
		name: t.Name, key: append(appendString(nil, t.Name), ':'), class: t.Class,
		table: tables[t.Read], at: t.At - t.Base, count: formats[t.Type].count(t.Length), codec: newCodec(t),
		deadband: t.Deadband, heartbeat: t.Heartbeat, measure: t.Unit,
	}
	if t.Write != nil {
		w := *t.Write
		w.Expire = or(w.Expire, defaultExpire)
		out.write = &w
	}
	return &tag{spec: out}
}

// newCodec is how the value of a tag that was checked is read.
func newCodec(t Tag) codec {
	form := formats[t.Type]
	c := codec{format: form, order: orders[t.Order], linear: newLinear(t.Scale, t.Offset)}
	switch {
	case t.Bit != nil:
		c.part = part{low: *t.Bit, width: 1, flag: true}
	case t.Bits != nil:
		c.part = part{low: t.Bits.Low, width: t.Bits.High - t.Bits.Low + 1}
	}
	c.missing, _ = missingBits(t.Missing, form) // it was checked
	if t.Map != nil {
		c.words = make(map[uint64][]byte, len(t.Map))
		for n, word := range t.Map {
			c.words[uint64(n)] = appendString(nil, word)
		}
	}
	return c
}

// send says whether a reading at that time names the tag: without a deadband
// whenever it was read, else when it changed enough, when its quality changed,
// and each heartbeat.
func (t *tag) send(at time.Time) bool {
	switch {
	case !t.now.known:
		return false
	case !t.deadband.on() || !t.sent.known || t.now.bad != t.sent.bad || at.Sub(t.sentAt) >= t.heartbeat:
		return true
	case t.now.bad != "":
		return false
	default:
		return t.moved()
	}
}

// moved says whether the value has left the deadband around the one that was
// sent last.
func (t *tag) moved() bool {
	now, sent, width := &t.now.value, &t.sent.value, t.deadband.Width
	if width == 0 {
		return !bytes.Equal(now.text, sent.text)
	}
	if t.deadband.Percent {
		width *= math.Abs(sent.f) / 100
	}
	distance := math.Abs(now.f - sent.f)
	if t.integer() {
		// From the integers themselves: near 2^64 neighbours are one float64.
		distance = float64(t.gap(now.raw, sent.raw)) * math.Abs(t.scale)
	}
	if math.Abs(distance-width) <= nearTie*width {
		return t.deadband.left(now.text, sent.text)
	}
	return distance > width
}

// nearTie is how near, relatively, a float64 distance must be to a deadband's width
// for rounding to decide between them: 0.1 + 0.2 is not more than 0.3.
const nearTie = 1e-9

// left says, in decimals, whether one number lies outside of the deadband around
// another one.
func (d Deadband) left(now, sent []byte) bool {
	a, ok1 := new(big.Rat).SetString(string(now))
	b, ok2 := new(big.Rat).SetString(string(sent))
	if !ok1 || !ok2 {
		return true // neither is a number's text; what is sent can't be missed
	}
	width := ratOf(d.Width)
	if d.Percent {
		width.Mul(width, new(big.Rat).Abs(b)).Quo(width, big.NewRat(100, 1))
	}
	return a.Sub(a, b).Abs(a).Cmp(width) > 0
}

// gap returns how far two raw integers lie apart.
func (t *tag) gap(a, b uint64) uint64 {
	less := a < b
	if t.kind == kindInt {
		less = int64(a) < int64(b)
	}
	if less {
		a, b = b, a
	}
	return a - b
}

// recorded notes that the sink took what was read.
func (t *tag) recorded(at time.Time) {
	t.now, t.sent = t.sent, t.now // the buffer of the older text is used again
	t.now.known = false
	t.sentAt = at
}

// record makes an event of what was read for each class, and hands it to the
// sink. at has a monotonic clock. It returns the sink's error. A class of which no tag is to be named
// makes none, nor does one that is held.
func (s *Source) record(ctx context.Context, d *device, classes [][]*tag, at time.Time) error {
	for _, tags := range classes {
		class := tags[0].class
		if s.isHeld(class) {
			continue
		}
		s.scratch = appendReading(s.scratch[:0], d.name, at, tags)
		if len(s.scratch) == 0 {
			continue
		}
		e := drivers.Event{
			Class: class, Source: s.name, Device: d.name, Subject: d.name,
			Type: drivers.TypeModbusReading, ContentType: drivers.ContentJSON, Time: at.UTC(), Payload: bytes.Clone(s.scratch),
		}
		if err := s.outlets[class].hand(ctx, e); err != nil {
			return fmt.Errorf("record a reading of device %q: %w", d.name, err)
		}
		for _, t := range tags {
			if t.send(at) {
				t.recorded(at)
			}
		}
	}
	return nil
}

// appendReading appends the JSON of a reading that names those tags that are to
// be sent; dst as it was if that is none. `values` is always there, `bad` only
// where it isn't empty.
func appendReading(dst []byte, device string, at time.Time, tags []*tag) []byte {
	good, bad := 0, 0
	for _, t := range tags {
		if !t.send(at) {
			continue
		}
		if t.now.bad == "" {
			good++
		} else {
			bad++
		}
	}
	if good+bad == 0 {
		return dst
	}
	dst = append(dst, `{"device":`...)
	dst = appendString(dst, device)
	dst = append(dst, `,"time":"`...)
	dst = at.UTC().AppendFormat(dst, timeLayout)
	dst = append(dst, `","values":{`...)
	dst = appendTags(dst, at, tags, false)
	if bad > 0 {
		dst = append(dst, `},"bad":{`...)
		dst = appendTags(dst, at, tags, true)
	}
	return append(dst, "}}"...)
}

// appendTags appends the members of `values`, or those of `bad`.
func appendTags(dst []byte, at time.Time, tags []*tag, bad bool) []byte {
	start := len(dst)
	for _, t := range tags {
		if !t.send(at) || (t.now.bad != "") != bad {
			continue
		}
		if len(dst) > start {
			dst = append(dst, ',')
		}
		dst = append(dst, t.key...)
		if bad {
			dst = appendString(dst, t.now.bad)
		} else {
			dst = append(dst, t.now.value.text...)
		}
	}
	return dst
}

// appendString appends s as a JSON string.
func appendString(dst []byte, s string) []byte { return drivers.AppendJSON(dst, s) }
