//go:build images

// Package test boots the image in qemu. See run.sh.
package test

import (
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
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

// The image as it is released, with a config that was put on its EFI partition,
// boots and delivers.
func TestBootToTheFirstRecord(t *testing.T) {
	p := newPlant(t)
	m := newMachine(t, released(t))
	m.provision(map[string]string{"sluice.yaml": p.config(), "50-lan.network": "[Match]\nName=e*\n[Network]\nDHCP=ipv4\n"})
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
	for _, name := range []string{"sluice.yaml", "network/50-lan.network"} {
		if _, err := os.Stat(filepath.Join(m.data("/etc/sluice"), name)); err != nil {
			t.Errorf("it was not taken from the EFI partition: %v", err)
		}
	}
	if list := run(t, "mdir", "-b", "-i", m.esp(), "::"); strings.Contains(list, "sluice/") {
		t.Errorf("the config is still on the EFI partition:\n%s", list)
	}
}
