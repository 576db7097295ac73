package floor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Beside the memory lie the configs that came over the uplink:
//
//	config.good    the last one that has proven itself
//	config.trial   one that is being tried, and how often it was
//	config.before  what was good before it, until the good one has run for a while
//
// each one line and the JSON of Good, Trial or Before:
//
//	sluice-config 1 <SHA-256 of the JSON, hex>\n{…}
//
// Adopting one goes through these steps, each durable before the next begins:
//
//	step                          a start after it runs
//	memory: the version is seen   the good one; the topic brings the document again
//	config.trial is written       the trial goes on, one start more is counted
//	the parts are changed         the trial goes on
//	config.before is written      the trial goes on; it is about a good one that is none yet
//	config.trial -> config.good   the new one (rename: never both, never none)
//	memory: it is applied         the new one
//
// and rolling back through these:
//
//	memory: it has failed         the good one; a trial that is marked so is dropped
//	config.trial is removed       the good one
//	the parts are changed back    the good one
//
// A good one that the agent was started with too often before it ran for long goes in
// the same way:
//
//	memory: it has failed         it is found again that it was started too often
//	config.before -> config.good  the one before; config.before is about another one, if it is there at all
//
// A file is synced before it gets its name, and what is read is synced before
// anybody acts by it, as for the memory. A good one that is damaged is as if there
// was none: then the config of the file counts.
const (
	goodName   = "config.good"
	trialName  = "config.trial"
	beforeName = "config.before"
	tmpConfig  = "config.tmp"
	configHead = "sluice-config"
	maxConfig  = 4 << 20
)

// Good is a config that has proven itself.
type Good struct {
	Applied Applied `json:"applied"`
	Text    string  `json:"text"`
}

// Trial is a config that is being tried.
type Trial struct {
	Good
	// The document that asks for it: that of Applied, or one that withdraws.
	Target string `json:"for"`
	Digest string `json:"digest"`
	// It is the config of the file, as it is at each start.
	File bool `json:"file,omitempty"`
	// How often it was begun, by a change or by a start.
	Starts int `json:"starts"`
	// What was up before, "source NAME" or "uplink NAME", and must be again.
	Up []string `json:"up,omitempty"`
	// Uplinks that only it has: after a rollback nothing is held for them.
	New []string `json:"new,omitempty"`
}

// Before is what was good before a config that has proven itself, but has not run for
// long.
type Before struct {
	Good // without a text: the config of the file
	// The document that brought the config after it, and whether that is the file's.
	Target string `json:"for"`
	Digest string `json:"digest"`
	File   bool   `json:"file,omitempty"`
	// How often the agent ran with it, without an end in order.
	Starts int `json:"starts"`
}

// Configs are the stored configs. They are for one goroutine.
type Configs struct {
	folder Folder
	dir    string
	Good   *Good   // nil: there is none
	Trial  *Trial  // nil: there is none
	Before *Before // nil: the good one has run for long enough
}

// OpenConfigs reads what is stored in dir, which must exist, and is changed through
// folder. damaged names the files that cannot be read: they are left out. An error
// is one of the file system, or names a file that a newer version has written.
func OpenConfigs(folder Folder, dir string) (c *Configs, damaged []string, err error) {
	c = &Configs{folder: folder, dir: dir}
	var good Good
	var trial Trial
	var before Before
	for name, into := range map[string]any{goodName: &good, trialName: &trial, beforeName: &before} {
		switch err := readConfig(filepath.Join(dir, name), into); {
		case errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, errDamaged):
			damaged = append(damaged, name)
		case err != nil:
			return nil, nil, fmt.Errorf("read %s: %w", name, err)
		case name == goodName:
			c.Good = &good
		case name == trialName:
			c.Trial = &trial
		default:
			c.Before = &before
		}
	}
	if err := os.Remove(filepath.Join(dir, tmpConfig)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	return c, damaged, folder.Sync()
}

func readConfig(path string, into any) error {
	data, err := readSynced(path)
	if err != nil {
		return err
	}
	line, body, ok := bytes.Cut(data, []byte("\n"))
	words := bytes.Fields(line)
	switch {
	case !ok || len(data) > maxConfig || len(words) != 3 || string(words[0]) != configHead || string(words[2]) != digest(body):
		return errDamaged
	case string(words[1]) != "1":
		return errNewer
	case json.Unmarshal(body, into) != nil:
		return errDamaged
	}
	return nil
}

// Try stores what is to be tried, durably when it returns.
func (c *Configs) Try(t Trial) error {
	if err := c.write(trialName, t); err != nil {
		return fmt.Errorf("store the config on trial: %w", err)
	}
	c.Trial = &t
	return nil
}

// Keep stores what there is to go back to, durably when it returns.
func (c *Configs) Keep(b Before) error {
	if err := c.write(beforeName, b); err != nil {
		return fmt.Errorf("store the config before: %w", err)
	}
	c.Before = &b
	return nil
}

// Young says whether Before is about what is good now.
func (c *Configs) Young() bool {
	switch b := c.Before; {
	case b == nil:
		return false
	case c.Good == nil:
		return b.File
	default:
		return !b.File && b.Digest == c.Good.Applied.Digest
	}
}

// Settle forgets what was before, durably when it returns.
func (c *Configs) Settle() error {
	if c.Before == nil {
		return nil
	}
	if err := c.remove(beforeName); err != nil {
		return fmt.Errorf("remove the config before: %w", err)
	}
	c.Before = nil
	return nil
}

// Revert makes the one before the good one again, durably when it returns. It may be
// called again after an error.
func (c *Configs) Revert() error {
	good := c.Before.Good
	var err error
	if good.Text == "" {
		err = c.remove(goodName)
	} else {
		err = c.write(goodName, good)
	}
	if err != nil {
		return fmt.Errorf("go back to the config before: %w", err)
	}
	if c.Good = &good; good.Text == "" {
		c.Good = nil
	}
	return c.Settle()
}

// write writes a file as a whole.
func (c *Configs) write(name string, v any) error { return write(c.folder, tmpConfig, name, v) }

func write(folder Folder, tmp, name string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	data := append(fmt.Appendf(nil, "%s 1 %s\n", configHead, digest(body)), body...)
	if len(data) > maxConfig {
		return fmt.Errorf("%d bytes (at most %d)", len(data), maxConfig)
	}
	return replace(folder, tmp, name, data)
}

// Commit makes the one on trial the good one, durably when it returns; that of the
// file leaves none. It may be called again after an error.
func (c *Configs) Commit() error {
	var err error
	if c.Trial.File {
		err = errors.Join(c.remove(goodName), c.remove(trialName))
	} else if err = c.folder.Rename(trialName, goodName); err == nil || errors.Is(err, fs.ErrNotExist) {
		err = c.folder.Sync()
	}
	if err != nil {
		return fmt.Errorf("keep the config: %w", err)
	}
	good := c.Trial.Good
	if c.Good = &good; c.Trial.File {
		c.Good = nil
	}
	c.Trial = nil
	return nil
}

// Drop removes the one on trial, durably when it returns.
func (c *Configs) Drop() error {
	if err := c.remove(trialName); err != nil {
		return fmt.Errorf("remove the config on trial: %w", err)
	}
	c.Trial = nil
	return nil
}

func (c *Configs) remove(name string) error {
	if err := c.folder.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return c.folder.Sync()
}
