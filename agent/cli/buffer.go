package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"sluice/agent/web"
	"sluice/buffer"
	"sluice/drivers"
)

// errFound ends a command that did its work and found something: exit status 3.
var errFound = errors.New("something was found")

// bufferVerbs are the words after "sluice buffer", in the order of the help.
var bufferVerbs = []string{"stat", "verify", "export", "repair", "compact"}

// bufferOptions are the flags of "sluice buffer".
type bufferOptions struct {
	dir, class   string
	json, dryRun bool
	rejected     bool
}

// bufferCommand looks into a data directory that no agent runs on, or mends it.
func bufferCommand(ctx context.Context, c *call) error {
	var opt bufferOptions
	c.flags.StringVar(&opt.dir, "data-dir", "", "the data `directory` (default: agent.data_dir of the config)")
	c.flags.BoolVar(&opt.json, "json", false, "print JSON")
	c.flags.StringVar(&opt.class, "class", "", "export only this `class`")
	c.flags.BoolVar(&opt.rejected, "rejected", false, "export what uplinks could not deliver")
	c.flags.BoolVar(&opt.dryRun, "dry-run", false, "repair changes nothing and shows what it would do; exit status 3 when that is something")
	verb := ""
	if len(c.rest) > 0 && c.rest[0] != "" && c.rest[0][0] != '-' {
		verb, c.rest = c.rest[0], c.rest[1:]
	}
	if err := c.parse(0); err != nil {
		return err
	}
	switch {
	case !slices.Contains(bufferVerbs, verb):
		return usageError{fmt.Errorf("buffer: unknown %q (%s)", verb, strings.Join(bufferVerbs, ", "))}
	case opt.dryRun && verb != "repair":
		return usageError{fmt.Errorf("buffer %s: --dry-run goes with repair only", verb)}
	case opt.rejected && verb != "export":
		return usageError{fmt.Errorf("buffer %s: --rejected goes with export only", verb)}
	case opt.class != "" && verb != "export":
		return usageError{fmt.Errorf("buffer %s: --class goes with export only", verb)}
	}
	if opt.dir == "" {
		cfg, err := c.load()
		if err != nil {
			return err
		}
		opt.dir = cfg.Agent.DataDir
	}
	if verb == "repair" || verb == "compact" {
		return mend(ctx, c, verb, opt)
	}
	if opt.rejected {
		return exportRejected(c, opt)
	}
	return lookInto(ctx, c, verb, opt)
}

// lookInto runs the verbs that change nothing.
func lookInto(ctx context.Context, c *call, verb string, opt bufferOptions) error {
	o, err := buffer.OpenOffline(opt.dir)
	if err != nil {
		return err
	}
	switch verb {
	case "stat":
		err = bufferStat(c, o, opt.json)
	case "verify":
		err = bufferVerify(ctx, c, o, opt.json)
	default:
		err = bufferExport(ctx, c, o, opt.class)
	}
	return errors.Join(err, o.Close())
}

func bufferStat(c *call, o *buffer.Offline, js bool) error {
	classes, err := o.Stat()
	if err != nil {
		return err
	}
	if js {
		enc := json.NewEncoder(c.Out)
		enc.SetIndent("", "  ")
		return enc.Encode(classes)
	}
	w := tabwriter.NewWriter(c.Out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "CLASS\tSEGMENTS\tFIRST\tLAST\tEVENTS\tKIB\tFROM\tDAMAGED FILES\n")
	for _, k := range classes {
		var first, last, events uint64
		var kib int64
		var from time.Time
		bad := 0
		for _, s := range k.Segments {
			if s.Fault != "" {
				bad++
				continue
			}
			if events == 0 && s.Events > 0 {
				first, from = s.First, s.From
			}
			last, events, kib = max(last, s.Last), events+s.Events, kib+s.Bytes>>10
		}
		begins := "-" // it holds nothing
		if events > 0 {
			begins = from.Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%s\t%d\n", k.Name, len(k.Segments), first, last, events, kib, begins, bad)
	}
	fmt.Fprint(w, "\nCLASS\tUPLINK\tDELIVERED UP TO\n")
	for _, k := range classes {
		for _, uplink := range slices.Sorted(maps.Keys(k.Cursors)) {
			fmt.Fprintf(w, "%s\t%s\t%d\n", k.Name, uplink, k.Cursors[uplink])
		}
	}
	return w.Flush()
}

func bufferVerify(ctx context.Context, c *call, o *buffer.Offline, js bool) error {
	last := time.Now()
	findings, err := o.Verify(ctx, func(done, all int) {
		if time.Since(last) > time.Second {
			last = time.Now()
			fmt.Fprintf(c.Err, "%d of %d files\n", done, all)
		}
	})
	if err != nil {
		return err
	}
	if js {
		if err = json.NewEncoder(c.Out).Encode(append([]buffer.Finding{}, findings...)); err != nil {
			return err
		}
	}
	for _, f := range findings {
		if !js {
			fmt.Fprintf(c.Out, "%s: %s\n", f.File, f.What)
		}
	}
	if len(findings) > 0 {
		return errFound
	}
	if !js {
		fmt.Fprintln(c.Out, "ok")
	}
	return nil
}

func bufferExport(ctx context.Context, c *call, o *buffer.Offline, class string) error {
	classes, err := o.Stat()
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(c.Out, 64<<10)
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	bad, known := false, class == ""
	for _, k := range classes {
		if class != "" && class != k.Name {
			continue
		}
		known = true
		err := o.Export(ctx, k.Name, func(incarnation string, seq uint64, e drivers.Event) error {
			return enc.Encode(web.EventOf(incarnation, seq, &e))
		}, func(f buffer.Finding) {
			bad = true
			fmt.Fprintf(c.Err, "%s: left out: %s\n", f.File, f.What)
		})
		if err != nil {
			return errors.Join(err, out.Flush())
		}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	switch {
	case !known:
		return usageError{fmt.Errorf("buffer export: there is no class %q here", class)}
	case bad:
		return errFound
	}
	return nil
}

// exportRejected prints the copies of rejected events. It needs no stopped agent.
func exportRejected(c *call, opt bufferOptions) error {
	out := bufio.NewWriterSize(c.Out, 64<<10)
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	bad := false
	err := buffer.ReadRejected(opt.dir, func(r buffer.Rejected) error {
		if opt.class != "" && opt.class != r.Class {
			return nil
		}
		e := r.Event()
		x := web.EventOf(r.Incarnation, r.Seq, &e)
		x.Uplink, x.RejectedAt, x.Omitted = r.Uplink, r.At, r.Omitted
		return enc.Encode(x)
	}, func(f buffer.Finding) {
		bad = true
		fmt.Fprintf(c.Err, "%s: left out: %s\n", f.File, f.What)
	})
	if err = errors.Join(err, out.Flush()); err == nil && bad {
		return errFound
	}
	return err
}
