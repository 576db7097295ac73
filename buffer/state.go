package buffer

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	stateName = "state"
	lockName  = "lock"
	// reserveAhead is how many sequence numbers are set aside durably at a time:
	// none beyond it is ever used, so that a damaged last segment can't make the
	// agent use a number twice.
	reserveAhead = 1 << 16
)

// savedState is the value of the state file, as JSON. It is not needed to start:
// incarnation and cursors are in the segments, too, and what the numbers need in
// the marks.
type savedState struct {
	Format      int                   `json:"format"`
	Incarnation string                `json:"incarnation"`
	Former      []string              `json:"former,omitempty"` // incarnations that segments may have
	Clean       bool                  `json:"clean"`            // the last stop was in order
	Classes     map[string]savedClass `json:"classes"`
}

type savedClass struct {
	Next     uint64            `json:"next"`               // at least this many are used
	Reserved uint64            `json:"reserved"`           // none above it is used
	Newest   uint64            `json:"newest"`             // first number of the newest segment; 0: there is none
	Volatile bool              `json:"volatile,omitempty"` // write-behind: numbers are used before they are written
	Cursors  map[string]uint64 `json:"cursors"`            // by uplink: acknowledged up to here
	Until    map[string]uint64 `json:"until,omitempty"`    // by uplink that is not configured any more: it was to get everything up to here
	Debts    []debt            `json:"debts,omitempty"`

	InHand [][2]uint64 `json:"in_hand,omitempty"` // runs that were dropped while uplinks had them in hand, and are not counted as dropped yet

	Ahead map[string][][2]uint64 `json:"ahead,omitempty"` // by uplink: runs behind its cursor that it has got, first and last
}

// leastDebtRoom is what a class may need for debts at once.
const leastDebtRoom = 1 << 10

// stateSize is how many bytes the value of the state file takes at most without
// debts.
func (c *Config) stateSize() (n int) {
	const digits = 20
	for _, class := range c.Classes {
		n += 4*digits + len(class.Name) + len(`"":{"next":,"reserved":,"newest":,"volatile":true,"cursors":{},"until":{},"debts":[],"in_hand":[],"ahead":{}},`) + maxInHand*(2*digits+len(`[,],`))
		for name := range c.Uplinks {
			n += 2*(digits+len(name)+len(`"":,`)) + len(name) + len(`"":[],`) + maxAhead*(2*digits+len(`[,],`))
		}
	}
	return n + 256 // format, incarnations
}

// stateFile owns the state file.
type stateFile struct {
	path        string
	incarnation string
	former      []string
	drawn       bool       // the incarnation was drawn at this start
	found       savedState // as it was at the start

	mu    sync.Mutex // one save at a time, so that an older one never wins
	slots *slots
	marks *marks
	keep  map[string]savedClass
}

// openState reads the state file. Without one (or with a damaged one) the
// incarnation comes from the newest segment, or is drawn.
func openState(dir string, segs map[string][]*segment, log *slog.Logger) (*stateFile, error) {
	s := &stateFile{path: filepath.Join(dir, stateName), keep: map[string]savedClass{}}
	file, value, damaged, err := openSlots(s.path)
	if err != nil {
		return nil, fmt.Errorf("open the state file: %w", err)
	}
	s.slots = file
	if s.found, err = parseState(value); errors.Is(err, ErrNewer) { // it came to light since checkFormats
		return nil, errors.Join(fmt.Errorf("%s: %w", s.path, err), file.file.Close())
	}
	if err != nil || damaged {
		log.Error("the state file is damaged; going on with what is whole of it and what the segments say", "file", s.path, "error", err)
	}
	if s.foreign(segs) {
		log.Error("the state file is of another buffer than the segments; going on with what the segments say", "file", s.path)
		s.found = savedState{}
	}
	if s.marks, err = openMarks(dir, log); err != nil {
		return nil, errors.Join(fmt.Errorf("open the marks: %w", err), file.file.Close())
	}
	switch {
	case s.found.Incarnation == "":
		if s.found = s.marks.state(); s.foreign(segs) {
			s.found = savedState{}
		}
	case s.marks.raise(&s.found, damaged):
		log.Warn("the state file may be an older one; no number is used that was set aside since", "file", s.path)
	}
	if err = s.identify(segs); err != nil {
		return nil, errors.Join(err, s.close())
	}
	for name, c := range s.found.Classes { // of classes that are not in the config now, too
		s.keep[name] = c
	}
	return s, nil
}

