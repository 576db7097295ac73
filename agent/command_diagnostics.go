package agent

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"sluice/agent/remote"
	"sluice/agent/remote/document"
	"sluice/agent/web"
	"sluice/buffer"
)

// Bounds of a bundle, of what can grow.
const (
	maxStacks = 1 << 20 // bytes of goroutines
	maxFiles  = 2000    // of the data directory
)

// bundle is what diagnostics collect: how the agent is, what it was told and what
// it said. Secrets are masked in the config, and nothing else holds one.
type bundle struct {
	Agent      string       `json:"agent"`
	Command    string       `json:"command"`
	Time       time.Time    `json:"time"`
	Build      build        `json:"build"`
	Status     web.Status   `json:"status"`
	Buffer     buffer.Stats `json:"buffer"`
	Files      []file       `json:"files"` // of the data directory
	Disk       disk         `json:"disk"`
	Config     string       `json:"config"`     // YAML, as print-config shows it
	Log        string       `json:"log"`        // the last lines
	Metrics    string       `json:"metrics"`    // as /metrics shows them
	Goroutines string       `json:"goroutines"` // their stacks
}

type build struct {
	Version      string            `json:"version"`
	Go           string            `json:"go"`
	Platform     string            `json:"platform"`
	CPUs         int               `json:"cpus"`
	Kernel       string            `json:"kernel"`
	Dependencies map[string]string `json:"dependencies"`
}

type file struct {
	Path     string    `json:"path"`
	Bytes    int64     `json:"bytes"`
	Modified time.Time `json:"modified"`
}

// disk is the file system of the data directory.
type disk struct {
	TotalBytes uint64 `json:"total_bytes"`
	FreeBytes  uint64 `json:"free_bytes"` // for those who are not root
	FreeFiles  uint64 `json:"free_files"`
}

// sent is the result of diagnostics.
type sent struct {
	Key    string `json:"key"` // of the first part, on the status topic
	Parts  int    `json:"parts"`
	Bytes  int    `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// diagnostics sends a bundle to the status topic, in parts under keys of their
// own, which the next bundle replaces.
func (c *commander) diagnostics(ctx context.Context, cmd *document.Command) (any, error) {
	packed, err := c.agent.bundle(cmd.ID)
	if err != nil {
		return nil, err
	}
	id := c.agent.parts().cfg.Agent.ID
	parts := remote.Split(cmd.ID, packed)
	for i, p := range parts {
		value, err := json.Marshal(p)
		if err != nil {
			return nil, fmt.Errorf("part %d: %w", i+1, err)
		}
		if err = c.around.Publish(ctx, remote.PartKey(id, i), value); err != nil {
			return nil, fmt.Errorf("part %d of %d: %w", i+1, len(parts), err)
		}
	}
	return sent{Key: remote.PartKey(id, 0), Parts: len(parts), Bytes: len(packed), SHA256: parts[0].SHA256}, nil
}

// bundle is JSON, compressed with gzip.
func (a *Agent) bundle(command string) ([]byte, error) {
	p := a.parts()
	b := bundle{Agent: p.cfg.Agent.ID, Command: command, Time: time.Now().UTC(), Build: a.build(), Status: a.Status(), Buffer: p.buffer.Stats(),
		Files: filesOf(p.cfg.Agent.DataDir), Disk: diskOf(p.cfg.Agent.DataDir), Config: string(p.cfg.YAML()), Goroutines: stacks()}
	if a.opt.Logs != nil {
		b.Log = a.opt.Logs.Recent()
	}
	var text bytes.Buffer
	a.Metrics(&text)
	b.Metrics = text.String()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if err := json.NewEncoder(z).Encode(b); err != nil {
		return nil, fmt.Errorf("diagnostics: %w", err)
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("diagnostics: %w", err)
	}
	return packed.Bytes(), nil
}

func (a *Agent) build() build {
	b := build{Version: a.opt.Version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU(), Dependencies: map[string]string{}}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		b.Kernel = unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Machine[:])
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			b.Dependencies[d.Path] = d.Version
		}
	}
	return b
}

// filesOf lists the first files of the data directory; what vanishes meanwhile is
// left out.
func filesOf(dir string) []file {
	list := []file{}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error { // each error is of one entry
		if err != nil || d.IsDir() {
			return nil //nolint:nilerr // the others are of use, too
		}
		if len(list) == maxFiles {
			return fs.SkipAll
		}
		if info, err := d.Info(); err == nil {
			name, _ := filepath.Rel(dir, path) // it lies in dir
			list = append(list, file{Path: name, Bytes: info.Size(), Modified: info.ModTime().UTC()})
		}
		return nil
	})
	return list
}

func diskOf(dir string) disk {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return disk{}
	}
	size := uint64(max(st.Bsize, 0))
	return disk{TotalBytes: st.Blocks * size, FreeBytes: st.Bavail * size, FreeFiles: st.Ffree}
}

// stacks are those of all goroutines, cut short where there are very many.
func stacks() string {
	b := make([]byte, maxStacks)
	return string(b[:runtime.Stack(b, true)])
}
