package mqtt

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Control packet types, MQTT 3.1.1 §2.2.1.
const (
	typeConnack    = 2
	typePublish    = 3
	typePuback     = 4
	typePubrec     = 5
	typePubrel     = 6
	typePubcomp    = 7
	typeSuback     = 9
	typeUnsuback   = 11
	typePingreq    = 12
	typePingresp   = 13
	typeDisconnect = 14
)

// Reasons in Stats.Rejected.
const (
	reasonTooLarge  = "too-large"     // payload over MaxPayload
	reasonTopic     = "invalid-topic" // empty, not UTF-8, or with +, # or NUL
	reasonRoute     = "no-route"      // no subscription matches: it was removed from the config
	reasonNotJSON   = "not-json"      // with DecodeJSON
	reasonSparkplug = "sparkplug"     // with DecodeSparkplug: topic or payload are not Sparkplug B, or too large as JSON
	reasonMalformed = "malformed"     // QoS 3, packet id 0, or shorter than its topic
	reasonQueueFull = "queue-full"    // QoS 0 while the queue is full
)

// protocolError is a broker that does not keep to MQTT 3.1.1. It ends the
// connection, as §4.8 asks for.
type protocolError struct{ what string }

func (e *protocolError) Error() string { return "the broker broke the MQTT protocol: " + e.what }

// errNotGreeted is a first packet that is no CONNACK (MQTT 3.1.1 §3.2): most often
// something else than a broker listens there.
var errNotGreeted = &protocolError{"something before CONNACK; is this an MQTT broker?"}

// header is the fixed header of a packet, MQTT 3.1.1 §2.2.
type header struct {
	kind   byte // control packet type
	flags  byte // low 4 bits of the first byte
	length int  // bytes that follow
}

// readHeader reads a fixed header. It returns io.EOF only when the connection
// ended between two packets.
func readHeader(r io.ByteReader) (header, error) {
	first, err := r.ReadByte()
	if err != nil {
		return header{}, err
	}
	h := header{kind: first >> 4, flags: first & 0x0f}
	for shift := 0; shift < 28; shift += 7 {
		b, err := r.ReadByte()
		if err != nil {
			return header{}, unexpected(err)
		}
		h.length |= int(b&0x7f) << shift
		if b < 0x80 {
			return h, nil
		}
	}
	return header{}, &protocolError{"a length of more than 4 bytes"}
}

// controlLength gives the length that a packet other than PUBLISH must have, or
// false for one that a broker may not send to a client that publishes with QoS 0
// alone.
// SUBACK has one return code, because each SUBSCRIBE has one filter. Paho trusts
// these lengths, so they are checked here.
func controlLength(kind byte) (int, bool) {
	switch kind {
	case typeConnack, typePubrel, typeUnsuback:
		return 2, true
	case typeSuback:
		return 3, true
	case typePingresp:
		return 0, true
	}
	return 0, false
}

// readControl reads the rest of a packet that paho is to see and returns all of
// it.
func readControl(r io.Reader, h header) ([]byte, error) {
	want, ok := controlLength(h.kind)
	if !ok {
		return nil, &protocolError{fmt.Sprintf("packet type %d of %d bytes, which no subscriber gets", h.kind, h.length)}
	}
	if h.length != want {
		return nil, &protocolError{fmt.Sprintf("packet type %d of %d bytes instead of %d", h.kind, h.length, want)}
	}
	frame := make([]byte, 2+want)
	frame[0], frame[1] = h.kind<<4|h.flags, byte(want)
	if _, err := io.ReadFull(r, frame[2:]); err != nil {
		return nil, unexpected(err)
	}
	return frame, nil
}

// publish is a PUBLISH whose variable header was read (MQTT 3.1.1 §3.3.2).
type publish struct {
	dup, retain bool
	qos         byte
	id          uint16 // 0 with QoS 0
	malformed   bool   // nothing but left is to be relied on
	left        int    // bytes of the packet that follow: the payload
}

// readPublish reads the variable header that follows h. The topic it returns
// lives in scratch, which it grows as needed and returns too.
func readPublish(r *bufio.Reader, h header, scratch []byte) (p publish, topic, grown []byte, err error) {
	p = publish{dup: h.flags&8 != 0, retain: h.flags&1 != 0, qos: h.flags >> 1 & 3, left: h.length}
	if p.qos == 3 || p.left < 2 {
		p.malformed = true
		return p, nil, scratch, nil
	}
	var word [2]byte
	if _, err := io.ReadFull(r, word[:]); err != nil {
		return p, nil, scratch, unexpected(err)
	}
	p.left -= 2
	size := int(binary.BigEndian.Uint16(word[:]))
	need := size
	if p.qos > 0 {
		need += 2
	}
	if need > p.left {
		p.malformed = true
		return p, nil, scratch, nil
	}
	if cap(scratch) < need {
		scratch = make([]byte, need)
	}
	scratch = scratch[:need]
	if _, err := io.ReadFull(r, scratch); err != nil {
		return p, nil, scratch, unexpected(err)
	}
	p.left -= need
	if p.qos > 0 {
		p.id = binary.BigEndian.Uint16(scratch[size:])
		p.malformed = p.id == 0
	}
	return p, scratch[:size], scratch, nil
}

// ackFrame is the PUBACK of a QoS 1 and the PUBREC of a QoS 2 message, MQTT
// 3.1.1 §3.4 and §3.5.
func ackFrame(qos byte, id uint16) [4]byte {
	kind := byte(typePuback)
	if qos == 2 {
		kind = typePubrec
	}
	return [4]byte{kind << 4, 2, byte(id >> 8), byte(id)}
}

// unexpected makes the end of the connection within a packet an error of its own.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
