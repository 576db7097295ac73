package modbus

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// always answers each request to read rightly: with rightData, or with so many registers.
func always(s *slave, _ int, req []byte) {
	data := bytes.Repeat(rightData[3:], 2)[:2*req[5]]
	s.say(append([]byte{req[0], req[1], byte(len(data))}, data...)...)
}

// readPair reads the two registers whose right values are rightData.
func readPair(t *testing.T, l *link) error {
	t.Helper()
	data, err := l.read(t.Context(), 1, tables["holding"], 10, 2)
	if err == nil && !bytes.Equal(data, rightData[3:]) {
		t.Errorf("wrong values % x", data)
	}
	return err
}

func TestPortThatVanishesComesBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	sink := newMemory()
	plug := func(old string) *terminal {
		pty := newTerminal(t)
		for pty.port == old { // the number is free again
			defer pty.unplug()
			pty = newTerminal(t)
		}
		slaveOf(pty, schemeRTU).start(t, schemeRTU, always)
		linked(t, dir, pty.port)
		return pty
	}
	pty := plug("")
	start(t, Config{
		Name: "bus", Connection: "rtu://" + filepath.Join(dir, "port") + "?baud=115200", Sink: sink, Breaker: Breaker{OpenAfter: None, Retry: 20 * time.Millisecond},
		Timeout: time.Second, Devices: []Device{{Name: "d", Unit: 1, Every: 20 * time.Millisecond, Tags: []Tag{
			{Name: "a", Read: "holding", At: 10, Type: "uint16"}, {Name: "b", Read: "holding", At: 11, Type: "uint16"},
		}}},
	})
	for i := range 3 {
		checkPair(t, 2*i, sink.next(t), "")
		pty.unplug()
		for r := sink.next(t); ; r = sink.next(t) {
			if len(r.Bad) > 0 {
				checkPair(t, 2*i+1, r, badConnection)
				break
			}
			checkPair(t, 2*i+1, r, "")
		}
		pty = plug(pty.port)
	}
	checkPair(t, 6, sink.next(t), "")
}

func TestPortIsLocked(t *testing.T) {
	pty := newTerminal(t)
	slaveOf(pty, schemeRTU).start(t, schemeRTU, always)
	url := "rtu://" + pty.port
	one := linkTo(t, url, patience)
	if err := readPair(t, one); err != nil {
		t.Fatal(err)
	}
	exclusive := func() int {
		n, err := unix.IoctlGetInt(int(pty.keep.Fd()), unix.TIOCGEXCL)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if exclusive() == 0 {
		t.Error("programs that know of no flock can open the port, too")
	}
	check := func(wants ...string) {
		t.Helper()
		err := readPair(t, linkTo(t, url, patience))
		for _, want := range wants {
			if !errors.Is(err, errDial) || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want %q", err, want)
			}
		}
	}
	check(pty.port+" is in use by this process (another source)", ": a port can't be shared")
	one.close()
	if exclusive() != 0 {
		t.Error("the port stays exclusive after the close")
	}
	// Another process that holds the lock: this one gives it its descriptor.
	held, err := os.OpenFile(pty.port, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatalf("the lock is still there after the close: %v", err)
	}
	child := exec.Command("sleep", "300")
	child.ExtraFiles = []*os.File{held}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	held.Close()
	// This process is named, too, since it holds the pty's other end; which of the two comes first hangs on their numbers.
	check(pty.port+" is in use by ", fmt.Sprintf("sleep (pid %d)", child.Process.Pid), ": a port can't be shared")
	child.Process.Kill()
	child.Wait()
	if err := readPair(t, linkTo(t, url, patience)); err != nil {
		t.Errorf("after the other process ended: %v", err)
	}
}

func TestPortsThatCannotBeUsed(t *testing.T) {
	pty := newTerminal(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]string{
		"rtu:///dev/null":                   "/dev/null is not a serial port",
		"rtu://" + file:                     file + " is not a serial port",
		"rtu:///dev/serial/by-id/gone":      "open /dev/serial/by-id/gone: no such file or directory",
		"rtu://" + pty.port + "?rs485=true": "the driver of this port has no RS-485 mode (leave rs485 out",
	} {
		l := linkTo(t, url, time.Second)
		if err := readPair(t, l); !errors.Is(err, errDial) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", url, err, want)
		}
		if reason := reasonOf(readPair(t, l)); reason != badConnection {
			t.Errorf("%s: reason %s", url, reason)
		}
	}
}

// The words of the ioctl, by linux/serial.h.
func TestRS485AsTheKernelTakesIt(t *testing.T) {
	for query, want := range map[string]rs485{
		"rs485=true":                                                     {flags: 1 | 2},
		"rs485=true&rts_high_during_send=false":                          {flags: 1 | 4},
		"rs485=true&rts_high_after_send=true":                            {flags: 1 | 4},
		"rs485=true&rts_high_during_send=true&rts_high_after_send=false": {flags: 1 | 2},
		"rs485=true&rts_delay_before=1ms&rts_delay_after=100ms&rx_during_tx=true&terminate_bus=true&baud=38400": {flags: 1 | 2 | 16 | 32, delayBefore: 1, delayAfter: 100},
	} {
		c, err := parseConnection("rtu:///dev/ttyS1?" + query)
		if err != nil || c.serial.rs485.words() != want {
			t.Errorf("%s: %+v, %v, want %+v", query, c.serial.rs485, err, want)
		}
	}
}

