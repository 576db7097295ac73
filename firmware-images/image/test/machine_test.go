//go:build images

package test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// machine is an arm64 computer with UEFI in qemu: two cores, 512 MB, a disk, a
// network in which 10.0.2.2 is this machine's loopback, and a watchdog. All of
// it is emulated (TCG), so it is slow, and how slow depends on what else this
// machine does: see patience.
type machine struct {
	t    testing.TB
	disk string
	dir  string
	uefi string // edk2 or uBoot

	qemu  *exec.Cmd
	log   string // of the console, of this start
	seen  int    // bytes of log that wait has passed
	turns int    // starts so far
}

// Where the partitions of the image begin, see disk in parts.sh.
const (
	mib       = 1 << 20
	espStart  = 1 * mib
	slotA     = 65 * mib
	slotB     = 161 * mib
	slotSize  = 96 * mib
	dataStart = 257 * mib
)

// patience is for whatever a test waits for: long enough for a machine that is
// busy with other work, so that its end means that it will never come.
const patience = 15 * time.Minute

// Firmware that offers UEFI, of Debian's qemu-efi-aarch64 and u-boot-qemu.
const (
	edk2  = "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd"
	uBoot = "/usr/lib/u-boot/qemu_arm64/u-boot.bin"
)

// newMachine copies the image; the test's machine is its own.
func newMachine(t testing.TB, image string) *machine {
	t.Helper()
	dir, err := os.MkdirTemp("", "sluice-machine-")
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, dir: dir, disk: filepath.Join(dir, "disk.img"), uefi: edk2}
	t.Cleanup(func() {
		m.cut()
		if t.Failed() {
			t.Logf("console logs are left in %s", dir)
			os.Remove(m.disk)
			return
		}
		os.RemoveAll(dir)
	})
	run(t, "cp", "--sparse=always", image, m.disk)
	return m
}

// on starts it.
func (m *machine) on() {
	m.t.Helper()
	m.turns++
	m.log, m.seen = filepath.Join(m.dir, fmt.Sprintf("console-%02d.log", m.turns)), 0
	m.qemu = exec.Command("qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a53", "-smp", "2", "-m", "512", "-nographic", "-monitor", "none",
		"-serial", "file:"+m.log, "-bios", m.uefi,
		"-drive", "if=none,id=disk,file="+m.disk+",format=raw,cache=writethrough", "-device", "virtio-blk-pci,drive=disk",
		"-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci",
		"-device", "i6300esb", "-action", "watchdog=reset")
	if err := m.qemu.Start(); err != nil {
		m.t.Fatalf("qemu: %v", err)
	}
}

// cut takes the power away: kill -9 of qemu. What the guest had not written to
// its disk is lost.
func (m *machine) cut() {
	if m.qemu != nil {
		_ = m.qemu.Process.Kill()
		_ = m.qemu.Wait()
		m.qemu = nil
	}
}

func (m *machine) console() string {
	text, _ := os.ReadFile(m.log)
	return string(text)
}

// saw looks for the pattern behind what was found before.
func (m *machine) saw(pattern string) []string {
	text := m.console()
	found := regexp.MustCompile(pattern).FindStringSubmatchIndex(text[m.seen:])
	if found == nil {
		return nil
	}
	var groups []string
	for i := 0; i < len(found); i += 2 {
		groups = append(groups, text[m.seen+found[i]:m.seen+found[i+1]])
	}
	m.seen += found[1]
	return groups
}

// wait blocks until the console shows the pattern behind what was found before,
// and returns the match and its groups.
func (m *machine) wait(pattern string) []string {
	m.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if groups := m.saw(pattern); groups != nil {
			return groups
		}
	}
	m.t.Fatalf("the console does not show %q within %s; its end:\n%s", pattern, patience, tail(m.console(), 4000))
	return nil
}

// started waits for GRUB's choice and returns the slot.
func (m *machine) started() string {
	m.t.Helper()
	return m.wait(`sluice: slot ([AB]) \(state`)[1]
}

// judged waits for what the judge of the trial says at the end.
func (m *machine) judged() string {
	m.t.Helper()
	return m.wait(`trial: (slot [AB], version \S+, is (?:good|sick)\b[^\r\n]*)\r?\n`)[1]
}

// provision puts files into the folder of the EFI partition from which the next
// start takes its config.
func (m *machine) provision(files map[string]string) {
	m.t.Helper()
	dir := filepath.Join(m.dir, "sluice")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		m.t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			m.t.Fatal(err)
		}
	}
	run(m.t, "mcopy", "-s", "-o", "-i", m.esp(), dir, "::")
}

func (m *machine) esp() string { return fmt.Sprintf("%s@@%d", m.disk, espStart) }

// file reads one of the EFI partition, such as boot1.env.
func (m *machine) file(name string) string {
	m.t.Helper()
	return run(m.t, "mtype", "-i", m.esp(), "::"+name)
}

// damage overwrites one of the EFI partition in place.
func (m *machine) damage(name string, content []byte) {
	m.t.Helper()
	path := filepath.Join(m.dir, name)
	if err := os.WriteFile(path, content, 0o644); err != nil {
		m.t.Fatal(err)
	}
	run(m.t, "mcopy", "-o", "-i", m.esp(), path, "::"+name)
}

// state is the boot state as the disk has it: the variables of boot1.env.
func (m *machine) state() string {
	m.t.Helper()
	var words []string
	for line := range strings.Lines(m.file("boot1.env")) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch name {
		case "good", "trial", "bad", "floor":
			words = append(words, name+"="+value)
		}
	}
	return strings.Join(words, " ")
}

// write overwrites bytes of the disk.
func (m *machine) write(at int64, content []byte) {
	m.t.Helper()
	f, err := os.OpenFile(m.disk, os.O_WRONLY, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(content, at); err != nil {
		m.t.Fatal(err)
	}
}

// data takes the data partition out, mends its file system as the next start
// would, and returns a folder with what is below path.
func (m *machine) data(path string) string {
	m.t.Helper()
	part, out := filepath.Join(m.dir, "data.img"), filepath.Join(m.dir, "data")
	run(m.t, "dd", "if="+m.disk, "of="+part, "bs=1M", fmt.Sprintf("skip=%d", dataStart/mib), "status=none", "conv=sparse")
	mended := new(exec.ExitError)
	if out, err := exec.Command("e2fsck", "-fy", part).CombinedOutput(); err != nil && !(errors.As(err, &mended) && mended.ExitCode() == 1) {
		m.t.Fatalf("e2fsck of the data partition: %v\n%s", err, out)
	}
	os.RemoveAll(out)
	if err := os.MkdirAll(out, 0o755); err != nil {
		m.t.Fatal(err)
	}
	run(m.t, "debugfs", "-R", "rdump "+path+" "+out, part)
	return filepath.Join(out, filepath.Base(path))
}

// run runs a program and returns its standard output.
func run(t testing.TB, program string, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Env = append(os.Environ(), "MTOOLS_SKIP_CHECK=1")
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", program, strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String()
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// sluice is the agent's binary for this machine.
func sluice(t testing.TB) string {
	t.Helper()
	return filepath.Join(dist(t), "sluice-linux-amd64")
}
