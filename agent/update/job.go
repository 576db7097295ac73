package update

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// The files of the folder.
const (
	jobFile    = "job.json"
	bundleFile = "bundle" // as far as it was fetched
)

// job is what survives a restart of the agent.
type job struct {
	Bundle  Bundle    `json:"bundle"`
	Began   time.Time `json:"began"`
	Next    int64     `json:"next"`    // of a topic: the offset to go on at, when Fetched bytes were there
	Fetched int64     `json:"fetched"` // bytes that Next belongs to
	Tried   bool      `json:"tried"`   // it was handed to the installer
	Fresh   bool      `json:"fresh"`   // nothing was fetched of it yet, whatever is there
}

// folder holds the job.
type folder string

func (f folder) job() string    { return filepath.Join(string(f), jobFile) }
func (f folder) bundle() string { return filepath.Join(string(f), bundleFile) }

// load returns nil if there is no job.
func (f folder) load() (*job, error) {
	data, err := os.ReadFile(f.job())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("update: %w", err)
	}
	var j job
	if err = json.Unmarshal(data, &j); err == nil {
		err = j.Bundle.Check()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("update: %s is damaged, the update is given up: %w", f.job(), err), f.clear())
	}
	return &j, nil
}

// store makes the job durable.
func (f folder) store(j *job) error {
	data, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("update: %w", err)
	}
	if err = os.MkdirAll(string(f), 0o700); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	next, err := os.CreateTemp(string(f), jobFile+".*")
	if err != nil {
		return fmt.Errorf("update: %w", err)
	}
	_, err = next.Write(data)
	err = errors.Join(err, next.Sync(), next.Close())
	if err == nil {
		err = os.Rename(next.Name(), f.job())
	}
	if err == nil {
		err = syncFolder(string(f))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("update: store the job: %w", err), ignoreMissing(os.Remove(next.Name())))
	}
	return nil
}

// clear removes the job and what was fetched.
func (f folder) clear() error {
	return errors.Join(ignoreMissing(os.Remove(f.job())), ignoreMissing(os.Remove(f.bundle())))
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
