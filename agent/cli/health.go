package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"sluice/agent/web"
)

// healthEvery is the pace of the questions.
const healthEvery = time.Second

// health asks the running agent until it was well without a break for --for, or
// until --within has passed. Well is more than /healthz says: each uplink
// reaches its cluster and has delivered, unless there was nothing to deliver.
func health(ctx context.Context, c *call) error {
	steady := c.flags.Duration("for", 0, "how long the agent has to be well without a break, such as 30s")
	within := c.flags.Duration("within", 0, "how long to wait for that, such as 10m (default: ask once, or as long as --for)")
	addr := c.flags.String("addr", "", "`host:port` of the agent (default: observe.http of the config)")
	if err := c.parse(0); err != nil {
		return err
	}
	if *steady < 0 || *within < 0 {
		return usageError{errors.New("health: --for and --within are not negative")}
	}
	var err error
	if *addr, err = c.agentAddr(*addr); err != nil {
		return err
	}
	w := wellness{steady: *steady, within: max(*within, *steady)}
	why, err := w.wait(ctx, func(ctx context.Context) error {
		_, st, err := ask(ctx, *addr)
		if err != nil {
			return err
		}
		return ailing(st)
	})
	switch {
	case err != nil:
		return fmt.Errorf("health: %w", err)
	case why != nil:
		fmt.Fprintf(c.Out, "not well: %v\n", why)
		return errFound
	}
	fmt.Fprintln(c.Out, "well")
	return nil
}

// wellness is what health waits for: answers without an error for steady, at
// the latest within.
type wellness struct{ steady, within time.Duration }

// wait asks once a second. It returns why nil when the agent was well for
// steady, and its last ailment as soon as it can no longer be that in time. It
// blocks until then or until ctx ends, which is err.
func (w wellness) wait(ctx context.Context, well func(context.Context) error) (why, err error) {
	since := time.Now() // of the unbroken row of good answers
	latest := since.Add(w.within)
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	for {
		if ailment := well(ctx); ailment != nil {
			why, since = ailment, time.Now()
		}
		switch {
		case since.Add(w.steady).After(latest):
			return why, nil
		case time.Since(since) >= w.steady:
			return nil, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// ailing says why the agent is not well: a stage that does not work, an uplink
// that is away or has delivered nothing of what waits for it, or no source that
// is up. One machine that is off among others is the plant's affair, and an uplink
// that its config keeps closed for now proves nothing, as long as another one does.
func ailing(st *web.Status) error {
	reasons := slices.Clone(st.Unhealthy)
	works := slices.ContainsFunc(slices.Collect(maps.Values(st.Uplinks)), func(u web.Uplink) bool { return u.Up })
	for _, name := range slices.Sorted(maps.Keys(st.Uplinks)) {
		u := st.Uplinks[name]
		switch {
		case u.Closed && works:
		case !u.Up:
			reasons = append(reasons, fmt.Sprintf("uplink %s: %s", name, u.State))
		case sum(u.Delivered) == 0 && sum(u.Lag) > 0:
			reasons = append(reasons, fmt.Sprintf("uplink %s: has delivered none of %d events", name, sum(u.Lag)))
		}
	}
	up := func(s web.Source) bool { return s.Up }
	if len(st.Sources) > 0 && !slices.ContainsFunc(slices.Collect(maps.Values(st.Sources)), up) {
		reasons = append(reasons, "no source is up")
	}
	if len(reasons) == 0 {
		return nil
	}
	return errors.New(strings.Join(reasons, "; "))
}
