package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sluice/agent/remote"
	"sluice/agent/remote/trust"
	"sluice/uplink/channel"
)

const (
	commandsKept    = 16               // of which the status tells
	commandsRunning = 4                // at a time
	resultLimit     = 64 << 10         // bytes of a result
	answerLimit     = 10 * time.Second // for the answer to go out before a command cuts it off
)

// command judges a record of the command topic, remembers the command and has it
// done. What was judged before, in this life or another, is not told again: that it
// is judged anew makes it run where it can by now, as after a rotation of keys.
func (k *keeper) command(ctx context.Context, r channel.Record) {
	known := k.commands.told.Has(r.TopicID, r.Partition, r.Offset)
	defer k.commands.judged(r)
	if r.Oversized {
		if known {
			return
		}
		k.refuse(refusal{record: r, what: "command", code: trust.TooLarge, reason: "an envelope has at most 1 MiB"})
		return
	}
	if len(r.Value) == 0 {
		return // a deletion
	}
	d := remote.DecideCommand(k.store.Memory(), k.who(), r.Value, k.clock())
	known = known && d.Action == remote.Refuse
	if d.Action == remote.Run && k.commander == nil {
		d.Action, d.Code, d.Reason = remote.Refuse, trust.Invalid, "this agent does not take commands"
	}
	if d.Action == remote.Run && k.commands.running >= commandsRunning {
		d.Action, d.Code, d.Reason, d.Save = remote.Refuse, trust.Busy, fmt.Sprintf("%d commands are under way (send it again later)", commandsRunning), false
	}
	if d.Save && !k.save(d.Memory) {
		d.Action, d.Code, d.Reason = remote.Refuse, remote.NotStored, "it cannot be remembered, so it is not run"
	}
	switch {
	case known:
	case d.Action == remote.Refuse:
		if d.Command != nil {
			k.commands.note(remote.CommandStatus{ID: d.Command.ID, Kind: d.Command.Kind, State: remote.CommandRefused, Code: d.Code, Reason: oneLine(d.Reason)})
		} else {
			k.commands.note(remote.CommandStatus{State: remote.CommandRefused, Code: d.Code, Reason: oneLine(d.Reason)})
		}
		k.refuse(refusal{record: r, what: "command", code: d.Code, reason: d.Reason, signed: d.Signers})
	case d.Action == remote.Run:
		k.runCommand(ctx, d)
	}
}

// runCommand has a command done that is remembered, and tells the end of it.
func (k *keeper) runCommand(ctx context.Context, d remote.Decision) {
	c := d.Command
	said := remote.CommandStatus{ID: c.ID, Kind: c.Kind, State: remote.CommandRunning}
	k.agent.reports.report("command", "", map[string]any{"id": c.ID, "kind": c.Kind, "signed": d.Signers})
	k.commands.running++
	k.commands.note(said)
	k.keepTold(0)
	k.tell()
	k.wg.Go(func() {
		result, err := k.commander.Do(ctx, c)
		if !k.do(ctx, func() { k.commandEnded(said, result, err) }) {
			if errors.Is(err, context.Canceled) {
				err = fmt.Errorf("the agent stopped before its end: %w", err)
			}
			k.ends <- func() { k.commands.end(said, result, err) }
		}
	})
}

// commandEnded tells what became of a command.
func (k *keeper) commandEnded(said remote.CommandStatus, result any, err error) {
	k.commands.running--
	k.commands.end(said, result, err)
	k.keepTold(0)
	k.tell()
	if after, ok := result.(Afterwards); ok {
		k.afterwards = append(k.afterwards, afterwards{k.told.number, time.Now().Add(answerLimit), after.Then})
	}
}

// afterwards is what is done once a status record was acknowledged, or could not be
// in time.
type afterwards struct {
	number uint64
	limit  time.Time
	then   func()
}

// finish does what waits for the record with that number to be acknowledged.
func (k *keeper) finish(number uint64, now time.Time) {
	k.afterwards = slices.DeleteFunc(k.afterwards, func(a afterwards) bool {
		due := number >= a.number || now.After(a.limit)
		if due {
			a.then()
		}
		return due
	})
}
