package buffer

import (
	"errors"
	"fmt"
	"os"
)

// errAway is the error of a commit that was not begun, since the file that it would go to
// can no longer be found: a start would not see what is written to it.
var errAway = errors.New("the file that is written is no longer where it was")

// named reports an error unless the segment's file is still found under its name. One that
// was unlinked, or that another file system was mounted over, takes writes and syncs as
// before. One call to the file system, beside a commit's two syncs.
func (s *segment) named() error {
	now, err := os.Stat(s.path)
	if err == nil && os.SameFile(s.file, now) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("%s is another file", s.path)
	}
	return isAway(err)
}

func isAway(err error) error {
	return fmt.Errorf("%w: %w (was the data directory removed, moved or mounted over? Put it back, or restart the agent; until then nothing new is acknowledged, and what is stored is delivered from the open files)", errAway, err)
}

// elsewhere reports an error unless the class's folder is the one that was opened. What
// lies in another one under the same name is no part of this buffer: nothing is made or
// removed there, and what cannot be read there is not damaged. The lane holds its folder
// open, so that no other one can get its inode.
func (l *lane) elsewhere() error {
	now, err := os.Stat(l.dir)
	if err != nil {
		return isAway(err)
	}
	if own, err := l.home.Stat(); err != nil || !os.SameFile(own, now) {
		return isAway(errors.Join(fmt.Errorf("%s is another folder", l.dir), err))
	}
	return nil
}

// findable reports an error unless a start would find what is written next.
func (l *lane) findable() error {
	if err := l.elsewhere(); err != nil || l.active == nil {
		return err
	}
	return l.active.named()
}

// spent reports whether the active segment may be given up although its file is away:
// closed, it could not be opened again, and what is not delivered of it would be gone.
func (l *lane) spent() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.active == nil || l.active.tally.events == 0 || l.active.tally.last <= l.minAcked()
}
