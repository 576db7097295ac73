package modbus

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// crcOf is the CRC of a Modbus RTU frame, bit by bit (Modbus over Serial Line
// V1.02 §6.2.2), apart from the library's tables.
func crcOf(b []byte) []byte {
	crc := uint16(0xffff)
	for _, c := range b {
		crc ^= uint16(c)
		for range 8 {
			if odd := crc&1 != 0; odd {
				crc = crc>>1 ^ 0xa001
			} else {
				crc >>= 1
			}
		}
	}
	return []byte{byte(crc), byte(crc >> 8)}
}

// rtuFrame wraps unit and PDU.
func rtuFrame(body []byte) []byte { return append(bytes.Clone(body), crcOf(body)...) }

// asciiFrame wraps unit and PDU.
func asciiFrame(body []byte) []byte {
	lrc := byte(0)
	for _, c := range body {
		lrc -= c
	}
	return fmt.Appendf(nil, ":%X\r\n", append(bytes.Clone(body), lrc))
}

// slave is a device on a bus that answers each request by a function of the
// test.
type slave struct {
	io.ReadWriteCloser
	frame    func(body []byte) []byte
	requests atomic.Int64
}

// say sends a frame of unit and PDU.
func (s *slave) say(body ...byte) { s.Write(s.frame(body)) }

// serve reads requests until the line ends. answer gets the number of the
// request, from 0, and its unit and PDU.
func (s *slave) serve(next func() ([]byte, error), answer func(s *slave, n int, req []byte)) {
	for {
		req, err := next()
		if err != nil {
			return
		}
		answer(s, int(s.requests.Add(1))-1, req)
	}
}

// nextRTU collects bytes until their CRC is right.
func (s *slave) nextRTU() ([]byte, error) {
	var req []byte
	for {
		var b [1]byte
		if _, err := io.ReadFull(s, b[:]); err != nil {
			return nil, err
		}
		if req = append(req, b[0]); len(req) >= 4 && bytes.Equal(crcOf(req), []byte{0, 0}) {
			return req[:len(req)-2], nil
		}
	}
}

// nextASCII collects a line.
func (s *slave) nextASCII() ([]byte, error) {
	var text []byte
	for !bytes.HasSuffix(text, []byte("\r\n")) {
		var b [1]byte
		if _, err := io.ReadFull(s, b[:]); err != nil {
			return nil, err
		}
		text = append(text, b[0])
	}
	body, err := hex.DecodeString(string(text[1 : len(text)-2]))
	if err != nil || !bytes.Equal(asciiFrame(body[:len(body)-1]), text) {
		return nil, fmt.Errorf("request %q", text)
	}
	return body[:len(body)-1], nil
}

// terminal is a pty: the source opens one end as its serial port, the test has
// the other one.
type terminal struct {
	*os.File
	keep *os.File // the source's end, so that the line stays when the source closes it
	port string
}

func newTerminal(t *testing.T) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	raw, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	raw.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	port := fmt.Sprintf("/dev/pts/%d", n)
	keep, err := os.OpenFile(port, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keep.Close() })
	// Without this it would echo what comes before the source opens it.
	if err := unix.IoctlSetTermios(int(keep.Fd()), unix.TCSETS, &unix.Termios{Cflag: unix.CS8 | unix.CREAD}); err != nil {
		t.Fatal(err)
	}
	return &terminal{master, keep, port}
}

// unplug makes the port vanish, as when a USB adapter is pulled.
func (t *terminal) unplug() {
	t.keep.Close()
	t.Close()
}

// onPort starts a slave of a serial line and returns it with its connection's URL. scheme is rtu or
// ascii.
func onPort(t *testing.T, scheme string, answer func(s *slave, n int, req []byte)) (*slave, string) {
	t.Helper()
	pty := newTerminal(t)
	s := slaveOf(pty, scheme)
	s.start(t, scheme, answer)
	return s, scheme + "://" + pty.port
}

func slaveOf(line io.ReadWriteCloser, scheme string) *slave {
	if scheme == schemeASCII {
		return &slave{ReadWriteCloser: line, frame: asciiFrame}
	}
	return &slave{ReadWriteCloser: line, frame: rtuFrame}
}

// start serves until the test ends.
func (s *slave) start(t *testing.T, scheme string, answer func(s *slave, n int, req []byte)) {
	t.Helper()
	next := s.nextRTU
	if scheme == schemeASCII {
		next = s.nextASCII
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.serve(next, answer)
	}()
	t.Cleanup(func() {
		s.Close()
		<-ended
	})
}

// behindGateway starts a slave that is reached by rtu+tcp and returns its
// connection's URL. The number of a request counts over all connections.
func behindGateway(t *testing.T, answer func(s *slave, n int, req []byte)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var n atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			s := slaveOf(c, schemeRTU)
			s.start(t, schemeRTU, func(s *slave, _ int, req []byte) { answer(s, int(n.Add(1))-1, req) })
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-ended
	})
	return schemeRTUOnTCP + "://" + listener.Addr().String()
}

// linked puts a link of a fixed name before a port, as those below
// /dev/serial/by-path are.
func linked(t *testing.T, dir, port string) string {
	t.Helper()
	name, fresh := filepath.Join(dir, "port"), filepath.Join(dir, "fresh")
	if err := os.Symlink(port, fresh); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(fresh, name); err != nil {
		t.Fatal(err)
	}
	return name
}
