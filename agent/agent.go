// Package agent puts Sluice together: it makes the sources, the buffer and the
// uplinks that a config asks for, runs them, changes them when the config
// changes, and stops them in the order in which nothing is lost. It is the only
// package that sees all others.
//
//	agent.go    New, Run: start, watch, stop      status.go   what the agent knows of itself
//	apply.go    another config, while it runs     metrics.go  the same for Prometheus
//	parts.go    what runs now                     tls.go      certificates, reloaded
//	member.go   goroutines, by name               tap.go      events shown as they pass
//	ground.go   what a trial goes back to         keeper.go   remote config: see there
//	gate.go     the way into the buffer           past.go     counters of parts that were replaced
//	wire.go     from config to sources, buffer,   log.go      the agent's own log
//	            uplinks                           security.go what is reported as an event
//	stranded.go events for uplinks that are gone  replay.go   stored events sent again
//	probe.go    each source and uplink, once      command*.go what an operator may order over Kafka
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"time"

	"sluice/agent/config"
	"sluice/agent/control"
	"sluice/agent/web"
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
	Log     *slog.Logger // nil: that of Logs, or discarded
	Logs    *Logs        // follows the config's log; nil: it is not followed

	stallLimit time.Duration // 0: the usual
	back       *ground       // the config is on trial
	gone       []string      // uplinks of a config that was rolled back
}

// Agent runs a config, and others after it. Its data directory and its id stay
// the same for its life.
type Agent struct {
	opt     Options
	log     *slog.Logger
	started time.Time

	now     atomic.Pointer[parts]      // what runs; only the goroutine of New and then Run sets it
	config  atomic.Pointer[web.Config] // how it stands with it
	gate    *gate
	control *control.Server
	meters  *meters
	taps    taps
	spreads spreads
	reports *reporter

	members members         // of the goroutine of Run
	past    past            // of the goroutine of Run
	calls   chan func()     // what it is to do
	over    chan struct{}   // closed when it takes no calls any more
	back    *ground         // while a config is on trial; nil: none is
	gone    []string        // uplinks of configs that were rolled back, whose places are given up at the next opening
	broken  error           // parts are missing and cannot be made
	halt    context.Context //nolint:containedctx // that of Run: a change that it ends goes no further
}

// New makes everything that cfg asks for and takes what only one may have: the
// HTTP address and the data directory. Nothing runs yet. After an error nothing
// is left open.
func New(cfg *config.Config, opt Options) (*Agent, error) {
	switch {
	case opt.Log == nil && opt.Logs != nil:
		opt.Log = opt.Logs.Logger()
	case opt.Log == nil:
		opt.Log = slog.New(slog.DiscardHandler)
	}
	a := &Agent{opt: opt, log: opt.Log, started: time.Now(), meters: newMeters(), gate: newGate(), past: newPast(),
		calls: make(chan func()), over: make(chan struct{}), halt: context.Background(), back: opt.back, gone: opt.gone}
	a.reports = newReporter(cfg.Agent.ID, a.sink())
	a.members.add(stageSource, "security reports", a.reports.run)
	a.members.ended = make(chan ended)
	a.now.Store(&parts{})
	a.config.Store(&web.Config{File: opt.File, State: "applied"})
	if err := a.change(cfg); err != nil {
		return nil, errors.Join(err, a.close())
	}
	a.gone = nil
	return a, nil
}

// parts are what runs now.
func (a *Agent) parts() *parts { return a.now.Load() }

// show lets others see what runs now.
func (a *Agent) show(p parts) { a.now.Store(&p) }

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
	p := a.parts()
	var errs []error
	if p.web != nil {
		_ = p.web.Close() // Run has closed it, in most cases
	}
	if a.control != nil {
		_ = a.control.Close() // as above
	}
	for _, u := range p.uplinks {
		u.reader.Close()
	}
	if p.log != nil { // else it is closed, or there is none
		errs = append(errs, p.buffer.Close())
	}
	return errors.Join(errs...)
}

// HTTP is the address that is served, empty when it is switched off.
func (a *Agent) HTTP() string {
	if p := a.parts(); p.web != nil {
		return p.web.Addr()
	}
	return ""
}

// Run runs the agent until ctx ends and stops it in order: sources first, then
// uplinks once they have sent what they can, then the buffer. It returns within
// ten seconds after that. A part that ends by itself ends the agent, with that
// part's error. An Agent runs once.
func (a *Agent) Run(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- a.loop(ctx) }() // waited for below, unless something hangs
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(stopLimit - 200*time.Millisecond):
		return errors.New("something did not stop in time; what was acknowledged is in the buffer")
	}
}

// loop starts everything, does what it is told until ctx ends or a part does, and
// stops everything.
func (a *Agent) loop(ctx context.Context) error {
	a.halt = ctx
	a.members.begin(context.WithoutCancel(ctx))
	p := a.parts()
	a.log.Info("running", "agent", p.cfg.Agent.ID, "version", a.opt.Version, "sources", len(p.sources), "uplinks", len(p.uplinks),
		"data_dir", p.cfg.Agent.DataDir, "http", a.HTTP())
	err := a.serve(ctx)
	close(a.over)
	a.log.Info("stopping")
	limit := time.AfterFunc(stopLimit, func() { a.log.Error("something does not stop") })
	defer limit.Stop()
	err = errors.Join(err, a.stop())
	a.log.Info("stopped")
	return err
}

// serve does what it is told until ctx ends or a part does.
func (a *Agent) serve(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case f := <-a.calls:
			if f(); a.broken != nil {
				return a.broken
			}
		case e := <-a.members.ended:
			if a.back == nil {
				return e.err
			}
			a.bury(e)
		}
	}
}

// stop ends all parts, sources first.
func (a *Agent) stop() error {
	errs := a.members.stop(stageSource)
	a.drain()
	errs = errors.Join(errs, a.members.stop(stageUplink))
	a.gate.shut()
	return errors.Join(errs, a.members.stop(stageBuffer), a.members.stop(stagePages), a.close())
}

// drain gives uplinks that keep up a moment to send what the sources left.
func (a *Agent) drain() {
	for end := time.Now().Add(drainLimit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if !a.parts().waiting() {
			return
		}
	}
}

// limits sets what the Go runtime may use.
func limits(cfg *config.Config) { debug.SetMemoryLimit(int64(cfg.Agent.MemoryLimit)) }
