package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"sluice/agent/remote"
)

// silentAfter is how old the last report of an agent may be: they come each
// minute.
const silentAfter = 3 * time.Minute

// configStatus shows the desired against the running config of each agent.
func configStatus(ctx context.Context, c *call) error {
	js := c.flags.Bool("json", false, "print the newest record of each agent, one a line")
	if err := c.parse(0); err != nil {
		return err
	}
	f, err := c.openFleet(ctx)
	if err != nil {
		return err
	}
	defer f.client.Close()
	records, err := f.records(ctx, f.remote.StatusTopic, remote.IsStatusKey)
	if err != nil {
		return err
	}
	if *js {
		return c.statusLines(records)
	}
	return c.statusTable(records, time.Now())
}

func (c *call) statusLines(records map[string][]byte) error {
	for _, id := range slices.Sorted(maps.Keys(records)) {
		var line json.RawMessage
		if json.Unmarshal(records[id], &line) != nil {
			continue // deleted, or no status
		}
		b, err := json.Marshal(line)
		if err != nil {
			return err
		}
		if _, err = fmt.Fprintf(c.Out, "%s\n", b); err != nil {
			return err
		}
	}
	return nil
}

func (c *call) statusTable(records map[string][]byte, now time.Time) error {
	w := tabwriter.NewWriter(c.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "AGENT\tSTATE\tDESIRED\tRUNNING\tTARGET\tSINCE\tSEEN\tREASON")
	for _, id := range slices.Sorted(maps.Keys(records)) {
		var st remote.StatusRecord
		switch {
		case len(records[id]) == 0:
			continue // deleted
		case json.Unmarshal(records[id], &st) != nil:
			fmt.Fprintf(c.Err, "the record of %s is no status\n", plainText(id))
			continue
		}
		s := st.Config
		seen := age(now, st.Time)
		if now.Sub(st.Time) > silentAfter {
			seen += " SILENT"
		}
		reason := plainText(s.Reason)
		if s.Code != "" {
			reason = plainText(string(s.Code)) + ": " + reason
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", plainText(id), plainText(string(s.State)), number(s.Desired), number(s.Running), plainText(s.Target), age(now, s.Since), seen, reason)
	}
	return w.Flush()
}

// number is a version; 0 is none.
func number(n uint64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

func age(now, then time.Time) string {
	if then.IsZero() {
		return "-"
	}
	return now.Sub(then).Round(time.Second).String()
}

// plainText keeps what somebody else wrote from moving the cursor of a terminal.
func plainText(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
