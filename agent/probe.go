package agent

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"sluice/agent/config"
	"sluice/drivers"
	"sluice/drivers/modbus"
	"sluice/drivers/mqtt"
	"sluice/uplink"
	opening "sluice/uplink/gate"
)

// probeRequests is how many requests of a plan a probe lists in words.
const probeRequests = 8

// Probed is what a probe found out about one source or uplink.
type Probed struct {
	Kind   string                  `json:"kind"` // source or uplink
	Name   string                  `json:"name"`
	OK     bool                    `json:"ok"`
	Checks []uplink.Check          `json:"checks"`
	Plan   []modbus.PlannedRequest `json:"plan,omitempty"`   // of a Modbus source
	MQTT   *mqtt.ProbeResult       `json:"mqtt,omitempty"`   // of an MQTT source
	Modbus []modbus.DeviceProbe    `json:"modbus,omitempty"` // of a Modbus source
}

// Probe connects to each source and uplink of cfg once, or to those that names
// are, all at the same time, and says what it found. Nothing is stored, and
// nothing is sent to a topic. An error means that a name is not in cfg.
func Probe(ctx context.Context, cfg *config.Config, names []string) ([]Probed, error) {
	if err := knownNames(cfg, names); err != nil {
		return nil, err
	}
	wanted := func(name string) bool { return len(names) == 0 || slices.Contains(names, name) }
	var jobs []func() Probed
	for i := range cfg.Sources {
		if s := &cfg.Sources[i]; wanted(s.Name) {
			jobs = append(jobs, func() Probed { return probeSource(ctx, cfg, s) })
		}
	}
	for i := range cfg.Uplinks {
		if u := &cfg.Uplinks[i]; wanted(u.Name) {
			jobs = append(jobs, func() Probed { return probeUplink(ctx, cfg, u) })
		}
	}
	out := make([]Probed, len(jobs))
	var all sync.WaitGroup
	for i, job := range jobs {
		all.Go(func() {
			p := job()
			p.OK = !slices.ContainsFunc(p.Checks, func(c uplink.Check) bool { return !c.OK })
			out[i] = p
		})
	}
	all.Wait()
	return out, nil
}

func knownNames(cfg *config.Config, names []string) error {
	var known []string
	for _, s := range cfg.Sources {
		known = append(known, s.Name)
	}
	for _, u := range cfg.Uplinks {
		known = append(known, u.Name)
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return fmt.Errorf("the config has no source or uplink %q (%s)", name, strings.Join(known, ", "))
		}
	}
	return nil
}

func failed(what string, err error) []uplink.Check {
	return []uplink.Check{{What: what, Detail: err.Error()}}
}

func probeUplink(ctx context.Context, cfg *config.Config, u *config.Uplink) Probed {
	p := Probed{Kind: "uplink", Name: u.Name}
	c, err := uplinkConfig(cfg, u, slog.New(slog.DiscardHandler))
	if err == nil && c.Link != nil {
		p.Checks = append(p.Checks, probeLink(c.Link.Look(ctx)))
	}
	if err == nil {
		var checks []uplink.Check
		checks, err = uplink.Probe(ctx, c, samples(cfg, u), largestPayload(cfg))
		p.Checks = append(p.Checks, checks...)
	}
	if err != nil {
		p.Checks = append(p.Checks, failed("config", err)...)
	}
	return p
}

// probeLink says whether the link may be used now; it is tried all the same.
func probeLink(s opening.State) uplink.Check {
	check := uplink.Check{What: "link", OK: true, Warning: !s.Open || s.Unknown != "", Detail: "open"}
	switch {
	case !s.Open:
		check.Detail = s.Why
	case s.Unknown != "":
		check.Detail += ", and it is not known whether it is metered: " + s.Unknown
	case s.Metered:
		check.Detail += ", metered"
	}
	return check
}

// samples are events like those that an uplink will send, one for each source,
// device and class.
func samples(cfg *config.Config, u *config.Uplink) (out []drivers.Event) {
	add := func(e drivers.Event) {
		if cfg.Gets(u, e.Class) {
			out = append(out, e)
		}
	}
	for i := range cfg.Sources {
		s := &cfg.Sources[i]
		if s.MQTT != nil {
			for _, sub := range s.MQTT.Subscribe {
				add(drivers.Event{Class: sub.Class, Source: s.Name, Type: drivers.TypeMQTTMessage})
			}
			continue
		}
		for j := range s.Modbus.Devices {
			d := &s.Modbus.Devices[j]
			for _, t := range s.Modbus.Resolve(d) {
				add(drivers.Event{Class: t.Class, Source: s.Name, Device: d.Name, Subject: d.Name, Type: drivers.TypeModbusReading})
			}
		}
	}
	if cfg.Class(config.SecurityClass) != nil {
		add(drivers.Event{Class: config.SecurityClass, Type: drivers.TypeSecurity("probe")})
	}
	return out
}

