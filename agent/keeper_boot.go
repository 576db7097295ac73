package agent

import (
	"fmt"
	"time"

	"sluice/agent/config"
	"sluice/agent/remote"
	"sluice/agent/remote/floor"
	"sluice/agent/remote/trust"
)

// maxStarts is how often a config on trial is begun, by the change to it and by
// starts, before it is given up.
const maxStarts = 3

// begin is the config to start with: one whose trial goes on, else the last good
// one, else that of the file. What a start changes of the memory is durable when
// it returns; where the disk does not take it, nothing new is tried.
func (k *keeper) begin() *config.Config {
	var running floor.Applied
	if k.configs.Good != nil {
		running = k.configs.Good.Applied
	}
	if m := k.store.Memory(); m.Applied != running { // the power went between the two
		k.save(remote.Running(m, running))
	}
	k.proven()
	if t := k.configs.Trial; t != nil {
		return k.resume(*t)
	}
	return k.grow()
}

// grow counts a start with a config that has proven itself and has not run for long
// since: one that lets the agent die a little later would otherwise do so for ever. It
// returns the config to start with, that before it after too many such starts.
func (k *keeper) grow() *config.Config {
	b := k.configs.Before
	if !k.configs.Young() {
		k.settled()
		return k.cfg
	}
	if b.Starts < maxStarts {
		again := *b
		again.Starts++
		if err := k.configs.Keep(again); err != nil {
			k.log.Error("a start with a config that is new cannot be counted", "error", err)
		}
		return k.cfg
	}
	reason := fmt.Sprintf("the agent was started with it %d times, and did not run for long", b.Starts)
	k.failed = &verdict{target: b.Target, digest: b.Digest, code: remote.Crashed, reason: reason, at: time.Now()}
	k.log.Error("the config is rolled back", "target", b.Target, "version", k.by.Version, "code", remote.Crashed, "reason", reason)
	err := k.store.Save(remote.RolledBack(k.store.Memory(), b.Target, b.Digest))
	if err == nil {
		err = k.configs.Revert()
	}
	if err != nil {
		k.log.Error("the config before cannot be brought back; the next start tries again", "error", err)
		return k.cfg
	}
	k.save(remote.Running(k.store.Memory(), b.Applied))
	k.proven()
	return k.cfg
}

// settled forgets what was before the config that runs; false: that is to be tried
// again, or a few ends that were not in order would bring it back.
func (k *keeper) settled() bool {
	err := k.configs.Settle()
	if err != nil {
		k.log.Error("what was before the config that runs cannot be forgotten", "error", err)
	}
	return err == nil
}

// rest has a stop in order not count as one that the config is to blame for.
func (k *keeper) rest() {
	if b := k.configs.Before; b != nil && b.Starts > 0 {
		again := *b
		again.Starts = 0
		if err := k.configs.Keep(again); err != nil {
			k.log.Error("a stop in order cannot be counted as such", "error", err)
		}
	}
}

// proven makes the last good config the one to go back to, or that of the file.
func (k *keeper) proven() {
	k.cfg, k.text, k.by = k.file, k.file.Text(), floor.Applied{}
	g := k.configs.Good
	if g == nil {
		return
	}
	text, err := remote.Relock([]byte(g.Text), k.file.Text(), k.file.Remote.Locked)
	if err == nil {
		var cfg *config.Config
		if cfg, err = k.parse(text); err == nil {
			k.cfg, k.text, k.by = cfg, text, g.Applied
			return
		}
	}
	k.distrust(err)
}

// distrust has the file's config count, because the stored one cannot be used.
func (k *keeper) distrust(err error) {
	by := k.configs.Good.Applied
	k.noticed(remote.StoredBad, "the stored config of %s version %d cannot be used, that of the file runs: %s", by.Target, by.Version, oneLine(err.Error()))
	k.cfg, k.text, k.by = k.file, k.file.Text(), floor.Applied{}
	k.save(remote.Running(k.store.Memory(), floor.Applied{})) // the topic may bring it again
}

// resume goes on with a trial that a stop or a crash has interrupted, and counts
// it before the config is used; it gives up one that was begun too often.
func (k *keeper) resume(t floor.Trial) *config.Config {
	if known := k.store.Memory().Documents[t.Target]; known.Digest == t.Digest && known.Failed {
		k.drop() // it was rolled back, and the power went
		return k.cfg
	}
	if t.Starts >= maxStarts {
		return k.giveUp(t, remote.Crashed, fmt.Sprintf("the agent was started with it %d times, and it was never proven", t.Starts))
	}
	cfg, text := k.file, k.file.Text()
	if !t.File {
		var err error
		if text, err = remote.Relock([]byte(t.Text), k.file.Text(), k.file.Remote.Locked); err == nil {
			cfg, err = k.parse(text)
		}
		if err != nil {
			return k.giveUp(t, remote.StartFailed, err.Error())
		}
	}
	t.Starts++
	if err := k.configs.Try(t); err != nil {
		k.log.Error("a config on trial is not tried now: its start cannot be counted", "error", err)
		return k.cfg
	}
	k.trial = newTrial(t, cfg, text)
	k.phase = remote.StateTrial
	k.log.Info("the trial of a config goes on", "target", t.Target, "version", t.Applied.Version, "start", t.Starts)
	return cfg
}

// giveUp marks what was on trial as failed, durably, and returns the config before
// it.
func (k *keeper) giveUp(t floor.Trial, code trust.Code, reason string) *config.Config {
	k.trial, k.phase, k.gone = nil, "", t.New
	k.failed = &verdict{target: t.Target, digest: t.Digest, code: code, reason: oneLine(reason), at: time.Now()}
	k.log.Error("the config is rolled back", "target", t.Target, "version", t.Applied.Version, "code", code, "reason", oneLine(reason))
	if err := k.store.Save(remote.RolledBack(k.store.Memory(), t.Target, t.Digest)); err != nil {
		k.log.Error("a config that failed cannot be marked as such; the next start tries or counts it again", "error", err)
		return k.cfg
	}
	k.drop()
	return k.cfg
}

func (k *keeper) drop() {
	if err := k.configs.Drop(); err != nil {
		k.log.Error("the config on trial cannot be removed", "error", err)
	}
}

// instead is the config to start with when cfg could not be started; nil: there is
// no other.
func (k *keeper) instead(cfg *config.Config, err error) *config.Config {
	switch {
	case k.trial != nil:
		return k.giveUp(k.trial.Trial, remote.StartFailed, err.Error())
	case cfg != k.file:
		k.distrust(err)
		return k.file
	}
	return nil
}
