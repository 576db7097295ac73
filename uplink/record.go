package uplink

import (
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/buffer"
	"sluice/drivers"
)

// Headers of a record in the binary content mode of the CloudEvents Kafka
// protocol binding 1.0.2, §3.2: attributes carry the prefix "ce_",
// datacontenttype is "content-type", values are UTF-8.
const (
	headerSpecVersion = "ce_specversion"
	headerID          = "ce_id"
	headerSource      = "ce_source"
	headerType        = "ce_type"
	headerSubject     = "ce_subject"
	headerTime        = "ce_time"
	headerContentType = "content-type"
	headerLate        = "sluice_late" // of events that waited for the link while newer ones went by

	headersPerRecord = 8
)

// maxCached bounds each cache of the encoder; a full one is emptied.
const maxCached = 4096

// encoder turns events into records. It belongs to one goroutine.
type encoder struct {
	refusedTime atomic.Bool // the cluster has not taken the time of a record; any goroutine sets it
	agent       string
	topic, key  template
	specVersion []byte
	yes         []byte
	topics      map[string]string    // rendered → legal name
	sources     map[sourceKey][]byte // values of ce_source
	constants   map[string][]byte    // types and content types
	scratch     []byte
	second      int64 // the second that stamp stands for
	stamp       []byte
}

type sourceKey struct{ source, device string }

func newEncoder(agent string, topic, key template) *encoder {
	return &encoder{
		agent: agent, topic: topic, key: key,
		specVersion: []byte("1.0"), yes: []byte("true"),
		topics:    map[string]string{},
		sources:   map[sourceKey][]byte{},
		constants: map[string][]byte{},
		second:    -1 << 63,
	}
}

// encode fills c with records of the first events of b, at most n of them, which
// c must have room for, and no more than fit into about maxBytes, but at least
// one. It returns how many.
func (e *encoder) encode(c *chunk, b buffer.Batch, n, maxBytes int) int {
	c.reset(b.First)
	for i := range b.Events[:min(n, len(b.Events))] {
		if i > 0 && c.bytes >= maxBytes {
			break
		}
		e.record(c, &b.Events[i], b.Incarnation, b.First+uint64(i), b.Late)
	}
	return len(c.records)
}

// record appends the record of one event to c. Keys and header values are carved
// from c's arena; one that has to grow leaves the values carved before where
// they are.
func (e *encoder) record(c *chunk, ev *drivers.Event, incarnation string, seq uint64, late bool) {
	start := len(c.headers)
	add := func(key string, value []byte) {
		c.headers = append(c.headers, kgo.RecordHeader{Key: key, Value: value})
	}
	subject := c.carve(func(dst []byte) []byte { return appendText(dst, ev.Subject) })
	key := e.recordKey(c, ev, subject)
	add(headerSpecVersion, e.specVersion)
	add(headerID, c.carve(func(dst []byte) []byte { return e.appendID(dst, ev.Class, incarnation, seq) }))
	add(headerSource, e.source(ev))
	add(headerType, e.constant(ev.Type))
	if len(subject) > 0 { // CloudEvents 1.0.2 §3.1.2: if present, it must not be empty
		add(headerSubject, subject)
	}
	add(headerTime, c.carve(func(dst []byte) []byte { return e.appendTime(dst, ev.Time) }))
	if ev.ContentType != "" {
		add(headerContentType, e.constant(ev.ContentType))
	}
	if late {
		add(headerLate, e.yes)
	}
	value := ev.Payload
	if value == nil {
		value = []byte{} // a null value would be a tombstone
	}
	c.add(kgo.Record{
		Topic:     e.topicOf(ev),
		Key:       key,
		Value:     value,
		Timestamp: e.timestamp(ev.Time),
		Headers:   c.headers[start:len(c.headers):len(c.headers)],
	})
}

// timestamp is the record's time: that of the event, unless the cluster has refused a time
// and this one lies ahead of the clock, which was wrong when the event was taken and has
// been set back. It is sent with the present time then; ce_time says what it was.
func (e *encoder) timestamp(taken time.Time) time.Time {
	if !e.refusedTime.Load() {
		return taken
	}
	if now := time.Now(); taken.After(now) && buffer.ClockSet(now) {
		return now
	}
	return taken
}

