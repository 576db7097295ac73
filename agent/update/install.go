package update

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Bounds of the commands.
const (
	installTime = time.Hour
	saidBytes   = 2000 // of an installer's output that a report holds, its end
)

// install hands the bundle to the installer. That it does is durable before: an
// installation that takes the machine down is not begun again by itself.
func (u *Updater) install(ctx context.Context, j *job) error {
	u.mu.Lock()
	if u.current != j {
		u.mu.Unlock()
		return errReplaced
	}
	j.Tried = true
	err := u.dir.store(j)
	u.mu.Unlock()
	if err != nil {
		return err
	}
	u.report(u.phase(j, Installing, ""))
	args := make([]string, len(u.cfg.Install))
	for i, a := range u.cfg.Install {
		args[i] = strings.ReplaceAll(a, "{file}", u.dir.bundle())
	}
	said, err := command(ctx, installTime, args)
	if err != nil {
		return fmt.Errorf("%s: %w: %s", args[0], err, said)
	}
	u.report(u.phase(j, Installed, said))
	// The job stays until the new version, or the old one after a rollback, finds it.
	if err := os.Remove(u.dir.bundle()); err != nil {
		u.cfg.Log.Warn("an installed bundle cannot be removed", "error", err)
	}
	return nil
}

// command runs a program without a shell and returns the end of what it said.
func command(ctx context.Context, limit time.Duration, args []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.WaitDelay = 5 * time.Second // a child of it may hold the output open
	out, err := cmd.CombinedOutput()
	said := strings.TrimSpace(strings.ToValidUTF8(string(out), "?"))
	return said[max(0, len(said)-saidBytes):], err
}
