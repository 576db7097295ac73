package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sluice/agent/config"
	"sluice/agent/remote"
	"sluice/agent/remote/floor"
	"sluice/agent/remote/trust"
	"sluice/agent/update"
	"sluice/buffer"
	"sluice/uplink/channel"
)

const (
	judgeEvery  = 200 * time.Millisecond // how often a config on trial is looked at
	reportEvery = time.Minute            // how often the status is told without news
	rereadAfter = 30 * time.Second       // how soon the topic is read again for what could not be done
	stashLimit  = 64                     // records that wait for the end of a trial
)

// keeper keeps the config of an agent: that of the file, what documents make of
// it, and which of both runs. It reads the topics, decides by package remote,
// remembers before it acts, tries, and goes back. One goroutine, run's, owns it.
//
//	keeper.go          what it is made of, run      keeper_boot.go    what a start begins with
//	keeper_records.go  documents from the topic     keeper_trial.go   adopt, prove, commit, go back
//	keeper_link.go     the channel to the topics    keeper_status.go  what is told on the status topic
//	keeper_command.go  commands                     keeper_answers.go what was told of commands
//	keeper_outline.go  what is up, told when it changes
type keeper struct {
	sup     *Supervisor
	log     *slog.Logger
	agent   *Agent
	lock    *os.File
	store   *floor.Store
	configs *floor.Configs
	boot    string // id of this life
	clock   func() time.Time

	file *config.Config // of the file
	cfg  *config.Config // that runs, or ran before the trial: the last good one
	text []byte         // of cfg
	by   floor.Applied  // where cfg came from; zero: the file

	commander Commander       // nil: commands are refused
	life      context.Context //nolint:containedctx // that of run, for commands, which outlive a channel

	inbox  chan func()
	faults chan error // parts that ended while a config is on trial
	trial  *trial     // nil: none
	link   *link
	wg     sync.WaitGroup

	pass     pass
	stash    []channel.Record // that came during a trial
	pending  *remote.Decision // what is to be adopted
	unset    bool             // a document waits for the clock to be set
	withdrew string           // digest of the document for whose withdrawal the topic was read again
	reread   *time.Timer
	ripe     *time.Timer // when the config that runs has run for long enough
	reloads  []reload

	gone     []string           // uplinks that only a config had that was rolled back
	phase    remote.State       // applying or trial; empty: neither
	failed   *verdict           // the last one that was rolled back
	notice   *verdict           // what else is to be told
	reached  channel.TopicState // what was said of the topic last
	topic    *verdict           // what is odd about it
	anew     string             // that it was made anew in this life, and nothing was adopted since
	refusals []refusal          // that stand, one a key, the oldest first
	refused  uint64
	told     telling
	last     remote.ConfigStatus
	commands commandLog
	ends     chan func() // of commands that ended after run did

	updater  *update.Updater      // nil: the file has no section update
	updating *remote.UpdateStatus // nil: nothing was to be updated

	afterwards []afterwards
}

// verdict is a code with its reason, about a document.
type verdict struct {
	target, digest string
	code           trust.Code
	reason         string
	at             time.Time
}

// pass is one reading of the config topic from its start.
type pass struct {
	caught  bool            // its end was reached
	rotated bool            // a trust document changed the keys
	seen    map[string]bool // keys that have a record
	held    []refusal       // told when the end is reached
}

// reload asks for the config of the file, read anew.
type reload struct {
	cfg    *config.Config
	answer chan error
}

