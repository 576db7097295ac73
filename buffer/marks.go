package buffer

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
)

const (
	marksName = "marks"
	// marksAhead is how much further the numbers reach that the marks set aside:
	// they are written every so many numbers, and with each new segment.
	marksAhead = 3 * reserveAhead
)

// savedMarks is the value of the marks, a second and smaller slot file: what a
// start must know in order to use no number twice when the state is lost, or an
// older one.
type savedMarks struct {
	Format      int                  `json:"format"`
	Incarnation string               `json:"incarnation"`
	Former      []string             `json:"former,omitempty"`
	Classes     map[string]savedMark `json:"classes"`
}

// savedMark has the meaning of the fields of savedClass.
type savedMark struct {
	Reserved uint64 `json:"reserved"`
	Newest   uint64 `json:"newest"`
	Volatile bool   `json:"volatile,omitempty"`
}

// marks owns the file.
type marks struct {
	slots *slots
	value savedMarks // what is durable
}

func openMarks(dir string, log *slog.Logger) (*marks, error) {
	file, value, damaged, err := openSlots(filepath.Join(dir, marksName))
	if err != nil {
		return nil, err
	}
	m := &marks{slots: file}
	if err = checkFormat(value, marksFormat); err != nil { // it came to light since checkFormats
		return nil, errors.Join(fmt.Errorf("%s: %w", filepath.Join(dir, marksName), err), file.file.Close())
	}
	if value != nil {
		err = json.Unmarshal(value, &m.value)
	}
	if err != nil || !validIncarnation(m.value.Incarnation) {
		damaged, m.value = damaged || value != nil, savedMarks{}
	}
	if damaged {
		log.Warn("the marks are damaged; they are needed only when the state is lost", "file", filepath.Join(dir, marksName))
	}
	return m, nil
}

// state is what the marks know of the state: no cursors and no debts.
func (m *marks) state() savedState {
	st := savedState{Incarnation: m.value.Incarnation, Former: m.value.Former, Classes: map[string]savedClass{}}
	for name, c := range m.value.Classes {
		st.Classes[name] = savedClass{Reserved: c.Reserved, Newest: c.Newest, Volatile: c.Volatile}
	}
	return st
}

// raise corrects a state that is older than the marks; damaged says that a newer
// one may have been lost. It reports whether it had to.
func (m *marks) raise(st *savedState, damaged bool) (raised bool) {
	if m.value.Incarnation != st.Incarnation {
		return false
	}
	if st.Classes == nil {
		st.Classes = map[string]savedClass{}
	}
	for name, mark := range m.value.Classes {
		c := st.Classes[name]
		if !damaged && mark.Reserved <= c.Reserved+marksAhead {
			continue
		}
		raised, st.Clean = true, false
		c.Reserved, c.Newest, c.Volatile = max(c.Reserved, mark.Reserved), max(c.Newest, mark.Newest), c.Volatile || mark.Volatile
		st.Classes[name] = c
	}
	return raised
}

// save makes durable what the marks must know of st, if they do not.
func (m *marks) save(st savedState) error {
	fits := st.Incarnation == m.value.Incarnation
	next := savedMarks{Format: marksFormat, Incarnation: st.Incarnation, Former: st.Former, Classes: make(map[string]savedMark, len(st.Classes))}
	for name, c := range st.Classes {
		was := m.value.Classes[name]
		fits = fits && was.Reserved >= c.Reserved && was.Newest == c.Newest && was.Volatile == c.Volatile
		next.Classes[name] = savedMark{Reserved: c.Reserved + marksAhead, Newest: c.Newest, Volatile: c.Volatile}
	}
	if fits {
		return nil
	}
	js, err := json.Marshal(next)
	if err == nil {
		err = m.slots.save(js)
	}
	if err == nil {
		m.value = next
	}
	return err
}
