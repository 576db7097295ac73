//go:build unix

package gate

import (
	"os/exec"
	"syscall"
)

// ownGroup has the command and whatever it starts killed together.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
