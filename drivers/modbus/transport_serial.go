package modbus

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// serialPort is a line over a serial port of this machine.
//
// It is opened here and not by goburrow/serial, which would bring three faults:
// its select can't take a descriptor of 1024 or more; it leaves VMIN at 0, so
// that a read returns 0 bytes both when nothing is there and when the adapter
// was unplugged; and its writes may be short. As an os.File without blocking the
// port has the runtime's poller, deadlines and whole writes.
type serialPort struct {
	*os.File
	raw syscall.RawConn
}

// openSerial opens a port for this process alone, sets it and empties it. The
// path is resolved each time, so that a link below /dev/serial leads to the port
// that the adapter has now.
func openSerial(path string, mode serialMode) (line, error) {
	fd, err := openPort(path)
	if err != nil {
		return nil, err
	}
	if err := setPort(fd, mode); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	file := os.NewFile(uintptr(fd), path)
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, err
	}
	return &serialPort{file, raw}, nil
}

// openPort opens a port and locks it, by flock against other programs that do
// the same, also those of root, and by TIOCEXCL against all others.
func openPort(path string) (int, error) {
	// Without O_NONBLOCK the open would wait for a carrier.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	for errors.Is(err, unix.EINTR) {
		fd, err = unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	}
	switch {
	case errors.Is(err, unix.EBUSY):
		return 0, inUse(path)
	case err != nil:
		return 0, &os.PathError{Op: "open", Path: path, Err: err}
	}
	if _, err := unix.IoctlGetTermios(fd, unix.TCGETS2); err != nil {
		unix.Close(fd)
		return 0, fmt.Errorf("%s is not a serial port: %w", path, err)
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		unix.Close(fd)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return 0, inUse(path)
		}
		return 0, fmt.Errorf("lock %s: %w", path, err)
	}
	if err := unix.IoctlSetInt(fd, unix.TIOCEXCL, 0); err != nil {
		unix.Close(fd)
		return 0, fmt.Errorf("lock %s: %w", path, err)
	}
	return fd, nil
}

// setPort sets speed and characters, switches RS-485 on, and empties both
// queues.
func setPort(fd int, mode serialMode) error {
	t := termios(mode)
	if err := unix.IoctlSetTermios(fd, unix.TCSETS2, &t); err != nil {
		return fmt.Errorf("set the port: %w", err)
	}
	got, err := unix.IoctlGetTermios(fd, unix.TCGETS2)
	if err != nil {
		return fmt.Errorf("set the port: %w", err)
	}
	// A receiver stands a few percent; drivers round to what their clock gives.
	if off := int(got.Ospeed) - mode.baud; off > mode.baud/33 || off < -mode.baud/33 {
		return fmt.Errorf("the port can't do %d baud, it makes %d of it", mode.baud, got.Ospeed)
	}
	if mode.rs485 != nil {
		if err := setRS485(fd, *mode.rs485); err != nil {
			return err
		}
	}
	return unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIOFLUSH)
}

// termios is a port that passes bytes as they are.
func termios(mode serialMode) unix.Termios {
	t := unix.Termios{Cflag: unix.CREAD | unix.CLOCAL | unix.BOTHER, Ispeed: uint32(mode.baud), Ospeed: uint32(mode.baud)}
	t.Cflag |= map[int]uint32{7: unix.CS7, 8: unix.CS8}[mode.data]
	if mode.stop == 2 {
		t.Cflag |= unix.CSTOPB
	}
	if mode.parity != 'N' {
		t.Cflag |= unix.PARENB
		t.Iflag |= unix.INPCK // a character with wrong parity is read as NUL
	}
	if mode.parity == 'O' {
		t.Cflag |= unix.PARODD
	}
	t.Cc[unix.VMIN] = 1 // so that a read of 0 bytes is the end of the port
	return t
}

// rs485 is struct serial_rs485 (linux/serial.h).
type rs485 struct {
	flags, delayBefore, delayAfter uint32
	_                              [5]uint32
}

