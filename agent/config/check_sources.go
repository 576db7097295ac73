package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

func (d *decoder) checkMQTT(m *MQTT, path string) {
	for i, server := range m.Servers {
		d.checkURL(index(path+".servers", i), server, []string{"tcp", "ssl", "ws", "wss"}, []string{"ws", "wss"})
	}
	if m.Password.IsSet() && m.Username == "" {
		d.wrong(path+".password", "needs a username", "both, or neither")
	}
	// [MQTT-1.5.3-2]: no NUL in a string; brokers show the id in their logs.
	if len(m.ClientID) > 256 || strings.ContainsFunc(m.ClientID, unicode.IsControl) {
		d.wrong(path+".client_id", "is not a usable client id", "up to 256 bytes without control characters")
	}
	d.checkTLS(m.TLS, path+".tls")
	if m.Sparkplug != nil && m.Decode != "sparkplug_b" {
		d.wrong(path+".sparkplug", "has no effect with decode: "+d.show(path+".decode", m.Decode), "decode: sparkplug_b, or leave it out")
	}
	lines := map[string]int{}
	for i, s := range m.Subscribe {
		at := index(path+".subscribe", i)
		if wrong, allowed := filterRule(s.Filter); wrong != "" {
			d.wrong(at+".filter", d.show(at+".filter", s.Filter)+" "+wrong, allowed)
		} else if first := lines[s.Filter]; first > 0 {
			d.wrong(at+".filter", fmt.Sprintf("%s is there twice, first in line %d", d.show(at+".filter", s.Filter), first), "each filter once")
		}
		if m.Decode == "sparkplug_b" && strings.HasPrefix(s.Filter, "$share/") {
			d.wrong(at+".filter", d.show(at+".filter", s.Filter)+" is shared with other clients, and decode: sparkplug_b needs all messages of an edge node", "a filter without $share, such as spBv1.0/#")
		}
		lines[s.Filter] = d.cfg.where.of(at + ".filter").line
		d.checkClassName(at+".class", s.Class)
	}
}

// filterRule says what is wrong with a topic filter, by MQTT 3.1.1 §4.7.1.
func filterRule(filter string) (wrong, allowed string) {
	if filter == "" {
		return "", "" // said by the decoder
	}
	if rest, ok := strings.CutPrefix(filter, "$share/"); ok {
		group, inner, _ := strings.Cut(rest, "/")
		if group == "" || inner == "" || strings.ContainsAny(group, "+#") {
			return "is not a shared filter", "$share/GROUP/FILTER"
		}
		filter = inner
	} else if filter == "$share" {
		return "is not a shared filter", "$share/GROUP/FILTER"
	}
	if len(filter) > 65535 || strings.ContainsRune(filter, 0) {
		return "is not a topic filter", "up to 65535 bytes without NUL"
	}
	levels := strings.Split(filter, "/")
	for i, level := range levels {
		switch {
		case strings.Contains(level, "#") && (level != "#" || i < len(levels)-1):
			return "has a # that is not the whole last level", "# only as the last level, such as a/b/#"
		case strings.Contains(level, "+") && level != "+":
			return "has a + within a level", "+ only as a whole level, such as a/+/c"
		}
	}
	return "", ""
}

// checkClientIDs refuses two sources that would push each other off a broker:
// it ends the older session when a client id comes again (MQTT 3.1.1 §3.1.4).
func (d *decoder) checkClientIDs() {
	first := map[string]string{}
	for _, s := range d.cfg.Sources {
		if s.MQTT == nil {
			continue
		}
		for _, server := range s.MQTT.Servers {
			key := server + " " + s.MQTT.ClientID
			if other := first[key]; other != "" && other != s.Name {
				path := join("sources", s.Name) + ".mqtt.client_id"
				d.wrong(path, fmt.Sprintf("%s is that of the source %s at the same server", d.show(path, s.MQTT.ClientID), other), "a client id of its own")
			}
			first[key] = s.Name
		}
	}
}

func (d *decoder) checkModbus(m *Modbus, path string) {
	d.checkConnection(m, path)
	if b := m.Breaker; b.Max < b.Retry {
		d.wrong(path+".breaker.max", "is shorter than retry, "+formatDuration(b.Retry), "retry or longer")
	}
	for i := range m.Profiles {
		p := &m.Profiles[i]
		for j := range p.Tags {
			d.checkTag(&p.Tags[j], m, p.Base, join(path+".profiles", p.Name)+".tags")
		}
	}
	for i := range m.Devices {
		d.checkDevice(m, &m.Devices[i], join(path+".devices", m.Devices[i].Name))
	}
}

