package config

import (
	"path/filepath"
	"reflect"
	"slices"
	"time"
)

// complete fills in the defaults that depend on other values, and resolves
// relative paths.
func (d *decoder) complete(hostname func() (string, error)) {
	c := d.cfg
	if c.Agent.ID == "" && !d.bad["agent.id"] {
		name, err := hostname()
		if c.Agent.ID = sanitise(name); err != nil || c.Agent.ID == "" {
			d.wrong("agent.id", "is missing, and the host name cannot serve", nameForms)
		}
	}
	if c.Agent.DataDir != "" && !filepath.IsAbs(c.Agent.DataDir) {
		c.Agent.DataDir = filepath.Join(d.x.dir, c.Agent.DataDir)
	}
	if c.Update != nil {
		c.Update.Dir = d.x.resolve(c.Update.Dir)
	}
	for i := range c.Sources {
		d.completeSource(&c.Sources[i])
	}
	for i := range c.Uplinks {
		if k := c.Uplinks[i].Kafka; k != nil {
			d.completeTLS(k.TLS)
			if k.Metered != nil {
				k.Metered.File = d.x.resolve(k.Metered.File)
			}
			if k.SASL != nil {
				d.completeTLS(k.SASL.TLS)
			}
		}
	}
}

func (d *decoder) completeSource(s *Source) {
	if s.MQTT != nil {
		if s.MQTT.ClientID == "" {
			s.MQTT.ClientID = "sluice-" + d.cfg.Agent.ID + "-" + s.Name
		}
		d.completeTLS(s.MQTT.TLS)
	}
	if s.Modbus == nil {
		return
	}
	d.completeTLS(s.Modbus.TLS)
	d.builtinProfiles(s.Modbus, join("sources", s.Name)+".modbus")
	for _, tags := range tagLists(s.Modbus) {
		for i := range tags {
			if t := &tags[i]; t.Type == "" && (t.Read == "coil" || t.Read == "discrete") {
				t.Type = "bool"
			}
		}
	}
}

func (d *decoder) completeTLS(t *TLS) {
	if t != nil {
		t.CA, t.Cert, t.Key = d.x.resolve(t.CA), d.x.resolve(t.Cert), d.x.resolve(t.Key)
	}
}

// tagLists are the tags of all profiles and devices.
func tagLists(m *Modbus) (lists [][]Tag) {
	for _, p := range m.Profiles {
		lists = append(lists, p.Tags)
	}
	for _, dev := range m.Devices {
		lists = append(lists, dev.Tags)
	}
	return lists
}

// usedClasses are the classes that events are put into, each once, in the order
// of the file.
func (c *Config) usedClasses() (used []string) {
	use := func(class string) {
		if class != "" && !slices.Contains(used, class) {
			used = append(used, class)
		}
	}
	for _, s := range c.Sources {
		if s.MQTT != nil {
			for _, sub := range s.MQTT.Subscribe {
				use(sub.Class)
			}
		}
		if s.Modbus != nil {
			for i := range s.Modbus.Devices {
				for _, t := range s.Modbus.Resolve(&s.Modbus.Devices[i]) {
					use(t.Class)
				}
			}
		}
	}
	for _, r := range c.Pipeline {
		use(r.To)
	}
	if c.reportsSecurity() {
		use(SecurityClass)
	}
	return used
}

// SecurityClass is the class of what the agent reports of refused messages,
// logins and configs.
const SecurityClass = "security"

// reportsSecurity says whether events of SecurityClass have somewhere to go. A
// config whose uplinks name their classes has them in the log only, until
// one names this class.
func (c *Config) reportsSecurity() bool {
	return slices.ContainsFunc(c.Uplinks, func(u Uplink) bool {
		return u.Sends(SecurityClass) && len(c.StandsInFor(u.Name)) == 0
	})
}

// securityDefaults are those of SecurityClass where it is not declared: it must
// never hold a source up, and a flood of reports must not take the flash.
func securityDefaults(class *Class) {
	class.Priority = 50
	class.Keep = Keep{Bytes: 16 << 20, Age: 720 * time.Hour}
	class.WhenFull = WhenFull{Word: "drop_oldest"}
}

// addClasses gives the classes that are used and not declared their defaults.
func (c *Config) addClasses(used []string) {
	for _, name := range used {
		if c.Class(name) == nil {
			class := Class{Name: name}
			defaults(&class)
			if name == SecurityClass {
				securityDefaults(&class)
			}
			c.Classes = append(c.Classes, class)
		}
	}
}

// Class returns a class by its name, nil if there is none.
func (c *Config) Class(name string) *Class {
	return find(c.Classes, func(x *Class) bool { return x.Name == name })
}

// Uplink returns an uplink by its name, nil if there is none.
func (c *Config) Uplink(name string) *Uplink {
	return find(c.Uplinks, func(x *Uplink) bool { return x.Name == name })
}

// Source returns a source by its name, nil if there is none.
func (c *Config) Source(name string) *Source {
	return find(c.Sources, func(x *Source) bool { return x.Name == name })
}

// defaults fills a struct with the defaults of its tags.
func defaults[T any](v *T) { setDefaults(reflect.ValueOf(v).Elem()) }
