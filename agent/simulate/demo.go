package simulate

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// DemoConfig configures a demonstration. The zero value of a duration or a
// number is its default.
type DemoConfig struct {
	Sluice   string        // the agent's binary, never empty
	Kafka    string        // host:port of a real Kafka; empty: an embedded one
	Machines int           // 1 to 1,000; 0: 20
	Rate     float64       // messages a second and machine; 0: 10
	Before   time.Duration // how long all is well; 0: 6 s
	Outage   time.Duration // how long the link is cut; 0: 8 s
	After    time.Duration // how long all is well again; 0: 3 s
	Limit    time.Duration // longest time until the agent is told to stop; 0: 37 s and the outage

	Out *os.File            // the table or its lines, and the result
	Err io.Writer           // what went wrong
	Env func(string) string // os.Getenv, or a test's
}

// Limits of single steps of a demonstration.
const (
	readyLimit   = 15 * time.Second // until the agent is ready
	drainLimit   = 20 * time.Second // until the backlog of the outage is gone
	settleLimit  = 15 * time.Second // until Kafka holds everything
	freezeLimit  = 5 * time.Second  // until the meters' last answers are dealt with
	compareLimit = 15 * time.Second // to read the topics
	deleteLimit  = 5 * time.Second  // to delete them
	logTail      = 20               // lines of the agent's log to show when it failed
)

// Demo is one demonstration: a plant, the real agent, a Kafka, and a link
// between the two that is cut and healed. It is used once.
type Demo struct {
	cfg     DemoConfig
	run     string // tells this run from all others
	scratch string // folder of this run
	started time.Time

	ledger   Ledger
	plant    *Plant
	link     *Link
	topics   *Topics
	machines *Machines
	agent    *agentProcess
	watch    *monitor
	report   *Report

	mu      sync.Mutex // guards what the monitor reads while the steps go on
	phase   string
	cutTill time.Time // zero: the link isn't cut
}

// NewDemo checks the config. Nothing starts before Run.
func NewDemo(cfg DemoConfig) (*Demo, error) {
	if cfg.Sluice == "" {
		return nil, errors.New("--sluice: the agent's binary must be named (bin/sluice after \"make build\")")
	}
	if _, err := os.Stat(cfg.Sluice); err != nil {
		return nil, fmt.Errorf("--sluice: %w (build it with \"make build\")", err)
	}
	path, err := filepath.Abs(cfg.Sluice)
	if err != nil {
		return nil, fmt.Errorf("--sluice: %w", err)
	}
	cfg.Sluice = path
	orDefault(&cfg.Machines, 20)
	orDefault(&cfg.Rate, 10)
	orDefault(&cfg.Before, 6*time.Second)
	orDefault(&cfg.Outage, 8*time.Second)
	orDefault(&cfg.After, 3*time.Second)
	orDefault(&cfg.Limit, 37*time.Second+cfg.Outage)
	if cfg.Env == nil {
		cfg.Env = os.Getenv
	}
	id := make([]byte, 4)
	_, _ = rand.Read(id) // it never fails
	return &Demo{cfg: cfg, run: hex.EncodeToString(id)}, nil
}

func orDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Run shows the demonstration until it ends by itself, or ctx ends. The last
// line on Out is the result, "taken=N delivered=N lost=0 duplicated=0"; an error
// says what failed, after which the agent's log is kept and named.
//
// Whatever happens, everything that it started has ended when it returns.
func (d *Demo) Run(ctx context.Context) (err error) {
	d.started = time.Now()
	asked := ctx
	ctx, cancel := context.WithTimeoutCause(ctx, d.cfg.Limit, fmt.Errorf("the demonstration took longer than %s", d.cfg.Limit))
	defer cancel()
	if d.scratch, err = os.MkdirTemp("", "sluice-demo-"); err != nil {
		return fmt.Errorf("scratch folder: %w", err)
	}
	interrupted := func() bool { return asked.Err() != nil }
	if err = d.withRig(ctx, interrupted); interrupted() {
		err = errors.New("interrupted")
	}
	d.cleanUp(err, interrupted())
	if d.report != nil {
		fmt.Fprintln(d.cfg.Out, d.report.Line())
	}
	return err
}

// withRig runs the steps between the start and the end of what must outlive
// them: the plant, the link and the view of Kafka. The topics in a real Kafka
// are kept only if there is something to find out from them.
func (d *Demo) withRig(ctx context.Context, interrupted func() bool) (err error) {
	if err := d.openRig(); err != nil {
		return err
	}
	// The rig doesn't end with ctx but after the agent, whatever ended ctx: an
	// agent whose broker and Kafka go away first can't stop in order.
	rig, rigCtx := newCrew(context.WithoutCancel(ctx))
	rig.start(rigCtx, d.plant.Run)
	rig.start(rigCtx, d.link.Run)
	defer func() { err = errors.Join(err, rig.stop()) }()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(rigCtx, func() { cancel(context.Cause(rigCtx)) })()

	if d.topics, err = OpenTopics(ctx, d.kafka(), d.topicNames()); err != nil {
		return err
	}
	defer d.topics.Close()
	defer func() {
		if d.cfg.Kafka != "" && (err == nil || interrupted()) {
			late, done := context.WithTimeout(context.WithoutCancel(ctx), deleteLimit)
			defer done()
			err = errors.Join(err, d.topics.Delete(late))
		}
	}()
	if err := d.withAgent(ctx); err != nil {
		return err
	}
	return d.compare(ctx)
}

