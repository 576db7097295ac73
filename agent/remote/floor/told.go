package floor

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
)

// What was told of commands lies beside the memory, in a file of the form of those of
// configs. No protection depends on it: where it is lost some things are told once more.
const (
	toldName = "commands.told"
	tmpTold  = "commands.tmp"
)

// Told is what was told of commands: how far the command topic was judged, and the
// last answers.
type Told struct {
	Topic   string          `json:"topic,omitempty"`   // id of the command topic that Judged is about
	Judged  map[int32]int64 `json:"judged,omitempty"`  // by partition: the offset behind the last record that was judged
	Answers json.RawMessage `json:"answers,omitempty"` // as they stand in the status
}

// Has says whether a record was judged. Without an id a topic cannot be told from
// another of its name: nothing of it was.
func (t *Told) Has(topic string, partition int32, offset int64) bool {
	return topic != "" && topic == t.Topic && offset < t.Judged[partition]
}

// Judge notes that a record, and those before it, were judged; false: that is known.
func (t *Told) Judge(topic string, partition int32, offset int64) bool {
	if topic == "" || t.Has(topic, partition, offset) {
		return false
	}
	if topic != t.Topic {
		t.Topic, t.Judged = topic, nil
	}
	t.Judged = maps.Clone(t.Judged)
	if t.Judged == nil {
		t.Judged = map[int32]int64{}
	}
	t.Judged[partition] = offset + 1
	return true
}

// OpenTold reads what was told; nothing was where the file is not there. With an error
// it can be used all the same.
func OpenTold(dir string) (t Told, err error) {
	if err = readConfig(filepath.Join(dir, toldName), &t); err != nil {
		t = Told{}
	}
	if err2 := os.Remove(filepath.Join(dir, tmpTold)); !errors.Is(err2, fs.ErrNotExist) {
		err = errors.Join(err, err2)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return t, err
}

// Keep stores it in a folder, durably when it returns.
func (t Told) Keep(folder Folder) error { return write(folder, tmpTold, toldName, t) }
