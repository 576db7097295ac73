package agent

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/agent/remote"
	"sluice/agent/remote/floor"
	"sluice/drivers/loopback"
)

// What a child of a test is to do.
const (
	childDir   = "SLUICE_TEST_AGENT" // run the agent whose config file is in this folder
	childKill  = "SLUICE_TEST_KILL"  // and die before this operation on the stored configs, counted from 1
	childTrial = "SLUICE_TEST_TRIAL" // and try configs for so long
)

// shortTrial is for configs that cannot prove themselves. One that is to do so gets all
// the time that a busy machine may take, patience, and needs little of it.
const shortTrial = 2 * time.Second

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		os.Exit(childAgent(dir))
	}
	os.Exit(m.Run())
}

// childAgent is an agent in a process of its own. A source named boom kills it as
// soon as it is up, as a defect in a driver would; one named later does so only when its
// config has proven itself, and then at each start.
func childAgent(dir string) int {
	trial, err := time.ParseDuration(os.Getenv(childTrial))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	s := supervisor(dir, fixed(trial))
	s.Out = &boom{}
	if n, err := strconv.Atoi(os.Getenv(childKill)); err == nil {
		count := 0
		s.folder = func(dir string) floor.Folder { return mortal{floor.Dir(dir), &count, n} }
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := s.Run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func die() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL) }

// boom is a log that kills.
type boom struct{ tried bool }

func (x *boom) Write(b []byte) (int, error) {
	x.tried = x.tried || bytes.Contains(b, []byte("a config is tried"))
	switch later := bytes.Contains(b, []byte("source=later")); {
	case bytes.Contains(b, []byte("source=boom")):
		die()
	case later && !x.tried, x.tried && bytes.Contains(b, []byte("the config is applied")) && bytes.Contains(b, []byte("version=7")):
		time.AfterFunc(300*time.Millisecond, die)
	}
	return os.Stderr.Write(b)
}

// mortal is a folder that kills the process before one of the operations on it.
type mortal struct {
	floor.Folder
	count *int
	at    int
}

func (m mortal) step(what string) {
	if *m.count++; *m.count == m.at {
		fmt.Fprintln(os.Stderr, "dies before", what)
		die()
	}
}

func (m mortal) Create(name string) (floor.File, error) {
	m.step("create " + name)
	f, err := m.Folder.Create(name)
	return mortalFile{f, m}, err
}
func (m mortal) Rename(from, to string) error {
	m.step("rename to " + to)
	return m.Folder.Rename(from, to)
}
func (m mortal) Remove(name string) error { m.step("remove " + name); return m.Folder.Remove(name) }
func (m mortal) Sync() error              { m.step("sync of the folder"); return m.Folder.Sync() }

type mortalFile struct {
	floor.File
	m mortal
}

func (f mortalFile) Write(b []byte) (int, error) { f.m.step("write"); return f.File.Write(b) }
func (f mortalFile) Sync() error                 { f.m.step("sync"); return f.File.Sync() }

// child starts an agent in a process of its own.
func (f *fleet) child(kill int, trial time.Duration) *exec.Cmd {
	f.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), childDir+"="+f.dir, childTrial+"="+trial.String())
	if kill > 0 {
		c.Env = append(c.Env, fmt.Sprint(childKill, "=", kill))
	}
	c.Stderr = f.Output()
	if err := c.Start(); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = c.Process.Kill() })
	return c
}

// labelled is a document whose labels tell that all of it is there.
func (f *fleet) labelled(s settings) string {
	return f.config(s) + "\n  agent: { labels: { v: doc } }"
}

// session has the broker keep messages for the agent from now on.
func (f *fleet) session() {
	f.Helper()
	c := paho.NewClient(paho.NewClientOptions().AddBroker("tcp://" + f.mqtt).SetClientID("sluice-gw-1-line").SetCleanSession(false))
	for _, do := range []func() paho.Token{c.Connect, func() paho.Token { return c.Subscribe("factory/#", 1, func(paho.Client, paho.Message) {}) }} {
		if tok := do(); !tok.WaitTimeout(patience) || tok.Error() != nil {
			f.Fatal(tok.Error())
		}
	}
	c.Disconnect(100)
}

// messages publishes numbers until the returned function is called, which says how
// many, or the test ends.
func (f *fleet) messages() (stop func() int) {
	quit, told := make(chan struct{}), make(chan int, 1)
	go func() {
		n := 0
		defer func() { told <- n }()
		for ; ; n++ {
			select {
			case <-quit:
				return
			case <-time.After(20 * time.Millisecond):
			}
			if err := f.send("factory/1", fmt.Sprint(n)); err != nil {
				f.Errorf("message %d: %v", n, err)
				return
			}
		}
	}()
	stop = sync.OnceValue(func() int { close(quit); return <-told })
	f.Cleanup(func() { stop() })
	return stop
}

