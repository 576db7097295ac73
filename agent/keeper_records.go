package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"sluice/agent/remote"
	"sluice/agent/remote/trust"
	"sluice/uplink/channel"
)

// refusal is a record that was refused.
type refusal struct {
	record channel.Record // without its value
	code   trust.Code
	reason string
	signed []string // ids of the keys that signed
	what   string   // config or command
	at     time.Time

	// standing: it was there when the topic was read from its start, or came during a
	// trial, so that it is not what came after a rollback.
	standing bool
}

// key names the record, of which nothing may have been read.
func (x refusal) key() string {
	if x.record.Key == "" {
		return fmt.Sprintf("offset %d", x.record.Offset)
	}
	return x.record.Key
}

// receive takes a record of the config topic; during a trial it waits for the end.
func (k *keeper) receive(r channel.Record) {
	k.pass.seen[r.Key] = len(r.Value) > 0 || r.Oversized
	// Until it is compacted a topic holds older records of a key, which are as good as
	// gone: only the newest is refused.
	k.pass.held = slices.DeleteFunc(k.pass.held, func(x refusal) bool { return x.record.Key == r.Key })
	if k.trial == nil {
		k.record(r, false)
		return
	}
	k.stash = slices.DeleteFunc(k.stash, func(old channel.Record) bool { return old.Key == r.Key })
	if len(k.stash) == stashLimit {
		k.later()
		return
	}
	k.stash = append(k.stash, r)
}

// record judges a record, and remembers what is to be remembered. waited: it came
// before the end of a trial that is over now.
func (k *keeper) record(r channel.Record, waited bool) {
	if r.Oversized {
		k.refuse(refusal{record: r, standing: waited, what: "config", code: trust.TooLarge, reason: "an envelope has at most 1 MiB"})
		return
	}
	d := remote.Decide(k.store.Memory(), k.who(), r.Key, r.Value, k.clock())
	if d.Save && !k.save(d.Memory) {
		return
	}
	if d.Action == remote.Refuse {
		k.unset = k.unset || d.Code == trust.NotYet
		k.refuse(refusal{record: r, standing: waited, what: "config", code: d.Code, reason: d.Reason, signed: d.Signers})
		return
	}
	k.refusals = slices.DeleteFunc(k.refusals, func(x refusal) bool { return x.record.Key == r.Key })
	switch d.Action {
	case remote.Adopt:
		k.pending = &d
	case remote.Withdraw:
		if k.pending == nil || k.pending.Document.Target.String() != d.Target { // else the one that counts now has come already
			k.pending = &d
		}
	case remote.Rotate:
		k.log.Info("other keys are trusted", "document", r.Key, "signed", d.Signers)
		k.agent.reports.report("trust-rotated", "", map[string]any{"document": r.Key, "signed": d.Signers})
		if k.pass.rotated = true; k.pass.caught && len(k.refusals) > 0 {
			k.reread.Reset(0) // judge them again
		}
		k.tell()
	default:
		k.log.Debug("a document is left alone", "key", r.Key, "reason", d.Reason)
	}
}

// refuse tells that a record is refused; before the end of the topic it waits, for
// keys may come that it is signed with.
func (k *keeper) refuse(x refusal) {
	x.at, x.record.Value = time.Now(), nil
	if !k.pass.caught && x.what == "config" && len(k.pass.held) < stashLimit {
		k.pass.held = append(k.pass.held, x)
		return
	}
	k.tellRefusal(x)
}

// caughtUp is told that the end of the config topic was reached, or cannot be.
func (k *keeper) caughtUp(ctx context.Context, t channel.TopicState) {
	if m := k.store.Memory(); t.Unreachable == "" && t.ID != "" && m.Topic != t.ID {
		if m.Topic != "" {
			k.anew = "was made anew: its id was " + m.Topic + " and is " + t.ID
		}
		m.Topic = t.ID
		k.save(m)
	}
	before := k.topic
	k.reached = t
	k.topic = k.oddities(t)
	if k.topic != nil && (before == nil || before.reason != k.topic.reason) {
		k.log.Warn("remote config", "code", k.topic.code, "reason", k.topic.reason)
	}
	if t.Unreachable != "" {
		k.tell()
		return
	}
	first := !k.pass.caught
	k.pass.caught = true
	held := k.pass.held
	k.pass.held = nil
	if first && k.pass.rotated && len(held) > 0 {
		_ = k.relink(ctx, true) // with the new keys; its error is logged
		return
	}
	for _, x := range held {
		x.standing = true
		k.tellRefusal(x)
	}
	k.tell()
}
