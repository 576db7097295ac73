// Package agent puts Sluice together: it makes the sources, the buffer and the
// uplinks that a config asks for, runs them, and stops them in the order in
// which nothing is lost. It is the only package that sees all others.
//
//	agent.go    New, Run: start, watch, stop      status.go   what the agent knows of itself
//	wire.go     from config to sources, buffer,   metrics.go  the same for Prometheus
//	            uplinks                           tls.go      certificates, reloaded
//	stranded.go events for uplinks that are gone   tap.go      events shown as they pass
//	probe.go    each source and uplink, once
//	security.go what is reported as an event       replay.go   stored events sent again
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"sluice/agent/config"
	"sluice/agent/control"
	"sluice/agent/web"
	"sluice/buffer"
	"sluice/drivers"
	"sluice/uplink"
)

// How a stop may spend its ten seconds. Sources and uplinks bound their own
// parts: about 3 s for the last acknowledgements, 5 s for the last produce.
const (
	drainLimit = 1 * time.Second  // for uplinks that keep up, to send what the sources left
	stopLimit  = 10 * time.Second // then Run returns whatever still hangs
)

// Options are what a config does not hold.
type Options struct {
	Version string       // of the program, for the status
	File    string       // the config's file, for the status
	Log     *slog.Logger // nil: discarded
}

// Agent is one running configuration.
type Agent struct {
	cfg     *config.Config
	opt     Options
	log     *slog.Logger
	started time.Time

	buffer  *buffer.Buffer
	sources []source
	uplinks []destination
	web     *web.Server // nil: switched off
	control *control.Server
	meters  *meters
	taps    taps
	reports *reporter // nil: no uplink sends them
}

type source struct {
	name, kind string
	driver     drivers.Driver
	classes    []string
}

type destination struct {
	name   string
	kafka  *uplink.Kafka
	reader *buffer.Reader
}

// New makes everything that cfg asks for and takes what only one may have: the
// HTTP address and the data directory. Nothing runs yet. After an error nothing
// is left open.
func New(cfg *config.Config, opt Options) (_ *Agent, err error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	a := &Agent{cfg: cfg, opt: opt, log: opt.Log, started: time.Now(), meters: newMeters()}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	if cfg.Observe.HTTP != "" {
		if a.web, err = web.Listen(cfg.Observe.HTTP, a, a.log); err != nil {
			return nil, err
		}
	}
	if err = writable(cfg.Agent.DataDir); err != nil {
		return nil, err
	}
	if a.buffer, err = a.openBuffer(); err != nil {
		return nil, err
	}
	if a.control, err = control.Listen(cfg.Agent.DataDir, a, a.log); err != nil {
		// Some file systems have no sockets. Events come first.
		a.log.Error("commands such as sluice replay will not work", "error", err)
	}
	a.reports = newReporter(cfg, a.sink())
	if err = a.makeUplinks(); err != nil {
		return nil, err
	}
	return a, a.makeSources()
}

// writable makes the data directory and says in words when that cannot work.
func writable(dir string) error {
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		var f *os.File
		if f, err = os.CreateTemp(dir, ".writable-*"); err == nil {
			err = errors.Join(f.Close(), os.Remove(f.Name()))
		}
	}
	if err != nil {
		return fmt.Errorf("agent.data_dir %s cannot be written: %w (create it for user %d, or set another one)", filepath.Clean(dir), err, os.Geteuid())
	}
	return nil
}

// close gives back what New took.
func (a *Agent) close() error {
	var errs []error
	if a.web != nil {
		_ = a.web.Close() // Run has closed it, in most cases
	}
	if a.control != nil {
		_ = a.control.Close() // as above
	}
	for _, u := range a.uplinks {
		u.reader.Close()
	}
	if a.buffer != nil {
		errs = append(errs, a.buffer.Close())
	}
	return errors.Join(errs...)
}

