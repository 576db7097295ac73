package mqtt

import (
	"fmt"
	"strings"
	"time"
)

// mosquittoAdvice is for every Mosquitto: its settings cannot be asked for, and
// its defaults lose messages.
const mosquittoAdvice = "mosquitto drops messages for a subscriber that is away or slow unless it is told not to: " +
	"set max_queued_messages 0, max_queued_bytes 0, persistence true, autosave_interval 30 and max_inflight_messages 1000"

// warn adds what may lose messages although it works.
func (p *ServerProbe) warn(now time.Time) {
	if t := p.TLS; t != nil && t.OK && !t.Expires.IsZero() && t.Expires.Sub(now) < expiresSoon {
		p.Warnings = append(p.Warnings, "the broker's certificate expires on "+t.Expires.UTC().Format(time.DateOnly))
	}
	for _, f := range p.Filters {
		switch {
		case f.Asked == 0:
			p.Warnings = append(p.Warnings, fmt.Sprintf("the filter %q has qos 0: what comes while the agent is away or busy is lost (qos: 1)", f.Filter))
		case f.Granted >= 0 && f.Granted < int(f.Asked):
			p.Warnings = append(p.Warnings, fmt.Sprintf("the broker grants QoS %d for %q, asked for was %d", f.Granted, f.Filter, f.Asked))
		}
	}
}

// warnOfMosquitto adds what a Mosquitto's own figures tell.
func (p *ServerProbe) warnOfMosquitto(sys map[string]string) {
	if !strings.HasPrefix(sys[sysVersion], "mosquitto") {
		return
	}
	p.Warnings = append(p.Warnings, mosquittoAdvice)
	if dropped := sys[sysDropped]; dropped != "" && dropped != "0" {
		p.Warnings = append(p.Warnings, fmt.Sprintf("this mosquitto has dropped %s messages since it started, and keeps %s now", dropped, orUnknown(sys[sysStored])))
	}
}

func orUnknown(s string) string {
	if s == "" {
		return "an unknown number"
	}
	return s
}
