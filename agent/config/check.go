package config

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// maxPEM bounds a certificate file: 1 MiB.
const maxPEM = 1 << 20

// check looks at what spans several keys or has a grammar of its own. Fields
// that the decoder refused are left out by wrong.
func (d *decoder) check() {
	c := d.cfg
	d.checkAgent(&c.Agent)
	for i := range c.Sources {
		d.checkSource(&c.Sources[i])
	}
	d.checkClientIDs()
	d.checkPorts()
	d.checkBuffer()
	for i := range c.Pipeline {
		d.checkRule(&c.Pipeline[i], index("pipeline", i))
	}
	used := c.usedClasses()
	for i := range c.Uplinks {
		d.checkUplink(&c.Uplinks[i], used)
	}
	if c.Remote != nil {
		d.checkRemote(c.Remote)
	}
	if c.Update != nil {
		d.checkUpdate(c.Update)
	}
	if c.Observe.HTTP != "" {
		d.checkAddress("observe.http", c.Observe.HTTP, `host:port, "" to switch it off`, true)
	}
	c.addClasses(used)
}

func (d *decoder) checkAgent(a *Agent) {
	if a.ID != "" && !isName(a.ID) {
		d.wrong("agent.id", "is not a valid name", nameForms)
	}
	if a.DataDir == "" {
		d.wrong("agent.data_dir", "is empty", "a folder such as /var/lib/sluice")
	}
	for name, value := range a.Labels {
		if !isName(name) {
			d.wrong(join("agent.labels", name), "is not a valid name", nameForms)
		} else if len(value) > 256 || strings.ContainsFunc(value, unicode.IsControl) {
			d.wrong(join("agent.labels", name), "is not a usable label", "up to 256 bytes without control characters")
		}
	}
}

// checkSource needs exactly one kind of source, and checks it.
func (d *decoder) checkSource(s *Source) {
	path := join("sources", s.Name)
	switch {
	case s.MQTT != nil && s.Modbus != nil:
		d.wrong(path, "is both mqtt and modbus", "one of them; a second source for the other")
	case s.MQTT == nil && s.Modbus == nil:
		d.wrong(path, "has no kind", "one of mqtt, modbus")
	}
	if s.MQTT != nil {
		d.checkMQTT(s.MQTT, path+".mqtt")
	}
	if s.Modbus != nil {
		d.checkModbus(s.Modbus, path+".modbus")
	}
}

// checkBuffer refuses a write-behind together with what needs everything on
// the flash, and names each place of it.
func (d *decoder) checkBuffer() {
	const path = "buffer.spill_after"
	if d.cfg.Buffer.SpillAfter == 0 || d.bad[path] {
		return
	}
	where := d.cfg.where
	refuse := func(other, with, allowed string) {
		if !d.bad[other] {
			d.wrongAt(where.of(path), path, fmt.Sprintf("does not go together with %s in line %d", with, where.of(other).line), allowed)
		}
	}
	for _, class := range d.cfg.Classes {
		if class.Retain > 0 {
			at := join(join("classes", class.Name), "retain")
			refuse(at, at, "0s, or no retain")
		}
	}
	for _, u := range d.cfg.Uplinks {
		if u.Kafka != nil && u.Kafka.Delivery == "exactly_once" {
			at := join(join("uplinks", u.Name), "kafka.delivery")
			refuse(at, at+" exactly_once", "0s, or at_least_once")
		}
	}
}

// checkRule needs exactly one kind of step.
func (d *decoder) checkRule(r *Rule, path string) {
	kinds := 0
	for _, has := range []bool{r.Where != "", len(r.Set) > 0, r.Alert != nil, r.Anomaly != nil, r.Window != nil} {
		if has {
			kinds++
		}
	}
	derives := r.Alert != nil || r.Anomaly != nil || r.Window != nil
	switch {
	case kinds != 1:
		d.wrong(path, fmt.Sprintf("has %d kinds of step", kinds), "exactly one of where, set, alert, anomaly, window")
	case derives && r.Name == "":
		d.wrong(path+".name", "is missing", "a name: derived events carry it")
	case derives && r.To == "":
		d.wrong(path+".to", "is missing", "the class that derived events go to")
	}
	for key, class := range map[string]string{"class": r.Class, "to": r.To} {
		d.checkClassName(join(path, key), class)
	}
	if r.Do != nil {
		if s := d.cfg.Source(r.Do.MQTT); r.Do.MQTT != "" && (s == nil || s.MQTT == nil) {
			at := path + ".do.mqtt"
			d.wrong(at, d.show(at, r.Do.MQTT)+" is not the name of an MQTT source",
				names(d.cfg.Sources, func(s Source) string { return s.Name }))
		}
	}
}

