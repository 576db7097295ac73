package update

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/agent/remote/tree"
)

// Phases of an update.
const (
	Fetching   = "fetching"
	Waiting    = "waiting" // for a link, see Phase.Detail
	Checking   = "checking"
	Installing = "installing"
	Installed  = "installed" // the machine restarts, or has to be restarted
	Failed     = "failed"
)

// Phase is how far an update has come.
type Phase struct {
	Phase   string
	Version string
	Bytes   int64 // fetched
	Size    int64
	Detail  string // why it waits or has failed; what the installer said
	Time    time.Time
}

// Config configures New. Dir, Install and Version are needed.
type Config struct {
	// Dir holds the job and the bundle. It needs room for MaxBundle or for what
	// is sent.
	Dir string
	// Install is the command that installs; {file} in an argument stands for the
	// bundle's path. Its exit status 0 means that the machine runs the new version
	// after its next start.
	Install []string
	// MayFetch says why the link may not be used now; nil: it may. It is asked
	// before a fetch begins and every few seconds, and must not block; nil: always.
	MayFetch func() error
	// MaxRate bounds the fetch, in bytes per second; 0: unlimited.
	MaxRate int64
	// GiveUp is how long a bundle is tried to be had; 0: DefaultGiveUp.
	GiveUp time.Duration
	// Version is the one that runs.
	Version string
	// Kafka are options of a client of the cluster that topics are read from;
	// nil: commands that name a topic are refused.
	Kafka func() ([]kgo.Opt, error)
	// HTTP is the client for addresses; nil: one with the system's authorities.
	HTTP *http.Client
	// Report is told of each phase, and of a fetch about once in ReportEvery. It
	// is called from Run's goroutine and should not block for long; nil: never.
	Report func(Phase)
	// Log; nil: discarded.
	Log *slog.Logger
}

// Timings.
const (
	DefaultGiveUp = 7 * 24 * time.Hour
	ReportEvery   = time.Minute
	askEvery      = 5 * time.Second  // MayFetch
	storeEvery    = 4 << 20          // bytes after which a fetch is made durable
	firstPause    = 2 * time.Second  // after a failure of the link
	longestPause  = 5 * time.Minute  //
	quiet         = 60 * time.Second // without a byte: the connection is given up
)

// ErrOlder is in the chain of the error for a version below the running one.
var ErrOlder = errors.New("versions never go back")

// Updater carries out updates, one at a time. Update may be called by any
// goroutine, Run by one.
type Updater struct {
	cfg     Config
	running version
	dir     folder
	wake    chan struct{}

	mu      sync.Mutex
	current *job               // nil: none
	stop    context.CancelFunc // ends what is done for the job; nil: nothing is
}

