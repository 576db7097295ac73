package trust

import "fmt"

// Code says in one stable word why something was refused. Dashboards and scripts
// may branch on it; the words never change their meaning.
type Code string

// The codes. docs/remote.md lists them for operators.
const (
	TooLarge          Code = "too-large"                  // over MaxEnvelope, refused before it is read
	TooManySignatures Code = "too-many-signatures"        // over MaxSignatures, refused before one is checked
	Malformed         Code = "malformed"                  // no DSSE envelope
	WrongType         Code = "wrong-type"                 // the payload type is none that is expected here
	Unsigned          Code = "unsigned"                   // no signature at all
	WrongKey          Code = "wrong-key"                  // signed, by no key that is trusted
	WrongPurpose      Code = "wrong-purpose"              // signed by a trusted key that is bound to something else
	Tampered          Code = "tampered"                   // names a trusted key, whose signature does not fit the content
	TooFewSignatures  Code = "too-few-signatures"         // good signatures, fewer than the threshold
	Invalid           Code = "invalid"                    // signed well, and what is signed cannot be used
	Expired           Code = "expired"                    // after its expiry
	NotYet            Code = "not-yet"                    // a command from the future, or a document before 2020: the clock is not right yet
	Older             Code = "older"                      // below the version or epoch that was seen
	SameVersion       Code = "same-version-other-content" // the version was seen with another content
	VersionJump       Code = "version-jump"               // further ahead than MaxJump
	WrongTarget       Code = "wrong-target"               // the signed target is not the record's key
	TrustGap          Code = "trust-gap"                  // a trust document whose predecessor is missing
	Replayed          Code = "replayed"                   // a command whose id ran before
	Busy              Code = "busy"                       // more commands to remember than there is room for
)

// Refusal is why something is not trusted or not adopted: a stable code and a
// reason of one line. It never holds the content.
type Refusal struct {
	Code   Code
	Reason string
}

// Error is "code: reason".
func (r *Refusal) Error() string { return string(r.Code) + ": " + r.Reason }

// Refuse makes a Refusal; the reason is formatted as by fmt.Sprintf.
func Refuse(code Code, format string, args ...any) *Refusal {
	return &Refusal{Code: code, Reason: fmt.Sprintf(format, args...)}
}
