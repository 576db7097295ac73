//go:build torture

// Package torture holds the buffer against kills, damage, failing disks and a
// large backlog, through its public API alone. It needs root, strace and
// mkfs.ext4:
//
//	go test -tags torture -count=1 -v -timeout 40m ./buffer/torture/
//
//	kill_test.go     kills in every phase      ledger_test.go   what was acknowledged, and came
//	damage_test.go   damaged directories       kinds_test.go    the kinds of damage
//	faults_test.go   full and read-only disks  strace_test.go   failing and slow calls
//	power_test.go    power cuts of ext4        backlog_test.go  the start with 2 GiB
//
// What writes and reads is always a child: this program, started again.
// SLUICE_TORTURE_SEED repeats a run's random choices, SLUICE_TORTURE_REPLAY
// opens one kept directory again.
package torture

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

const (
	envChild  = "SLUICE_TORTURE_CHILD" // what the child is: a plan's name, or one of the roles below
	envDir    = "SLUICE_TORTURE_DIR"
	envLife   = "SLUICE_TORTURE_LIFE"
	envDrain  = "SLUICE_TORTURE_DRAIN"
	envFiles  = "SLUICE_TORTURE_FILES" // descriptors that the child may open beside those it has
	envSeed   = "SLUICE_TORTURE_SEED"
	envReplay = "SLUICE_TORTURE_REPLAY"

	roleDamage  = "damage-worker"
	roleBacklog = "backlog-reader"
)

func TestMain(m *testing.M) {
	switch role := os.Getenv(envChild); role {
	case "":
		os.Exit(m.Run())
	case roleDamage:
		os.Exit(damageWorker())
	case roleBacklog:
		os.Exit(backlogReader())
	default:
		os.Exit(runChild(role))
	}
}

// newSeed is the seed of a test, printed so that the run can be repeated.
func newSeed(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv(envSeed); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("%s=%q: %v", envSeed, s, err)
		}
	}
	t.Logf("seed %d", seed)
	return seed
}

func random(seed, stream uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, stream)) }

// fastDir is a new directory in memory, removed with the test: a sync costs
// nothing there, and a kill -9 loses nothing of a page cache anyway.
func fastDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sluice-torture-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Log(err)
		}
	})
	return dir
}

// command is this program as a child. It ends when its standard input does, so
// that it never outlives the test.
func command(role string, env ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), envChild+"="+role), env...)
	return cmd
}

// run is a tool that must succeed.
func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, bytes.TrimSpace(out))
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("mounts and strace need root: run this as root, in a container if need be")
	}
}

// head keeps the start: of a program that dies its first words say why.
type head struct {
	mu sync.Mutex
	b  []byte
}

func (w *head) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.b = append(w.b, p[:min(len(p), 600-min(600, len(w.b)))]...)
	return len(p), nil
}

func (w *head) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.b)
}

func percent[N int | uint64](part, all N) string {
	if all == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", 100*float64(part)/float64(all))
}

// copyDir copies the regular files of a directory tree. It begins again when one
// vanishes meanwhile: another may have taken its place.
func copyDir(from, to string) error {
	for {
		err := copyTree(from, to)
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err = os.RemoveAll(to); err != nil {
			return err
		}
	}
}

func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o600)
	})
}

func atof(s string) float64 {
	f, _ := strconv.ParseFloat(s, 64) // what a child printed, or nothing
	return f
}
