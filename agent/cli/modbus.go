package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/agent"
	"sluice/agent/config"
	"sluice/drivers/modbus"
)

// modbusVerb is one word after "sluice modbus".
type modbusVerb struct {
	name, args, does string
	run              func(context.Context, *call, modbusVerb) error
}

func modbusVerbs() []modbusVerb {
	return []modbusVerb{
		{"scan", "TARGET [--units 1-247] [--timeout T] [--quick] [--json]",
			"find the units on a bus: what they answer and who they are; writes nothing", modbusScan},
		{"read", "TARGET UNIT TABLE ADDRESS [--count N] [--type T|all] [--order O|all] [--base 0|1] [--watch] [--json]",
			"read registers or bits in any type and order", modbusRead},
		{"read", "SOURCE DEVICE [TAG...]", "read a device as the config says", nil},
		{"write", "TARGET UNIT TABLE ADDRESS VALUE... [--type T] [--order O] [--base 0|1] [--yes] [--json]",
			"write coils or holding registers: shows what is there, asks, reads back", modbusWrite},
		{"write", "SOURCE DEVICE TAG VALUE", "write a tag as the config says", nil},
		{"profiles", "[--json]", "list the built-in register maps", modbusProfiles},
		{"profile", "NAME", "print one of them with its sources, to paste into a config", modbusProfile},
	}
}

const modbusWords = `TARGET is a connection such as tcp://192.168.1.10:502, or a source of the config.
TABLE is coil, discrete, holding or input; ADDRESS is decimal or 0x hex, without
the table's digit (holding register 40108 has address 107 with --base 0, 108 with
--base 1).`

// modbusCommand is commissioning: it talks to devices without an agent.
func modbusCommand(ctx context.Context, c *call) error {
	word := ""
	if len(c.rest) > 0 && c.rest[0] != "" && c.rest[0][0] != '-' {
		word, c.rest = c.rest[0], c.rest[1:]
	}
	for _, v := range modbusVerbs() {
		if v.name == word {
			c.name += " " + word
			return v.run(ctx, c, v)
		}
	}
	if word == "" && slices.ContainsFunc(c.rest, func(a string) bool { return a == "-h" || a == "--help" || a == "-help" }) {
		c.flags.PrintDefaults()
		fmt.Fprintf(c.Out, "\n%s\n", modbusWords)
		return flag.ErrHelp
	}
	return usageError{fmt.Errorf("modbus: unknown %q (scan, read, write, profiles, profile)", word)}
}

// words reads the flags, which may stand before, between and behind the words,
// and returns the words. A number below 0 is a word; behind -- all are.
func (c *call) words(v modbusVerb) (words []string, err error) {
	rest, tail := c.rest, []string(nil)
	if i := slices.Index(rest, "--"); i >= 0 {
		rest, tail = rest[:i], rest[i+1:]
	}
	for len(rest) > 0 {
		if a := rest[0]; len(a) < 2 || a[0] != '-' || a[1] >= '0' && a[1] <= '9' || a[1] == '.' {
			words, rest = append(words, a), rest[1:]
			continue
		}
		if err := c.flags.Parse(rest); errors.Is(err, flag.ErrHelp) {
			c.flags.PrintDefaults()
			if strings.Contains(v.args, "TARGET") {
				fmt.Fprintf(c.Out, "\n%s\n", modbusWords)
			}
			return nil, err
		} else if err != nil {
			return nil, c.wrong("%w", err)
		}
		rest = c.flags.Args()
	}
	return append(words, tail...), nil
}

// wrong is wrong usage of a verb.
func (c *call) wrong(format string, args ...any) error {
	return usageError{fmt.Errorf("%s: %w (sluice %s -h shows the usage)", c.name, fmt.Errorf(format, args...), c.name)}
}

// bus is a connection to talk on.
type bus struct {
	*modbus.Bus
	name   string         // as it was given
	source *config.Modbus // nil: a connection was given
}

