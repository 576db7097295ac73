//go:build !unix

package gate

import "os/exec"

// ownGroup leaves it at the command alone.
func ownGroup(*exec.Cmd) {}
