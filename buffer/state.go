package buffer

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	stateName = "state.json"
	lockName  = "lock"
	// reserveAhead is how many sequence numbers are set aside durably at a time:
	// none beyond it is ever used, so that a damaged last segment can't make the
	// agent use a number twice.
	reserveAhead = 1 << 20
)

// savedState is state.json: small, replaced as a whole, and not needed to
// start: incarnation and cursors are in the segments, too.
type savedState struct {
	Format      int                   `json:"format"`
	Incarnation string                `json:"incarnation"`
	Clean       bool                  `json:"clean"` // the last stop was in order
	Classes     map[string]savedClass `json:"classes"`
}

type savedClass struct {
	Next     uint64            `json:"next"`     // at least this many are used
	Reserved uint64            `json:"reserved"` // none above it is used
	Cursors  map[string]uint64 `json:"cursors"`  // by uplink: acknowledged up to here
}

// stateFile owns state.json.
type stateFile struct {
	path        string
	incarnation string
	found       savedState // as it was at the start

	mu   sync.Mutex // one save at a time, so that an older one never wins
	keep map[string]savedClass
}

// openState reads state.json. Without one (or with a damaged one) the
// incarnation comes from the newest segment, or is drawn.
func openState(dir string, segs map[string][]*segment, log *slog.Logger) (*stateFile, error) {
	s := &stateFile{path: filepath.Join(dir, stateName), keep: map[string]savedClass{}}
	b, err := os.ReadFile(s.path)
	switch {
	case err == nil:
		if err = json.Unmarshal(b, &s.found); err != nil || s.found.Format != 1 || len(s.found.Incarnation) != 8 {
			log.Error("the state file is damaged; going on with what the segments say", "file", s.path, "error", err)
			s.found = savedState{}
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read the state file: %w", err)
	}
	s.incarnation = s.found.Incarnation
	damaged := false
	for _, list := range segs {
		for _, seg := range list {
			if damaged = damaged || seg.gone; s.incarnation == "" && !seg.gone {
				s.incarnation = seg.about.Incarnation
			}
		}
	}
	// Without the state nothing tells which numbers a damaged segment had used:
	// a new incarnation makes all numbers new.
	if s.incarnation == "" || (s.found.Incarnation == "" && damaged) {
		if s.incarnation, err = drawIncarnation(); err != nil {
			return nil, err
		}
	}
	for name, c := range s.found.Classes { // of classes that are not in the config now, too
		s.keep[name] = c
	}
	return s, nil
}

func drawIncarnation() (string, error) {
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("draw an incarnation: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

// saveState writes the cursors of all lanes durably.
func (b *Buffer) saveState(clean bool) error {
	s := b.state
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, l := range b.lanes {
		s.keep[name] = l.snapshot()
	}
	js, err := json.MarshalIndent(savedState{Format: 1, Incarnation: s.incarnation, Clean: clean, Classes: s.keep}, "", "  ")
	if err != nil {
		return err
	}
	if err = replaceFile(s.path, append(js, '\n')); err != nil {
		return fmt.Errorf("write the state file: %w", err)
	}
	for name, l := range b.lanes {
		l.saved(s.keep[name])
	}
	return nil
}

func (b *Buffer) cursorsMoved() bool {
	for _, l := range b.lanes {
		if l.cursorsMoved() {
			return true
		}
	}
	return false
}

// replaceFile replaces path's content so that a crash leaves the old or the
// new one, whole.
func replaceFile(path string, content []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, removeQuietly(tmp))
	}
	if err = os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// lockDir takes the directory for this process. The lock goes with the process,
// however it ends.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the buffer's directory: %w", err)
	}
	if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(path)
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s is %w by another process (%s): stop that one, or set another agent.data_dir", dir, ErrInUse, strings.TrimSpace(string(holder)))
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if err = f.Truncate(0); err == nil {
		_, err = f.WriteAt(fmt.Appendf(nil, "pid %d\n", os.Getpid()), 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	return f, nil
}

// encodeCursors makes the form in which cursors ride along with a commit.
func encodeCursors(cursors map[string]uint64) []byte {
	var b []byte
	for _, name := range slices.Sorted(maps.Keys(cursors)) {
		b = append(b, byte(len(name)))
		b = append(b, name...)
		b = binary.BigEndian.AppendUint64(b, cursors[name])
	}
	return b
}

func parseCursors(b []byte) (map[string]uint64, error) {
	m := map[string]uint64{}
	for len(b) > 0 {
		n := int(b[0])
		if len(b) < 1+n+8 {
			return nil, fmt.Errorf("%w: cursors end early", errDamaged)
		}
		m[string(b[1:1+n])] = binary.BigEndian.Uint64(b[1+n:])
		b = b[1+n+8:]
	}
	return m, nil
}