// openBus makes the connection of a target. timeout 0 is the source's, or the
// default.
func (c *call) openBus(target string, timeout time.Duration) (*bus, error) {
	b := &bus{name: target}
	connection, gap := target, time.Duration(0)
	if !strings.Contains(target, "://") {
		if strings.ContainsAny(target, ":/") {
			return nil, c.wrong("%q is neither a connection, such as tcp://%s, nor the name of a source", target, strings.TrimLeft(target, "/"))
		}
		cfg, err := c.load()
		if err != nil {
			return nil, err
		}
		s := cfg.Source(target)
		if s == nil || s.Modbus == nil {
			return nil, c.wrong("%q is not a Modbus source of %s (there are: %s), nor a connection such as tcp://host:port", target, c.file, modbusSources(cfg))
		}
		b.source, connection, gap = s.Modbus, s.Modbus.Connection, s.Modbus.FrameGap
		if timeout == 0 {
			timeout = s.Modbus.Timeout
		}
	}
	var secure func() (*tls.Config, error)
	var err error
	if b.source != nil {
		if secure, err = agent.TLS(b.source.TLS, slog.New(slog.DiscardHandler)); err != nil {
			return nil, fmt.Errorf("sources.%s.modbus.tls: %w", target, err)
		}
	}
	if b.Bus, err = modbus.OpenBus(connection, secure, timeout, gap); err != nil {
		return nil, c.wrong("%w", err)
	}
	return b, nil
}

func modbusSources(cfg *config.Config) string {
	var names []string
	for _, s := range cfg.Sources {
		if s.Modbus != nil {
			names = append(names, s.Name)
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// device returns a device of the source, nil if there is none of that name.
func (b *bus) device(name string) *config.Device {
	if b.source == nil {
		return nil
	}
	for i := range b.source.Devices {
		if d := &b.source.Devices[i]; d.Name == name {
			return d
		}
	}
	return nil
}

// noDevice says that a word is neither a unit nor a device.
func (b *bus) noDevice(c *call, word string) error {
	if b.source == nil {
		return c.wrong("the unit is %q (0 to 255)", word)
	}
	var names []string
	for _, d := range b.source.Devices {
		names = append(names, d.Name)
	}
	return c.wrong("%q is neither a unit (0 to 255) nor a device of %s (there are: %s)", word, b.name, strings.Join(names, ", "))
}

// spot is where registers or bits stand.
type spot struct {
	unit  int
	table string
	shown int // the address as the manual counts
	base  int
}

// at is the address on the wire.
func (s spot) at() int { return s.shown - s.base }

// parseSpot reads UNIT TABLE ADDRESS.
func (b *bus) parseSpot(c *call, words []string, base int) (spot, error) {
	s := spot{table: words[1], base: base}
	var err error
	if s.unit, err = strconv.Atoi(words[0]); err != nil || s.unit < 0 || s.unit > 255 {
		return s, b.noDevice(c, words[0])
	}
	if !slices.Contains(modbus.Tables(), s.table) {
		return s, c.wrong("the table is %q (%s)", s.table, strings.Join(modbus.Tables(), ", "))
	}
	if base != 0 && base != 1 {
		return s, c.wrong("--base is %d (0 or 1)", base)
	}
	n, err := strconv.ParseInt(words[2], 0, 32)
	if s.shown = int(n); err != nil || s.at() < 0 || s.at() > 65535 {
		return s, c.wrong("the address is %q (%d to %d, or 0x hex; of a number such as 400108 the table's digit is left out)", words[2], base, 65535+base)
	}
	return s, nil
}

func (s spot) bits() bool { return s.table == "coil" || s.table == "discrete" }

// reason is an error of the driver as a line says it: without the words that a
// sentence of its own would have.
func reason(err error) string { return strings.ReplaceAll(modbus.Explain(err).Error(), "\n", "; ") }
