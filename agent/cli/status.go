package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"text/tabwriter"
	"time"

	"sluice/agent/web"
)

// statusEvery is the pace of the questions, and the time that rates are of.
const statusEvery = time.Second

// status shows the running agent once, or again and again with --watch.
func status(ctx context.Context, c *call) error {
	watch := c.flags.Bool("watch", false, "refresh until Ctrl-C")
	js := c.flags.Bool("json", false, "print the status as JSON")
	addr := c.flags.String("addr", "", "`host:port` of the agent (default: observe.http of the config)")
	if err := c.parse(0); err != nil {
		return err
	}
	var err error
	if *addr, err = c.agentAddr(*addr); err != nil {
		return err
	}
	if !*watch {
		return c.showOnce(ctx, *addr, *js)
	}
	return c.showAlways(ctx, *addr)
}

// top is status --watch.
func top(ctx context.Context, c *call) error {
	c.rest = append([]string{"--watch"}, c.rest...)
	return status(ctx, c)
}

// showOnce prints one status. The table has the rates of a second, for which it asks
// twice; where the second answer fails it goes without.
func (c *call) showOnce(ctx context.Context, addr string, js bool) error {
	body, st, err := ask(ctx, addr)
	if err != nil {
		return err
	}
	if js {
		_, err = c.Out.Write(body)
		return err
	}
	pause := time.NewTimer(statusEvery)
	defer pause.Stop()
	select {
	case <-ctx.Done():
		return show(c.Out, st, nil)
	case <-pause.C:
	}
	if _, now, err := ask(ctx, addr); err == nil {
		return show(c.Out, now, st)
	}
	return show(c.Out, st, nil)
}

func (c *call) showAlways(ctx context.Context, addr string) error {
	tick := time.NewTicker(statusEvery)
	defer tick.Stop()
	var before *web.Status
	for {
		_, st, err := ask(ctx, addr)
		fmt.Fprint(c.Out, "\x1b[H\x1b[2J")
		if err != nil {
			fmt.Fprintln(c.Out, err)
		} else if err = show(c.Out, st, before); err != nil {
			return err
		}
		before = st
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// ask gets the status of the agent at addr.
func ask(ctx context.Context, addr string) ([]byte, *web.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/api/v1/status", nil)
	if err != nil {
		return nil, nil, fmt.Errorf("ask the agent: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, nil, fmt.Errorf("ask the agent: %w (is it running?)", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return nil, nil, fmt.Errorf("ask the agent: %w", err)
	}
	var st web.Status
	if err = json.Unmarshal(body, &st); err != nil || resp.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("%s answers %s, not as an agent would (is it another program's port?)", addr, resp.Status)
	}
	return body, &st, nil
}

// show prints a status as tables; with the one before (nil: unknown), rates too.
func show(out io.Writer, st, before *web.Status) error {
	var since time.Duration // by the agent's clock; not after a restart
	if before == nil {
		before = &web.Status{}
	} else {
		since = time.Duration((st.UptimeSeconds - before.UptimeSeconds) * float64(time.Second))
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s  Sluice %s  up %s\n", st.Agent, st.Version, time.Duration(st.UptimeSeconds*float64(time.Second)).Round(time.Second))
	if text := st.Config.Text(); text != "" {
		fmt.Fprintf(w, "config: %s\n", plainText(text))
	}
	for _, r := range st.Reasons {
		fmt.Fprintf(w, "! %s\n", r)
	}
	fmt.Fprint(w, "\nSOURCE\tUP\tTAKEN\tRATE\tREFUSED\tSTATE\n")
	for _, name := range slices.Sorted(maps.Keys(st.Sources)) {
		s := st.Sources[name]
		was, known := before.Sources[name]
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%d\t%s\n", name, yes(s.Up), sum(s.Taken), rate(sum(s.Taken), sum(was.Taken), known, since), sum(s.Rejected), s.State)
	}
	fmt.Fprint(w, "\nCLASS\tWAITING\tOLDEST\tON DISK\tDROPPED\tSTATE\n")
	for _, name := range slices.Sorted(maps.Keys(st.Classes)) {
		k := st.Classes[name]
		fmt.Fprintf(w, "%s\t%d\t%s\t%d KiB\t%d\t%s\n", name, k.Events, time.Duration(k.OldestSeconds*float64(time.Second)).Round(time.Second), k.Bytes>>10, sum(k.Dropped), classState(k))
	}
	fmt.Fprint(w, "\nUPLINK\tUP\tDELIVERED\tRATE\tWAITING\tSTATE\n")
	for _, name := range slices.Sorted(maps.Keys(st.Uplinks)) {
		u := st.Uplinks[name]
		was, known := before.Uplinks[name]
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%d\t%s\n", name, linkWord(u), sum(u.Delivered), rate(sum(u.Delivered), sum(was.Delivered), known, since), sum(u.Lag), u.State)
	}
	showTroubles(w, troubles(st))
	return w.Flush()
}

func classState(k web.Class) string {
	switch {
	case k.Fault != "":
		return "cannot be written: " + k.Fault
	case k.Blocked:
		return "full: sources wait"
	}
	return "ok"
}

func rate(now, was uint64, known bool, since time.Duration) string {
	if !known || now < was || since <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f/s", float64(now-was)/since.Seconds())
}

func linkWord(u web.Uplink) string {
	if u.Closed {
		return "closed"
	}
	return yes(u.Up)
}

func yes(up bool) string {
	if up {
		return "up"
	}
	return "DOWN"
}

func sum(counts map[string]uint64) (n uint64) {
	for _, c := range counts {
		n += c
	}
	return n
}
