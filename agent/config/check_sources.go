package config

import (
	"fmt"
	"strings"
	"unicode"
)

// leastMemory is the lower bound of agent.memory_limit.
const leastMemory = 16 << 20

// payloadShare is how many times its own size a large message takes on its way
// through queue, commit and uplink: 7 were measured.
const payloadShare = 8

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
	d.checkPayload(m, path+".max_payload")
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

// checkPayload requires memory for the largest message. A memory_limit that is out
// of range itself is told elsewhere.
func (d *decoder) checkPayload(m *MQTT, path string) {
	limit := d.cfg.Agent.MemoryLimit
	if most := limit / payloadShare; limit >= leastMemory && m.MaxPayload > most {
		d.wrong(path, fmt.Sprintf("%s is more than an eighth of agent.memory_limit, %s, and a message takes up to eight times its size on its way", m.MaxPayload, limit),
			fmt.Sprintf("up to %s, or a memory_limit of %s", most, payloadShare*m.MaxPayload))
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
			d.checkTag(&p.Tags[j], m.limits(p), p.Base, join(path+".profiles", p.Name)+".tags")
		}
	}
	for i := range m.Devices {
		d.checkDevice(m, &m.Devices[i], join(path+".devices", m.Devices[i].Name))
	}
}

func (d *decoder) checkDevice(m *Modbus, dev *Device, path string) {
	profile := find(m.Profiles, func(p *Profile) bool { return p.Name == dev.Profile })
	if dev.Profile != "" && profile == nil {
		d.wrong(path+".profile", d.show(path+".profile", dev.Profile)+" is not the name of a profile", knownProfiles(m))
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
		d.checkTag(&dev.Tags[i], m.limits(profile), base, path+".tags")
	}
	d.checkClassName(path+".class", dev.Class)
}
