package cli

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// askPassphrase reads a line from the terminal without showing it.
func askPassphrase(prompt string) (line []byte, err error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, errors.New("there is no terminal to ask for the passphrase")
	}
	defer func() { err = errors.Join(err, tty.Close()) }()
	fd := int(tty.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	quiet := *before
	quiet.Lflag &^= unix.ECHO
	if err = unix.IoctlSetTermios(fd, unix.TCSETS, &quiet); err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	defer func() { err = errors.Join(err, unix.IoctlSetTermios(fd, unix.TCSETS, before)) }()
	if _, err = fmt.Fprint(tty, prompt); err != nil {
		return nil, err
	}
	if line, err = bufio.NewReader(tty).ReadBytes('\n'); err != nil {
		return nil, fmt.Errorf("read the passphrase: %w", err)
	}
	_, err = fmt.Fprintln(tty)
	return bytes.TrimRight(line, "\r\n"), err
}
