// Package cli is the command line of Sluice: it maps arguments to commands and
// errors to exit statuses. A command gets everything from Process, so that tests
// run it without a process of its own.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sluice/agent/config"
)

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1 // failed at run time
	exitUsage  = 2 // wrong usage or invalid config
	exitFound  = 3 // a check found something
)

// Process is what a command sees of the world.
type Process struct {
	Args   []string // without the program's name
	Out    io.Writer
	Err    io.Writer
	Env    func(string) (string, bool)
	Reload <-chan os.Signal // SIGHUP; may be nil
	Build  Build
}

// Build says which build this is.
type Build struct{ Version, Commit string }

// command is one word of the command line.
type command struct {
	name, args, does string
	run              func(context.Context, *call) error
}

func commands() []command {
	return []command{
		{"run", "", "run the agent in the foreground; SIGTERM stops, SIGHUP reloads", run},
		{"check", "", "validate a config: every problem at once, as file:line:col; and say what waits for uplinks that it no longer has", check},
		{"print-config", "", "show the effective config with defaults, secrets masked", printConfig},
		{"probe", "[NAME…] [--json]", "connect to each source and uplink once: reachable, authorised, topic there, registers readable; exit 3 when something is not", probe},
		{"status", "[--watch] [--json] [--addr HOST:PORT]", "show the running agent: rates, backlog, link state, last errors", status},
		{"top", "[--addr HOST:PORT]", "the same, refreshed until Ctrl-C", top},
		{"health", "[--for D] [--within D] [--addr HOST:PORT]", "say whether the running agent is well: it works, its uplinks deliver, a source is up; exit 3 when not", health},
		{"tap", "NAME [--count N] [--addr HOST:PORT]", "print events of a source, class or uplink as they pass, as JSON lines", tap},
		{"replay", "--class C --from T [--to T] --uplink U [--topic T] [--json]", "have the running agent send a range of time again", replay},
		{"buffer", "stat|verify|export|repair|compact [--data-dir DIR] [--json] [--class C] [--dry-run]",
			"look into the buffer of an agent that does not run, or mend it; verify and repair --dry-run exit 3 where damage is found", bufferCommand},
		{"modbus", "scan|read|write|profiles|profile ...", "commissioning: find units, read and write registers in any type and order, ready register maps", modbusCommand},
		{"audit", "--brokers LIST --topic LIST | -c FILE --uplink LIST [--from T] [--to T] [--json] [flags]",
			"read topics and prove from them alone that everything arrived; exit 3 on gaps that nothing explains", auditCommand},
		{"config", configUsage, "JSON Schema of the config file; keys, signatures and documents of remote config: make, check, publish, compare", configCommand},
		{"fleet", fleetUsage, "a table of all agents from the status topic; bring a config to more and more of them; have them carry out commands and send diagnostics", fleetCmd},
		{"update", updateUsage, "prepare a command update for a bundle, which is on an HTTP server or is put into a topic", updateCommand},
		{"simulate", "[plant|demo] [flags]", "a plant on loopback to try things out: MQTT, Modbus, Kafka", simulate},
		{"version", "[--json]", "show version, commit and Go version", version},
	}
}

// call is one run of a command.
type call struct {
	Process
	name  string
	flags *flag.FlagSet
	file  string // -c
	rest  []string
}

// usageError is wrong usage: exit status 2, with a hint.
type usageError struct{ error }

// invalidError is a config or document that is not valid: exit status 2.
type invalidError struct{ error }

// Main runs the command that p.Args name and returns the exit status. It blocks
// until the command is done or ctx ends.
func Main(ctx context.Context, p Process) int {
	if len(p.Args) == 0 {
		usage(p.Err)
		return exitUsage
	}
	if p.Args[0] == "help" && len(p.Args) > 1 {
		p.Args = append(slices.Clone(p.Args[1:]), "-h")
	}
	switch p.Args[0] {
	case "-h", "--help", "-help", "help":
		usage(p.Out)
		return exitOK
	case "--version", "-version":
		p.Args[0] = "version"
	}
	for _, cmd := range commands() {
		if cmd.name == p.Args[0] {
			return finish(p, cmd.name, execute(ctx, p, cmd))
		}
	}
	return finish(p, "", usageError{fmt.Errorf("unknown command %q (sluice -h lists them)", p.Args[0])})
}

func execute(ctx context.Context, p Process, cmd command) error {
	c := &call{Process: p, name: cmd.name, flags: flag.NewFlagSet(cmd.name, flag.ContinueOnError), rest: p.Args[1:]}
	c.flags.SetOutput(io.Discard)
	c.flags.Usage = func() {}
	file := "/etc/sluice/sluice.yaml"
	if env, ok := p.Env("SLUICE_CONFIG"); ok && env != "" {
		file = env
	}
	c.flags.StringVar(&c.file, "c", file, "config `file` (SLUICE_CONFIG)")
	if cmd.name != "simulate" { // it has flags of its own
		for _, a := range c.rest {
			if a == "-h" || a == "--help" || a == "-help" {
				help(p.Out, cmd, c.rest)
				c.flags.SetOutput(p.Out)
				break
			}
		}
	}
	return cmd.run(ctx, c)
}

// parse reads the flags; what is left must be want words.
func (c *call) parse(want int) error {
	if err := c.parseWords(); err != nil {
		return err
	}
	switch {
	case len(c.rest) > want:
		return usageError{fmt.Errorf("%s: unexpected %q (sluice %s -h shows the usage)", c.name, strings.Join(c.rest, " "), c.name)}
	case len(c.rest) < want:
		return usageError{fmt.Errorf("%s: something is missing (sluice %s -h shows the usage)", c.name, c.name)}
	}
	return nil
}

// parseWords reads the flags, which may stand before, between and behind the
// words; what follows a -- is a word. The words are left in c.rest.
func (c *call) parseWords() error {
	var words []string
	for rest := c.rest; ; {
		if err := c.flags.Parse(rest); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				c.flags.PrintDefaults()
				return err
			}
			return usageError{fmt.Errorf("%s: %w (sluice %s -h shows the flags)", c.name, err, c.name)}
		}
		ended := len(rest) > c.flags.NArg() && rest[len(rest)-c.flags.NArg()-1] == "--"
		rest = c.flags.Args()
		if ended || len(rest) == 0 {
			c.rest = append(words, rest...)
			return nil
		}
		words, rest = append(words, rest[0]), rest[1:]
	}
}

// finish prints the error, if there is one, and gives the exit status.
func finish(p Process, name string, err error) int {
	var wrong usageError
	var problems config.Problems
	var invalid invalidError
	status := exitFailed
	if errors.As(err, &invalid) {
		status = exitUsage
	}
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.Is(err, errFound):
		return exitFound
	case errors.As(err, &problems):
		fmt.Fprintln(p.Err, problems.Error())
		return exitUsage
	case errors.As(err, &wrong):
		fmt.Fprintf(p.Err, "sluice: %v\n", err)
		return exitUsage
	default:
		fmt.Fprintf(p.Err, "sluice %s: %s\n", name, strings.ReplaceAll(err.Error(), "\n", "; "))
		return status
	}
}

// load reads the config that -c names.
func (c *call) load() (*config.Config, error) {
	return config.Load(c.file, config.Options{Env: c.Env})
}

// parseRemote reads a config that came over an uplink; relative paths start where
// those of the file do.
func (c *call) parseRemote(text []byte) (*config.Config, error) {
	return config.Parse(filepath.Join(filepath.Dir(c.file), "remote"), text, config.Options{Env: c.Env, Assembled: true})
}