// New checks the config. It touches no file; Run does.
func New(cfg Config) (*Updater, error) {
	running, err := parseVersion(cfg.Version)
	switch {
	case err != nil:
		return nil, fmt.Errorf("update: the running version: %w", err)
	case cfg.Dir == "":
		return nil, errors.New("update: no folder")
	case len(cfg.Install) == 0:
		return nil, errors.New("update: no installer")
	case cfg.MaxRate < 0 || cfg.GiveUp < 0:
		return nil, errors.New("update: rate and time are not negative")
	}
	if cfg.GiveUp == 0 {
		cfg.GiveUp = DefaultGiveUp
	}
	if cfg.HTTP == nil {
		cfg.HTTP = &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, ResponseHeaderTimeout: quiet, TLSHandshakeTimeout: quiet}}
	}
	if cfg.MayFetch == nil {
		cfg.MayFetch = func() error { return nil }
	}
	if cfg.Report == nil {
		cfg.Report = func(Phase) {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Updater{cfg: cfg, running: running, dir: folder(cfg.Dir), wake: make(chan struct{}, 1)}, nil
}

// Accepted is the result of a command update: the job is durable, and Run does
// the rest. Report tells how it goes on.
type Accepted struct {
	Accepted bool   `json:"accepted"`
	Version  string `json:"version"`
	Running  string `json:"running"`
}

// Update takes over the job that args describe, in place of one that is not yet
// handed to the installer. It returns as soon as the job is durable. A version
// below the running one is refused with ErrOlder; the running one is no job.
func (u *Updater) Update(_ context.Context, args *tree.Node) (any, error) {
	b, err := ParseArgs(args)
	if err != nil {
		return nil, fmt.Errorf("args of update: %w", err)
	}
	wanted, err := parseVersion(b.Version)
	if err != nil {
		return nil, err
	}
	switch wanted.compare(u.running) {
	case -1:
		return nil, fmt.Errorf("update to %s: %s runs: %w", b.Version, u.cfg.Version, ErrOlder)
	case 0:
		return Accepted{false, b.Version, u.cfg.Version}, nil
	}
	if b.Topic != "" && u.cfg.Kafka == nil {
		return nil, errors.New("update: there is no cluster to read a topic from")
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.current != nil && u.current.Tried {
		return nil, fmt.Errorf("update to %s is being installed", u.current.Bundle.Version)
	}
	same := u.current != nil && u.current.Bundle.SHA256 == b.SHA256 && u.current.Bundle.Size == b.Size && u.current.Bundle.Topic == b.Topic
	next := &job{Bundle: b, Began: time.Now(), Next: b.Offset, Fresh: !same}
	if same { // perhaps from another place: what is there stays
		next.Next, next.Fetched, next.Fresh = u.current.Next, u.current.Fetched, u.current.Fresh
	}
	if err := u.dir.store(next); err != nil { // the one that is there goes on
		if u.current != nil {
			if again := u.dir.store(u.current); again != nil { // next may have taken its name and be refused all the same
				u.cfg.Log.Warn("an update that was refused may be carried out after a restart", "version", b.Version, "error", again)
			}
		}
		return nil, err
	}
	u.current = next
	if u.stop != nil {
		u.stop()
	}
	select {
	case u.wake <- struct{}{}:
	default:
	}
	return Accepted{true, b.Version, u.cfg.Version}, nil
}

// Run goes on with the job of an earlier run, and then with each that Update
// takes. It blocks until ctx ends, which is no error.
func (u *Updater) Run(ctx context.Context) error {
	u.mu.Lock()
	if u.current == nil {
		j, err := u.dir.load()
		if err != nil {
			u.cfg.Log.Error("an update is given up", "error", err)
		}
		u.current = u.resumable(j)
	}
	u.mu.Unlock()
	for {
		if j := u.job(); j != nil {
			u.carryOut(ctx, j)
		}
		if ctx.Err() != nil {
			return nil
		}
		if u.job() != nil { // another took its place
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-u.wake:
		}
	}
}

// resumable drops what is not to be gone on with: a bundle that was installed,
// as the running version shows, or one that the installer had when the machine
// went down. That one is not tried again by itself.
func (u *Updater) resumable(j *job) *job {
	if j == nil {
		return nil
	}
	wanted, err := parseVersion(j.Bundle.Version)
	if err == nil && wanted.compare(u.running) > 0 && !j.Tried {
		return j
	}
	switch {
	case err == nil && wanted.compare(u.running) == 0:
		u.cfg.Log.Info("the update is at work", "version", j.Bundle.Version)
	case j.Tried:
		u.report(Phase{Phase: Failed, Version: j.Bundle.Version, Bytes: j.Bundle.Size, Size: j.Bundle.Size,
			Detail: "version " + u.cfg.Version + " runs: the new one was rolled back, or its installation was interrupted"})
	}
	if err := u.dir.clear(); err != nil {
		u.cfg.Log.Warn("an update cannot be cleared away", "error", err)
	}
	return nil
}

func (u *Updater) job() *job {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.current
}

// carryOut fetches, checks and installs, and ends the job unless ctx ends or
// another job takes its place.
func (u *Updater) carryOut(ctx context.Context, j *job) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if !u.begin(j, stop) {
		return
	}
	err := u.fetch(ctx, j)
	if errors.Is(err, errReplaced) || ctx.Err() != nil {
		return
	}
	if err == nil {
		err = u.check(j)
	}
	if err == nil {
		err = u.install(ctx, j)
	}
	if ctx.Err() != nil && err != nil {
		return
	}
	u.end(j, err)
}

// begin lets Update end what is done for the job; false: another has taken its
// place already.
func (u *Updater) begin(j *job, stop context.CancelFunc) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.current != j {
		return false
	}
	u.stop = stop
	if j.Fresh { // the one before may have written until now, when it has ended for sure
		u.clearFor(j)
	}
	return true
}

// clearFor removes what was fetched of the job before j, which is durable. Where the
// end of that cannot be stored j begins anew after a restart.
func (u *Updater) clearFor(j *job) {
	if err := ignoreMissing(os.Remove(u.dir.bundle())); err != nil { // what stays fails the check
		u.cfg.Log.Warn("what was fetched of another update cannot be cleared away", "error", err)
		return
	}
	j.Fresh = false
	if err := u.dir.store(j); err != nil {
		u.cfg.Log.Warn("after a restart the update is fetched from its beginning", "error", err)
	}
}

// end forgets the job, and what was fetched unless it was installed. Of one whose
// place another has taken there is nothing to forget: what is there is the other's.
func (u *Updater) end(j *job, err error) {
	u.mu.Lock()
	if u.current != j {
		u.mu.Unlock()
		return
	}
	u.current = nil
	var last Phase
	if err != nil {
		last = u.phase(j, Failed, err.Error())
		if err := u.dir.clear(); err != nil {
			u.cfg.Log.Warn("an update cannot be cleared away", "error", err)
		}
	}
	u.mu.Unlock()
	if err != nil {
		u.report(last)
	}
}

// errReplaced ends the fetch of a job that is no longer wanted.
var errReplaced = errors.New("another update took its place")

func (u *Updater) phase(j *job, phase, detail string) Phase {
	p := Phase{Phase: phase, Version: j.Bundle.Version, Size: j.Bundle.Size, Detail: detail}
	if info, err := os.Stat(u.dir.bundle()); err == nil {
		p.Bytes = info.Size()
	}
	return p
}

func (u *Updater) report(p Phase) {
	p.Time = time.Now().UTC().Truncate(time.Second)
	u.cfg.Log.Info("update", "phase", p.Phase, "version", p.Version, "bytes", p.Bytes, "size", p.Size, "detail", p.Detail)
	u.cfg.Report(p)
}

// check compares size and SHA-256 of the whole bundle with the command's.
func (u *Updater) check(j *job) error {
	u.report(u.phase(j, Checking, ""))
	f, err := os.Open(u.dir.bundle())
	if err != nil {
		return fmt.Errorf("update: %w", err)
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	if err != nil {
		return fmt.Errorf("update: read the bundle: %w", err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); n != j.Bundle.Size || got != j.Bundle.SHA256 {
		return fmt.Errorf("the bundle has %d bytes with SHA-256 %s, the command says %d with %s", n, got, j.Bundle.Size, j.Bundle.SHA256)
	}
	return nil
}
