package agent

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"sluice/agent/config"
	"sluice/buffer"
	"sluice/uplink"
	opening "sluice/uplink/gate"
)

// ownPlace are the uplinks that have a place in the log: those that stand in for
// others have none.
func ownPlace(cfg *config.Config) (list []*config.Uplink) {
	for i := range cfg.Uplinks {
		if u := &cfg.Uplinks[i]; len(cfg.StandsInFor(u.Name)) == 0 {
			list = append(list, u)
		}
	}
	return list
}

// warnUnrouted names the classes that no uplink sends: their events are taken
// and go nowhere.
func (a *Agent) warnUnrouted(cfg *config.Config) {
	for _, class := range cfg.Classes {
		if !slices.ContainsFunc(ownPlace(cfg), func(u *config.Uplink) bool { return u.Sends(class.Name) }) {
			a.log.Warn("no uplink sends this class: its events are taken and go nowhere; add it to uplinks.NAME.kafka.classes", "class", class.Name)
		}
	}
}

// routes are the classes that each uplink with a place in the log reads; nil: all.
func routes(cfg *config.Config) map[string][]string {
	r := map[string][]string{}
	for _, u := range ownPlace(cfg) {
		r[u.Name] = nil
		if len(u.Kafka.Classes) > 0 {
			r[u.Name] = u.Kafka.Classes
		}
	}
	return r
}

// givenUp are the uplinks that need not get any more what waits for them: removed
// ones, and those that only stand in for others now.
func givenUp(cfg *config.Config) []string {
	names := slices.Clone(cfg.Removed)
	for _, u := range cfg.Uplinks {
		if len(cfg.StandsInFor(u.Name)) > 0 {
			names = append(names, u.Name)
		}
	}
	return names
}

// makeUplink makes an uplink that reads from b, with those that take over from
// it; without b they are only tried, and there is none.
func (a *Agent) makeUplink(cfg *config.Config, u *config.Uplink, b *buffer.Buffer) (d destination, err error) {
	d = destination{name: u.Name, key: uplinkKey(cfg, u.Name)}
	log := tappedLog{nil, u.Name, &a.taps}
	if b != nil {
		if d.reader, err = b.Reader(u.Name); err != nil {
			return d, fmt.Errorf("uplinks.%s: %w", u.Name, err)
		}
		d.reader.LiveShare(float64(u.Kafka.LiveShare))
		log.Reader = d.reader
	}
	if err = a.connect(&d, cfg, log); err != nil {
		if d.reader != nil {
			d.reader.Close()
		}
		return d, err
	}
	for i := range d.legs {
		if b != nil {
			d.legs[i].before = a.past.takeUplink(d.legs[i].uplink)
		}
	}
	return d, nil
}

// connect makes what sends the events of d: a client, or one for each uplink of
// its chain.
func (a *Agent) connect(d *destination, cfg *config.Config, log tappedLog) error {
	u := cfg.Uplink(d.name)
	var legs []uplink.Leg
	for _, x := range cfg.Chain(u) {
		c, err := uplinkConfig(cfg, x, a.log)
		if err != nil {
			return fmt.Errorf("uplinks.%s.%w", x.Name, err)
		}
		c.Reader, c.Spread = log, a.spreads.of(x)
		c.Spread.Release()
		legs = append(legs, uplink.Leg{Config: c, Classes: x.Kafka.Classes})
	}
	if len(legs) == 1 {
		k, err := uplink.New(legs[0].Config)
		if err != nil {
			return fmt.Errorf("uplinks.%s: %w", d.name, err)
		}
		d.legs, d.run = []leg{{uplink: d.name, kafka: k}}, k.Run
		return nil
	}
	chain, err := uplink.NewChain(uplink.ChainConfig{Legs: legs, Reader: log, After: u.FailoverAfter, Back: u.FailbackAfter, Log: a.log})
	if err != nil {
		return fmt.Errorf("uplinks.%s: %w", d.name, err)
	}
	d.chain, d.run = chain, chain.Run
	for i, k := range chain.Legs() {
		d.legs = append(d.legs, leg{uplink: legs[i].Name, kafka: k})
	}
	return nil
}

// openingOf is what the config says about when an uplink may send, and what that costs;
// nil: always, and nothing.
func openingOf(k *config.Kafka, log *slog.Logger) (*opening.Link, error) {
	if !k.IsOpenAtTimes() && k.Metered == nil {
		return nil, nil
	}
	c := opening.Config{Schedule: k.Schedule, Zone: k.Timezone, Log: log}
	if k.OnlyIf != nil {
		c.OnlyMetered = k.OnlyIf.Metered
	}
	if m := k.Metered; m != nil {
		c.Metered = &opening.Question{File: m.File, Command: m.Command, Every: m.Every, Timeout: m.Timeout}
	}
	return opening.New(c)
}

// Link says whether an uplink may be used now, and whether it is metered; false
// where the config has no uplink of the name. Any goroutine may call it.
func (a *Agent) Link(name string) (opening.State, bool) {
	legs := a.parts().legsOf(name)
	if len(legs) == 0 {
		return opening.State{}, false
	}
	return legs[0].kafka.Link(), true
}

// uplinkKey changes when the uplink has to be made anew; empty: it has no place in
// the log.
func uplinkKey(cfg *config.Config, name string) string {
	u := cfg.Uplink(name)
	if u == nil || len(cfg.StandsInFor(name)) > 0 {
		return ""
	}
	var digests []string
	for _, x := range cfg.Chain(u) {
		digests = append(digests, cfg.Digest("uplinks."+x.Name))
	}
	return fmt.Sprint(strings.Join(digests, " "), cfg.Agent.ID, cfg.Agent.MemoryLimit, cfg.Agent.Labels)
}