func TestPortIsSetAsTheConnectionSays(t *testing.T) {
	for query, want := range map[string]unix.Termios{
		"rtu:///p":                                    {Cflag: unix.CS8 | unix.PARENB, Iflag: unix.INPCK, Ospeed: 19200},
		"rtu:///p?parity=O&stop=2&baud=9600":          {Cflag: unix.CS8 | unix.PARENB | unix.PARODD | unix.CSTOPB, Iflag: unix.INPCK, Ospeed: 9600},
		"rtu:///p?parity=N":                           {Cflag: unix.CS8 | unix.CSTOPB, Ospeed: 19200},
		"rtu:///p?parity=N&stop=1&baud=250000":        {Cflag: unix.CS8, Ospeed: 250000},
		"ascii:///p":                                  {Cflag: unix.CS7 | unix.PARENB, Iflag: unix.INPCK, Ospeed: 19200},
		"ascii:///p?data=8&parity=N&stop=1&baud=1200": {Cflag: unix.CS8, Ospeed: 1200},
	} {
		c, err := parseConnection(query)
		if err != nil {
			t.Fatal(err)
		}
		got := termios(c.serial)
		want.Cflag |= unix.CREAD | unix.CLOCAL | unix.BOTHER
		want.Ispeed, want.Cc[unix.VMIN] = want.Ospeed, 1
		if got != want {
			t.Errorf("%s: %+v, want %+v", query, got, want)
		}
	}
}

func TestSilenceBetweenFrames(t *testing.T) {
	for query, want := range map[string]time.Duration{
		"":                           2005208, // 3.5 × 11 bits at 19200 baud
		"?baud=9600":                 4010416,
		"?baud=9600&parity=N&stop=1": 3645833,
		"?baud=19201":                1750 * time.Microsecond,
		"?baud=115200":               1750 * time.Microsecond,
	} {
		c, err := parseConnection("rtu:///p" + query)
		if got := c.serial.silence(); err != nil || got < want-10 || got > want+10 {
			t.Errorf("%q: %v, %v, want %v", query, got, err, want)
		}
	}
	// At 300 baud it is 128 ms, which even a busy machine can't take for nothing.
	var sent time.Time
	shortest := time.Hour
	s, url := onPort(t, schemeRTU, func(s *slave, n int, _ []byte) {
		if n > 0 {
			shortest = min(shortest, time.Since(sent))
		}
		s.say(rightData...)
		sent = time.Now()
	})
	l := linkTo(t, url+"?baud=300", patience)
	for i := range 4 {
		if err := readPair(t, l); err != nil {
			t.Fatal(err)
		}
		if i > 1 { // noise begins the silence anew
			time.Sleep(l.silence)
			s.Write([]byte{0xff})
			sent = time.Now()
			waiting(t, l, 1)
		}
	}
	// sent is taken a moment after the bytes can be read.
	if shortest < 100*time.Millisecond {
		t.Errorf("a request %v after the last byte, want 128ms", shortest)
	}
}

