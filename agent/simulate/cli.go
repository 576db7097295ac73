package simulate

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// Exit statuses, as those of the agent's commands.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

const usage = `sluice-simulate makes a plant on this machine's loopback, for trying out Sluice.

  sluice-simulate [plant] [flags]   an MQTT broker with publishing machines, two Modbus
                                    TCP meters and an embedded Kafka, until Ctrl-C; prints
                                    a config with which the agent runs on it
  sluice-simulate demo [flags]      runs the agent on such a plant, cuts its link to Kafka
                                    for a while, and compares what the plant sent with what
                                    Kafka holds; ends by itself within a minute

"sluice-simulate plant -h" and "sluice-simulate demo -h" list the flags.
`

// Main runs one command and returns its exit status: 0 done, 1 failed, 2 wrong
// usage. It ends when ctx does.
func Main(ctx context.Context, args []string, out *os.File, errs io.Writer) int {
	command := "plant"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		command, args = args[0], args[1:]
	} else if len(args) > 0 && isHelp(args[0]) {
		fmt.Fprint(out, usage)
		return exitDone
	}
	var run func(context.Context) error
	var err error
	switch command {
	case "plant":
		run, err = plantCommand(args, out, errs)
	case "demo":
		run, err = demoCommand(args, out, errs)
	case "help":
		fmt.Fprint(out, usage)
		return exitDone
	default:
		fmt.Fprintf(errs, "sluice-simulate: there is no command %q (plant, demo)\n", command)
		return exitUsage
	}
	if errors.Is(err, flag.ErrHelp) {
		return exitDone
	}
	if err != nil {
		fmt.Fprintf(errs, "sluice-simulate %s: %v\n", command, err)
		return exitUsage
	}
	if err := run(ctx); err != nil {
		fmt.Fprintf(errs, "sluice-simulate %s: %v\n", command, strings.ReplaceAll(err.Error(), "\n", "; "))
		return exitFailed
	}
	return exitDone
}

func isHelp(arg string) bool {
	name := strings.TrimLeft(arg, "-")
	return name == "h" || name == "help"
}

// flags returns a flag set that reports errors in one line and prints its help
// only when it is asked for.
func flags(name string, out io.Writer, about string) (*flag.FlagSet, func([]string) error) {
	set := flag.NewFlagSet(name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.Usage = func() {}
	return set, func(args []string) error {
		err := set.Parse(args)
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprintf(out, "%s\n\nFlags of sluice-simulate %s:\n", about, name)
			set.SetOutput(out)
			set.PrintDefaults()
		}
		if err == nil && set.NArg() > 0 {
			err = fmt.Errorf("unexpected %q (-h lists the flags)", set.Arg(0))
		}
		return err
	}
}

// rateFlag is a number of messages with its unit: 5/s, 30/m or 90/h.
type rateFlag float64

// String writes the rate as Set takes it.
func (r *rateFlag) String() string {
	return strconv.FormatFloat(float64(*r), 'g', -1, 64) + "/s"
}

// Set reads a rate.
func (r *rateFlag) Set(s string) error {
	number, unit, ok := strings.Cut(s, "/")
	per := map[string]float64{"s": 1, "m": 60, "h": 3600}[unit]
	v, err := strconv.ParseFloat(number, 64)
	if !ok || per == 0 || err != nil {
		return errors.New("a number and its unit are expected: 5/s, 30/m or 90/h")
	}
	*r = rateFlag(v / per)
	return nil
}

// demoCommand reads the flags of the command demo.
func demoCommand(args []string, out *os.File, errs io.Writer) (func(context.Context) error, error) {
	set, parse := flags("demo", out, "Runs the agent on a simulated plant through an outage of its link to Kafka. The last line\n"+
		"printed is taken=N delivered=N lost=0 duplicated=0; the exit status is 1 if it isn't so.")
	cfg := DemoConfig{Out: out, Err: errs, Env: os.Getenv}
	rate := rateFlag(10)
	set.StringVar(&cfg.Sluice, "sluice", "bin/sluice", "the agent's binary, `PATH`")
	set.StringVar(&cfg.Kafka, "kafka", "", "a real Kafka, `HOST:PORT`, without TLS; topics of this run alone are made and removed (default: an embedded one)")
	set.IntVar(&cfg.Machines, "machines", 20, "publishing machines")
	set.Var(&rate, "rate", "messages of each machine, `5/s`")
	set.DurationVar(&cfg.Outage, "outage", 8*time.Second, "how long the link is cut")
	if err := parse(args); err != nil {
		return nil, err
	}
	cfg.Rate = float64(rate)
	demo, err := NewDemo(cfg)
	if err != nil {
		return nil, err
	}
	return demo.Run, nil
}
