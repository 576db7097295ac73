package buffer

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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

func TestRepairSavesWhatIsWholeAndSetsTheDamagedFileAside(t *testing.T) {
	c := config(t, func(c *Config) { c.Classes[0].KeepBytes, c.Memory = 8<<20, 1 })
	r := start(t, c)
	putNoise(t, r, 0, 600)
	r.stop()
	files := segmentFiles(t, c.Dir)
	for i, file := range []string{files[0], files[len(files)-1]} {
		if i == 0 {
			ruinMetas(t, file)
		} else {
			ruinMiddle(t, file)
		}
	}
	before := snapshotDir(t, c.Dir)
	dry, err := repair(t, c.Dir, true)
	if err != nil || len(dry) != 2 || dry[0].Aside != "" || snapshotDir(t, c.Dir) != before {
		t.Fatalf("dry run: %v %+v", err, dry)
	}
	done, err := repair(t, c.Dir, false)
	if err != nil || len(done) != 2 {
		t.Fatalf("%v %+v", err, done)
	}
	for i, a := range done {
		if a.Saved != dry[i].Saved || a.Saved == 0 || len(a.Lost) == 0 && i == 1 {
			t.Errorf("%+v, the dry run said %+v", a, dry[i])
		}
		if _, err := os.Stat(filepath.Join(c.Dir, a.Aside)); err != nil {
			t.Error(err)
		}
	}
	if again, err := repair(t, c.Dir, false); err != nil || len(again) != 0 {
		t.Errorf("the second repair: %v %+v", err, again)
	}
	r = start(t, c)
	reasons := r.account(r.reader("central"), func(uint64, drivers.Event) {})
	t.Logf("%v", reasons)
	if reasons[reasonCorrupt] == 0 || reasons["stored"] < 400 {
		t.Errorf("reasons %v", reasons)
	}
}

func repair(t *testing.T, dir string, dryRun bool) ([]RepairAction, error) {
	t.Helper()
	r, err := OpenRepair(dir)
	if err != nil {
		t.Fatal(err)
	}
	actions, err := r.Repair(t.Context(), dryRun, nil)
	return actions, errors.Join(err, r.Close())
}

func TestCompactMakesSmallBlocksLarge(t *testing.T) {
	c := config(t, nil)
	r := start(t, c)
	for n := range 300 {
		r.put("process", n, 1)
	}
	r.stop()
	rep, err := OpenRepair(c.Dir)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := rep.Compact(t.Context(), nil)
	if err != nil || sum.Files != 1 || sum.After > sum.Before/2 {
		t.Errorf("%v %+v", err, sum)
	}
	if err := rep.Close(); err != nil {
		t.Fatal(err)
	}
	r = start(t, c)
	wantEvents(t, collect(t, r.reader("central"), 300), 1, 0)
	r.put("process", 300, 1)
}

func TestStrandedCountsWhatWaitsForAnUplinkThatIsGone(t *testing.T) {
	c := config(t, func(c *Config) { c.Uplinks["old"] = nil })
	r := start(t, c)
	r.put("process", 0, 100)
	old := r.reader("old")
	collect(t, old, 100)
	old.Ack("process", 30)
	uplinks := map[string][]string{"central": nil}
	for _, life := range []string{"running", "stopped"} {
		for _, removed := range [][]string{nil, {"old"}} {
			got, err := Stranded(c.Dir, uplinks, removed)
			want := StrandedUplink{Uplink: "old", Class: "process", Events: 70, Removed: removed != nil}
			if life == "running" && len(got) == 1 { // as of the last save
				want.Events = got[0].Events
			}
			if life == "stopped" && (err != nil || len(got) != 1 || got[0] != want) {
				t.Errorf("%s: %v %+v, want %+v", life, err, got, want)
			}
		}
		r.stop()
	}
	if got, err := Stranded(t.TempDir(), uplinks, nil); err == nil {
		t.Errorf("no buffer: %v", got)
	}
	testStranded(t, c, uplinks)
}

// testStranded takes the uplink out of the config, adds events, and brings it
// back or declares it as removed.
func testStranded(t *testing.T, c Config, uplinks map[string][]string) {
	without := c
	without.Uplinks = uplinks
	r := start(t, without)
	rd := r.reader("central")
	collect(t, rd, 100)
	rd.Ack("process", 100)
	r.put("process", 100, 10) // not for the one that is gone
	collect(t, rd, 10)
	rd.Ack("process", 110)
	if st := r.Stats().Classes["process"]; st.Events != 80 {
		t.Errorf("%d events are held, want those from 31 on", st.Events)
	}
	r.stop()
	back := start(t, c)
	wantEvents(t, collect(t, back.reader("old"), 80), 31, 30)
	back.stop()
	without.Removed = []string{"old"}
	r = start(t, without)
	if st := r.Stats().Classes["process"]; st.Events != 0 {
		t.Errorf("%d events are held for nobody", st.Events)
	}
	r.stop()
	if got, err := Stranded(c.Dir, uplinks, nil); err != nil || len(got) != 0 {
		t.Errorf("after the removal: %v %v", err, got)
	}
}