// openKeeper takes what is remembered of remote configs in the data directory of
// the file's config, and the directory for this process.
func openKeeper(sup *Supervisor, file *config.Config, log *slog.Logger) (k *keeper, err error) {
	k = &keeper{sup: sup, log: log, file: file, inbox: make(chan func()), faults: make(chan error, 8), ends: make(chan func(), commandsRunning), boot: drawBoot(), clock: sup.clock}
	if k.clock == nil {
		k.clock = time.Now
	}
	if err = writable(file.Agent.DataDir); err != nil {
		return nil, err
	}
	dir := filepath.Join(file.Agent.DataDir, "remote")
	if err = os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of remote configs: %w", err)
	}
	if k.lock, err = lockFolder(dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = k.lock.Close()
		}
	}()
	var folder floor.Folder = floor.Dir(dir)
	if sup.folder != nil {
		folder = sup.folder(dir)
	}
	var damaged []string
	if k.configs, damaged, err = floor.OpenConfigs(folder, dir); err != nil {
		return nil, err
	}
	for _, name := range damaged {
		k.noticed(remote.StoredBad, "the stored config %s is damaged", name)
	}
	var running floor.Applied
	if k.configs.Good != nil {
		running = k.configs.Good.Applied
	}
	var report floor.Report
	if k.store, report, err = floor.OpenIn(folder, dir, running, k.clock()); err != nil {
		return nil, err
	}
	k.recall(folder, dir)
	if report.Lost {
		k.log.Error("what was remembered of remote configs is lost; versions begin with what runs, and commands from before now are refused", "dir", dir)
	}
	return k, nil
}

func drawBoot() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// lockFolder keeps a second agent from what the first remembers.
func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the folder of remote configs: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s is %w by another process: stop that one, or set another agent.data_dir", dir, buffer.ErrInUse)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}

// ground is what the config on trial may go back to; nil: none is on trial.
func (k *keeper) ground() *ground {
	if k.trial == nil {
		return nil
	}
	return &ground{cfg: k.cfg, faults: k.faults}
}

// attach gives the keeper the agent, which does not run yet.
func (k *keeper) attach(a *Agent) {
	k.agent = a
	around := Surroundings{Publish: k.publishTo, Restart: k.sup.restart}
	if k.updater = k.newUpdater(); k.updater != nil {
		around.Updater = k.updater
	}
	k.gone = nil
	k.commander = a.Commander(around)
}

// close gives the folder back.
func (k *keeper) close() { _ = k.lock.Close() }

// who is what decisions depend on.
func (k *keeper) who() remote.Agent {
	return remote.Agent{ID: k.cfg.Agent.ID, Labels: k.cfg.Agent.Labels, Trust: anchorOf(k.file), Running: k.text, Local: k.file.Text(),
		Locked: k.file.Remote.Locked, Check: func(text []byte) error { _, err := k.parse(text); return err }}
}

// anchorOf are the keys of the config file, which has been checked.
func anchorOf(cfg *config.Config) trust.Anchor {
	a, err := trust.ParseAnchor(cfg.Remote.Trust, cfg.Remote.Threshold)
	if err != nil { // then nobody is believed
		return trust.Anchor{Set: trust.Set{Threshold: 1}}
	}
	return a
}

// parse reads a config that came over the uplink. Its error names paths: the lines
// are of a text that nobody has seen. A defect of ours that a text may trigger must
// not end the agent at each start, since the topic keeps the text.
func (k *keeper) parse(text []byte) (cfg *config.Config, err error) {
	defer func() {
		if r := recover(); r != nil {
			cfg, err = nil, fmt.Errorf("it cannot be read: %v", r)
		}
	}()
	cfg, err = k.sup.Parse(text)
	var problems config.Problems
	if errors.As(err, &problems) {
		var errs []error
		for _, p := range problems {
			p.File, p.Line = "config", 0
			errs = append(errs, errors.New(p.String()))
		}
		err = errors.Join(errs...)
	}
	return cfg, err
}

// save remembers m, durably when it returns true.
func (k *keeper) save(m floor.Memory) bool {
	err := k.store.Save(m)
	if err != nil {
		k.noticed(remote.NotStored, "%v", err)
		k.later()
	}
	return err == nil
}

// noticed is told with each status until something is applied.
func (k *keeper) noticed(code trust.Code, format string, args ...any) {
	k.notice = &verdict{code: code, reason: fmt.Sprintf(format, args...)}
	k.log.Error("remote config", "code", code, "reason", k.notice.reason)
}

