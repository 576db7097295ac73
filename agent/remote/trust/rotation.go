package trust

import (
	"errors"
	"slices"
)

// Rotation is what a trust document says: the set that follows.
type Rotation struct {
	Number    uint64   // of this document, one more than that of the one before
	Epoch     uint64   // not below the one before; a higher one resets versions
	Trust     []string // keys, as ParseKey reads them
	Threshold int
}

// Anchor is the set that the document makes. It must be able to sign the next
// trust document, or there would never be another.
func (r Rotation) Anchor() (Anchor, error) {
	for _, text := range r.Trust {
		if _, err := ParseKey(text); err != nil { // no "trust:N" in here: the number is a member
			return Anchor{}, errors.New("an entry of trust " + err.Error())
		}
	}
	a, err := ParseAnchor(r.Trust, r.Threshold)
	if err != nil {
		return Anchor{}, err
	}
	a.Number, a.Epoch = r.Number, r.Epoch
	able := slices.DeleteFunc(slices.Clone(a.Keys), func(k Key) bool { return !k.May(ForTrust) })
	if len(able) < a.Threshold {
		return Anchor{}, errors.New("fewer keys than the threshold may sign trust: the keys could never be changed again")
	}
	return a, nil
}

// Rotate judges a trust document: it needs the threshold of the set before, and
// then, once its payload was read by parse, that of the set it makes (The Update
// Framework §5.3 does the same with root metadata). It has no expiry, so that an
// agent that was away for years can follow document by document. The keys are
// those of the old and of the new set that signed. The error is a *Refusal.
func (a Anchor) Rotate(e *Envelope, parse func(payload []byte) (Rotation, error)) (Anchor, []Key, error) {
	old, err := a.Verify(e, TypeTrust)
	if err != nil {
		return a, nil, err
	}
	r, err := parse(e.Payload)
	if err != nil {
		return a, nil, Refuse(Invalid, "the trust document: %s", oneLine(err))
	}
	next, err := r.Anchor()
	switch {
	case r.Number <= a.Number:
		return a, nil, Refuse(Older, "trust document %d (the keys are those of %d)", r.Number, a.Number)
	case r.Number != a.Number+1:
		return a, nil, Refuse(TrustGap, "trust document %d follows %d: those between are missing", r.Number, a.Number)
	case err != nil:
		return a, nil, Refuse(Invalid, "the trust document: %s", oneLine(err))
	case r.Epoch < a.Epoch:
		return a, nil, Refuse(Older, "trust document %d has epoch %d (it was %d)", r.Number, r.Epoch, a.Epoch)
	}
	by, err := next.Verify(e, TypeTrust)
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		return a, nil, Refuse(refusal.Code, "by the new keys: %s", refusal.Reason)
	}
	for _, k := range old {
		if !slices.ContainsFunc(by, func(x Key) bool { return x.Public.Equal(k.Public) }) {
			by = append(by, k)
		}
	}
	return next, by, nil
}

// Sign adds a signature by the private key's owner over the envelope's PAE. sign
// returns the 64 bytes of an ed25519 signature; they are checked against the
// public key, so that a wrong device or agent does not go unnoticed. A signature
// of the same key is replaced.
func (e *Envelope) Sign(key Key, sign func(pae []byte) ([]byte, error)) error {
	sig, err := sign(PAE(e.Type, e.Payload))
	if err != nil {
		return err
	}
	one := Set{Keys: []Key{{Public: key.Public}}, Threshold: 1}
	if len(one.signers(&Envelope{Type: e.Type, Payload: e.Payload, Signatures: []Signature{{Sig: sig}}})) == 0 {
		return errors.New("the signature does not fit key " + key.ID() + ": it was made by another key, or not over the bytes that were given")
	}
	e.Signatures = slices.DeleteFunc(e.Signatures, func(s Signature) bool {
		return len(one.signers(&Envelope{Type: e.Type, Payload: e.Payload, Signatures: []Signature{s}})) > 0
	})
	if len(e.Signatures) >= MaxSignatures {
		return errors.New("the envelope has as many signatures as it may")
	}
	e.Signatures = append(e.Signatures, Signature{KeyID: key.ID(), Sig: sig})
	return nil
}
