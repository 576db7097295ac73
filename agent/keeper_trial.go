package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"sluice/agent/config"
	"sluice/agent/remote"
	"sluice/agent/remote/floor"
	"sluice/agent/remote/trust"
	"sluice/buffer"
	"sluice/uplink"
)

// proofHold is how long everything must be well, without a break, for a config to
// count as proven.
const proofHold = time.Second

// trial is a config that runs and has to prove itself.
type trial struct {
	floor.Trial
	cfg     *config.Config
	text    []byte
	since   time.Time
	good    time.Time          // since when everything is well; zero: it isn't
	before  map[string]*member // uplinks as they were before; those that are the same need not prove anything
	number  uint64             // of the first status record of the trial
	acked   bool               // it, or a later one, was acknowledged
	missing []string           // what was not well when it was looked at
}

func newTrial(t floor.Trial, cfg *config.Config, text []byte) *trial {
	return &trial{Trial: t, cfg: cfg, text: text, since: time.Now(), missing: []string{"it has just begun"}}
}

// adopt begins the trial of what is pending.
func (k *keeper) adopt(ctx context.Context) {
	d := k.pending
	k.pending = nil
	t := floor.Trial{Target: d.Document.Target.String(), Digest: d.Digest, Starts: 1, Up: k.up()}
	cfg, text := k.file, k.file.Text()
	if d.Action == remote.Withdraw && d.Target != "" { // whose document was not looked at closely
		if k.withdrew != d.Digest {
			k.withdrew = d.Digest
			_ = k.relink(ctx, true) // its error is logged
		}
		return
	}
	if t.File = d.Action == remote.Withdraw; !t.File {
		var err error
		t.Good = floor.Good{Applied: remote.By(k.store.Memory(), k.who(), *d), Text: string(d.Config)}
		if text = d.Config; len(d.Kept) > 0 {
			k.log.Warn("a document wants to change what is locked", "target", t.Target, "kept", d.Kept)
		}
		if cfg, err = k.parse(text); err != nil { // Decide has checked it; a secret may have vanished since
			k.notice = &verdict{code: trust.Invalid, reason: oneLine(err.Error())}
			k.tell()
			return
		}
	}
	t.New = newUplinks(cfg, k.cfg)
	if err := k.configs.Try(t); err != nil {
		k.noticed(remote.NotStored, "%v", err)
		k.later()
		k.tell()
		return
	}
	k.try(ctx, newTrial(t, cfg, text))
}

// try changes the agent to a config whose intent is durable.
func (k *keeper) try(ctx context.Context, t *trial) {
	k.log.Info("a config is tried", "target", t.Target, "version", t.Applied.Version, "file", t.File)
	k.phase = remote.StateApplying
	k.trial = t
	k.tell()
	t.before = k.agent.parts().uplinkMembers()
	if err := k.agent.tryOut(ctx, t.cfg, k.ground(), t.New); err != nil {
		if ctx.Err() == nil && !errors.Is(err, errStopped) { // else the next start goes on
			k.rollBack(ctx, remote.StartFailed, err.Error())
		}
		return
	}
	k.watch(ctx, t)
}

// watch begins the time in which a config that runs has to prove itself.
func (k *keeper) watch(ctx context.Context, t *trial) {
	t.since, t.good, k.phase = time.Now(), time.Time{}, remote.StateTrial
	_ = k.relink(ctx, false) // its error is logged, and without it there is no proof
	// It goes through every uplink that takes reports: something for them to prove
	// themselves by.
	k.agent.reports.report("config-trial", "", k.about(t))
	t.number = k.told.number + 1
	k.tell()
}

func (k *keeper) about(t *trial) map[string]any {
	return map[string]any{"target": t.Target, "version": t.Applied.Version, "epoch": t.Applied.Epoch, "digest": t.Digest, "file": t.File}
}

