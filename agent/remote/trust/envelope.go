// Package trust decides who signed something: DSSE envelopes, ed25519 keys, sets
// of keys with a threshold, and the documents that change such a set.
//
// DSSE 1.0.2 (https://github.com/secure-systems-lab/dsse, protocol.md and
// envelope.md) signs a type together with the bytes, so that a signed command is
// never taken for a signed config. What was verified is what Verify returns; the
// envelope is not read a second time.
//
// Everything here is a function of its arguments. Nothing blocks, nothing is
// kept, and any goroutine may call it.
package trust

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
)

// Bounds of an envelope, checked before any signature is.
const (
	MaxEnvelope   = 1 << 20 // bytes
	MaxSignatures = 16
)

// Types of payload. The type is signed with the payload.
const (
	TypeConfig  = "application/vnd.sluice.config.v1+yaml"
	TypeCommand = "application/vnd.sluice.command.v1+yaml"
	TypeTrust   = "application/vnd.sluice.trust.v1+yaml"
	TypeUpdate  = "application/vnd.sluice.update.v1+yaml"
)

// Signature is one signature of an envelope.
type Signature struct {
	KeyID string // a hint from whoever made the envelope; nothing is decided by it
	Sig   []byte
}

// Envelope is a payload with signatures. That it could be read says nothing about
// whether the signatures are good.
type Envelope struct {
	Type       string
	Payload    []byte
	Signatures []Signature
}

// wire is the JSON form.
type wire struct {
	Payload     *string         `json:"payload"`
	PayloadType *string         `json:"payloadType"`
	Signatures  []wireSignature `json:"signatures"`
}

type wireSignature struct {
	KeyID string `json:"keyid,omitempty"`
	Sig   string `json:"sig"`
}

// Open reads an envelope. Unknown members are ignored and base64 may be of the
// standard or the URL-safe alphabet, as DSSE asks for. An error is a *Refusal
// with TooLarge, TooManySignatures or Malformed.
func Open(data []byte) (*Envelope, error) {
	if len(data) > MaxEnvelope {
		return nil, Refuse(TooLarge, "%d bytes (an envelope has at most %d)", len(data), MaxEnvelope)
	}
	var w wire
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(&w); err != nil {
		return nil, Refuse(Malformed, "not a DSSE envelope in JSON: %s", oneLine(err))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, Refuse(Malformed, "something follows the envelope")
	}
	if len(w.Signatures) > MaxSignatures {
		return nil, Refuse(TooManySignatures, "%d signatures (at most %d)", len(w.Signatures), MaxSignatures)
	}
	if w.Payload == nil || w.PayloadType == nil {
		return nil, Refuse(Malformed, "the envelope has no payload or no payloadType")
	}
	payload, ok := decode64(*w.Payload)
	if !ok {
		return nil, Refuse(Malformed, "the payload is not base64")
	}
	e := &Envelope{Type: *w.PayloadType, Payload: payload}
	for i, s := range w.Signatures {
		sig, ok := decode64(s.Sig)
		if !ok {
			return nil, Refuse(Malformed, "signature %d is not base64", i+1)
		}
		e.Signatures = append(e.Signatures, Signature{KeyID: s.KeyID, Sig: sig})
	}
	return e, nil
}

// oneLine is the text of an error without what would break a line or fill a log.
func oneLine(err error) string {
	s := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, err.Error())
	return s[:min(len(s), 120)]
}

// decode64 reads base64 of either alphabet, with or without padding. Line ends
// are refused, which package base64 would skip.
func decode64(s string) ([]byte, bool) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, false
	}
	enc := base64.RawStdEncoding
	if strings.ContainsAny(s, "-_") {
		enc = base64.RawURLEncoding
	}
	b, err := enc.Strict().DecodeString(strings.TrimRight(s, "="))
	return b, err == nil
}

// Encode is the envelope as JSON, with standard base64.
func (e *Envelope) Encode() []byte {
	payload := base64.StdEncoding.EncodeToString(e.Payload)
	w := wire{Payload: &payload, PayloadType: &e.Type, Signatures: []wireSignature{}}
	for _, s := range e.Signatures {
		w.Signatures = append(w.Signatures, wireSignature{KeyID: s.KeyID, Sig: base64.StdEncoding.EncodeToString(s.Sig)})
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(w) // strings always encode
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// PAE is what is signed: "DSSEv1", the type and the payload, the latter two each
// behind its length in bytes (DSSE 1.0.2, protocol.md).
func PAE(payloadType string, payload []byte) []byte {
	b := append([]byte("DSSEv1 "), strconv.Itoa(len(payloadType))...)
	b = append(append(b, ' '), payloadType...)
	b = strconv.AppendInt(append(b, ' '), int64(len(payload)), 10)
	return append(append(b, ' '), payload...)
}

// Digest names a content: the SHA-256 of a payload in hex. Of an envelope it
// would say nothing, since the same payload can stand in many.
func Digest(payload []byte) string {
	sum := sha256.Sum256(payload)
	return hex.EncodeToString(sum[:])
}
