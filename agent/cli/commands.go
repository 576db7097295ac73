package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"

	"sluice/agent"
)

// check validates a config and prints all its problems; of a good one it says
// which stored events would be stranded by it.
func check(_ context.Context, c *call) error {
	if err := c.parse(0); err != nil {
		return err
	}
	cfg, err := c.load()
	if err != nil {
		return err
	}
	fmt.Fprintf(c.Out, "%s: ok\n", c.file)
	for _, line := range agent.Stranded(cfg) {
		fmt.Fprintln(c.Err, line)
	}
	return nil
}

// printConfig prints the config as the agent sees it.
func printConfig(_ context.Context, c *call) error {
	if err := c.parse(0); err != nil {
		return err
	}
	cfg, err := c.load()
	if err != nil {
		return err
	}
	_, err = c.Out.Write(cfg.YAML())
	return err
}

// about is what "version --json" prints.
type about struct {
	Version      string            `json:"version"`
	Commit       string            `json:"commit"`
	Go           string            `json:"go"`
	Platform     string            `json:"platform"`
	Dependencies map[string]string `json:"dependencies"`
}

func version(_ context.Context, c *call) error {
	js := c.flags.Bool("json", false, "print JSON, with the dependencies")
	if err := c.parse(0); err != nil {
		return err
	}
	a := about{Version: c.Build.Version, Commit: c.Build.Commit, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		Dependencies: map[string]string{}}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if d.Replace != nil {
				d = d.Replace
			}
			a.Dependencies[d.Path] = d.Version
		}
	}
	if *js {
		enc := json.NewEncoder(c.Out)
		enc.SetIndent("", "  ")
		return enc.Encode(a)
	}
	commit := a.Commit
	if commit == "" {
		commit = "unknown"
	}
	_, err := fmt.Fprintf(c.Out, "sluice %s (commit %s, %s, %s)\n", a.Version, commit, a.Go, a.Platform)
	return err
}

// simulate hands over to sluice-simulate, which lies beside this program: the
// brokers and servers of a whole plant would more than double the agent.
func simulate(_ context.Context, c *call) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find sluice-simulate: %w", err)
	}
	path := filepath.Join(filepath.Dir(self), "sluice-simulate")
	if _, err = os.Stat(path); err != nil {
		if path, err = exec.LookPath("sluice-simulate"); err != nil {
			return errors.New("sluice-simulate is not installed: put it beside sluice (\"make build\" makes both)")
		}
	}
	args := append([]string{path}, c.rest...)
	if len(c.rest) == 0 {
		args = append(args, "plant")
	}
	if err = syscall.Exec(path, args, os.Environ()); err != nil {
		return fmt.Errorf("start %s: %w", path, err)
	}
	return nil
}
