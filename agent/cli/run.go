package cli

import (
	"context"

	"sluice/agent"
)

// run runs the agent until ctx ends. SIGHUP reads the config again: a good one
// takes the place of the running one, a bad one is logged and changes nothing.
func run(ctx context.Context, c *call) error {
	if err := c.parse(0); err != nil {
		return err
	}
	n := newNotifier(c.Env)
	defer n.close()
	s := agent.Supervisor{File: c.file, Load: c.load, Parse: c.parseRemote, Version: c.Build.Version, Out: c.Err, Reload: c.Reload, Notify: n}
	return s.Run(ctx)
}
