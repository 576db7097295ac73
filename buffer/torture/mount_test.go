//go:build torture

package torture

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// disk is a small file system of its own, gone with the test.
type disk struct {
	t       *testing.T
	dir     string // where it is mounted
	image   string // of an ext4: the file that holds it
	options string
}

// tmpfs mounts a file system in memory of so many MiB.
func tmpfs(t *testing.T, mib int) *disk {
	t.Helper()
	needRoot(t)
	d := &disk{t: t, dir: t.TempDir()}
	run(t, "mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%dm", mib), "tmpfs", d.dir)
	t.Cleanup(d.unmount)
	return d
}

// ext4 makes one on a loop device, whose file lies in memory.
func ext4(t *testing.T, mib int, options string) *disk {
	t.Helper()
	needRoot(t)
	d := &disk{t: t, dir: t.TempDir(), image: filepath.Join(fastDir(t), "disk"), options: options}
	if err := os.WriteFile(d.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.image, int64(mib)<<20); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.ext4", "-q", "-F", "-m", "0", d.image)
	t.Cleanup(d.unmount)
	d.mount()
	return d
}

// mount mounts an ext4.
func (d *disk) mount() {
	d.t.Helper()
	run(d.t, "mount", "-t", "ext4", "-o", strings.TrimSuffix("loop,"+d.options, ","), d.image, d.dir)
}

// unmount may be called when it is not mounted.
func (d *disk) unmount() {
	for exec.Command("mountpoint", "-q", d.dir).Run() == nil {
		if out, err := exec.Command("umount", d.dir).CombinedOutput(); err != nil {
			d.t.Errorf("umount %s: %v: %s", d.dir, err, out)
			_ = exec.Command("umount", "-l", d.dir).Run() // what is left of it goes when its users end
			return
		}
	}
}

func (d *disk) data() string { return filepath.Join(d.dir, "data") }
func (d *disk) hog() string  { return filepath.Join(d.dir, "hog") }

// free is what an ordinary process may still write.
func (d *disk) free() int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil {
		d.t.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize
}

// fill lets something else take all space but left bytes.
func (d *disk) fill(left int64) {
	d.t.Helper()
	f, err := os.OpenFile(d.hog(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 64<<10)
	for d.free() > left {
		if _, err := f.Write(b[:min(int64(len(b)), max(4096, d.free()-left))]); err != nil {
			break // full
		}
	}
	_ = f.Sync() // ext4 allocates when it writes
}

// device is the loop device's name.
func (d *disk) device() string {
	out, err := exec.Command("findmnt", "-n", "-o", "SOURCE", d.dir).Output()
	if err != nil {
		d.t.Fatal(err)
	}
	return filepath.Base(strings.TrimSpace(string(out)))
}
