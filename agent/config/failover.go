package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Chain is u and the uplinks that take over from it, in their order. It ends where
// it would begin again.
func (c *Config) Chain(u *Uplink) (chain []*Uplink) {
	for u != nil && !slices.Contains(chain, u) {
		chain = append(chain, u)
		u = c.Uplink(u.Failover)
	}
	return chain
}

// StandsInFor lists the uplinks that name takes over from, directly or not, in the
// order of the file. One that takes over from another has no place of its own in
// the log.
func (c *Config) StandsInFor(name string) (list []string) {
	for i := range c.Uplinks {
		u := &c.Uplinks[i]
		if u.Name != name && slices.ContainsFunc(c.Chain(u), func(x *Uplink) bool { return x.Name == name }) {
			list = append(list, u.Name)
		}
	}
	return list
}

// Sends says whether class goes to u, by its own list of classes.
func (u *Uplink) Sends(class string) bool {
	return u.Kafka != nil && (len(u.Kafka.Classes) == 0 || slices.Contains(u.Kafka.Classes, class))
}

// Gets says whether events of class go to u, at least while u takes over.
func (c *Config) Gets(u *Uplink, class string) bool {
	from := c.StandsInFor(u.Name)
	return u.Sends(class) && (len(from) == 0 || slices.ContainsFunc(from, func(name string) bool { return c.Uplink(name).Sends(class) }))
}

// checkFailover looks at what an uplink's failover leads to.
func (d *decoder) checkFailover(u *Uplink, path string) {
	c := d.cfg
	if u.Failover == "" {
		for _, f := range fieldsOf(reflect.TypeFor[Uplink]()) {
			at := join(join("uplinks", u.Name), f.key)
			if _, given := c.where[at]; given && f.with == "failover" {
				d.wrong(at, "has no failover beside it", "failover: NAME, the name of another uplink")
			}
		}
		return
	}
	to := c.Uplink(u.Failover)
	switch {
	case u.Failover == u.Name:
		d.wrong(path, "names the uplink itself", "another uplink")
		return
	case to == nil:
		d.wrong(path, d.show(path, u.Failover)+" is not the name of an uplink", names(c.Uplinks, func(u Uplink) string { return u.Name }))
		return
	}
	chain := c.Chain(u)
	if last := chain[len(chain)-1]; last.Failover == u.Name {
		d.wrong(path, "leads back to this uplink: "+chainText(chain)+" → "+u.Name, "an order that ends")
		return
	}
	for _, x := range []*Uplink{u, to} {
		if x.Kafka != nil && x.Kafka.Delivery == "exactly_once" {
			d.wrong(path, fmt.Sprintf("does not go together with delivery exactly_once of %s: what is under way when a link breaks may be in both clusters", x.Name),
				"at_least_once for both, or no failover")
			return
		}
	}
	if to.Kafka == nil || u.Kafka == nil {
		return
	}
	d.checkTakenOver(to)
}

// checkTakenOver refuses classes of an uplink that stands in for others and that
// none of those sends.
func (d *decoder) checkTakenOver(u *Uplink) {
	from := d.cfg.StandsInFor(u.Name)
	for i, class := range u.Kafka.Classes {
		at := index(join("uplinks", u.Name)+".kafka.classes", i)
		sent := slices.ContainsFunc(from, func(name string) bool { return d.cfg.Uplink(name).Sends(class) })
		if !sent {
			d.wrong(at, d.show(at, class)+" is sent by no uplink that this one takes over from ("+strings.Join(from, ", ")+")",
				"classes of theirs; what is to go there always needs an uplink of its own, with the same brokers")
		}
	}
}

func chainText(chain []*Uplink) string {
	all := make([]string, len(chain))
	for i, u := range chain {
		all[i] = u.Name
	}
	return strings.Join(all, " → ")
}
