package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"sluice/uplink/audit"
)

// auditOptions are the flags of "sluice audit".
type auditOptions struct {
	clusters        []string // each: brokers, separated by commas
	topics, uplinks listFlag
	agents, classes listFlag
	from, to        string
	isolation       string
	memory          string
	settle          time.Duration
	json, strict    bool
	problems        bool
	login           auditLogin
}

// listFlag is a flag that may be repeated and holds lists separated by commas. What
// begins with "^" is one item: a regular expression may hold commas.
type listFlag []string

func (l *listFlag) String() string { return strings.Join(*l, ",") }

func (l *listFlag) Set(text string) error {
	items := []string{text}
	if !strings.HasPrefix(text, "^") {
		items = strings.Split(text, ",")
	}
	for _, item := range items {
		if item = strings.TrimSpace(item); item == "" {
			return errors.New("an empty item")
		}
		*l = append(*l, item)
	}
	return nil
}

func (o *auditOptions) define(f *flag.FlagSet) {
	cluster := func(text string) error {
		o.clusters = append(o.clusters, text)
		return nil
	}
	f.Func("brokers", "`host:port,…` of the cluster", cluster)
	f.Func("and-brokers", "`host:port,…` of another cluster that is read as one with the first, such as a failover; may be repeated", cluster)
	f.Var(&o.topics, "topic", "`topics`: names, patterns such as plant.{class} or plant.*, or ^regex; may be repeated")
	f.Var(&o.uplinks, "uplink", "take brokers, TLS, login and topic from these `uplinks` of the config (-c)")
	f.Var(&o.agents, "agent", "only these `agents`")
	f.Var(&o.classes, "class", "only these `classes`")
	f.StringVar(&o.from, "from", "", "judge records from this `time` on: 2026-01-02T03:04:05Z, 2026-01-02, or an age such as 24h")
	f.StringVar(&o.to, "to", "", "judge records before this `time`, in the same forms")
	f.StringVar(&o.isolation, "isolation", "read_committed", "read_committed or read_uncommitted")
	f.StringVar(&o.memory, "memory", "256MiB", "`size` that bounds the memory, 32MiB or more")
	f.DurationVar(&o.settle, "settle", audit.DefaultSettle, "look again for what is missing this long after the start; 0s: never")
	f.BoolVar(&o.json, "json", false, "print JSON")
	f.BoolVar(&o.problems, "problems", false, "list only lanes that something is wrong with")
	f.BoolVar(&o.strict, "strict", false, "exit 3 on duplicates, disorder and malformed records, too")
	o.login.define(f)
}

// auditCommand reads topics and tells whether everything arrived.
func auditCommand(ctx context.Context, c *call) error {
	var o auditOptions
	o.define(c.flags)
	if err := c.parse(0); err != nil {
		return err
	}
	cfg, err := o.config(c, time.Now())
	if err != nil {
		return err
	}
	debug.SetMemoryLimit(cfg.Memory) // sets give their memory back only when the collector runs
	defer debug.SetMemoryLimit(math.MaxInt64)
	cfg.Progress = func(p audit.Progress) {
		percent := 100.0
		if p.All > 0 {
			percent = 100 * float64(p.Offsets) / float64(p.All)
		}
		fmt.Fprintf(c.Err, "%d records, %.0f/s, %.1f%% of the offsets\n", p.Records, p.PerSecond, percent)
	}
	result, err := audit.Run(ctx, cfg)
	if errors.Is(err, audit.ErrConfig) {
		return usageError{err}
	}
	if err != nil {
		return err
	}
	if o.json {
		err = auditJSON(c.Out, result, &o)
	} else {
		err = auditText(c.Out, result, &o)
	}
	if err != nil {
		return err
	}
	return o.verdict(result)
}

// verdict maps a result to the exit status.
func (o *auditOptions) verdict(r *audit.Result) error {
	t := &r.Totals
	switch {
	case r.Unread:
		return fmt.Errorf("not everything was read: %s", strings.Join(r.Incomplete, "; "))
	case t.Unexplained > 0, o.strict && t.Duplicates+t.OutOfOrder+t.Malformed > 0:
		return errFound
	case len(r.Incomplete) > 0:
		return fmt.Errorf("not everything was judged: %s", strings.Join(r.Incomplete, "; "))
	}
	return nil
}

// config makes the audit's configuration of flags and config file.
func (o *auditOptions) config(c *call, now time.Time) (cfg audit.Config, err error) {
	wrong := func(format string, args ...any) (audit.Config, error) {
		return cfg, usageError{fmt.Errorf("audit: "+format+" (sluice audit -h shows the flags)", args...)}
	}
	switch o.isolation {
	case "read_committed":
	case "read_uncommitted":
		cfg.Uncommitted = true
	default:
		return wrong("--isolation %q (read_committed, read_uncommitted)", o.isolation)
	}
	if cfg.Memory, err = auditSize(o.memory); err != nil {
		return wrong("--memory %w", err)
	}
	for _, at := range []struct {
		flag, text string
		to         *time.Time
	}{{"--from", o.from, &cfg.From}, {"--to", o.to, &cfg.To}} {
		if at.text == "" {
			continue
		}
		if *at.to, err = moment(now, at.text); err != nil {
			return wrong("%s %w", at.flag, err)
		}
	}
	if cfg.Settle = o.settle; cfg.Settle <= 0 {
		cfg.Settle = -1
	}
	cfg.Agents, cfg.Classes, cfg.Topics = o.agents, o.classes, o.topics
	if cfg.Clusters, err = o.sources(c, &cfg.Topics); err != nil {
		return cfg, err
	}
	switch {
	case len(cfg.Clusters) == 0:
		return wrong("--brokers is missing, or -c FILE with --uplink")
	case len(cfg.Topics) == 0:
		return wrong("--topic is missing")
	}
	return cfg, nil
}

// auditSize reads a size with a binary unit.
func auditSize(text string) (int64, error) {
	for unit, bits := range map[string]uint{"KiB": 10, "MiB": 20, "GiB": 30} {
		if digits, ok := strings.CutSuffix(text, unit); ok {
			if n, err := strconv.ParseUint(digits, 10, 20); err == nil {
				return int64(n) << bits, nil
			}
		}
	}
	return 0, fmt.Errorf("%q is no size (such as 64MiB or 1GiB)", text)
}

// readSecret reads a password from a file, without the line's end.
func readSecret(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 64<<10))
	return strings.TrimRight(string(b), "\r\n"), err
}