// openRig makes the plant and the link, which take their addresses.
func (d *Demo) openRig() (err error) {
	addrs := PlantConfig{
		MQTT: "127.0.0.1:0", Modbus: []string{"127.0.0.1:0", "127.0.0.1:0"},
		Kafka: "127.0.0.1:0", Ledger: &d.ledger,
	}
	if d.cfg.Kafka != "" {
		addrs.Kafka = ""
	}
	if d.plant, err = NewPlant(addrs); err != nil {
		return err
	}
	if d.link, err = NewLink(d.kafka()); err != nil {
		return errors.Join(err, d.plant.Close())
	}
	d.machines, err = NewMachines(MachinesConfig{
		Broker: d.plant.Broker.Addr(), Count: d.cfg.Machines, Rate: d.cfg.Rate, Run: d.run, Ledger: &d.ledger,
	})
	if err != nil {
		return errors.Join(err, d.plant.Close(), d.link.Close())
	}
	return nil
}

// kafka is the address of Kafka, past the link.
func (d *Demo) kafka() string {
	if d.cfg.Kafka != "" {
		return d.cfg.Kafka
	}
	return d.plant.Kafka.Addr()
}

// topicPrefix is what the run's topics begin with; the class follows.
func (d *Demo) topicPrefix() string { return "sluice-demo-" + d.run }

func (d *Demo) topicNames() []string {
	return []string{d.topicPrefix() + "." + classAlarm, d.topicPrefix() + "." + classProcess}
}

func (d *Demo) agentID() string { return "demo-" + d.run }

// withAgent starts the agent, lets it live through the outage and stops it.
func (d *Demo) withAgent(ctx context.Context) (err error) {
	if err := d.startAgent(ctx); err != nil {
		return err
	}
	life, lifeCtx := newCrew(ctx)
	life.start(lifeCtx, d.agent.watch)
	d.watch = newMonitor(d)
	life.start(lifeCtx, d.watch.run)
	err = d.live(lifeCtx)
	if failed := life.stop(); failed != nil {
		err = failed // the steps failed because of it
	}
	d.setPhase("stopping the agent")
	return errors.Join(err, d.agent.stop())
}

// startAgent writes the config, starts the agent and waits until it is ready.
func (d *Demo) startAgent(ctx context.Context) error {
	http, err := listenStable()
	if err != nil {
		return fmt.Errorf("an address for the agent's HTTP: %w", err)
	}
	config := filepath.Join(d.scratch, "sluice.yaml")
	text := agentConfig{
		comment: "The agent of one demonstration. Written by sluice-simulate.\n",
		agent:   d.agentID(), dataDir: filepath.Join(d.scratch, "data"),
		mqtt: d.plant.Broker.Addr(), meters: d.plant.Meters,
		kafka: d.link.Addr(), topic: d.topicPrefix(), http: http.Addr().String(),
	}.yaml()
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write the agent's config: %w", err)
	}
	if err := http.Close(); err != nil {
		return fmt.Errorf("an address for the agent's HTTP: %w", err)
	}
	for _, m := range d.plant.Meters {
		if err := m.awaitServing(ctx); err != nil {
			return err
		}
	}
	d.agent, err = startAgent(d.cfg.Sluice, config, filepath.Join(d.scratch, "agent.log"), http.Addr().String())
	if err != nil {
		return err
	}
	ready, stop := context.WithTimeoutCause(ctx, readyLimit, fmt.Errorf("%s are over", readyLimit))
	defer stop()
	c, readyCtx := newCrew(ready)
	c.start(readyCtx, d.agent.watch)
	err = d.agent.ready(readyCtx)
	if died := c.stop(); died != nil {
		err = died
	}
	if err != nil {
		return errors.Join(err, d.agent.stop())
	}
	return nil
}

// cleanUp removes the scratch folder, or says where it is.
func (d *Demo) cleanUp(err error, interrupted bool) {
	if err != nil && !interrupted {
		if d.agent != nil {
			for i, line := range d.agent.tail(logTail) {
				if i == 0 {
					fmt.Fprintln(d.cfg.Err, "The last lines of the agent's log:")
				}
				fmt.Fprintln(d.cfg.Err, "  "+line)
			}
		}
		fmt.Fprintf(d.cfg.Err, "The agent's config, log and buffer are kept in %s\n", d.scratch)
		if d.cfg.Kafka != "" && d.topics != nil {
			fmt.Fprintf(d.cfg.Err, "The topics %v are kept at %s\n", d.topicNames(), d.cfg.Kafka)
		}
		return
	}
	if err := os.RemoveAll(d.scratch); err != nil {
		fmt.Fprintf(d.cfg.Err, "The scratch folder can't be removed: %v\n", err)
	}
}
