//go:build torture

package powercut

import (
	"testing"
	"time"
)

// TestControls looks at disks that do not keep what they promise, and at promises
// that are made too early: an explorer that finds nothing wrong there would find
// nothing at all.
//
// Renames that come before their data break no promise of the buffer: nothing
// that is acknowledged is in a segment before its first commit, and the sync of
// that one covers all of the file. Such a segment must be found damaged, though,
// and on an honest disk none may.
func TestControls(t *testing.T) {
	b := newBench(t)
	s, err := scenarioNamed("restart")
	if err != nil {
		t.Fatal(err)
	}
	rec, err := record(s, b.folder(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		model
		fails, doubts bool
	}{
		{name: "honest disk"},
		{name: "fdatasync does nothing", model: model{deafData: true}, fails: true, doubts: true},
		{name: "fsync of the state does nothing", model: model{deafState: true}, fails: true, doubts: true},
		{name: "fsync of folders does nothing", model: model{deafDirs: true}, fails: true, doubts: true},
		{name: "events are acknowledged before their commit", model: model{earlyAcks: true}, fails: true},
		{name: "renames are durable before the data", model: model{eagerRename: true}, doubts: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := b.exploration(rec, c.model, 1500)
			e.dir = b.folder()
			begin := time.Now()
			if err := e.run(); err != nil {
				t.Fatal(err)
			}
			t.Log(e.summary(time.Since(begin)))
			if got := e.failed() > 0; got != c.fails {
				t.Errorf("%d failures", e.failed())
			}
			if got := e.doubts > 0; got != c.doubts {
				t.Errorf("%d states with damage", e.doubts)
			}
			for _, k := range e.kinds() {
				t.Log(k)
			}
		})
	}
}