// run keeps the config until ctx ends. The agent must run.
func (k *keeper) run(ctx context.Context) {
	defer k.lastAnswers()
	k.life = ctx
	period := cmp.Or(k.sup.reportEvery, reportEvery)
	judge, report := time.NewTicker(judgeEvery), time.NewTimer(firstReport(period))
	defer judge.Stop()
	defer report.Stop()
	k.reread = time.NewTimer(0)
	<-k.reread.C
	k.ripe = time.NewTimer(k.cfg.Remote.Trial)
	_ = k.relink(ctx, true) // its error is logged, and it is tried again
	defer k.unlink()
	k.runUpdater(ctx)
	if k.tell(); k.trial != nil {
		k.watch(ctx, k.trial)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case f := <-k.inbox:
			f()
		case err := <-k.faults:
			if k.trial != nil {
				k.rollBack(ctx, remote.TrialFailed, err.Error())
			}
		case <-judge.C:
			k.finish(0, time.Now())
			k.keepTold(toldEvery)
			if k.unset && remote.ClockSet(k.clock()) {
				k.unset = false
				k.reread.Reset(0) // judge it again
			}
			if k.trial != nil {
				k.judge(ctx)
			}
			k.tellOutline(time.Now())
		case <-report.C:
			report.Reset(period)
			k.publish(false)
		case <-k.ripe.C:
			if !k.settled() {
				k.ripe.Reset(k.cfg.Remote.Trial)
			}
		case <-k.reread.C:
			_ = k.relink(ctx, true) // its error is logged
		}
		k.next(ctx)
	}
}

// next does what waited for the end of a trial.
func (k *keeper) next(ctx context.Context) {
	for ctx.Err() == nil && k.trial == nil {
		switch {
		case len(k.reloads) > 0:
			r := k.reloads[0]
			k.reloads = k.reloads[1:]
			r.answer <- k.reloadFile(ctx, r.cfg)
		case len(k.stash) > 0:
			r := k.stash[0]
			k.stash = slices.Delete(k.stash, 0, 1)
			k.record(r, true)
		case k.pending != nil && k.pass.caught:
			k.adopt(ctx)
		default:
			return
		}
	}
}

// later has the topic read again in a while.
func (k *keeper) later() {
	if k.reread != nil {
		k.reread.Reset(rereadAfter)
	}
}

// do has run call f; false: ctx ended before.
func (k *keeper) do(ctx context.Context, f func()) bool {
	select {
	case k.inbox <- f:
		return true
	case <-ctx.Done():
		return false
	}
}

// Reload applies another config of the file, after a trial that is under way. It
// blocks until that is done. Locked paths are taken from it; what else a document
// has set goes on. Any goroutine may call it.
func (k *keeper) Reload(ctx context.Context, cfg *config.Config) error {
	answer := make(chan error, 1)
	if !k.do(ctx, func() { k.reloads = append(k.reloads, reload{cfg, answer}) }) {
		return ctx.Err()
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (k *keeper) reloadFile(ctx context.Context, file *config.Config) error {
	if file.Agent.ID != k.file.Agent.ID || file.Agent.DataDir != k.file.Agent.DataDir || file.Remote == nil ||
		file.Digest("update") != k.file.Digest("update") {
		return ErrOther
	}
	text, cfg := file.Text(), file
	if k.by.Target != "" {
		var err error
		if text, err = remote.Relock([]byte(k.configs.Good.Text), file.Text(), file.Remote.Locked); err == nil {
			cfg, err = k.parse(text)
		}
		if err != nil {
			return fmt.Errorf("the config of %s version %d with what the file locks: %w", k.by.Target, k.by.Version, err)
		}
	}
	if err := k.agent.Apply(ctx, cfg); err != nil {
		return err
	}
	otherKeys := file.Remote.Threshold != k.file.Remote.Threshold || !slices.Equal(file.Remote.Trust, k.file.Remote.Trust)
	k.file, k.cfg, k.text = file, cfg, text
	_ = k.relink(ctx, otherKeys) // its error is logged
	k.tell()
	return nil
}
