package trust

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Purpose is what a key may sign.
type Purpose string

// The purposes. A key that names none may sign for all of them.
const (
	ForConfig  Purpose = "config"
	ForCommand Purpose = "command"
	ForUpdate  Purpose = "update"
	ForTrust   Purpose = "trust" // documents that change the keys
)

var purposes = []Purpose{ForConfig, ForCommand, ForUpdate, ForTrust}

// PurposeOf is what a key needs to sign a payload of the type; empty for a type
// that is none of ours.
func PurposeOf(payloadType string) Purpose {
	switch payloadType {
	case TypeConfig:
		return ForConfig
	case TypeCommand:
		return ForCommand
	case TypeUpdate:
		return ForUpdate
	case TypeTrust:
		return ForTrust
	}
	return ""
}

// Key is a public key that is trusted.
type Key struct {
	Public ed25519.PublicKey // 32 bytes; they alone tell keys apart
	For    []Purpose         // in the order of the purposes; empty: all
}

const keyPrefix = "ed25519:"

// ParseKey reads "ed25519:BASE64" (32 bytes, standard or URL-safe alphabet),
// which may be followed by a space and the purposes that the key is bound to,
// separated by commas: "ed25519:BASE64 config,command".
func ParseKey(text string) (Key, error) {
	encoded, bound, isBound := strings.Cut(strings.TrimSpace(text), " ")
	encoded, ok := strings.CutPrefix(encoded, keyPrefix)
	if !ok {
		return Key{}, errors.New("is not a key (ed25519:BASE64, as sluice config keygen prints it)")
	}
	public, ok := decode64(encoded)
	if !ok || len(public) != ed25519.PublicKeySize {
		return Key{}, fmt.Errorf("is not a key (%s and the base64 of %d bytes)", keyPrefix, ed25519.PublicKeySize)
	}
	if isWeak(public) {
		return Key{}, errors.New("is a key for which anybody can sign (make one with sluice config keygen)")
	}
	k := Key{Public: public}
	if !isBound {
		return k, nil
	}
	for _, word := range strings.Split(bound, ",") {
		p := Purpose(strings.TrimSpace(word))
		if !slices.Contains(purposes, p) {
			return Key{}, fmt.Errorf("is bound to %q (config, command, update, trust)", p)
		}
		k.For = append(k.For, p)
	}
	k.For = ordered(k.For)
	return k, nil
}

// ordered are the purposes in their order, each once; none if it is all of them.
func ordered(list []Purpose) []Purpose {
	var sorted []Purpose
	for _, p := range purposes {
		if slices.Contains(list, p) {
			sorted = append(sorted, p)
		}
	}
	if len(sorted) == len(purposes) {
		return nil
	}
	return sorted
}

// String is the key as ParseKey reads it.
func (k Key) String() string {
	s := keyPrefix + base64.StdEncoding.EncodeToString(k.Public)
	if len(k.For) == 0 {
		return s
	}
	words := make([]string, len(k.For))
	for i, p := range k.For {
		words[i] = string(p)
	}
	return s + " " + strings.Join(words, ",")
}

// ID is a short name of the key: the first 16 hex digits of the SHA-256 of its
// bytes. It is what stands as keyid in envelopes and what is shown to people.
func (k Key) ID() string { return KeyID(k.Public) }

// KeyID is the ID of a public key.
func KeyID(public ed25519.PublicKey) string {
	sum := sha256.Sum256(public)
	return hex.EncodeToString(sum[:8])
}

// May says whether the key may sign for the purpose.
func (k Key) May(p Purpose) bool { return len(k.For) == 0 || slices.Contains(k.For, p) }

// isWeak says whether the bytes are a point of small order, for which signatures
// can be made without a secret, or the second way to write some point (RFC 8032
// §5.1.3 refuses it, package ed25519 does not): one key must not count as two.
func isWeak(public []byte) bool {
	y := slices.Clone(public)
	y[31] &= 0x7f // the sign of x
	if slices.Contains(smallOrder, hex.EncodeToString(y)) {
		return true
	}
	// y must be below 2^255 - 19, whose bytes are ed ff … ff 7f.
	if y[31] != 0x7f || y[0] < 0xed {
		return false
	}
	for _, b := range y[1:31] {
		if b != 0xff {
			return false
		}
	}
	return true
}

// smallOrder are the y of the points of order 1, 2, 4 and 8 of the curve.
var smallOrder = []string{
	"0100000000000000000000000000000000000000000000000000000000000000",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"0000000000000000000000000000000000000000000000000000000000000000",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
}