// waiting waits until n bytes can be read from the port.
func waiting(t *testing.T, l *link, n int) {
	t.Helper()
	until(t, "the bytes are there", func() bool {
		there := 0
		l.line.(*serialPort).raw.Control(func(fd uintptr) { there, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
		return there == n
	})
}

func TestByteWithinTheSilenceBehindAnAnswer(t *testing.T) {
	_, url := onPort(t, schemeRTU, func(s *slave, _ int, _ []byte) {
		s.say(rightData...)
		time.Sleep(5 * time.Millisecond)
		s.Write([]byte{0})
	})
	l := linkTo(t, url+"?baud=50", patience) // a silence of 0.77 s
	for range 5 {                            // the slave may be kept from its second byte for longer than that
		l.timeout, l.doubt = patience, time.Time{}
		err := readPair(t, l)
		if errors.Is(err, errInvalid) && strings.Contains(err.Error(), "1 more bytes follow it") {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Error("a frame with a byte behind it was taken each time")
}

func TestWhatWaitsBetweenTwoRequestsIsThrownAway(t *testing.T) {
	stale := rtuFrame(wrongData)
	for name, stray := range map[string][]byte{"noise": {0xff, 0, 0xff}, "an answer": stale, "many answers": bytes.Repeat(stale, 100)} {
		t.Run(name, func(t *testing.T) {
			s, url := onPort(t, schemeRTU, always)
			l := linkTo(t, url, patience/10)
			for range 3 {
				if err := readPair(t, l); err != nil {
					t.Fatal(err)
				}
				s.Write(stray)
				waiting(t, l, len(stray))
				// What may be an answer is waited for once more; the wait has a test of its own.
				l.timeout = time.Millisecond
				if err := l.clear(t.Context()); err != nil {
					t.Fatal(err)
				}
				if waited := !l.doubt.IsZero(); waited != (len(stray) > maxNoise) {
					t.Errorf("%d bytes: waited for more is %v", len(stray), waited)
				}
				l.timeout, l.doubt = patience/10, time.Time{}
			}
		})
	}
}

func TestAnswerToAnotherProcessDies(t *testing.T) {
	s, url := onPort(t, schemeRTU, always)
	s.Write(rtuFrame(wrongData)) // to whoever was there before
	l := linkTo(t, url, 300*time.Millisecond)
	l.opened = false
	go func() {
		time.Sleep(50 * time.Millisecond)
		s.Write(rtuFrame(wrongData))
	}()
	before := time.Now()
	if err := l.ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if waited := time.Since(before); waited < 300*time.Millisecond {
		t.Errorf("the first request may go out after %v, want a time-out", waited)
	}
	l.timeout = patience
	if err := readPair(t, l); err != nil {
		t.Fatal(err)
	}
}

func TestLineThatIsNeverSilent(t *testing.T) {
	t.Parallel()
	s, url := onPort(t, schemeRTU, always)
	var babble atomic.Bool
	babble.Store(true)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for babble.Load() {
			s.Write(rtuFrame(wrongData))
			time.Sleep(time.Millisecond)
		}
	}()
	l := linkTo(t, url+"?baud=300", 30*time.Millisecond) // a silence of 128 ms, which the babble doesn't leave
	for range 3 {
		if err := readPair(t, l); reasonOf(err) != badInvalid && reasonOf(err) != badTimeout {
			t.Errorf("error %v, want that no silence came", err)
		}
	}
	babble.Store(false)
	<-ended
	l.timeout = patience / 10
	if err := readPair(t, l); err != nil {
		t.Errorf("after it has become silent: %v", err)
	}
}

// overslept is a line that one late answer comes to while the machine has no time for the link.
type overslept struct {
	line
	looks int
	late  time.Duration
}

func (o *overslept) discard() (int, error) {
	if o.looks++; o.looks > 1 {
		return 0, nil
	}
	time.Sleep(o.late)
	return len(wrongData), nil
}

func TestLateAnswerOnABusyMachineIsNoBabble(t *testing.T) {
	_, url := onPort(t, schemeRTU, always)
	l := linkTo(t, url, time.Millisecond)
	late := &overslept{late: 10*l.timeout + l.silence}
	l.line = late
	if err := l.clear(t.Context()); err != nil || late.looks < 2 {
		t.Errorf("%v after %d looks", err, late.looks)
	}
	l.line = nil
}

// TestDeadUnitTakesNoAnswerOfAnother has a unit 1 that is slow: it answers when unit 2
// is asked, which has the same registers with other values.
func TestDeadUnitTakesNoAnswerOfAnother(t *testing.T) {
	t.Parallel()
	calmly(t, func() (wrong string) { return answersOfAnother(t) })
}

func answersOfAnother(t *testing.T) (wrong string) {
	const timeout = 400 * time.Millisecond
	_, url := onPort(t, schemeRTU, func(s *slave, _ int, req []byte) {
		switch req[0] {
		case 1:
			time.Sleep(timeout + timeout/4)
			s.say(1, 3, 4, 0xde, 0xad, 0xbe, 0xef)
		default:
			s.say(2, 3, 4, 0x12, 0x34, 0x56, 0x78)
		}
	})
	l := linkTo(t, url, timeout)
	for range 2 {
		data, err := l.read(t.Context(), 1, tables["holding"], 10, 2)
		if err == nil {
			t.Errorf("unit 1: % x", data)
		}
		if !isTimeout(err) {
			return fmt.Sprint("unit 1: ", err)
		}
		data, err = l.read(t.Context(), 2, tables["holding"], 10, 2)
		if err != nil {
			return fmt.Sprint("unit 2: ", err)
		}
		if !bytes.Equal(data, rightData[3:]) {
			t.Errorf("unit 2: % x", data)
		}
	}
	return ""
}

func TestAdapterThatEchoesIsNamed(t *testing.T) {
	_, url := onPort(t, schemeRTU, func(s *slave, _ int, req []byte) { s.say(req...) })
	if err := readPair(t, linkTo(t, url, patience)); !errors.Is(err, errInvalid) || !strings.Contains(err.Error(), "switch the adapter's echo off") {
		t.Error(err)
	}
}

func TestAnswerAfterTheDeadlineIsNone(t *testing.T) {
	_, url := onPort(t, schemeRTU, always)
	l := linkTo(t, url, patience)
	if err := l.ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	// As on a machine so busy that the read returns the bytes all the same.
	l.deadline = time.Now().Add(-time.Nanosecond)
	if _, err := l.Send(rtuFrame([]byte{1, 3, 0, 10, 0, 2})); !isTimeout(err) || reasonOf(err) != badTimeout {
		t.Errorf("error %v, want a time-out", err)
	}
}