func (d *decoder) checkClassName(path, class string) {
	if class != "" && !isName(class) {
		d.wrong(path, d.show(path, class)+" is not a valid name", nameForms)
	}
}

// checkTLS looks at the files, so that a wrong path shows before the connection
// is needed.
func (d *decoder) checkTLS(t *TLS, path string) {
	if t == nil {
		return
	}
	for _, f := range []struct{ key, file string }{{"ca", t.CA}, {"cert", t.Cert}, {"key", t.Key}} {
		if f.file == "" || d.operator {
			continue
		}
		if _, err := d.x.read(f.file, maxPEM); err != nil {
			wrong := err.Error()
			if at := join(path, f.key); d.cfg.fromFile[at] != "" {
				wrong = d.show(at, "") + " is not a file that can be read"
			}
			d.wrong(join(path, f.key), wrong, "a readable PEM file; relative paths start at the folder of the config")
		}
	}
	switch {
	case t.Cert != "" && t.Key == "":
		d.wrong(path+".cert", "has no key", "cert and key together")
	case t.Key != "" && t.Cert == "":
		d.wrong(path+".key", "has no cert", "cert and key together")
	}
}

// checkURL checks scheme, host and port of an address. The port of the schemes
// in ownPort may be left out; only web sockets have a path.
func (d *decoder) checkURL(path, text string, schemes, ownPort []string) {
	allowed := strings.Join(schemes, "://, ") + "://, with host:port"
	u, err := url.Parse(text)
	switch {
	case strings.Contains(text, "@"): // first of all, so that no password is shown
		d.wrong(path, "holds a login", "keys of their own for user name and password")
	case !strings.Contains(text, "://"):
		d.wrong(path, d.show(path, text)+" has no scheme", allowed)
	case err != nil:
		d.wrong(path, "is not an address", allowed)
	case !slices.Contains(schemes, u.Scheme) || !strings.HasPrefix(text, u.Scheme):
		d.wrong(path, d.show(path, text)+" has no known scheme", allowed)
	case u.Hostname() == "":
		d.wrong(path, d.show(path, text)+" has no host", allowed)
	case strings.Contains(u.Hostname(), ":") && !strings.HasPrefix(u.Host, "["):
		d.wrong(path, d.show(path, text)+" has an IPv6 address without brackets", "such as "+u.Scheme+"://[::1]:port")
	case u.Port() == "" && !slices.Contains(ownPort, u.Scheme):
		d.wrong(path, d.show(path, text)+" has no port", allowed)
	case u.Port() != "" && !isPort(u.Port(), false):
		d.wrong(path, d.show(path, text)+" has no valid port", "1 to 65535")
	case !strings.HasPrefix(u.Scheme, "ws") && (strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != ""):
		d.wrong(path, d.show(path, text)+" has more than host and port", u.Scheme+"://host:port")
	}
}

// checkAddress checks host:port. anyPort allows port 0, and no host.
func (d *decoder) checkAddress(path, text, allowed string, anyPort bool) {
	host, port, err := net.SplitHostPort(text)
	switch {
	case strings.Contains(text, "@"): // first of all, so that no password is shown
		d.wrong(path, "holds a login", "keys of their own for user name and password")
	case strings.Contains(text, "://"):
		d.wrong(path, d.show(path, text)+" has a scheme", allowed)
	case strings.ContainsAny(text, " /"):
		d.wrong(path, d.show(path, text)+" is not an address", allowed)
	case err != nil && !strings.Contains(text, ":"):
		d.wrong(path, d.show(path, text)+" has no port", allowed)
	case err != nil:
		d.wrong(path, d.show(path, text)+" is not an address", allowed)
	case host == "" && !anyPort:
		d.wrong(path, d.show(path, text)+" has no host", allowed)
	case !isPort(port, anyPort):
		d.wrong(path, d.show(path, text)+" has no valid port", "1 to 65535")
	}
}

func isPort(s string, zero bool) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && (n > 0 || zero)
}

// names lists what there is, for problems about names that there are not.
func names[T any](list []T, name func(T) string) string {
	all := make([]string, len(list))
	for i, x := range list {
		all[i] = name(x)
	}
	if len(all) == 0 {
		return "there are none"
	}
	return "there are: " + clip(strings.Join(all, ", "))
}