// HTTP is the address that is served, empty when it is switched off.
func (a *Agent) HTTP() string {
	if a.web == nil {
		return ""
	}
	return a.web.Addr()
}

// Run runs the agent until ctx ends and stops it in order: sources first, then
// uplinks once they have sent what they can, then the buffer. It returns within
// ten seconds after that. A stage that ends by itself ends the agent, with that
// stage's error. An Agent runs once.
func (a *Agent) Run(ctx context.Context) error {
	debug.SetMemoryLimit(int64(a.cfg.Agent.MemoryLimit))
	always := context.WithoutCancel(ctx)
	sources, uplinks, log, pages := newStage(always), newStage(always), newStage(always), newStage(always)
	log.start("buffer", a.buffer.Run)
	for _, u := range a.uplinks {
		uplinks.start("uplink "+u.name, u.kafka.Run)
	}
	if a.reports != nil {
		sources.start("security reports", a.reports.run)
	}
	for _, s := range a.sources {
		sources.start("source "+s.name, s.driver.Run)
	}
	if a.control != nil {
		sources.start("control socket", a.control.Run)
	}
	if a.web != nil {
		pages.start("http", a.web.Run)
	}
	a.log.Info("running", "agent", a.cfg.Agent.ID, "version", a.opt.Version, "sources", len(a.sources), "uplinks", len(a.uplinks),
		"data_dir", a.cfg.Agent.DataDir, "http", a.HTTP())

	var err error
	select {
	case <-ctx.Done():
	case err = <-sources.ended:
	case err = <-uplinks.ended:
	case err = <-log.ended:
	case err = <-pages.ended:
	}
	a.log.Info("stopping")
	stopped := make(chan error, 1)
	go func() { // waited for below, unless something hangs
		errs := sources.stop()
		a.drain()
		errs = errors.Join(errs, uplinks.stop(), log.stop(), pages.stop(), a.close())
		stopped <- errs
	}()
	select {
	case e := <-stopped:
		a.log.Info("stopped")
		return errors.Join(err, e)
	case <-time.After(stopLimit - 200*time.Millisecond):
		return errors.Join(err, errors.New("something did not stop in time; what was acknowledged is in the buffer"))
	}
}

// drain gives uplinks that keep up a moment to send what the sources left.
func (a *Agent) drain() {
	for end := time.Now().Add(drainLimit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		waiting := false
		st := a.buffer.Stats()
		for _, u := range a.uplinks {
			if !u.kafka.Stats().Up {
				continue
			}
			for _, c := range st.Classes {
				waiting = waiting || c.Uplinks[u.name].Lag > 0 || c.Queued > 0
			}
		}
		if !waiting {
			return
		}
	}
}

// stage is a group of goroutines that start and stop together.
type stage struct {
	ctx    context.Context //nolint:containedctx // it is the stage's own switch, given to each member's Run
	cancel context.CancelFunc
	ended  chan error // what a member said that ended before stop
	done   []chan error
}

func newStage(parent context.Context) *stage {
	s := &stage{ended: make(chan error, 64)}
	s.ctx, s.cancel = context.WithCancel(parent)
	return s
}

// start runs a member; one that ends while the stage lives is an error, nil
// included.
func (s *stage) start(name string, run func(context.Context) error) {
	done := make(chan error, 1)
	s.done = append(s.done, done)
	go func() {
		err := run(s.ctx)
		if s.ctx.Err() == nil {
			if err == nil {
				err = errors.New("ended by itself")
			}
			s.ended <- fmt.Errorf("%s: %w", name, err)
			err = nil
		} else if err != nil && !errors.Is(err, context.Canceled) {
			err = fmt.Errorf("stop %s: %w", name, err)
		} else {
			err = nil
		}
		done <- err
	}()
}

// stop ends all members and waits for them.
func (s *stage) stop() error {
	s.cancel()
	var errs []error
	for _, d := range s.done {
		errs = append(errs, <-d)
	}
	return errors.Join(errs...)
}
