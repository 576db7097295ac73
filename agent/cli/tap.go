package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"sluice/agent/web"
)

// tap prints events of the running agent as they pass, one JSON object a line,
// until Ctrl-C or --count.
func tap(ctx context.Context, c *call) error {
	count := c.flags.Int("count", 0, "stop after so many `events`; 0: go on until Ctrl-C")
	addr := c.flags.String("addr", "", "`host:port` of the agent (default: observe.http of the config)")
	if err := c.parse(1); err != nil {
		return err
	}
	if *count < 0 {
		return usageError{errors.New("tap: --count is negative (0: go on until Ctrl-C)")}
	}
	var err error
	if *addr, err = c.agentAddr(*addr); err != nil {
		return err
	}
	_, st, err := ask(ctx, *addr)
	if err != nil {
		return err
	}
	kind, name, err := findName(st, c.rest[0])
	if err != nil {
		return err
	}
	return c.follow(ctx, "http://"+*addr+"/api/v1/stream?"+url.Values{kind: {name}}.Encode(), *count)
}

// findName says what a name in the config is. Where several things have it,
// KIND:NAME tells them apart.
func findName(st *web.Status, word string) (kind, name string, err error) {
	wanted, name, given := strings.Cut(word, ":")
	if !given {
		wanted, name = "", word
	}
	var kinds []string
	for _, x := range []struct {
		kind string
		has  bool
	}{{"source", has(st.Sources, name)}, {"class", has(st.Classes, name)}, {"uplink", has(st.Uplinks, name)}} {
		if x.has && (wanted == "" || wanted == x.kind) {
			kinds = append(kinds, x.kind)
		}
	}
	switch len(kinds) {
	case 1:
		return kinds[0], name, nil
	case 0:
		return "", "", usageError{fmt.Errorf("tap: the agent has no source, class or uplink %q (sluice status lists them)", word)}
	}
	return "", "", usageError{fmt.Errorf("tap: %q is the name of a %s: say %s:%s", name, strings.Join(kinds, " and of a "), kinds[0], name)}
}

func has[T any](m map[string]T, name string) bool { _, ok := m[name]; return ok }

// follow prints the data of a stream of server-sent events.
func (c *call) follow(ctx context.Context, stream string, count int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, stream, nil)
	if err != nil {
		return fmt.Errorf("ask the agent: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ask the agent: %w (is it running?)", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // what came is all that can be said
		return fmt.Errorf("the agent answers %s: %s", resp.Status, strings.TrimSpace(string(why)))
	}
	lines := bufio.NewReaderSize(resp.Body, 64<<10)
	missed := false
	for n := 0; count == 0 || n < count; {
		line, err := lines.ReadString('\n')
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("the stream ended: %w (has the agent stopped?)", err)
		}
		line = strings.TrimSuffix(line, "\n")
		text, isData := strings.CutPrefix(line, "data: ")
		switch {
		case line == "event: missed":
			missed = true
		case isData && missed:
			missed = false
			fmt.Fprintf(c.Err, "sluice tap: %s events left out so far, they pass faster than they are read\n", text)
		case isData:
			n++
			if _, err := fmt.Fprintln(c.Out, text); err != nil {
				return err
			}
		}
	}
	return nil
}

// agentAddr is where the running agent answers: addr if it is given, else what
// the config says.
func (c *call) agentAddr(addr string) (string, error) {
	if addr != "" {
		return addr, nil
	}
	cfg, err := c.load()
	if err != nil {
		return "", err
	}
	if cfg.Observe.HTTP == "" {
		return "", fmt.Errorf("observe.http is switched off in %s: nothing to ask", c.file)
	}
	return cfg.Observe.HTTP, nil
}
