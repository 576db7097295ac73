package config

import (
	"path/filepath"
	"strings"

	"sluice/agent/remote/trust"
)

// checkRemote looks at the uplink, the topics, the keys and the locked paths.
func (d *decoder) checkRemote(r *Remote) {
	if r.Uplink != "" && d.cfg.Uplink(r.Uplink) == nil {
		d.wrong("remote.uplink", d.show("remote.uplink", r.Uplink)+" is not the name of an uplink", names(d.cfg.Uplinks, func(u Uplink) string { return u.Name }))
	}
	seen := map[string]string{}
	for _, t := range []struct{ key, topic string }{{"config_topic", r.ConfigTopic}, {"status_topic", r.StatusTopic}, {"command_topic", r.CommandTopic}} {
		at := join("remote", t.key)
		switch other := seen[t.topic]; {
		case t.topic == "" || len(t.topic) > maxTopic || !isTopicText(t.topic) || t.topic == "." || t.topic == "..":
			d.wrong(at, d.show(at, t.topic)+" cannot be a Kafka topic", "1 to 249 of A-Z a-z 0-9 . _ -")
		case other != "":
			d.wrong(at, d.show(at, t.topic)+" is "+other+" too", "a topic for each")
		}
		seen[t.topic] = t.key
	}
	d.checkTrust(r)
	d.checkLocked(r.Locked)
}

// checkTrust reads the keys as an agent will.
func (d *decoder) checkTrust(r *Remote) {
	good := len(r.Trust) > 0 && !d.bad["remote.trust"]
	for i, text := range r.Trust {
		if strings.HasPrefix(text, "trust:") { // a number, which stands for no key
			continue
		}
		if _, err := trust.ParseKey(text); err != nil {
			wrong, _, _ := strings.Cut(err.Error(), " (")
			d.wrong(index("remote.trust", i), wrong, "ed25519: and the base64 of the 32 bytes of a public key, as sluice config keygen writes it")
			good = false
		}
	}
	if !good || d.bad["remote.threshold"] {
		return
	}
	if _, err := trust.ParseAnchor(r.Trust, r.Threshold); err != nil {
		at := "remote.trust"
		if strings.HasPrefix(err.Error(), "threshold") {
			at = "remote.threshold"
		}
		d.wrong(at, err.Error(), "as many different keys as threshold says, up to 16, and at most one trust:N")
	}
}

// checkUpdate looks at the installer.
func (d *decoder) checkUpdate(u *Update) {
	if d.cfg.Remote == nil {
		d.wrong("update", "needs remote: commands come over an uplink", "a section remote beside it, or leave it out")
	}
	if len(u.Install) > 0 && !filepath.IsAbs(u.Install[0]) {
		at := index("update.install", 0)
		d.wrong(at, d.show(at, u.Install[0])+" is not an absolute path", "a program such as /usr/lib/sluice/install")
	}
	if len(u.Install) > 0 && !strings.Contains(strings.Join(u.Install, " "), "{file}") {
		d.wrong("update.install", "does not say where the bundle goes", "{file} in an argument")
	}
	if u.MaxRate != 0 && u.MaxRate < minMaxRate {
		d.wrong("update.max_rate", d.show("update.max_rate", u.MaxRate.String())+" is too little", "1KiB or more, or 0: unlimited")
	}
}
