// Package loopback gives tests addresses of 127.0.0.1 that are theirs alone.
package loopback

import (
	"fmt"
	"syscall"
)

// Reserve binds a port of 127.0.0.1 on which nobody listens until release is called:
// connections to it are refused, and the system gives the port to nobody else, neither
// to one that listens on port 0 nor to one that connects. Whoever names the port can
// listen on it all the same, as Go and most servers do it, with SO_REUSEADDR. A port of
// a listener that was closed again has no such owner: another process may have it before
// the test does, or answer where nobody should.
func Reserve() (addr string, release func(), err error) {
	syscall.ForkLock.RLock()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return "", nil, fmt.Errorf("reserve a port: socket: %w", err)
	}
	if addr, err = bind(fd); err != nil {
		_ = syscall.Close(fd)
		return "", nil, fmt.Errorf("reserve a port: %w", err)
	}
	return addr, func() { _ = syscall.Close(fd) }, nil
}

func bind(fd int) (addr string, err error) {
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return "", fmt.Errorf("set SO_REUSEADDR: %w", err)
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return "", fmt.Errorf("bind: %w", err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		return "", fmt.Errorf("getsockname: %w", err)
	}
	at, ok := name.(*syscall.SockaddrInet4)
	if !ok {
		return "", fmt.Errorf("getsockname: it is %T", name)
	}
	return fmt.Sprintf("127.0.0.1:%d", at.Port), nil
}

// Test is what Addr needs of a *testing.T.
type Test interface {
	Helper()
	Fatal(args ...any)
	Cleanup(func())
}

// Addr is Reserve until the test ends.
func Addr(t Test) string {
	t.Helper()
	addr, release, err := Reserve()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return addr
}
