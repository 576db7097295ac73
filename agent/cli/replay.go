package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"sluice/agent/control"
)

// replay asks the running agent to send a range of time again, and shows how far
// it is until it is done. Ctrl-C ends it.
func replay(ctx context.Context, c *call) error {
	var r control.ReplayRequest
	c.flags.StringVar(&r.Class, "class", "", "`class` of the events")
	from := c.flags.String("from", "", "`time` of the first event: 2026-01-02T03:04:05Z, or an age such as 90m")
	to := c.flags.String("to", "", "`time` that the events are before, in the same forms (default: now)")
	c.flags.StringVar(&r.Uplink, "uplink", "", "`uplink` that sends them")
	c.flags.StringVar(&r.Topic, "topic", "", "another `topic`, with the same placeholders (default: the uplink's own)")
	js := c.flags.Bool("json", false, "print each step as a JSON line")
	dir := c.flags.String("data-dir", "", "`folder` of the agent's data (default: agent.data_dir of the config)")
	if err := c.parse(0); err != nil {
		return err
	}
	if r.Class == "" || r.Uplink == "" || *from == "" {
		return usageError{errors.New("replay: --class, --from and --uplink are needed (sluice replay -h)")}
	}
	var err error
	now := time.Now()
	if r.From, err = moment(now, *from); err != nil {
		return usageError{fmt.Errorf("replay: --from %w", err)}
	}
	if *to == "" {
		*to = "0s"
	}
	if r.To, err = moment(now, *to); err != nil {
		return usageError{fmt.Errorf("replay: --to %w", err)}
	}
	if !r.From.Before(r.To) {
		return usageError{fmt.Errorf("replay: --from %s is not before --to %s", *from, *to)}
	}
	if *dir == "" {
		cfg, err := c.load()
		if err != nil {
			return err
		}
		*dir = cfg.Agent.DataDir
	}
	return c.replay(ctx, *dir, r, *js)
}

func (c *call) replay(ctx context.Context, dir string, r control.ReplayRequest, js bool) error {
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent/v1/replay", bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := control.Client(dir).Do(req)
	if err != nil {
		return fmt.Errorf("ask the agent: %w", errors.Unwrap(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // what came is all that can be said
		return fmt.Errorf("the agent answers %s: %s", resp.Status, strings.TrimSpace(string(why)))
	}
	var p control.ReplayProgress
	for dec := json.NewDecoder(resp.Body); !p.Done; {
		p.Done = false
		if err := dec.Decode(&p); err != nil {
			if ctx.Err() != nil {
				err = errors.New("interrupted")
			}
			return fmt.Errorf("%w; %s", err, resume(p))
		}
		if js {
			if err := json.NewEncoder(c.Out).Encode(p); err != nil {
				return err
			}
		} else if !p.Done {
			fmt.Fprintf(c.Err, "%d sent, at %s\n", p.Sent, p.At.Format(time.RFC3339))
		}
	}
	if p.Error != "" {
		return fmt.Errorf("%s; %s", p.Error, resume(p))
	}
	if !js {
		c.sayReplayed(p)
	}
	return nil
}

// resume says how to go on after an end in the middle.
func resume(p control.ReplayProgress) string {
	if p.At.IsZero() {
		return "nothing was sent"
	}
	return fmt.Sprintf("%d were sent; go on with --from %s", p.Sent, p.At.Format(time.RFC3339Nano))
}

func (c *call) sayReplayed(p control.ReplayProgress) {
	if p.Sent == 0 && p.Refused == 0 {
		fmt.Fprintln(c.Out, "nothing is stored in that range (delivered events are kept for the class's retain)")
		return
	}
	fmt.Fprintf(c.Out, "%d sent with sluice_replay: %s\n", p.Sent, p.ID)
	if p.Refused > 0 {
		fmt.Fprintf(c.Out, "%d refused by the cluster (too large)\n", p.Refused)
	}
	if p.Missing > 0 {
		fmt.Fprintf(c.Out, "%d numbers in the range are not stored; gap records say why\n", p.Missing)
	}
}
