package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"text/tabwriter"

	"sluice/agent"
)

// probe connects to each source and uplink once, or to those that are named, and
// shows what it found.
func probe(ctx context.Context, c *call) error {
	js := c.flags.Bool("json", false, "print the findings as JSON")
	if err := c.parseWords(); err != nil {
		return err
	}
	cfg, err := c.load()
	if err != nil {
		return err
	}
	found, err := agent.Probe(ctx, cfg, c.rest)
	if err != nil {
		return usageError{fmt.Errorf("probe: %w", err)}
	}
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted")
	}
	if *js {
		enc := json.NewEncoder(c.Out)
		enc.SetIndent("", "  ")
		err = enc.Encode(found)
	} else {
		err = c.showProbed(found)
	}
	if err == nil && slices.ContainsFunc(found, func(p agent.Probed) bool { return !p.OK }) {
		return errFound
	}
	return err
}

func (c *call) showProbed(found []agent.Probed) error {
	w := tabwriter.NewWriter(c.Out, 0, 0, 2, ' ', 0)
	for _, p := range found {
		for _, check := range p.Checks {
			verdict := "ok"
			switch {
			case !check.OK:
				verdict = "FAILED"
			case check.Warning:
				verdict = "warning"
			}
			fmt.Fprintf(w, "%s %s\t%s\t%s\t%s\n", p.Kind, p.Name, verdict, check.What, check.Detail)
		}
	}
	return w.Flush()
}
