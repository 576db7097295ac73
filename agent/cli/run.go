package cli

import (
	"context"
	"io"
	"log/slog"
	"time"

	"sluice/agent"
	"sluice/agent/config"
)

// run runs the agent until ctx ends. SIGHUP reads the config again: a good one
// replaces the running one, a bad one is logged and changes nothing.
func run(ctx context.Context, c *call) error {
	if err := c.parse(0); err != nil {
		return err
	}
	cfg, err := c.load()
	if err != nil {
		return err
	}
	var before *config.Config // what ran before a reload
	for {
		next, started, err := c.runOne(ctx, cfg)
		switch {
		case next != nil:
			if err != nil {
				newLog(c.Err, cfg.Log).Error("the agent did not stop in order before a reload", "error", err)
			}
			before, cfg = cfg, next
		case err != nil && !started && before != nil:
			newLog(c.Err, cfg.Log).Error("the config cannot be applied; going back to the one before", "file", c.file, "error", err)
			before, cfg = nil, before
		default:
			return err
		}
	}
}

// runOne runs the agent with cfg until it ends, or until a reload gives the
// config to go on with. started says whether it ran at all.
func (c *call) runOne(ctx context.Context, cfg *config.Config) (next *config.Config, started bool, err error) {
	log := newLog(c.Err, cfg.Log)
	a, err := agent.New(cfg, agent.Options{Version: c.Build.Version, File: c.file, Log: log})
	if err != nil {
		return nil, false, err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	n := newNotifier(c.Env)
	defer n.close()
	n.say("READY=1\nSTATUS=running")
	beat := time.NewTicker(n.every())
	defer beat.Stop()
	for {
		select {
		case err = <-ended:
			n.say("STOPPING=1")
			return next, true, err
		case <-beat.C:
			if st := a.Status(); !st.Stalled { // a full class or a full disk is nothing that a restart mends
				n.say("WATCHDOG=1\nSTATUS=" + summary(st))
			}
		case <-c.Reload:
			if good := c.reload(cfg, log); good != nil { // a bad one after a good one changes nothing
				next = good
				n.say("RELOADING=1\nSTATUS=reloading")
				stop()
			}
		}
	}
}

// reload reads the config again; nil means that the running one stays. What New
// could refuse beyond check is tried by starting it.
func (c *call) reload(old *config.Config, log *slog.Logger) *config.Config {
	cfg, err := c.load()
	if err != nil {
		log.Error("the config is not reloaded; the running one stays", "file", c.file, "error", err)
		return nil
	}
	if string(cfg.YAML()) == string(old.YAML()) {
		log.Info("the config has not changed", "file", c.file)
		return nil
	}
	log.Info("reloading the config", "file", c.file)
	return cfg
}

// newLog makes the agent's own log, on standard error.
func newLog(w io.Writer, c config.Log) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		level = slog.LevelInfo // the config has been checked
	}
	opt := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opt))
	}
	return slog.New(slog.NewTextHandler(w, opt))
}