func (d *decoder) checkDevice(m *Modbus, dev *Device, path string) {
	profile := find(m.Profiles, func(p *Profile) bool { return p.Name == dev.Profile })
	if dev.Profile != "" && profile == nil {
		d.wrong(path+".profile", d.show(path+".profile", dev.Profile)+" is not the name of a profile", names(m.Profiles, func(p Profile) string { return p.Name }))
	} else if dev.Profile == "" && len(dev.Tags) == 0 && !d.bad[path] && !d.bad[path+".tags"] {
		d.wrong(path, "reads nothing", "a profile, tags, or both")
	}
	base := 0
	if profile != nil {
		base = profile.Base
	}
	if dev.Base != nil {
		base = *dev.Base
	}
	for i := range dev.Tags {
		d.checkTag(&dev.Tags[i], m, base, path+".tags")
	}
	d.checkClassName(path+".class", dev.Class)
}

// checkTag checks that the keys of a tag go together. path is that of its list.
func (d *decoder) checkTag(t *Tag, m *Modbus, base int, path string) {
	path = join(path, t.Name)
	d.checkClassName(path+".class", t.Class)
	if d.bad[path+".read"] || d.bad[path+".type"] || t.Read == "" {
		return
	}
	bits := t.Read == "coil" || t.Read == "discrete"
	long := t.Type == "string" || t.Type == "bytes"
	switch {
	case t.Type == "":
		d.wrong(path+".type", "is missing", "int16, uint16, float32, …: "+t.Read+" registers need a type")
		return
	case bits && t.Type != "bool":
		d.wrong(path+".type", fmt.Sprintf("%s cannot be read from a %s", t.Type, t.Read), "bool")
		return
	case !bits && t.Type == "bool":
		d.wrong(path+".type", fmt.Sprintf("bool cannot be read from a register (%s)", t.Read), "read: coil or discrete, or a number type")
		return
	case long && t.Length == 0:
		d.wrong(path+".length", "is missing", "the number of registers, 1 to 125")
	case !long && t.Length != 0:
		d.wrong(path+".length", "is only for string and bytes", "leave it out")
	}
	d.checkTagPlace(t, m, base, path)
	d.checkTagNumber(t, path)
}

// checkTagPlace checks that the tag lies in its table and fits one request.
func (d *decoder) checkTagPlace(t *Tag, m *Modbus, base int, path string) {
	n := t.registers()
	if base > 1 || base < 0 || d.bad[path+".length"] {
		return // said already
	}
	if t.At < base || t.At-base+n > 65536 {
		d.wrong(path+".at", fmt.Sprintf("%s is out of range for base %d", d.show(path+".at", strconv.Itoa(t.At)), base), fmt.Sprintf("%d to %d", base, 65536-n+base))
	}
	if t.Type != "bool" && n > m.Grouping.MaxRegisters {
		d.wrong(path, fmt.Sprintf("needs %d registers in one request", n), fmt.Sprintf("grouping.max_registers, %d, or fewer", m.Grouping.MaxRegisters))
	}
}

// registers is the number of registers, or bits, that the tag takes.
func (t *Tag) registers() int {
	switch {
	case t.Type == "string" || t.Type == "bytes":
		return t.Length
	case strings.HasSuffix(t.Type, "64"):
		return 4
	case strings.HasSuffix(t.Type, "32"):
		return 2
	}
	return 1
}

// checkTagNumber refuses arithmetic on what is no number.
func (d *decoder) checkTagNumber(t *Tag, path string) {
	if t.Scale == 0 {
		d.wrong(path+".scale", "is 0, which would make every value the same", "any other number")
	}
	if !slices.Contains([]string{"bool", "string", "bytes"}, t.Type) {
		return
	}
	for _, f := range []struct {
		key string
		set bool
	}{{"scale", t.Scale != 1}, {"offset", t.Offset != 0}, {"deadband", t.Deadband != nil && t.Deadband.Value > 0}} {
		if f.set {
			d.wrong(join(path, f.key), "is only for numbers, and the type is "+t.Type, "leave it out")
		}
	}
}
