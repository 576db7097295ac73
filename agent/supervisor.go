package agent

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"sluice/agent/config"
	"sluice/agent/remote/floor"
	"sluice/agent/web"
	"sluice/buffer"
)

// keeperGrace is how long a stop waits for commands that are under way once the
// agent has stopped.
const keeperGrace = time.Second

// Supervisor runs the config of a file, and what it becomes while it runs.
type Supervisor struct {
	File    string                                    // the config's file, for messages
	Load    func() (*config.Config, error)            // reads it
	Parse   func(text []byte) (*config.Config, error) // reads a config that came over an uplink
	Version string                                    // of the program
	Out     io.Writer                                 // where the log goes
	Reload  <-chan os.Signal                          // asks for the file to be read again; nil: never
	Notify  Notifier                                  // is told how it goes

	folder      func(dir string) floor.Folder // where remote configs are stored; nil: the file system
	stallLimit  time.Duration                 // of Options
	clock       func() time.Time              // what remote configs and commands are judged by; nil: time.Now
	reportEvery time.Duration                 // how often the status is told without news; 0: the usual
	again       chan struct{}                 // the command restart: another agent is to take over
}

// Notifier is told how the agent is, by one goroutine. Its methods must not
// block.
type Notifier interface {
	Ready()     // it runs, or runs again after Reloading
	Reloading() // another config is being applied
	Stopping()
	Alive(st web.Status)  // it still runs, and so
	Every() time.Duration // how often Alive is wanted
}

// Run runs the agent until ctx ends or a part of it does. A config that is wrong
// at the start is an error; one that is wrong later is logged and changes
// nothing, and one that cannot be applied gives way to the one before.
func (s *Supervisor) Run(ctx context.Context) error {
	s.again = make(chan struct{}, 1)
	cfg, err := s.Load()
	if err != nil {
		return err
	}
	var before *config.Config // what ran before a new start
	for {
		next, started, err := s.runOne(ctx, cfg)
		log := NewLogs(s.Out, cfg.Log).Logger()
		switch {
		case next != nil:
			if err != nil {
				log.Error("the agent did not stop in order before a reload", "error", err)
			}
			before, cfg = cfg, next
		case err != nil && !started && before != nil:
			log.Error("the config cannot be applied; going back to the one before", "file", s.File, "error", err)
			before, cfg = nil, before
		default:
			return err
		}
	}
}

// start makes an agent for the config of the file, or for what a remote config
// has made of it; k is nil where none is wanted.
func (s *Supervisor) start(file *config.Config, logs *Logs) (a *Agent, k *keeper, err error) {
	log := logs.Logger()
	cfg := file
	if file.Remote != nil {
		switch k, err = openKeeper(s, file, log); {
		case errors.Is(err, buffer.ErrInUse):
			return nil, nil, err
		case err != nil: // events come first
			log.Error("remote config does not work; the config of the file runs", "error", err)
		default:
			cfg = k.begin()
		}
	}
	opt := Options{Version: s.Version, File: s.File, Log: log, Logs: logs, stallLimit: s.stallLimit}
	for {
		if k != nil {
			opt.back, opt.gone = k.ground(), k.gone
		}
		logs.Set(cfg.Log)
		if a, err = New(cfg, opt); err == nil {
			break
		}
		var other *config.Config
		if k != nil && !errors.Is(err, buffer.ErrInUse) {
			other = k.instead(cfg, err)
		}
		if other == nil {
			if k != nil {
				k.close()
			}
			return nil, nil, err
		}
		cfg = other
	}
	if k != nil {
		k.attach(a)
	}
	return a, k, nil
}

// runOne runs an agent with the config of the file until it ends, or until a
// reload gives a config that needs another one. started says whether it ran at
// all.
func (s *Supervisor) runOne(ctx context.Context, file *config.Config) (next *config.Config, started bool, err error) {
	logs := NewLogs(s.Out, file.Log)
	a, k, err := s.start(file, logs)
	if err != nil {
		return nil, false, err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	if k != nil {
		kept := make(chan struct{})
		defer func() {
			stop()
			select {
			case <-kept:
				if err == nil {
					k.rest()
				}
			case <-time.After(keeperGrace):
			}
			k.close()
		}()
		go func() { defer close(kept); k.run(ctx) }()
	}
	s.Notify.Ready()
	beat := time.NewTicker(s.Notify.Every())
	defer beat.Stop()
	r := reloading{Supervisor: s, agent: a, keeper: k, running: file}
	for {
		select {
		case err = <-ended:
			s.Notify.Stopping()
			return next, true, err
		case <-beat.C:
			if st := a.Status(); !st.Stalled { // a full class or a full disk is nothing that a restart mends
				s.Notify.Alive(st)
			}
		case <-s.again:
			next = r.afresh()
			stop()
		case <-s.Reload:
			r.begin(ctx)
		case err := <-r.done:
			if next = r.end(ctx, err); next != nil {
				stop()
			}
		}
	}
}

// reloading reads the file again and applies it, one at a time.
type reloading struct {
	*Supervisor
	agent   *Agent
	keeper  *keeper // nil: there is none
	running *config.Config
	wanted  *config.Config // is being applied
	done    chan error
	again   bool // another was asked for meanwhile
}

// restart has another agent take over in this process. It does not block.
func (s *Supervisor) restart() {
	select {
	case s.again <- struct{}{}:
	default: // it was asked for already
	}
}

// afresh is the config of the file for another agent, the running one where it is
// wrong.
func (r *reloading) afresh() *config.Config {
	cfg, err := r.Load()
	if err != nil {
		r.agent.log.Error("the config is not reloaded; the running one stays", "file", r.File, "error", err)
		return r.running
	}
	return cfg
}

// begin reads the file and, if it is good and says something else, has it applied.
func (r *reloading) begin(ctx context.Context) {
	log := r.agent.log.With("file", r.File)
	if r.wanted != nil {
		r.again = true
		return
	}
	cfg, err := r.Load()
	switch {
	case err != nil:
		log.Error("the config is not reloaded; the running one stays", "error", err)
	case cfg.Digest("") == r.running.Digest(""):
		log.Info("the config has not changed")
	default:
		log.Info("reloading the config")
		r.Notify.Reloading()
		r.wanted, r.done = cfg, make(chan error, 1)
		go func() { r.done <- r.apply(ctx, cfg) }() // end reads it, or nobody needs it any more
	}
}

// end is told what came of it; next is the config for another agent.
func (r *reloading) end(ctx context.Context, err error) (next *config.Config) {
	cfg := r.wanted
	r.wanted, r.done = nil, nil
	switch {
	case err == nil:
		r.running = cfg
		r.agent.log.Info("the config is applied", "file", r.File)
	case errors.Is(err, ErrOther):
		return cfg
	case ctx.Err() == nil && !errors.Is(err, errStopped):
		r.agent.log.Error("the config cannot be applied; going back to the one before", "file", r.File, "error", err)
	}
	r.Notify.Ready()
	if r.again {
		r.again = false
		r.begin(ctx)
	}
	return nil
}

func (r *reloading) apply(ctx context.Context, cfg *config.Config) error {
	switch {
	case (cfg.Remote != nil) != (r.running.Remote != nil):
		return ErrOther
	case r.keeper != nil:
		return r.keeper.Reload(ctx, cfg)
	}
	return r.agent.Apply(ctx, cfg)
}
