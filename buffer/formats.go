package buffer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ErrNewer is returned by Open, OpenOffline and OpenRepair for a directory in which
// a file says that a newer version of this program wrote it. Nothing in it was
// changed: what this version cannot read is not damaged.
var ErrNewer = errors.New("written by a newer version of Sluice")

// The formats that this version writes, the highest that it reads. A release
// reads a new one before a later release writes it: firmware may go back to what
// ran before. So that an older version can tell a newer one's file from a damaged
// one these stay what they are in all formats: a slot's form (slots.go), the key
// "format" of the JSON in a slot, and in a segment the sealed JSON meta/about with
// that key, in a bbolt file of version 2. Blocks have no number but the segment's.
const (
	segmentFormat = 1
	stateFormat   = 1
	marksFormat   = 1
)

// checkFormat reads nothing but the number of the format of a JSON value that is
// whole: of a newer one nothing else may be taken for granted.
func checkFormat(js []byte, reads int) error {
	var value struct {
		Format int `json:"format"`
	}
	if json.Unmarshal(js, &value) != nil || value.Format <= reads {
		return nil // what is wrong with it the reader of all of it says
	}
	return fmt.Errorf("%w: format %d, and this version reads up to %d (nothing was changed: run the version that wrote it, or a later one)", ErrNewer, value.Format, reads)
}

// checkFormats reports a newer format of the state or the marks in dir, before
// anything is opened for writing, and that one of them could not be read: what a
// newer version wrote may be behind that. Damage is not its concern.
func checkFormats(dir string) (err error) {
	for _, file := range []struct {
		name  string
		reads int
	}{{stateName, stateFormat}, {marksName, marksFormat}} {
		path := filepath.Join(dir, file.name)
		value, readErr := readSlotFile(path)
		switch newer := checkFormat(value, file.reads); {
		case newer != nil:
			err = errors.Join(err, fmt.Errorf("%s: %w", path, newer))
		case errors.Is(readErr, ErrNewer):
			err = errors.Join(err, fmt.Errorf("%s: %w", path, readErr))
		case readErr != nil && !errors.Is(readErr, fs.ErrNotExist):
			err = errors.Join(err, fmt.Errorf("whether a newer version wrote %s: %w (nothing was changed: try again, and where it can never be read move it away; the segments hold cursors and incarnation, too)", path, readErr))
		}
	}
	return err
}

func readSlotFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	value, _, _, err := readSlots(f)
	return value, err
}

// checkFormats is as above, and reports a segment of a newer format, too. Who only
// reads goes on where a file could not be read.
func (o *Offline) checkFormats(writes bool) error {
	if err := checkFormats(o.dir); err != nil && (writes || errors.Is(err, ErrNewer)) {
		return err
	}
	names, err := o.classes()
	if err != nil {
		return nil // whoever needs them says so
	}
	for _, name := range names {
		segs, err := o.segments(name)
		if err != nil {
			continue
		}
		for _, s := range segs {
			if err := errors.Join(s.load(), s.close()); errors.Is(err, ErrNewer) {
				return fmt.Errorf("%s: %w", s.path, err)
			}
		}
	}
	return nil
}
