package web

import (
	"time"
	"unicode/utf8"

	"sluice/drivers"
)

// Event is one event as a JSON object, in the stream and in an export of the
// buffer. Of Payload and Base64 one is set: Payload where the bytes are UTF-8.
type Event struct {
	Class       string    `json:"class"`
	Incarnation string    `json:"incarnation,omitempty"` // of the buffer; empty: it has no number yet
	Seq         uint64    `json:"seq,omitempty"`
	Uplink      string    `json:"uplink,omitempty"` // in a stream: the uplink that reads it
	Time        time.Time `json:"time"`
	Source      string    `json:"source"`
	Device      string    `json:"device,omitempty"`
	Subject     string    `json:"subject"`
	Type        string    `json:"type"`
	ContentType string    `json:"content_type"`
	Payload     *string   `json:"payload,omitempty"`
	Base64      []byte    `json:"payload_base64,omitempty"`

	// Of an event that an uplink's cluster can never take.
	RejectedAt time.Time `json:"rejected_at,omitzero"`
	Omitted    int       `json:"payload_omitted,omitempty"` // bytes that were too many to be kept
}

// EventOf describes e; seq is 0 while it has no number.
func EventOf(incarnation string, seq uint64, e *drivers.Event) Event {
	x := Event{Class: e.Class, Incarnation: incarnation, Seq: seq, Time: e.Time, Source: e.Source, Device: e.Device,
		Subject: e.Subject, Type: e.Type, ContentType: e.ContentType}
	if utf8.Valid(e.Payload) {
		text := string(e.Payload)
		x.Payload = &text
	} else {
		x.Base64 = e.Payload
	}
	return x
}
