package simulate

import "syscall"

// childAttributes puts the agent into a process group of its own, so that a
// Ctrl-C reaches only this program, which then ends the agent in order; and has
// the kernel end the agent if this program is killed.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
