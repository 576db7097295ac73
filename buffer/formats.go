package buffer

import (
	"encoding/json"
	"errors"
	"fmt"
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
// anything is opened for writing. What else is wrong with them is not its concern.
func checkFormats(dir string) error {
	for _, file := range []struct {
		name  string
		reads int
	}{{stateName, stateFormat}, {marksName, marksFormat}} {
		path := filepath.Join(dir, file.name)
		value, err := readSlotFile(path)
		if err == nil {
			err = checkFormat(value, file.reads)
		}
		if errors.Is(err, ErrNewer) {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
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

// checkFormats is as above, and reports a segment of a newer format, too.
func (o *Offline) checkFormats() error {
	if err := checkFormats(o.dir); err != nil {
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