// foreign reports whether there are whole segments and the state knows the
// incarnation of none.
func (s *stateFile) foreign(segs map[string][]*segment) bool {
	whole := 0
	for _, list := range segs {
		for _, seg := range list {
			if seg.bad {
				continue
			}
			if whole++; seg.about.Incarnation == s.found.Incarnation || slices.Contains(s.found.Former, seg.about.Incarnation) {
				return false
			}
		}
	}
	return whole > 0 && s.found.Incarnation != ""
}

// identify finds the incarnation, or draws one.
func (s *stateFile) identify(segs map[string][]*segment) (err error) {
	s.incarnation, s.former = s.found.Incarnation, s.found.Former
	if s.incarnation != "" {
		return nil
	}
	lost, newest := false, time.Time{}
	for _, list := range segs {
		for _, seg := range list {
			if lost = lost || seg.bad || seg.doubtful; seg.bad {
				continue
			}
			if s.incarnation == "" || seg.tally.to.After(newest) {
				s.incarnation, newest = seg.about.Incarnation, seg.tally.to
			}
			if !slices.Contains(s.former, seg.about.Incarnation) {
				s.former = append(s.former, seg.about.Incarnation)
			}
		}
	}
	// Without the state nothing tells which numbers a damaged segment had used:
	// a new incarnation makes all numbers new.
	if s.incarnation == "" || lost {
		s.drawn = s.incarnation != ""
		s.incarnation, err = drawIncarnation()
	}
	return err
}

// close closes the files.
func (s *stateFile) close() error {
	return errors.Join(s.slots.file.Close(), s.marks.slots.file.Close())
}

// ours reports whether a segment of that incarnation belongs to this buffer.
func (s *stateFile) ours(incarnation string) bool {
	return incarnation == s.incarnation || slices.Contains(s.former, incarnation)
}

// parseState reads the value of the state file; nil is an empty one.
func parseState(value []byte) (savedState, error) {
	var st savedState
	if value == nil {
		return st, nil
	}
	if err := checkFormat(value, stateFormat); err != nil {
		return st, err
	}
	err := json.Unmarshal(value, &st)
	if err == nil && (st.Format < 1 || !validIncarnation(st.Incarnation)) {
		err = fmt.Errorf("format %d, incarnation %q", st.Format, st.Incarnation)
	}
	if err != nil {
		return savedState{}, err
	}
	return st, nil
}

func validIncarnation(s string) bool {
	_, err := strconv.ParseUint(s, 16, 32)
	return err == nil && len(s) == 8
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
	st := savedState{Format: stateFormat, Incarnation: s.incarnation, Former: s.former, Clean: clean, Classes: s.keep}
	js, err := json.Marshal(st)
	if err != nil {
		return err
	}
	if err = s.slots.save(js); err != nil {
		return fmt.Errorf("write the state file: %w", err)
	}
	if err = s.marks.save(st); err != nil { // no number that they do not know of is used
		return fmt.Errorf("write the marks: %w", err)
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
	// Of one length, so that it is written in place, also on a full disk.
	if _, err = f.WriteAt(fmt.Appendf(nil, "pid %-12d\n", os.Getpid()), 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	return f, nil
}

// sealed adds a checksum to a small value of a segment: bbolt has none.
func sealed(b []byte) []byte { return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)) }

// unseal checks and removes the checksum.
func unseal(b []byte) ([]byte, error) {
	n := len(b) - 4
	if n < 0 || crc32.Checksum(b[:n], castagnoli) != binary.BigEndian.Uint32(b[n:]) {
		return nil, fmt.Errorf("%w: the checksum of a value of %d bytes", errDamaged, len(b))
	}
	return b[:n], nil
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