// recordKey returns the key of ev's record: from the template, or the subject
// byte for byte.
func (e *encoder) recordKey(c *chunk, ev *drivers.Event, subject []byte) []byte {
	if !e.key.empty() {
		if key := c.carve(func(dst []byte) []byte { return e.key.append(dst, ev) }); len(key) > 0 {
			return key
		}
	}
	if string(subject) == ev.Subject {
		return subject
	}
	return c.carve(func(dst []byte) []byte { return append(dst, ev.Subject...) })
}

// topicOf returns the name of ev's topic. Names are rendered into a scratch
// buffer and looked up, so that a known one costs no memory.
func (e *encoder) topicOf(ev *drivers.Event) string {
	e.scratch = e.topic.append(e.scratch[:0], ev)
	if name, ok := e.topics[string(e.scratch)]; ok {
		return name
	}
	if len(e.topics) >= maxCached {
		clear(e.topics)
	}
	name := legalTopic(e.scratch)
	e.topics[string(e.scratch)] = name
	return name
}

// appendID renders ce_id, <agent>/<class>/<incarnation>/<seq>.
func (e *encoder) appendID(dst []byte, class, incarnation string, seq uint64) []byte {
	dst = append(append(dst, e.agent...), '/')
	dst = append(appendText(dst, class), '/')
	dst = append(append(dst, incarnation...), '/')
	return strconv.AppendUint(dst, seq, 10)
}

// source returns ce_source: /<agent>/<source>, with /<device> behind it where
// there is one. It is a URI reference, so what is not allowed in a segment of a
// path is percent-encoded.
func (e *encoder) source(ev *drivers.Event) []byte {
	k := sourceKey{ev.Source, ev.Device}
	if v, ok := e.sources[k]; ok {
		return v
	}
	if len(e.sources) >= maxCached {
		clear(e.sources)
	}
	v := appendSegment(nil, e.agent)
	if ev.Source != "" {
		v = appendSegment(v, ev.Source)
	}
	if ev.Device != "" {
		v = appendSegment(v, ev.Device)
	}
	e.sources[sourceKey{strings.Clone(ev.Source), strings.Clone(ev.Device)}] = v
	return v
}

func (e *encoder) constant(s string) []byte {
	if v, ok := e.constants[s]; ok {
		return v
	}
	if len(e.constants) >= maxCached {
		clear(e.constants)
	}
	v := appendText(nil, s)
	e.constants[strings.Clone(s)] = v
	return v
}

// appendTime renders t in UTC as RFC 3339 with nine digits of the second. The
// part up to the second is kept, since neighbours mostly share it.
func (e *encoder) appendTime(dst []byte, t time.Time) []byte {
	if s := t.Unix(); s != e.second {
		e.second = s
		e.stamp = t.UTC().AppendFormat(e.stamp[:0], "2006-01-02T15:04:05.")
	}
	dst = append(dst, e.stamp...)
	n := t.Nanosecond()
	for unit := 100_000_000; unit > 0; unit /= 10 {
		dst = append(dst, byte('0'+n/unit%10))
	}
	return append(dst, 'Z')
}

// appendText appends s as a CloudEvents string (CloudEvents 1.0.2 §2.4): UTF-8
// without control characters; each that is there becomes U+FFFD.
func appendText(dst []byte, s string) []byte {
	start := 0
	for i := 0; i < len(s); {
		if c := s[i]; c >= 0x20 && c < 0x7f {
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r < 0x20 || r >= 0x7f && r <= 0x9f || r == utf8.RuneError && n == 1 {
			dst = append(append(dst, s[start:i]...), "\uFFFD"...)
			start = i + n
		}
		i += n
	}
	return append(dst, s[start:]...)
}

// appendSegment appends "/" and s as one segment of a path: everything but the
// unreserved characters of RFC 3986 §2.3 is percent-encoded.
func appendSegment(dst []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	dst = append(dst, '/')
	for i := range len(s) {
		if c := s[i]; isTopicByte(c) || c == '~' {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		}
	}
	return dst
}