// up names what works now.
func (k *keeper) up() (names []string) {
	p := k.agent.parts()
	for _, s := range p.sources {
		if s.driver.Stats().Up {
			names = append(names, "source "+s.name)
		}
	}
	for _, name := range p.names() {
		if st, _ := p.linkStats(name); st.Up {
			names = append(names, "uplink "+name)
		}
	}
	return names
}

// linkStats are those of an uplink's cluster, whichever of its clients knows best;
// false: none runs.
func (p *parts) linkStats(name string) (st uplink.Stats, runs bool) {
	for _, l := range p.legsOf(name) {
		one := l.kafka.Stats()
		last := one.LastAck
		if st.LastAck.After(last) {
			last = st.LastAck
		}
		if !runs || one.Up && !st.Up {
			st, runs = one, true
		}
		st.LastAck = last
	}
	return st, runs
}

// acknowledged is told that a status record was.
func (k *keeper) acknowledged(number uint64) {
	k.finish(number, time.Now())
	if k.trial != nil && k.trial.number > 0 && number >= k.trial.number {
		k.trial.acked = true
	}
}

// judge looks whether the config on trial has proven itself, or its time is over.
func (k *keeper) judge(ctx context.Context) {
	t := k.trial
	now := time.Now()
	t.missing = k.unproven(t)
	switch {
	case len(t.missing) > 0:
		t.good = time.Time{}
	case t.good.IsZero():
		t.good = now
	case len(k.faults) > 0: // run sees to it
	case now.Sub(t.good) >= proofHold:
		k.commit(ctx)
		return
	}
	if limit := k.cfg.Remote.Trial; now.Sub(t.since) > limit {
		if len(t.missing) == 0 {
			t.missing = []string{"it was not well for long enough"}
		}
		k.rollBack(ctx, remote.TrialFailed, fmt.Sprintf("not proven within %s: %s", limit, strings.Join(t.missing, "; ")))
	}
}

// unproven says what is not as it should be.
func (k *keeper) unproven(t *trial) (list []string) {
	p := k.agent.parts()
	log := p.buffer.Stats()
	for name, c := range log.Classes {
		if c.Fault != "" {
			list = append(list, fmt.Sprintf("buffer, class %s: cannot be written: %s", name, c.Fault))
		}
	}
	for _, was := range t.Up {
		kind, name, _ := strings.Cut(was, " ")
		if kind == "source" && p.cfg.Source(name) != nil {
			list = append(list, unprovenSource(p.source(name), name)...)
		} else if kind == "uplink" && p.cfg.Uplink(name) != nil && name != p.cfg.Remote.Uplink {
			list = append(list, unprovenUplink(p, name, t, log)...)
		}
	}
	list = append(list, unprovenRemote(p, t)...)
	slices.Sort(list)
	return list
}

// unprovenRemote wants the uplink that configs come over to have been acknowledged
// a status record, or an event.
func unprovenRemote(p *parts, t *trial) []string {
	name := p.cfg.Remote.Uplink
	st, runs := p.linkStats(name)
	switch {
	case !runs:
		return []string{fmt.Sprintf("uplink %s: it does not run", name)}
	case slices.Contains(t.Up, "uplink "+name) && !st.Up:
		return []string{fmt.Sprintf("uplink %s was up: %s", name, withError(st.State, st.LastError))}
	case !t.acked && !st.LastAck.After(t.since):
		return []string{fmt.Sprintf("uplink %s: no status record was acknowledged over it, %s", name, withError(st.State, st.LastError))}
	}
	return nil
}

func unprovenSource(s *source, name string) []string {
	if s == nil {
		return []string{fmt.Sprintf("source %s: it does not run", name)}
	}
	if st := s.driver.Stats(); !st.Up {
		return []string{fmt.Sprintf("source %s was up: %s", name, withError(st.State, st.LastError))}
	}
	return nil
}