func largestPayload(cfg *config.Config) (n int64) {
	for _, s := range cfg.Sources {
		if s.MQTT != nil {
			n = max(n, int64(s.MQTT.MaxPayload))
		}
	}
	return n
}

func probeSource(ctx context.Context, cfg *config.Config, s *config.Source) Probed {
	p := Probed{Kind: "source", Name: s.Name}
	if s.MQTT != nil {
		c, err := mqttConfig(cfg, s.Name, s.MQTT, slog.New(slog.DiscardHandler))
		if err != nil {
			p.Checks = failed("config", err)
			return p
		}
		r := mqtt.Probe(ctx, c)
		p.MQTT, p.Checks = &r, mqttChecks(r)
		if s.MQTT.TLS != nil && !encrypts(s.MQTT.Servers) {
			p.Checks = append(p.Checks, uplink.Check{What: "tls", OK: true, Warning: true,
				Detail: "has no effect, since no server is ssl:// or wss://: what is sent, the password too, can be read on the way"})
		}
		return p
	}
	m, err := modbusConfig(s.Name, s.Modbus, slog.New(slog.DiscardHandler))
	if err != nil {
		p.Checks = failed("config", err)
		return p
	}
	m.Sink, m.StateDir = nowhere{}, "" // it records nothing and learns nothing
	source, err := modbus.New(m)
	if err != nil {
		p.Checks = failed("config", err)
		return p
	}
	p.Plan = source.Plan()
	p.Modbus, err = source.Probe(ctx)
	p.Checks = modbusChecks(p.Plan, p.Modbus)
	if err != nil {
		p.Checks = append(p.Checks, failed("connection", err)...)
	}
	return p
}

// nowhere takes nothing.
type nowhere struct{}

func (nowhere) Append(context.Context, drivers.Event, func(error)) error { return nil }

func mqttChecks(r mqtt.ProbeResult) (out []uplink.Check) {
	if r.Error != "" {
		out = append(out, uplink.Check{What: "config", Detail: r.Error})
	}
	for _, s := range r.Servers {
		c := uplink.Check{What: "broker " + s.Server, OK: s.Reachable && s.Authorised && s.Error == "", Detail: s.Error}
		if c.OK {
			c.Detail = "connected as " + r.ClientID
			if s.Broker != "" {
				c.Detail += fmt.Sprintf(", the broker calls itself %q", s.Broker)
			}
		}
		if s.TLS != nil && s.TLS.OK && !s.TLS.Expires.IsZero() {
			c.Detail += ", certificate until " + s.TLS.Expires.UTC().Format(time.DateOnly)
		}
		out = append(out, c)
		for _, f := range s.Filters {
			out = append(out, filterCheck(f))
		}
		for _, w := range s.Warnings {
			out = append(out, uplink.Check{What: "broker " + s.Server, OK: true, Warning: true, Detail: w})
		}
	}
	return out
}

func filterCheck(f mqtt.FilterProbe) uplink.Check {
	c := uplink.Check{What: "filter " + f.Filter, OK: f.Granted >= 0, Detail: fmt.Sprintf("QoS %d granted, class %s", f.Granted, f.Class)}
	switch {
	case f.Granted < 0:
		c.Detail = "the broker refuses it: may this user read it?"
	case f.Granted < int(f.Asked):
		c.Warning = true
		c.Detail = fmt.Sprintf("QoS %d granted in place of %d: messages may be lost on the way", f.Granted, f.Asked)
	}
	return c
}

func modbusChecks(plan []modbus.PlannedRequest, devices []modbus.DeviceProbe) (out []uplink.Check) {
	for _, d := range devices {
		c := uplink.Check{What: fmt.Sprintf("device %s (unit %d)", d.Device, d.Unit), OK: d.Answers, Detail: d.Error}
		if d.Answers {
			good := 0
			for _, t := range d.Tags {
				if t.Bad == "" {
					good++
				}
			}
			c.Detail = fmt.Sprintf("%d of %d tags read with %d requests in %.0f ms: %s", good, len(d.Tags), d.Requests, 1000*d.RoundSeconds, planned(plan, d.Device))
		}
		out = append(out, c)
		for _, t := range d.Tags {
			if d.Answers && t.Bad != "" {
				out = append(out, uplink.Check{What: "tag " + d.Device + "." + t.Tag,
					Detail: fmt.Sprintf("%s %d: %s (does the device have this address?)", t.Table, t.Address, t.Bad)})
			}
		}
	}
	return out
}

// planned lists the requests of a device.
func planned(plan []modbus.PlannedRequest, device string) string {
	var words []string
	for _, r := range plan {
		if r.Device == device {
			words = append(words, fmt.Sprintf("%s %d-%d", r.Table, r.First, r.First+r.Count-1))
		}
	}
	if more := len(words) - probeRequests; more > 0 {
		words = append(words[:probeRequests], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(words, ", ")
}