// Flags of rs485.
const (
	rs485Enabled    = 1 << 0
	rs485OnSend     = 1 << 1
	rs485AfterSend  = 1 << 2
	rs485RxDuringTx = 1 << 4
	rs485Terminate  = 1 << 5
)

// words are the settings as the kernel takes them.
func (m rs485Mode) words() rs485 {
	r := rs485{flags: rs485Enabled, delayBefore: uint32(m.delayBefore), delayAfter: uint32(m.delayAfter)}
	for flag, on := range map[uint32]bool{
		rs485OnSend: m.highDuring, rs485AfterSend: m.highAfter, rs485RxDuringTx: m.rxDuringTx, rs485Terminate: m.terminate,
	} {
		if on {
			r.flags |= flag
		}
	}
	return r
}

// setRS485 sets the mode and looks whether the driver took it: what it can't do
// it leaves out in silence.
func setRS485(fd int, mode rs485Mode) error {
	want := mode.words()
	got := want
	if err := ioctlRS485(fd, unix.TIOCSRS485, &got); err != nil {
		return fmt.Errorf("rs485: the driver of this port has no RS-485 mode (leave rs485 out if the adapter switches by itself): %w", err)
	}
	if err := ioctlRS485(fd, unix.TIOCGRS485, &got); err != nil {
		return fmt.Errorf("rs485: %w", err)
	}
	if got != want {
		return fmt.Errorf("rs485: the driver of this port made flags %#x, delays %d and %d ms of flags %#x, delays %d and %d ms (leave out what it can't do)",
			got.flags, got.delayBefore, got.delayAfter, want.flags, want.delayBefore, want.delayAfter)
	}
	return nil
}

func ioctlRS485(fd int, request uintptr, r *rs485) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(r))); errno != 0 {
		return errno
	}
	return nil
}

func (p *serialPort) discard() (int, error) {
	return drain(p.raw, func(fd int, b []byte) (int, error) { return unix.Read(fd, b) })
}

// flush throws away what has not been sent yet and what has come.
func (p *serialPort) flush() {
	_ = p.raw.Control(func(fd uintptr) { _ = unix.IoctlSetInt(int(fd), unix.TCFLSH, unix.TCIOFLUSH) })
}

// Close gives the port back. Unsent bytes are thrown away, so that it doesn't
// wait for a line that takes none.
func (p *serialPort) Close() error {
	p.flush()
	_ = p.raw.Control(func(fd uintptr) { _ = unix.IoctlSetInt(int(fd), unix.TIOCNXCL, 0) })
	return p.File.Close()
}

// inUse says who has a port open.
func inUse(path string) error {
	return fmt.Errorf("%s is in use by %s: a port can't be shared; stop that, or give this source a port of its own", path, holders(path))
}

// holders names the processes that have a port open, as far as this one may see
// that.
func holders(path string) string {
	port, err := rdev(path)
	if err != nil {
		return "another process"
	}
	var found []string
	pids, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range pids {
		fds, _ := filepath.Glob(proc + "/fd/*")
		for _, fd := range fds {
			// The name first, since it costs less than a stat.
			if name, err := os.Readlink(fd); err != nil || !strings.HasPrefix(name, "/dev/") {
				continue
			}
			if dev, err := rdev(fd); err == nil && dev == port {
				found = append(found, describe(filepath.Base(proc)))
				break
			}
		}
	}
	if len(found) == 0 {
		return "another process (which one only root can see)"
	}
	return strings.Join(found, " and ")
}

// rdev returns the device number of a device file.
func rdev(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR {
		return 0, unix.ENOTTY
	}
	return uint64(st.Rdev), nil //nolint:unconvert // 32 bits on some platforms
}

// describe names a process.
func describe(pid string) string {
	if pid == strconv.Itoa(os.Getpid()) {
		return "this process (another source)"
	}
	name, err := os.ReadFile("/proc/" + pid + "/comm")
	if err != nil {
		return "process " + pid
	}
	return fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(name)), pid)
}
