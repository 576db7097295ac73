package modbus

import (
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// problems collects what is wrong with a Config, so that New can report all of
// it at once.
type problems []error

func (p *problems) addf(format string, args ...any) {
	*p = append(*p, fmt.Errorf(format, args...))
}

// between complains unless low <= v <= high.
func between[T int | time.Duration](p *problems, field string, v, low, high T) {
	if v < low || v > high {
		p.addf("%s is %v (allowed: %v to %v)", field, v, low, high)
	}
}

// name complains about an empty, overlong or repeated name.
func (p *problems) name(field, name string, longest int, seen map[string]bool) {
	switch {
	case name == "":
		p.addf("%s is empty", field)
	case len(name) > longest:
		p.addf("%s is %d bytes long (allowed: 1 to %d)", field, len(name), longest)
	case !utf8.ValidString(name):
		p.addf("%s %q is not UTF-8", field, name)
	case seen[name]:
		p.addf("%s %q is there twice", field, name)
	}
	if seen != nil {
		seen[name] = true
	}
}

// checkConfig checks what concerns the whole source; c has its defaults.
func checkConfig(p *problems, c Config) {
	p.name("name", c.Name, 64, nil)
	between(p, "timeout", c.Timeout, 10*time.Millisecond, time.Minute)
	between(p, "retries", c.Retries, 0, 10)
	between(p, "frame_gap", c.FrameGap, 0, 10*time.Second)
	checkGrouping(p, c.Grouping)
	between(p, "breaker.open_after", c.Breaker.OpenAfter, 0, 1000)
	between(p, "breaker.retry", c.Breaker.Retry, 10*time.Millisecond, time.Hour)
	between(p, "breaker.max", c.Breaker.Max, c.Breaker.Retry, 24*time.Hour)
	if len(c.Devices) == 0 {
		p.addf("devices is empty (at least one is needed)")
	}
	if c.Sink == nil {
		p.addf("sink is missing")
	}
}

// checkDevice checks a device's own fields; d has its defaults.
func checkDevice(p *problems, d Device, seen map[string]bool) {
	p.name("devices: name", d.Name, 64, seen)
	between(p, "unit", d.Unit, 0, 255)
	between(p, "every", d.Every, 10*time.Millisecond, 24*time.Hour)
	between(p, "heartbeat", d.Heartbeat, 100*time.Millisecond, 24*time.Hour)
	if len(d.Tags) == 0 {
		p.addf("tags is empty (at least one is needed)")
	}
}

// checkGrouping checks limits that have their defaults.
func checkGrouping(p *problems, g Grouping) {
	between(p, "grouping.max_gap", g.MaxGap, 0, maxBits)
	between(p, "grouping.max_registers", g.MaxRegisters, 1, maxRegisters)
	between(p, "grouping.max_bits", g.MaxBits, 1, maxBits)
}

// checkTag checks a tag whose defaults are set. limits are the source's.
func checkTag(p *problems, t Tag, limits Grouping) {
	area, known := tables[t.Read]
	if !known {
		p.addf("read is %q (allowed: holding, input, coil, discrete)", t.Read)
		return
	}
	form, known := formats[t.Type]
	if !known {
		p.addf("type is %q (allowed: %s)", t.Type, strings.Join(typeNames(), ", "))
		return
	}
	if area.bits() != (form.kind == kindBool) {
		p.addf("type %s can't be read from %s (coil and discrete hold bool, holding and input the other types, and bool with a bit)", t.Type, t.Read)
		return
	}
	if _, known := orders[t.Order]; !known {
		p.addf("byte_order is %q (allowed: ABCD, DCBA, BADC, CDAB)", t.Order)
	}
	checkPlace(p, t, form, limits)
	checkNumber(p, t, form)
	checkPart(p, t, form)
	checkMap(p, t, form)
	if _, err := missingBits(t.Missing, form); err != nil {
		p.addf("%v", err)
	}
	checkWrite(p, t, form)
}

// checkTimes checks what a tag sets itself; 0 is taken from its device, which
// is checked already.
func checkTimes(p *problems, t Tag) {
	if t.Every != 0 {
		between(p, "every", t.Every, 10*time.Millisecond, 24*time.Hour)
	}
	if t.Heartbeat != 0 {
		between(p, "heartbeat", t.Heartbeat, 100*time.Millisecond, 24*time.Hour)
	}
}

// checkPlace checks where a tag stands and how long it is.
func checkPlace(p *problems, t Tag, form format, limits Grouping) {
	between(p, "base", t.Base, 0, 1)
	if t.Base == 0 || t.Base == 1 {
		between(p, "at", t.At, t.Base, math.MaxUint16+t.Base)
	}
	if form.size > 0 {
		if t.Length != 0 {
			p.addf("length is %d (only string and bytes have one)", t.Length)
		}
	} else {
		between(p, "length", t.Length, 1, maxRegisters)
	}
	count := form.count(t.Length)
	if first := t.At - t.Base; first <= math.MaxUint16 && first+count-1 > math.MaxUint16 {
		p.addf("at is %d, so that it ends at address %d (the last one is %d)", t.At, first+count-1, math.MaxUint16)
	}
	if form.kind != kindBool && count > limits.MaxRegisters {
		p.addf("it has %d registers (grouping.max_registers is %d, and a value is never split)", count, limits.MaxRegisters)
	}
}

// checkNumber checks scale, offset and deadband.
func checkNumber(p *problems, t Tag, form format) {
	for field, v := range map[string]float64{"scale": t.Scale, "offset": t.Offset, "deadband": t.Deadband.Width} {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			p.addf("%s is %v (allowed: a finite number)", field, v)
		}
	}
	if t.Deadband.Width < 0 {
		p.addf("deadband is %v (allowed: 0 or more)", t.Deadband.Width)
	}
	if form.numeric() && t.Bit == nil {
		return
	}
	if t.Bit != nil {
		t.Type = "bool"
	}
	if t.Scale != 1 || t.Offset != 0 {
		p.addf("scale and offset make no sense with type %s (only with numbers)", t.Type)
	}
	if t.Deadband.Width > 0 {
		p.addf("deadband is %v, but type %s is no number (allowed: 0, which sends changes)", t.Deadband.Width, t.Type)
	}
}
