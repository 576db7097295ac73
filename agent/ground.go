package agent

import (
	"slices"

	"sluice/agent/config"
	"sluice/buffer"
)

// ground is what a config on trial may have to go back to. While there is one, the
// end of a part is told to faults and does not end the agent, and nothing of the
// backlog is given up that the config before would still send.
type ground struct {
	cfg    *config.Config
	faults chan<- error
}

// wantedBuffer is the buffer for cfg; during a trial, with all that the config
// before holds: its classes and uplinks, and of two limits the wider one. What cfg
// gives up is given up once it is committed.
func (a *Agent) wantedBuffer(cfg *config.Config) buffer.Config {
	want := bufferConfig(cfg)
	if a.back == nil {
		return want
	}
	base := bufferConfig(a.back.cfg)
	want.Removed = nil
	want.MinFree = min(want.MinFree, base.MinFree)
	for i := range want.Classes {
		j := slices.IndexFunc(base.Classes, func(c buffer.Class) bool { return c.Name == want.Classes[i].Name })
		if j >= 0 {
			want.Classes[i] = wider(want.Classes[i], base.Classes[j])
		}
	}
	for _, c := range base.Classes {
		if !slices.ContainsFunc(want.Classes, func(x buffer.Class) bool { return x.Name == c.Name }) {
			want.Classes = append(want.Classes, c)
		}
	}
	for name, classes := range base.Uplinks {
		now, there := want.Uplinks[name]
		switch {
		case !there || classes == nil:
			want.Uplinks[name] = classes
		case now != nil:
			union := append(slices.Clone(now), classes...)
			slices.Sort(union)
			want.Uplinks[name] = slices.Compact(union)
		}
	}
	return want
}

// wider is a class with the limits of both that keep more, and the way of b when it
// is full.
func wider(a, b buffer.Class) buffer.Class {
	a.KeepBytes, a.Retain = max(a.KeepBytes, b.KeepBytes), max(a.Retain, b.Retain)
	if a.KeepAge > 0 && b.KeepAge > 0 {
		a.KeepAge = max(a.KeepAge, b.KeepAge)
	} else { // one of them never expires
		a.KeepAge = 0
	}
	a.WhenFull, a.Thin = b.WhenFull, b.Thin
	return a
}

// newUplinks are those of cfg that before does not have and that nothing waits for
// in the buffer: when cfg is rolled back their places are given up again.
func newUplinks(cfg, before *config.Config) (names []string) {
	waits, err := buffer.Stranded(before.Agent.DataDir, routes(before), nil)
	if err != nil {
		return nil // their places then stay, and lose nothing
	}
	for _, u := range cfg.Uplinks {
		waiting := slices.ContainsFunc(waits, func(s buffer.StrandedUplink) bool { return s.Uplink == u.Name })
		if before.Uplink(u.Name) == nil && !waiting {
			names = append(names, u.Name)
		}
	}
	return names
}
