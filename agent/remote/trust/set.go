package trust

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// MaxKeys is how many keys a set may have; with MaxSignatures it bounds the work
// that an envelope can cause.
const MaxKeys = 16

// Set is the keys that are trusted, and how many of them must have signed.
type Set struct {
	Keys      []Key // no two with the same bytes
	Threshold int   // 1 to len(Keys)
}

// Anchor is a set with its place in the line of trust documents.
type Anchor struct {
	Set
	// Number of the trust document that made the set; 0: the config alone.
	Number uint64
	// Epoch below which documents are not adopted any more.
	Epoch uint64
}

// numberPrefix starts the entry of remote.trust that says which trust document
// the list is as new as.
const numberPrefix = "trust:"

// ParseAnchor reads remote.trust and remote.threshold: keys as ParseKey reads
// them, and at most one entry "trust:N" for a list that was written after trust
// document N. A key that is there twice counts once, with the purposes of both.
// The error names every entry that is wrong.
func ParseAnchor(list []string, threshold int) (Anchor, error) {
	var a Anchor
	var errs []error
	for i, text := range list {
		if digits, ok := strings.CutPrefix(text, numberPrefix); ok {
			n, err := strconv.ParseUint(digits, 10, 63)
			if err != nil || n == 0 || a.Number != 0 {
				errs = append(errs, fmt.Errorf("trust[%d] %q is not one number of a trust document (trust:3)", i, text))
			}
			a.Number = n
			continue
		}
		key, err := ParseKey(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("trust[%d] %w", i, err))
			continue
		}
		a.add(key)
	}
	a.Threshold = threshold
	if len(errs) == 0 {
		errs = append(errs, a.check())
	}
	return a, errors.Join(errs...)
}

// add puts a key in, or its purposes to those of the same key.
func (s *Set) add(key Key) {
	for i := range s.Keys {
		if k := &s.Keys[i]; bytes.Equal(k.Public, key.Public) {
			if len(k.For) == 0 || len(key.For) == 0 {
				k.For = nil
			} else {
				k.For = ordered(append(slices.Clone(k.For), key.For...))
			}
			return
		}
	}
	s.Keys = append(s.Keys, key)
}

// check says what would make the set useless.
func (s Set) check() error {
	switch {
	case len(s.Keys) == 0:
		return errors.New("trust holds no key")
	case len(s.Keys) > MaxKeys:
		return fmt.Errorf("trust holds %d keys (at most %d)", len(s.Keys), MaxKeys)
	case s.Threshold < 1 || s.Threshold > len(s.Keys):
		return fmt.Errorf("threshold %d cannot be met by %d different keys", s.Threshold, len(s.Keys))
	}
	return nil
}

// Strings are the keys as ParseAnchor reads them.
func (s Set) Strings() []string {
	list := make([]string, len(s.Keys))
	for i, k := range s.Keys {
		list[i] = k.String()
	}
	return list
}

// Verify counts the keys of the set that signed the envelope for the purpose of
// its type, which must be one of types. It returns those keys, at least Threshold
// of them. The error is a *Refusal. A signature that does not fit counts for
// nothing and harms nothing.
func (s Set) Verify(e *Envelope, types ...string) ([]Key, error) {
	if !slices.Contains(types, e.Type) {
		return nil, Refuse(WrongType, "the payload type is %.80q (expected: %s)", e.Type, strings.Join(types, ", "))
	}
	purpose := PurposeOf(e.Type)
	signers := s.signers(e)
	var good []Key
	for _, k := range signers {
		if k.May(purpose) {
			good = append(good, k)
		}
	}
	switch {
	case len(good) >= s.Threshold && len(good) > 0:
		return good, nil
	case len(e.Signatures) == 0:
		return nil, Refuse(Unsigned, "the envelope has no signature")
	case len(good) > 0:
		return nil, Refuse(TooFewSignatures, "signed by %s (%d different keys are needed)", names(good), s.Threshold)
	case len(signers) > 0:
		return nil, Refuse(WrongPurpose, "signed by %s, which may not sign for %s", names(signers), purpose)
	case slices.ContainsFunc(e.Signatures, func(sig Signature) bool { return s.has(sig.KeyID) }):
		return nil, Refuse(Tampered, "a trusted key is named, and its signature does not fit the content")
	}
	return nil, Refuse(WrongKey, "no signature is by a trusted key (trusted: %s)", names(s.Keys))
}

// signers are the keys that signed, each once however often it signed and
// whatever the key ids say.
func (s Set) signers(e *Envelope) (list []Key) {
	pae := PAE(e.Type, e.Payload)
	var sigs [][]byte
	for i, sig := range e.Signatures {
		same := func(b []byte) bool { return bytes.Equal(b, sig.Sig) }
		if i < MaxSignatures && len(sig.Sig) == ed25519.SignatureSize && !slices.ContainsFunc(sigs, same) {
			sigs = append(sigs, sig.Sig)
		}
	}
	for _, k := range s.Keys {
		if slices.ContainsFunc(sigs, func(sig []byte) bool { return ed25519.Verify(k.Public, pae, sig) }) {
			list = append(list, k)
		}
	}
	return list
}

// has says whether a key of the set has the id. It serves messages only.
func (s Set) has(id string) bool {
	return slices.ContainsFunc(s.Keys, func(k Key) bool { return k.ID() == id })
}

// names are the ids of keys for a message.
func names(keys []Key) string {
	ids := make([]string, len(keys))
	for i, k := range keys {
		ids[i] = k.ID()
	}
	return strings.Join(ids, ", ")
}
