package buffer

import (
	"path/filepath"
	"testing"
	"time"
)

// TestWhatACommitWrites bounds the bytes of a commit, and holds those of full
// batches against a log that does nothing but append and sync.
func TestWhatACommitWrites(t *testing.T) {
	for _, of := range []struct {
		payload string
		batch   int
		commits int
		most    int64   // bytes of a commit; 0: not bounded
		floor   float64 // times the bytes of the compressing floor; 0: not compared
	}{
		{"telemetry", 1, 300, 26_000, 0},
		{"telemetry", 64, 300, 26_000, 0},
		{"telemetry", 1024, 20, 0, 1.6}, // the four pages that a commit adds weigh more, the better the events compress
		{"noise", 1024, 20, 0, 1.3},
	} {
		r := start(t, config(t, func(c *Config) {
			if of.batch == blockEvents { // the commit waits until it has all of them
				c.CommitDelay = time.Second
			}
		}))
		f, err := newFloor(filepath.Join(t.TempDir(), "floor"), true)
		if err != nil {
			t.Fatal(err)
		}
		defer f.file.Close()
		events := benchEvents(16<<10, of.payload)
		for at := range of.commits {
			batch := events[at*of.batch%len(events):][:of.batch]
			if err := appendAll(r.Buffer, batch); err != nil {
				t.Fatal(err)
			}
			if err := f.append(batch); err != nil {
				t.Fatal(err)
			}
		}
		st := r.Stats()
		per, times := st.WrittenBytes/int64(st.Commits), float64(st.WrittenBytes)/float64(f.written)
		t.Logf("%s, %d events: %d commits of %d bytes, %.2f times the floor", of.payload, of.batch, st.Commits, per, times)
		if of.most > 0 && per > of.most || of.floor > 0 && times > of.floor {
			t.Errorf("at most %d bytes and %.2f times the floor", of.most, of.floor)
		}
	}
}