// unprovenUplink wants an acknowledgement of an uplink that was made anew, if it has
// anything to send.
func unprovenUplink(p *parts, name string, t *trial, log buffer.Stats) []string {
	st, runs := p.linkStats(name)
	switch {
	case !runs:
		return []string{fmt.Sprintf("uplink %s: it does not run", name)}
	case !st.Up:
		return []string{fmt.Sprintf("uplink %s was up: %s", name, withError(st.State, st.LastError))}
	}
	if u := p.uplink(name); u == nil || u.member == t.before[name] || st.LastAck.After(t.since) {
		return nil
	}
	_, reports := log.Classes[config.SecurityClass].Uplinks[name]
	for _, c := range log.Classes {
		if reports || c.Uplinks[name].Lag > 0 {
			return []string{fmt.Sprintf("uplink %s: nothing was acknowledged over it yet, %s", name, st.State)}
		}
	}
	return nil
}

// commit makes the config on trial the good one.
func (k *keeper) commit(ctx context.Context) {
	t := k.trial
	before := floor.Before{Target: t.Target, Digest: t.Digest, File: t.File, Starts: 1}
	if k.configs.Good != nil {
		before.Good = *k.configs.Good
	}
	err := k.configs.Keep(before)
	if err == nil {
		err = k.configs.Commit()
	}
	if err != nil {
		k.rollBack(ctx, remote.NotStored, err.Error())
		return
	}
	k.cfg, k.text, k.by = t.cfg, t.text, t.Applied
	k.save(remote.Running(k.store.Memory(), t.Applied))
	k.trial, k.phase, k.notice, k.failed, k.refusals, k.anew = nil, "", nil, nil, nil, ""
	k.topic = k.oddities(k.reached)
	k.ripe.Reset(k.cfg.Remote.Trial)
	k.log.Info("the config is applied", "target", t.Target, "version", t.Applied.Version, "file", t.File)
	k.agent.reports.report("config-applied", "", k.about(t))
	if err := k.agent.settle(ctx, t.cfg); err != nil && ctx.Err() == nil {
		k.log.Error("the buffer cannot be opened with the limits of the config", "error", err)
	}
	_ = k.relink(ctx, false) // another id or label reads other records
	k.tell()
}

// rollBack goes back to the last good config. That it failed is durable first, so
// that whatever happens meanwhile the next start does not try it again.
func (k *keeper) rollBack(ctx context.Context, code trust.Code, reason string) {
	t := k.trial
	k.giveUp(t.Trial, code, reason)
	if err := k.agent.putBack(ctx, k.cfg, t.New); err != nil {
		k.log.Error("the config before cannot be applied", "error", err)
	}
	for range len(k.faults) { // of parts that were put back since
		k.log.Debug("a part had ended", "error", <-k.faults)
	}
	_ = k.relink(ctx, false) // its error is logged
	details := k.about(t)
	details["code"], details["reason"] = code, oneLine(reason)
	k.agent.reports.report("config-rolled-back", "", details)
	k.tell()
}

// uplinkMembers are the goroutines of the uplinks, by name.
func (p *parts) uplinkMembers() map[string]*member {
	m := map[string]*member{}
	for _, u := range p.uplinks {
		m[u.name] = u.member
	}
	return m
}

// tryOut is Apply for a config on trial: from then on until settle or putBack there
// is a way back to back. fresh are uplinks that only cfg has.
func (a *Agent) tryOut(ctx context.Context, cfg *config.Config, back *ground, fresh []string) error {
	return a.call(ctx, func() error {
		a.back, a.gone = back, fresh
		return a.apply(cfg)
	})
}

// settle ends a trial whose config stays: what it gives up is given up now.
func (a *Agent) settle(ctx context.Context, cfg *config.Config) error {
	return a.call(ctx, func() error {
		a.back, a.gone = nil, nil
		return a.apply(cfg)
	})
}

// putBack ends a trial whose config goes. gone are uplinks that only that one had.
func (a *Agent) putBack(ctx context.Context, cfg *config.Config, gone []string) error {
	return a.call(ctx, func() error {
		a.back, a.gone = nil, gone
		if err := a.change(cfg); err != nil && a.halt.Err() == nil {
			a.broken = err
			return err
		}
		a.gone = nil
		return nil
	})
}
