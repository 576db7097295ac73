package remote

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/agent/remote/document"
	"sluice/agent/remote/floor"
	"sluice/agent/remote/trust"
)

// Anchor is the set of keys that is trusted: what trust documents made of base,
// which is that of the config file. A base that was changed in the file counts
// alone again, since whoever has the gateway in hand decides.
func Anchor(m floor.Memory, base trust.Anchor) trust.Anchor {
	if m.Trust == nil || m.Trust.Base != digestOf(base) {
		return base
	}
	a, err := trust.ParseAnchor(m.Trust.Keys, m.Trust.Threshold)
	if err != nil { // it was saved by Decide, so it can be read
		return base
	}
	a.Number, a.Epoch = m.Trust.Number, m.Trust.Epoch
	return a
}

// digestOf tells one base from another.
func digestOf(base trust.Anchor) string {
	keys := base.Strings()
	slices.Sort(keys)
	return trust.Digest([]byte(strings.Join(keys, "\n") + " " + strconv.Itoa(base.Threshold) + " " + strconv.FormatUint(base.Number, 10)))
}

// decideTrust judges a trust document, whose key is "trust:<number>".
func decideTrust(m floor.Memory, a Agent, number string, value []byte, clock time.Time) Decision {
	n, err := strconv.ParseUint(number, 10, 63)
	anchor := Anchor(m, a.Trust)
	switch {
	case err != nil || n == 0 || strconv.FormatUint(n, 10) != number:
		return ignore("not the key of a trust document")
	case n <= anchor.Number:
		return ignore("the keys are those of trust document %d", anchor.Number)
	case len(value) == 0:
		return ignore("%s%d is deleted; deletions are not signed, so the keys stay", trustPrefix, n)
	}
	var d Decision
	env, err := trust.Open(value)
	if err != nil {
		return d.refuse(err)
	}
	var issued time.Time
	var said uint64
	next, signers, err := anchor.Rotate(env, func(payload []byte) (r trust.Rotation, err error) {
		r, issued, err = document.ParseTrust(payload)
		said = r.Number
		return r, err
	})
	if err == nil && said != n {
		err = trust.Refuse(trust.WrongTarget, "signed as trust document %d, found under %s%d", said, trustPrefix, n)
	}
	if err != nil {
		return d.refuse(err)
	}
	d.Action, d.Signers, d.Digest, d.Save = Rotate, ids(signers), trust.Digest(env.Payload), true
	d.Memory = m.Clone()
	d.Memory.Trust = &floor.Trust{Base: digestOf(a.Trust), Number: next.Number, Epoch: next.Epoch, Keys: next.Strings(), Threshold: next.Threshold}
	d.Memory.See(clock)
	if next.Epoch > anchor.Epoch {
		// A stolen key may have raised versions, or a wrong clock the time. Both
		// begin anew; what is of an older epoch is refused from now on.
		d.Memory.Documents = nil
		d.Memory.Highest = clock.UTC()
		d.Memory.See(issued)
	}
	return d
}

// DecideCommand judges a record of the command topic by its value and the clock.
// A command runs once: an id that ran, or was refused as expired, is ignored as
// Replayed as long as its record may be read.
// Whoever calls it saves the memory before the command is run, so that after a
// crash in between it does not run at all. It is a function of its arguments.
func DecideCommand(m floor.Memory, a Agent, value []byte, clock time.Time) Decision {
	var d Decision
	env, signers, err := verified(m, a, value, trust.TypeCommand, trust.TypeUpdate)
	if err != nil {
		return d.refuse(err)
	}
	d.Digest, d.Signers = trust.Digest(env.Payload), ids(signers)
	c, err := document.ParseCommand(env.Payload)
	if err != nil {
		return d.refuse(err)
	}
	d.Command = c
	if !c.Target.Matches(a.ID, a.Labels) {
		return d.known("not for this agent")
	}
	now := m.Now(clock)
	ran, again := m.Commands[c.ID]
	switch {
	case env.Type != c.Type():
		return d.refuse(trust.Refuse(trust.WrongType, "command %s needs the payload type %s", c.Kind, c.Type()))
	case again && ran.Digest == d.Digest:
		d.Code = trust.Replayed
		return d.known("command " + c.ID + " is known already")
	case again:
		return d.refuse(trust.Refuse(trust.Replayed, "id %s belonged to another command (each needs its own)", c.ID))
	case !now.Before(c.Expires):
		return d.late(m, now)
	case c.Issued.After(now.Add(MaxAhead)):
		return d.refuse(trust.Refuse(trust.NotYet, "issued at %s (it is %s: is the clock right?)", c.Issued.Format(time.RFC3339), now.UTC().Format(time.RFC3339)))
	case c.Issued.Before(m.Born):
		return d.refuse(trust.Refuse(trust.Older, "issued at %s, and what ran before %s is not known (send it again)", c.Issued.Format(time.RFC3339), m.Born.Format(time.RFC3339)))
	}
	next := m.Clone()
	next.See(clock)
	next.See(c.Issued)
	if d.note(&next); len(next.Commands) > floor.MaxCommands {
		return d.refuse(trust.Refuse(trust.Busy, "%d commands have to be remembered until they expire (let them expire sooner)", floor.MaxCommands))
	}
	d.Action, d.Save, d.Memory = Run, true, next
	return d
}

// late refuses a command after its expiry. It is noted, so that it is told once.
func (d Decision) late(m floor.Memory, now time.Time) Decision {
	c := d.Command
	d = d.refuse(trust.Refuse(trust.Expired, "expired at %s (it is %s)", c.Expires.Format(time.RFC3339), now.UTC().Format(time.RFC3339)))
	next := m.Clone()
	if d.note(&next); len(next.Commands) <= floor.MaxCommands && next.Commands[c.ID].Digest == d.Digest {
		d.Save, d.Memory = true, next
	}
	return d
}

// note remembers the command and forgets those that need not be remembered.
func (d Decision) note(m *floor.Memory) {
	if m.Commands == nil {
		m.Commands = map[string]floor.Ran{}
	}
	m.Commands[d.Command.ID] = floor.Ran{Digest: d.Digest, Expires: d.Command.Expires}
	m.Forget(m.Highest)
}
