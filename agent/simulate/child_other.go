//go:build !linux

package simulate

import "syscall"

// childAttributes puts the agent into a process group of its own, so that a
// Ctrl-C reaches only this program, which then ends the agent in order.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
