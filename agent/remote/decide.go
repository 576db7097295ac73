// Package remote decides what an agent does with the records of the config and
// command topics. Whoever can write to the topics may put anything there, again
// and again and in any order; only what trusted keys signed, for this agent,
// newer than all before and not expired, is adopted.
//
// The parts: trust says who signed, document what was signed, floor what must
// not be forgotten, tree reads and changes YAML. Here they are put together
// into one function for each topic. These functions do nothing but decide; who
// calls them saves the memory that they return, and then acts.
package remote

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"sluice/agent/remote/document"
	"sluice/agent/remote/floor"
	"sluice/agent/remote/trust"
)

const (
	// MaxJump is how far a version may be ahead of the one before: a forged
	// 2^63 would otherwise leave no version for the next document.
	MaxJump uint64 = 1_000_000_000
	// MaxFirst bounds the first version of a target. It leaves room for those who
	// count in Unix seconds.
	MaxFirst uint64 = 10 * MaxJump
	// MaxAhead is how far a document's time of issue may be ahead of the clock and
	// still be believed as a time that was seen.
	MaxAhead = 24 * time.Hour
)

// Agent is what a decision depends on besides the memory. It is not changed.
type Agent struct {
	ID     string
	Labels map[string]string
	Trust  trust.Anchor // of remote.trust and remote.threshold of the config file

	Running []byte   // text of the config that runs; a patch changes it
	Local   []byte   // text of the config file
	Locked  []string // remote.locked: paths that keep the value of the file

	// Check says what is wrong with a config's text; nil: nothing is checked.
	Check func(text []byte) error
}

// ClockSet says whether a time can be that of a clock that is right. One without a
// battery begins in 1970 or when its system was built.
func ClockSet(t time.Time) bool { return t.Year() >= 2020 }

// Action is what is to be done about a record.
type Action int

// The actions.
const (
	Ignore   Action = iota // nothing: it is not for this agent, or known
	Refuse                 // report Code and Reason
	Adopt                  // try Config
	Withdraw               // go back to the document of Target, or to the config of the file
	Rotate                 // other keys are trusted; judge again what was refused
	Run                    // run Command
)

// Decision is what a record leads to. Save says that Memory is to be saved before
// anything else is done.
type Decision struct {
	Action  Action
	Code    trust.Code // of Refuse, and of Ignore where it has one
	Reason  string     // one line
	Signers []string   // ids of the keys that signed; empty where it was not looked at
	Digest  string     // of the payload, once its signatures are good

	Document *document.Document // once it could be read
	Config   []byte             // of Adopt: the text of the whole config
	Kept     []string           // of Adopt: locked paths that the document wanted otherwise
	Target   string             // of Withdraw: whose document counts now; "": none
	Command  *document.Command  // of Run

	Save   bool
	Memory floor.Memory
}

func ignore(format string, args ...any) Decision {
	return Decision{Reason: fmt.Sprintf(format, args...)}
}

// refuse makes a Decision of an error, which is a *trust.Refusal or means
// Invalid.
func (d Decision) refuse(err error) Decision {
	d.Action, d.Code, d.Reason = Refuse, trust.Invalid, err.Error()
	if r, ok := errors.AsType[*trust.Refusal](err); ok {
		d.Code, d.Reason = r.Code, r.Reason
	}
	d.Reason = oneLine(d.Reason)
	d.Save, d.Memory = false, floor.Memory{}
	return d
}

// oneLine keeps the first lines of a reason, as one.
func oneLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	if n := len(lines); n > 3 {
		lines = append(lines[:3], fmt.Sprintf("and %d more", n-3))
	}
	return strings.Join(lines, "; ")
}

// trustPrefix starts the key of a record with a trust document.
const trustPrefix = "trust:"

// Decide judges a record of the config topic: its key, its value (nil for a
// deletion) and the clock. It is a function of its arguments.
func Decide(m floor.Memory, a Agent, key string, value []byte, clock time.Time) Decision {
	if number, ok := strings.CutPrefix(key, trustPrefix); ok {
		return decideTrust(m, a, number, value, clock)
	}
	target, err := document.ParseTarget(key)
	if err != nil || !target.Matches(a.ID, a.Labels) {
		return ignore("not for this agent")
	}
	if len(value) == 0 {
		return ignore("%s is deleted; deletions are not signed, so what runs stays", key)
	}
	d, doc, err := read(m, a, value)
	if err != nil {
		return d.refuse(err)
	}
	if doc.Target != target {
		return d.refuse(trust.Refuse(trust.WrongTarget, "signed for %s, found under %s", doc.Target, key))
	}
	state, err := place(m, a, doc, d.Digest)
	if err != nil {
		return d.refuse(err)
	}
	return d.choose(m, a, state, clock)
}