// TestKilledWhileAConfigIsApplied kills the agent before each of the operations by
// which a config is adopted, or rolled back, and starts it again: it always runs
// the old or the new one as a whole, comes to the right end, and every message
// arrives.
func TestKilledWhileAConfigIsApplied(t *testing.T) {
	for _, series := range []struct {
		name        string
		bad         bool
		from, to, n int // operations
	}{
		// A start takes 2, to remember the version 10, and the topic 10; to write down
		// what is tried 5; then 5, 2 and 10 to commit, or 10 and 2 to roll back.
		{"good", false, 3, 43, 2},
		{"bad", true, 22, 38, 2},
	} {
		for kill := series.from; kill <= series.to; kill += series.n {
			t.Run(fmt.Sprint(series.name, " ", kill), func(t *testing.T) {
				t.Parallel()
				f := newFleet(t)
				text := strings.Replace(string(f.file("")), "site: p7", "v: file", 1)
				if err := os.WriteFile(filepath.Join(f.dir, "sluice.yaml"), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				s, trial := settings{}, patience
				if series.bad {
					s.brokers, trial = loopback.Addr(t), shortTrial
				}
				f.publishConfig(signed{version: 1, body: f.labelled(s)})
				f.session()
				stop := f.messages()
				c := f.child(kill, trial)
				late := time.AfterFunc(patience, func() { _ = c.Process.Signal(syscall.SIGTERM) })
				err := c.Wait()
				late.Stop()
				if status, ok := c.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != syscall.SIGKILL {
					t.Fatalf("operation %d was never reached: %v", kill, err)
				}
				mark, began := f.mark(), time.Now()
				c = f.child(0, trial)
				if series.bad {
					f.state(mark, remote.StateRolledBack, 0, remote.TrialFailed)
					if took := time.Since(began); took > shortTrial+10*time.Second {
						t.Errorf("the old config was back after %s", took)
					}
				} else {
					f.state(mark, remote.StateApplied, 1, "")
				}
				n := stop()
				f.allArrive(n)
				f.wholes()
				if err := c.Process.Signal(syscall.SIGTERM); err != nil {
					t.Error(err)
				}
				if err := c.Wait(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// allArrive waits until the messages 0 to n-1 are in Kafka, in whatever order: this
// broker sends again in any.
func (f *fleet) allArrive(n int) {
	f.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(f.cluster.ListenAddrs()...), kgo.ConsumeTopics("p.process"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.MetadataMinAge(50*time.Millisecond))
	if err != nil {
		f.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(f.Context(), patience)
	defer cancel()
	missing := map[string]bool{}
	for i := range n {
		missing[fmt.Sprint(i)] = true
	}
	for len(missing) > 0 && ctx.Err() == nil {
		for _, r := range c.PollFetches(ctx).Records() {
			delete(missing, string(r.Value))
		}
	}
	if len(missing) > 0 {
		f.Errorf("%d of %d messages are lost: %v", len(missing), n, slices.Sorted(maps.Keys(missing)))
	}
}

// wholes checks that no status shows a part of one config beside the version of
// another.
func (f *fleet) wholes() {
	f.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, st := range f.statuses {
		if st.Config.State == remote.StateApplying { // in between
			continue
		}
		if want := map[uint64]string{0: "file", 1: "doc"}[st.Config.Running]; st.Labels["v"] != want {
			f.Errorf("version %d runs with the labels %v: %+v", st.Config.Running, st.Labels, st.Config)
		}
	}
}

// TestAConfigThatKillsTheAgentIsGivenUp starts the agent again and again, as a
// service manager does. One of the configs kills it before it has proven itself, the
// other one a little later.
func TestAConfigThatKillsTheAgentIsGivenUp(t *testing.T) {
	for name, version := range map[string]int{"boom": 1, "later": 7} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			if err := os.WriteFile(filepath.Join(f.dir, "sluice.yaml"), f.file(""), 0o600); err != nil {
				t.Fatal(err)
			}
			f.session()
			stop := f.messages()
			c := f.child(0, patience)
			f.state(0, remote.StateApplied, 0, "")
			body := strings.Replace(f.config(settings{}), "sources: {", fmt.Sprintf(`sources: { %s: { mqtt: { servers: [ "tcp://%s" ], client_id: x, subscribe: [ { filter: "x/#" } ] } },`, name, f.mqtt), 1)
			f.publishConfig(signed{version: version, body: body})
			deaths := 0
			for rolledBack := false; !rolledBack; {
				ended := make(chan error, 1)
				go func() { ended <- c.Wait() }()
				var st remote.StatusRecord
				if st, rolledBack = f.rollback(ended); rolledBack {
					if st.Config.Running != 0 || st.Config.Code != remote.Crashed || !strings.Contains(st.Config.Reason, "3 times") {
						t.Errorf("%+v", st.Config)
					}
				} else if deaths++; deaths > 2*maxStarts {
					t.Fatal("it is never given up")
				} else {
					c = f.child(0, patience)
				}
			}
			if deaths != maxStarts {
				t.Errorf("it died %d times", deaths)
			}
			f.allArrive(stop())
			mark := f.mark()
			f.publishConfig(signed{version: version + 1, body: f.config(settings{})})
			f.state(mark, remote.StateApplied, uint64(version)+1, "")
			_ = c.Process.Signal(syscall.SIGTERM)
		})
	}
}

// rollback waits for a status record of one; false: the agent ended before.
func (f *fleet) rollback(ended <-chan error) (remote.StatusRecord, bool) {
	f.Helper()
	back := func(st remote.StatusRecord) bool { return st.Config.State == remote.StateRolledBack }
	for end := time.After(patience); ; {
		f.mu.Lock()
		i := slices.IndexFunc(f.statuses, back)
		var st remote.StatusRecord
		if i >= 0 {
			st = f.statuses[i]
		}
		f.mu.Unlock()
		if i >= 0 {
			return st, true
		}
		select {
		case <-ended:
			return st, false
		case <-time.After(20 * time.Millisecond):
		case <-end:
			f.Fatal("neither an end nor a rollback")
		}
	}
}

// Stops in order say nothing against a config that is new, and once it has run for the
// time of a trial nothing is kept of what was before.
func TestANewConfigGrowsOld(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	stop := f.start(f.file(""), patience)
	f.publishConfig(signed{version: 1, body: f.config(settings{})})
	f.state(0, remote.StateApplied, 1, "")
	before := filepath.Join(f.dir, "data", "remote", "config.before")
	for range maxStarts + 1 {
		stop()
		if _, err := os.Stat(before); err != nil {
			t.Error(err)
		}
		mark := f.mark()
		stop = f.start(f.file(""), patience)
		f.state(mark, remote.StateApplied, 1, "")
	}
	stop()
	defer f.start(f.file(""), time.Second)()
	f.awaitGone(before)
}

// awaitGone waits until there is no such file.
func (f *fleet) awaitGone(path string) {
	f.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(path); os.IsNotExist(err) {
			return
		} else if time.Now().After(end) {
			f.Fatal("it is still kept:", err)
		}
	}
}

// TestANewConfigGrowsOldAtLast has a disk refuse, twice, to let go what was before.
func TestANewConfigGrowsOldAtLast(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	stop := f.start(f.file(""), patience)
	f.publishConfig(signed{version: 1, body: f.config(settings{})})
	f.state(0, remote.StateApplied, 1, "")
	stop()
	refusals := make(chan string, 2)
	s := supervisor(f.dir, fixed(shortTrial))
	s.folder = func(dir string) floor.Folder { return stickyFolder{floor.Dir(dir), refusals} }
	ctx, cancel := contextOf(t)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	before := filepath.Join(f.dir, "data", "remote", "config.before")
	f.awaitGone(before)
	if len(refusals) != 2 {
		t.Errorf("%d refusals", len(refusals))
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// stickyFolder does not remove what was before, as often as there is room for refusals.
type stickyFolder struct {
	floor.Folder
	refusals chan string
}

func (f stickyFolder) Remove(name string) error {
	if name == "config.before" {
		select {
		case f.refusals <- name:
			return syscall.EIO
		default:
		}
	}
	return f.Folder.Remove(name)
}

// fullFolder has no room for what was before.
type fullFolder struct{ floor.Folder }

func (f fullFolder) Rename(from, to string) error {
	if to == "config.before" {
		return syscall.ENOSPC
	}
	return f.Folder.Rename(from, to)
}

// A config that cannot be kept is not the good one after a start either, and a higher
// version is adopted once there is room.
func TestAConfigThatCannotBeKeptDoesNotComeBack(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	if err := os.WriteFile(filepath.Join(f.dir, "sluice.yaml"), f.file(""), 0o600); err != nil {
		t.Fatal(err)
	}
	s := supervisor(f.dir, fixed(patience))
	s.folder = func(dir string) floor.Folder { return fullFolder{floor.Dir(dir)} }
	ctx, cancel := contextOf(t)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	f.publishConfig(signed{version: 1, body: f.config(settings{})})
	f.state(0, remote.StateRolledBack, 0, remote.NotStored)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	mark := f.mark()
	defer f.start(f.file(""), patience)()
	if st := f.status(mark, "the next start", func(remote.StatusRecord) bool { return true }); st.Config.Running != 0 {
		t.Errorf("it runs what was rolled back: %+v", st.Config)
	}
	f.publishConfig(signed{version: 2, body: f.config(settings{})})
	f.state(mark, remote.StateApplied, 2, "")
}
