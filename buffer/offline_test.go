package buffer

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"testing"

	"sluice/drivers"
)

func offline(t *testing.T, dir string) *Offline {
	t.Helper()
	o, err := OpenOffline(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

func TestExportGivesEachEventOnceInOrder(t *testing.T) {
	dir := damageOriginal(t)
	before := snapshotDir(t, dir)
	o, n := offline(t, dir), uint64(0)
	err := o.Export(t.Context(), "process", func(incarnation string, seq uint64, e drivers.Event) error {
		if n++; seq != n || len(incarnation) != 8 || !bytes.HasPrefix(e.Payload, fmt.Appendf(nil, "event %d\n", n-1)) {
			t.Fatalf("line %d: %s/%d %.20q", n, incarnation, seq, e.Payload)
		}
		return nil
	}, func(f Finding) { t.Error(f) })
	if err != nil || n != damagedEvents {
		t.Fatalf("%d events, %v", n, err)
	}
	if findings, err := o.Verify(t.Context(), nil); err != nil || len(findings) > 0 {
		t.Errorf("verify: %v, %v", findings, err)
	}
	classes, err := o.Stat()
	if err != nil || len(classes) != 1 || len(classes[0].Segments) < 3 {
		t.Errorf("stat: %+v, %v", classes, err)
	}
	if after := snapshotDir(t, dir); after != before {
		t.Errorf("looking at it changed the directory:\n%s\nbecame\n%s", before, after)
	}
}

// snapshotDir lists names and sizes.
func snapshotDir(t *testing.T, dir string) (list string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			info, e := d.Info()
			if err = e; err == nil {
				list += fmt.Sprintln(path, info.Size(), info.ModTime().UnixNano())
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestVerifyFindsADamagedBlockAndExportLeavesItOut(t *testing.T) {
	dir := damageOriginal(t)
	file := segmentFiles(t, dir)[1]
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, []byte(blockMagic))
	for i := at; i >= 0 && i < len(b); { // each block, also those that are no longer in use
		b[i+blockHeader+5] ^= 1
		next := bytes.Index(b[i+4:], []byte(blockMagic))
		if next < 0 {
			break
		}
		i += 4 + next
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	o := offline(t, dir)
	findings, err := o.Verify(t.Context(), nil)
	if err != nil || len(findings) == 0 || findings[0].First == 0 {
		t.Fatalf("findings %v, %v", findings, err)
	}
	n, left := 0, 0
	err = o.Export(t.Context(), "process", func(string, uint64, drivers.Event) error { n++; return nil }, func(Finding) { left++ })
	if err != nil || left == 0 || n == 0 || n >= damagedEvents {
		t.Fatalf("%d events, %d blocks left out, %v", n, left, err)
	}
}

func TestOfflineRefusesADirectoryThatIsInUse(t *testing.T) {
	c := config(t, nil)
	start(t, c)
	if _, err := OpenOffline(c.Dir); !errors.Is(err, ErrInUse) {
		t.Fatalf("error %v", err)
	}
	if _, err := OpenOffline(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("error %v", err)
	}
}