// read opens an envelope, verifies it and reads its document.
func read(m floor.Memory, a Agent, value []byte) (d Decision, doc *document.Document, err error) {
	env, signers, err := verified(m, a, value, trust.TypeConfig)
	if err != nil {
		return d, nil, err
	}
	d.Digest, d.Signers = trust.Digest(env.Payload), ids(signers)
	if doc, err = document.Parse(env.Payload); err != nil {
		return d, nil, err
	}
	d.Document = doc
	return d, doc, nil
}

// verified opens an envelope and checks its signatures against the keys of now.
func verified(m floor.Memory, a Agent, value []byte, types ...string) (*trust.Envelope, []trust.Key, error) {
	env, err := trust.Open(value)
	if err != nil {
		return nil, nil, err
	}
	anchor := Anchor(m, a.Trust)
	if anchor.Number < m.LeastTrust {
		return nil, nil, trust.Refuse(trust.TrustGap, "the keys of trust document %d are needed, those of %d are known", m.LeastTrust, anchor.Number)
	}
	signers, err := anchor.Verify(env, types...)
	return env, signers, err
}

func ids(keys []trust.Key) []string {
	list := make([]string, len(keys))
	for i, k := range keys {
		list[i] = k.ID()
	}
	return list
}

// place holds a document against the versions that were seen.
func place(m floor.Memory, a Agent, doc *document.Document, digest string) (floor.Known, error) {
	epoch := Anchor(m, a.Trust).Epoch
	now := floor.Known{Epoch: doc.Epoch, Version: doc.Version, Digest: digest, Withdrawn: doc.Withdrawn() || !doc.For(a.ID, a.Labels)}
	known, seen := m.Documents[doc.Target.String()]
	seen = seen && known.Epoch >= epoch
	switch {
	case doc.Epoch < epoch:
		return now, trust.Refuse(trust.Older, "epoch %d (the trusted keys are of epoch %d)", doc.Epoch, epoch)
	case doc.Epoch-epoch > MaxJump:
		return now, trust.Refuse(trust.VersionJump, "epoch %d is more than %d ahead of %d", doc.Epoch, MaxJump, epoch)
	case !seen || doc.Epoch > known.Epoch:
		if doc.Version > MaxFirst {
			return now, trust.Refuse(trust.VersionJump, "version %d (the first is at most %d)", doc.Version, MaxFirst)
		}
		return now, nil
	case document.Newer(known.Epoch, known.Version, doc.Epoch, doc.Version):
		return now, trust.Refuse(trust.Older, "version %d of epoch %d (seen: version %d of epoch %d)", doc.Version, doc.Epoch, known.Version, known.Epoch)
	case doc.Version-known.Version > MaxJump:
		return now, trust.Refuse(trust.VersionJump, "version %d is more than %d ahead of %d", doc.Version, MaxJump, known.Version)
	case doc.Version > known.Version:
		return now, nil
	case digest != known.Digest:
		return now, trust.Refuse(trust.SameVersion, "version %d was seen with another content (give it a new version)", doc.Version)
	}
	now.Failed = known.Failed
	return now, nil
}

