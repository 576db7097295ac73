package agent

import (
	"encoding/json"
	"slices"
	"time"

	"sluice/agent/remote"
	"sluice/agent/web"
)

// toldAMinute is how many refusals are told one by one in a minute; what is more is
// counted.
const toldAMinute = 10

// telling is what was put on the status topic.
type telling struct {
	number  uint64      // of the last record
	refused []time.Time // when the last refusals were told
	outline outline     // of the last record
}

// tellRefusal reports a record that is refused, unless too many were.
func (k *keeper) tellRefusal(x refusal) {
	k.refused++
	if x.what == "config" {
		k.refusals = slices.DeleteFunc(k.refusals, func(y refusal) bool {
			if y.record.Key == x.record.Key && y.record.Partition == x.record.Partition && y.record.Offset == x.record.Offset {
				x.at, x.standing = y.at, y.standing // the topic is read again
			}
			return y.record.Key == x.record.Key
		})
		if k.refusals = append(k.refusals, x); len(k.refusals) > stashLimit {
			k.refusals = k.refusals[1:]
		}
	}
	now := time.Now()
	k.told.refused = slices.DeleteFunc(k.told.refused, func(at time.Time) bool { return now.Sub(at) > time.Minute })
	if len(k.told.refused) >= toldAMinute {
		return
	}
	k.told.refused = append(k.told.refused, now)
	k.log.Warn("a document or command is refused", "what", x.what, "key", x.key(), "code", x.code, "reason", x.reason, "topic", x.record.Topic, "offset", x.record.Offset)
	k.agent.reports.report(x.what+"-refused", "", map[string]any{"key": x.key(), "code": x.code, "reason": x.reason, "topic": x.record.Topic,
		"partition": x.record.Partition, "offset": x.record.Offset, "signed": x.signed, "refused": k.refused})
	k.tell()
}

// state is how it stands with the config.
func (k *keeper) state() remote.ConfigStatus {
	m := k.store.Memory()
	s := remote.ConfigStatus{Running: k.by.Version, Target: k.by.Target, Epoch: k.by.Epoch, Hash: k.by.Digest, State: remote.StateApplied, Refused: k.refused}
	target, known, desired := remote.Desired(m, k.who())
	if desired {
		s.Desired = known.Version
	}
	switch {
	case k.phase != "":
		s.State = k.phase
		if k.trial != nil {
			s.Running, s.Target, s.Epoch, s.Hash = k.trial.Applied.Version, k.trial.Applied.Target, k.trial.Applied.Epoch, k.trial.Applied.Digest
		}
	case k.failed != nil && m.Documents[k.failed.target].Digest == k.failed.digest && !k.refusedSince(k.failed.at):
		s.State, s.Code, s.Reason = remote.StateRolledBack, k.failed.code, k.failed.reason
	case desired && known.Failed && known.Digest != k.by.Digest && !k.refusedSince(time.Time{}):
		s.State, s.Code, s.Reason = remote.StateRolledBack, remote.TrialFailed, "the document of "+target+" was tried before this start, and failed"
	case len(k.refusals) > 0:
		x := k.refusals[len(k.refusals)-1]
		s.State, s.Code, s.Reason = remote.StateRejected, x.code, oneLine(x.key()+": "+x.reason)
	case k.notice != nil:
		s.Code, s.Reason = k.notice.code, k.notice.reason
	case k.topic != nil:
		s.Code, s.Reason = k.topic.code, k.topic.reason
	}
	if s.Since = k.last.Since; !same(s, k.last) || s.Since.IsZero() {
		s.Since = time.Now().UTC()
	}
	return s
}

// refusedSince: a document came and was refused after at, a rollback. It is what there
// is to tell then: that the desired one does not run still shows in its version.
func (k *keeper) refusedSince(at time.Time) bool {
	if len(k.refusals) == 0 {
		return false
	}
	x := k.refusals[len(k.refusals)-1]
	return !x.standing && x.at.After(at)
}

func same(a, b remote.ConfigStatus) bool {
	a.Since, a.Refused = b.Since, b.Refused
	return a == b
}

// tell puts how it stands on the status topic and on the pages.
func (k *keeper) tell() { k.publish(true) }

// publish is tell; where there is no news it is left out while other records wait.
func (k *keeper) publish(news bool) {
	k.last = k.state()
	file := k.sup.File
	k.agent.config.Store(&web.Config{File: file, Version: k.last.Running, State: string(k.last.State), Remote: true, Desired: k.last.Desired, Target: k.last.Target,
		Code: string(k.last.Code), Reason: k.last.Reason, Since: k.last.Since})
	if k.link == nil || !news && len(k.link.out) > 0 {
		return
	}
	k.told.number++
	k.told.outline.told = k.agent.parts().outline() // before the record is made: what changes in between is told again
	x := letter{k.told.number, k.statusRecord()}
	for {
		select {
		case k.link.out <- x:
			return
		default:
		}
		select {
		case <-k.link.out: // the oldest
		default:
		}
	}
}

// statusRecord is all of it, as JSON.
func (k *keeper) statusRecord() []byte {
	st := k.agent.Status()
	r := remote.StatusRecord{Agent: st.Agent, Version: st.Version, Labels: st.Labels, Boot: k.boot, Time: time.Now().UTC(), Config: k.last,
		Buffer: map[string]remote.ClassStatus{}, Sources: map[string]remote.SourceStatus{}, Uplinks: map[string]remote.UplinkStatus{}, Commands: append([]remote.CommandStatus{}, k.commands.list...), Update: k.updating}
	for name, c := range st.Classes {
		r.Buffer[name] = remote.ClassStatus{Events: c.Events, Bytes: c.Bytes, OldestSeconds: c.OldestSeconds, Blocked: c.Blocked, Fault: c.Fault}
	}
	for name, s := range st.Sources {
		x := remote.SourceStatus{Type: s.Type, Up: s.Up, State: s.State, Devices: len(s.Devices)}
		for _, d := range s.Devices {
			if !d.Up {
				x.Silent++
			}
		}
		r.Sources[name] = x
	}
	for name, u := range st.Uplinks {
		x := remote.UplinkStatus{Up: u.Up, State: u.State}
		for class, lag := range u.Lag {
			x.Lag += lag
			x.Delivered += u.Delivered[class]
		}
		r.Uplinks[name] = x
	}
	b, err := json.Marshal(r)
	if err != nil {
		return []byte(`{}`) // plain values: it can't happen
	}
	return b
}
