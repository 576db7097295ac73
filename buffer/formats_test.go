package buffer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// newerAbout gives a segment another meta/about, and without says which of its
// buckets a newer version does not have.
func newerAbout(t *testing.T, file, js string, without ...[]byte) {
	t.Helper()
	db, err := bbolt.Open(file, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		err := tx.Bucket(bucketMeta).Put(keyAbout, sealed([]byte(js)))
		for _, name := range without {
			err = errors.Join(err, tx.DeleteBucket(name))
		}
		return err
	})
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// newerSlots saves a value as a newer version would.
func newerSlots(t *testing.T, file, value string) {
	t.Helper()
	s, _, _, err := openSlots(file)
	if err == nil {
		err = errors.Join(s.save([]byte(value)), s.file.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// newerFiles are the ways in which a newer version can have written in a directory;
// each returns the file that says so.
func newerFiles() map[string]func(t *testing.T, dir string, segs []string) (file string) {
	return map[string]func(t *testing.T, dir string, segs []string) (file string){
		"the oldest segment": func(t *testing.T, _ string, segs []string) string {
			newerAbout(t, segs[0], `{"format":2,"class":"process","incarnation":"0badcafe","first":1}`)
			return segs[0]
		},
		"the newest segment, of other fields and buckets": func(t *testing.T, _ string, segs []string) string {
			file := segs[len(segs)-1]
			newerAbout(t, file, `{"format":7,"class":["process"],"first":"one"}`, bucketBatches, bucketGaps, bucketSkipped)
			return file
		},
		"the newest segment, a segment was not finished": func(t *testing.T, _ string, segs []string) string {
			file := segs[len(segs)-1]
			newerAbout(t, file, `{"format":2}`)
			if err := os.WriteFile(file+".tmp", []byte("not finished"), 0o600); err != nil {
				t.Fatal(err)
			}
			return file
		},
		"a segment, the state and the marks are lost, another segment damaged": func(t *testing.T, dir string, segs []string) string {
			newerAbout(t, segs[1], `{"format":2,"class":"process"}`)
			if err := errors.Join(os.Truncate(segs[0], 5000), os.Remove(filepath.Join(dir, stateName)), os.Remove(filepath.Join(dir, marksName))); err != nil {
				t.Fatal(err)
			}
			return segs[1]
		},
		"the state": func(t *testing.T, dir string, _ []string) string {
			file := filepath.Join(dir, stateName)
			newerSlots(t, file, `{"format":2,"incarnation":17,"classes":[]}`)
			return file
		},
		"the state, a segment is damaged": func(t *testing.T, dir string, segs []string) string {
			file := filepath.Join(dir, stateName)
			newerSlots(t, file, `{"format":2}`)
			if err := os.Truncate(segs[0], 5000); err != nil {
				t.Fatal(err)
			}
			return file
		},
		"the marks": func(t *testing.T, dir string, _ []string) string {
			file := filepath.Join(dir, marksName)
			newerSlots(t, file, `{"format":2,"incarnation":17}`)
			return file
		},
		"a slot of another form": func(t *testing.T, dir string, _ []string) string {
			file := filepath.Join(dir, stateName)
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			copy(b, "SLS2")
			value, _ := sealedSlot(b)
			binary.BigEndian.PutUint32(b[20:], crc32.Update(crc32.Checksum(b[:20], castagnoli), castagnoli, value))
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
			return file
		},
	}
}

// TestWhatANewerVersionWroteIsLeftAlone opens directories of a newer version in
// every way that there is: each is refused with what, where and what to do, and no
// byte of it is changed.
func TestWhatANewerVersionWroteIsLeftAlone(t *testing.T) {
	for name, write := range newerFiles() {
		t.Run(name, func(t *testing.T) {
			dir := damageOriginal(t)
			file := write(t, dir, segmentFiles(t, dir))
			before := allBytes(t, dir)
			for way, open := range map[string]func() error{
				"Open":        func() error { _, err := Open(damageConfig(dir)); return err },
				"OpenOffline": func() error { _, err := OpenOffline(dir); return err },
				"OpenRepair":  func() error { _, err := OpenRepair(dir); return err },
			} {
				err := open()
				if !errors.Is(err, ErrNewer) || errors.Is(err, errDamaged) {
					t.Fatalf("%s: %v", way, err)
				}
				for _, says := range []string{file, "nothing was changed", "run the version that wrote it"} {
					if !strings.Contains(err.Error(), says) {
						t.Errorf("%s does not say %q: %v", way, says, err)
					}
				}
			}
			if after := allBytes(t, dir); after != before {
				t.Error("the directory was changed")
			}
		})
	}
}

// TestANewerFormatThatComesToLightLateIsLeftAlone has the first look at state and
// marks miss what a newer version wrote, as a disk does that fails one read: a look
// that failed is an error, and whoever opens them for writing looks once more.
func TestANewerFormatThatComesToLightLateIsLeftAlone(t *testing.T) {
	for _, name := range []string{stateName, marksName} {
		dir := damageOriginal(t)
		file := filepath.Join(dir, name)
		newerSlots(t, file, `{"format":2,"incarnation":"0badcafe"}`)
		before := allBytes(t, dir)
		if _, err := openState(dir, nil, slog.New(slog.DiscardHandler)); !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s for writing: %v", name, err)
		}
		if allBytes(t, dir) != before {
			t.Errorf("%s: the directory was changed", name)
		}
		if err := errors.Join(os.Rename(file, file+".aside"), os.Symlink(name, file)); err != nil {
			t.Fatal(err)
		}
		for way, open := range map[string]func() error{
			"a look":     func() error { return checkFormats(dir) },
			"Open":       func() error { _, err := Open(damageConfig(dir)); return err },
			"OpenRepair": func() error { _, err := OpenRepair(dir); return err },
		} {
			if err := open(); !errors.Is(err, unix.ELOOP) || !strings.Contains(err.Error(), file) {
				t.Errorf("%s, %s that cannot be read: %v", way, name, err)
			}
		}
		o, err := OpenOffline(dir) // who only reads says what is wrong, and goes on
		if err != nil {
			t.Fatal(err)
		}
		if found, err := o.Verify(t.Context(), nil); err != nil || len(found) == 0 || found[0].File != name {
			t.Errorf("verify: %v, %v", found, err)
		}
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	}
}

// allBytes is every name and byte below dir but the lock's, which holds a pid.
func allBytes(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == lockName {
			return err
		}
		b, err := os.ReadFile(path)
		all.WriteString(path + "\n" + string(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// TestANewerBlockIsNeverPassed gives a block of a segment that this version reads a
// codec that it does not know: that is no damage, so nobody makes a gap of it.
func TestANewerBlockIsNeverPassed(t *testing.T) {
	dir := damageOriginal(t)
	file := segmentFiles(t, dir)[0]
	db, err := bbolt.Open(file, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		k, _ := tx.Bucket(bucketBatches).Cursor().First()
		sub := tx.Bucket(bucketBatches).Bucket(k)
		b := bytes.Clone(sub.Get(keyBlock))
		b[4] = 7
		binary.BigEndian.PutUint32(b[blockSummed:], blockSum(b))
		return sub.Put(keyBlock, b)
	})
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	r, err := OpenRepair(dir)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if actions, err := r.Repair(t.Context(), false, nil); err == nil || !strings.Contains(err.Error(), ErrNewer.Error()) || len(actions) > 0 {
		t.Errorf("repair: %v, %v", actions, err)
	}
	if _, err := r.Compact(t.Context(), nil); err != nil {
		t.Error("compact:", err)
	}
	s := &segment{path: file}
	if !s.parseName() { // where its small blocks were merged before the stop, it is not of the first generation
		t.Fatalf("%s is no segment", file)
	}
	if err := errors.Join(s.load(), s.close()); err != nil {
		t.Fatal(err)
	}
	if _, err := rewriteLarger(t.Context(), filepath.Dir(file), s, nil); !errors.Is(err, ErrNewer) {
		t.Error("a segment made anew without the block:", err)
	}
	if err := errors.Join(s.close(), r.Close()); err != nil {
		t.Error(err)
	}
	if after, err := os.ReadFile(file); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the file was changed (%v)", err)
	}
	open := start(t, damageConfig(dir))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if b, err := open.reader("central").Next(ctx); err == nil {
		t.Errorf("the reader passed it, to %d", b.First)
	}
	if st := open.Stats().Classes["process"]; len(st.Dropped) > 0 {
		t.Errorf("gap records for it: %v", st.Dropped)
	}
}