// choose decides about a document that is in its place: whether it is the one
// that counts, and whether it can be used.
func (d Decision) choose(m floor.Memory, a Agent, state floor.Known, clock time.Time) Decision {
	key, now, next := d.Document.Target.String(), m.Now(clock), m.Clone()
	same := m.Documents[key] == state
	if next.Documents == nil {
		next.Documents = map[string]floor.Known{}
	}
	next.Documents[key] = state
	winner := choice(next, a)
	// A document runs whose target has none any more.
	gone := next.Documents[m.Applied.Target].Withdrawn
	switch {
	case same && winner == key && m.Applied.Digest == d.Digest:
		return d.known("it runs already")
	case same && winner == key && state.Failed:
		return d.known("it was tried and rolled back")
	case same && winner != key && (!gone || state.Failed):
		return d.known(counts(winner))
	case !ClockSet(now) && !(same && state.Withdrawn):
		return d.refuse(trust.Refuse(trust.NotYet, "it expires at %s, and by the clock it is %s: it waits until the clock is set", d.Document.Expires.Format(time.RFC3339), now.UTC().Format(time.RFC3339)))
	case !now.Before(d.Document.Expires) && !(same && state.Withdrawn):
		return d.refuse(trust.Refuse(trust.Expired, "expired at %s (it is %s)", d.Document.Expires.Format(time.RFC3339), now.UTC().Format(time.RFC3339)))
	case len(next.Documents) > floor.MaxTargets:
		return d.refuse(trust.Refuse(trust.Busy, "documents for %d targets are known (at most %d)", len(m.Documents), floor.MaxTargets))
	}
	next.See(clock)
	if d.Document.Issued.Before(now.Add(MaxAhead)) {
		next.See(d.Document.Issued)
	}
	d.Save, d.Memory = !same, next
	switch {
	case winner == key:
		return d.adopt(a)
	case gone:
		d.Action, d.Target, d.Reason = Withdraw, winner, m.Applied.Target+" has no config for this agent any more; "+counts(winner)
		return d
	}
	return d.known(counts(winner))
}

// known is a Decision to do nothing, though the memory may have to be saved.
func (d Decision) known(reason string) Decision {
	d.Action, d.Reason = Ignore, reason
	return d
}

func counts(winner string) string {
	if winner == "" {
		return "the config of the file counts"
	}
	return "the document of " + winner + " counts"
}

// choice is the target whose document counts: the most specific that means the
// agent and is not withdrawn, then the highest epoch and version; of equals the
// stable one before the canary. Of two labels, then, the first in the alphabet.
func choice(m floor.Memory, a Agent) (winner string) {
	var best document.Target
	var known floor.Known
	for key, k := range m.Documents {
		t, err := document.ParseTarget(key)
		if err != nil || k.Withdrawn || !t.Matches(a.ID, a.Labels) {
			continue
		}
		if winner == "" || before(t, k, best, known) {
			winner, best, known = key, t, k
		}
	}
	return winner
}

func before(t document.Target, k floor.Known, best document.Target, known floor.Known) bool {
	switch {
	case t.Kind != best.Kind:
		return t.Kind > best.Kind
	case k.Epoch != known.Epoch || k.Version != known.Version:
		return document.Newer(k.Epoch, k.Version, known.Epoch, known.Version)
	case t.Canary != best.Canary:
		return best.Canary
	}
	return t.String() < best.String()
}

// adopt makes the config of a document that counts.
func (d Decision) adopt(a Agent) Decision {
	text, kept, err := Assemble(d.Document, a.Running, a.Local, a.Locked)
	if err == nil && a.Check != nil {
		err = a.Check(text)
	}
	if err != nil {
		return d.refuse(err)
	}
	d.Action, d.Config, d.Kept = Adopt, text, kept
	return d
}

// By names the document of an Adopt as the one whose config runs, from when it has
// proven itself.
func By(m floor.Memory, a Agent, d Decision) floor.Applied {
	return floor.Applied{Target: d.Document.Target.String(), Epoch: d.Document.Epoch, Version: d.Document.Version,
		Digest: d.Digest, Issued: d.Document.Issued, Trust: Anchor(m, a.Trust).Number}
}

// Running is the memory once the config of a document has proven itself; the zero
// Applied is the config of the file.
func Running(m floor.Memory, by floor.Applied) floor.Memory {
	m = m.Clone()
	m.Applied = by
	return m
}

// RolledBack is the memory after the config of a document has failed: it is not
// tried again.
func RolledBack(m floor.Memory, target, digest string) floor.Memory {
	m = m.Clone()
	if k := m.Documents[target]; k.Digest == digest {
		k.Failed = true
		m.Documents[target] = k
	}
	return m
}

// Desired is the document that counts for the agent; ok is false without any.
func Desired(m floor.Memory, a Agent) (target string, k floor.Known, ok bool) {
	target = choice(m, a)
	return target, m.Documents[target], target != ""
}
