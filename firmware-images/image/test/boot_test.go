//go:build images

// Package test boots the image in qemu. See run.sh.
package test

import (
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// released unpacks the disk image as it is released.
func released(t testing.TB) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dist(t), "image", "sluice-*-arm64.img.gz"))
	if err != nil || len(names) != 1 {
		t.Fatalf("%d images in %s: run make images (%v)", len(names), dist(t), err)
	}
	packed, err := os.Open(names[0])
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	from, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "disk.img")
	to, err := os.Create(path)
	if err == nil {
		_, err = io.Copy(to, from)
	}
	if err == nil {
		err = to.Close()
	}
	if err != nil {
		t.Fatalf("unpack the image: %v", err)
	}
	return path
}

// The data partition made anew by hand, as the README says, is as good as the one
// that came with the image: everything in it gets its owner.
func TestDataMadeAnew(t *testing.T) {
	p := newPlant(t)
	m := newMachine(t, released(t))
	dir := filepath.Join(m.dir, "anew")
	for _, name := range []string{"lib/rauc", "lib/sluice", "lib/systemd", "etc/sluice"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "mkfs.ext4", "-q", "-F", "-d", dir, "-E", fmt.Sprintf("offset=%d", dataStart), m.disk, "256M")
	m.provision(map[string]string{"sluice.yaml": p.config()})
	p.publish(200 * time.Millisecond)
	m.on()
	m.started()
	if said := m.judged(); !strings.HasPrefix(said, "slot A") || !strings.HasSuffix(said, "is good") {
		t.Errorf("the judge says %q", said)
	}
	p.arrives(20)
	m.cut()
	if kept, err := os.ReadFile(filepath.Join(m.data("/lib/rauc"), "good")); err != nil || string(kept) != "A\n" {
		t.Errorf("the good slot is noted as %q: %v", kept, err)
	}
}

// Boards without UEFI of their own start the image through U-Boot, which describes
// the hardware by a device tree. GRUB has to be able to write its counter there, too.
func TestUpdateUnderUBoot(t *testing.T) {
	g := newGatewayOf(t, trialEnv, uBoot)
	g.installs("good")
	g.restart()
	g.boots("B", "good now")
	g.plant.verdict(sluice(t))
}

// The image as it is released, on a larger disk whose rest goes to the data
// partition and with a config on its EFI partition, both as the README says, boots
// and delivers.
func TestBootToTheFirstRecord(t *testing.T) {
	p := newPlant(t)
	m := newMachine(t, released(t))
	m.provision(map[string]string{"sluice.yaml": p.config(), "50-lan.network": "[Match]\nName=e*\n[Network]\nDHCP=ipv4\n"})
	run(t, "truncate", "--size=+256M", m.disk)
	run(t, "sgdisk", "-e", "-d", "4", "-n", "4:526336:0", "-c", "4:data", m.disk)
	p.publish(200 * time.Millisecond)
	power := time.Now()
	m.on()
	if slot := m.started(); slot != "A" {
		t.Errorf("a new image starts slot %s", slot)
	}
	grub := time.Since(power)
	p.arrives(1)
	t.Logf("power on to GRUB %.1f s, to the first record in Kafka %.1f s (emulated, on this machine as it is loaded)", grub.Seconds(), time.Since(power).Seconds())
	p.arrives(20)
	m.cut()
	if got := m.state(); got != "good=A trial=none bad=none floor="+os.Getenv("VERSION") {
		t.Errorf("boot state: %s", got)
	}
	config := m.data("/etc/sluice")
	for _, name := range []string{"sluice.yaml", "network/50-lan.network"} {
		if _, err := os.Stat(filepath.Join(config, name)); err != nil {
			t.Errorf("it was not taken from the EFI partition: %v", err)
		}
	}
	size := regexp.MustCompile(`Block count: +(\d+)\n(?s:.*)Block size: +4096\n`).FindStringSubmatch(run(t, "dumpe2fs", "-h", filepath.Join(m.dir, "data.img")))
	if size == nil {
		t.Fatal("dumpe2fs does not tell the size of the data partition in blocks of 4096 bytes")
	}
	if blocks, _ := strconv.Atoi(size[1]); blocks < 511*mib/4096 {
		t.Errorf("the file system of the data partition has %d blocks of 4096 bytes: it has not grown", blocks)
	}
	if list := run(t, "mdir", "-b", "-i", m.esp(), "::"); strings.Contains(list, "sluice/") {
		t.Errorf("the config is still on the EFI partition:\n%s", list)
	}
}
