package cli

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"sluice/buffer"
)

// fakeRepairer gives back what it was told to.
type fakeRepairer struct {
	actions []buffer.RepairAction
	result  buffer.CompactResult
	err     error
	dryRun  bool // what Repair was called with
}

func (f *fakeRepairer) Repair(_ context.Context, dryRun bool, progress func(done, all int)) ([]buffer.RepairAction, error) {
	f.dryRun = dryRun
	progress(1, 2)
	return f.actions, f.err
}

func (f *fakeRepairer) Compact(_ context.Context, progress func(done, all int)) (buffer.CompactResult, error) {
	progress(1, 2)
	return f.result, f.err
}

var (
	mended = []buffer.RepairAction{
		{File: "classes/process/1.seg", What: "damaged: 2 blocks cannot be read", Saved: 1, Lost: []string{"process 100-199", "process 300-310"}, Aside: "classes/process/1.seg.corrupt-1"},
		{File: "state", What: "one of its two slots is damaged", Saved: 0},
	}
	planned = []buffer.RepairAction{
		{File: "classes/process/1.seg", What: "damaged: 2 blocks cannot be read", Saved: 20, Lost: []string{"process 100-199"}},
		{File: "classes/alarm/7.seg", What: "no segment", Saved: 3},
	}
)

func TestRepairSaysWhatItDid(t *testing.T) {
	wrong := errors.New("no space left")
	const rerun = "run it again for the rest"
	for name, c := range map[string]struct {
		fake    fakeRepairer
		opt     bufferOptions
		out     string
		failure string // part of the error; "3": something was found
	}{
		"nothing":         {fake: fakeRepairer{}, out: "nothing is damaged\n"},
		"nothing, dry":    {fake: fakeRepairer{}, opt: bufferOptions{dryRun: true}, out: "nothing is damaged\n"},
		"nothing, JSON":   {fake: fakeRepairer{}, opt: bufferOptions{json: true}, out: "[]\n"},
		"failed at once":  {fake: fakeRepairer{err: wrong}, failure: "no space left"},
		"stopped at once": {fake: fakeRepairer{err: context.Canceled}, failure: rerun},
		"two files": {fake: fakeRepairer{actions: mended},
			out: "classes/process/1.seg: damaged: 2 blocks cannot be read; 1 event saved, lost: process 100-199, process 300-310; the damaged file is kept as classes/process/1.seg.corrupt-1\n" +
				"state: one of its two slots is damaged; 0 events saved, none lost\n" +
				"mended: 2 files; 1 event saved, 2 ranges lost\n"},
		"two files, dry": {fake: fakeRepairer{actions: planned}, opt: bufferOptions{dryRun: true}, failure: "3",
			out: "classes/process/1.seg: damaged: 2 blocks cannot be read; 20 events can be saved, process 100-199 cannot\n" +
				"classes/alarm/7.seg: no segment; 3 events can be saved\n" +
				"to mend: 2 files; 23 events can be saved, 1 range cannot (nothing was changed)\n"},
		"one file, JSON, dry": {fake: fakeRepairer{actions: planned[:1]}, opt: bufferOptions{dryRun: true, json: true}, failure: "3",
			out: `[{"file":"classes/process/1.seg","what":"damaged: 2 blocks cannot be read","saved":20,"lost":["process 100-199"]}]` + "\n"},
		"stopped": {fake: fakeRepairer{actions: mended[1:], err: context.Canceled}, failure: rerun,
			out: "state: one of its two slots is damaged; 0 events saved, none lost\nmended: 1 file; 0 events saved, 0 ranges lost\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, stderr bytes.Buffer
			err := bufferRepair(t.Context(), &call{Process: Process{Out: &out, Err: &stderr}}, &c.fake, c.opt)
			checkMended(t, err, c.failure, out.String(), c.out)
			if stderr.Len() > 0 {
				t.Errorf("progress without a terminal: %q", stderr.String())
			}
			if c.fake.dryRun != c.opt.dryRun {
				t.Errorf("called with dryRun=%t", c.fake.dryRun)
			}
		})
	}
}

func checkMended(t *testing.T, err error, failure, out, want string) {
	t.Helper()
	if out != want {
		t.Errorf("printed\n%s\nwant\n%s", out, want)
	}
	switch {
	case failure == "" && err != nil, failure == "3" && !errors.Is(err, errFound):
		t.Errorf("error %v, want %q", err, failure)
	case failure != "" && failure != "3" && (err == nil || !strings.Contains(err.Error(), failure) || errors.Is(err, errFound)):
		t.Errorf("error %v, want %q", err, failure)
	}
}

func TestCompactSaysWhatItGained(t *testing.T) {
	for name, c := range map[string]struct {
		fake         fakeRepairer
		json         bool
		out, failure string
	}{
		"files": {fake: fakeRepairer{result: buffer.CompactResult{Before: 5 << 20, After: 1 << 20, Files: 3}},
			out: "before: 5120 KiB, after: 1024 KiB (3 files compacted)\n"},
		"JSON": {fake: fakeRepairer{result: buffer.CompactResult{Before: 5, After: 1, Files: 3}}, json: true,
			out: `{"before":5,"after":1,"files":3}` + "\n"},
		"stopped": {fake: fakeRepairer{result: buffer.CompactResult{Before: 5 << 20, After: 3 << 20, Files: 1}, err: context.Canceled},
			out: "before: 5120 KiB, after: 3072 KiB (1 file compacted)\n", failure: "run it again for the rest"},
		"failed at once": {fake: fakeRepairer{err: errors.New("read-only file system")}, failure: "read-only file system"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, stderr bytes.Buffer
			err := bufferCompact(t.Context(), &call{Process: Process{Out: &out, Err: &stderr}}, &c.fake, bufferOptions{json: c.json})
			checkMended(t, err, c.failure, out.String(), c.out)
		})
	}
}

func TestProgressIsForTerminals(t *testing.T) {
	if p := newProgress(&bytes.Buffer{}); p.w != nil {
		t.Error("progress goes into a buffer")
	}
	file, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if p := newProgress(file); p.w != nil {
		t.Error("progress goes into a file")
	}
	var out bytes.Buffer
	p := &progress{w: &out}
	p.show(1, 7)
	p.clear()
	if want := "\r\x1b[K1 of 7 files\r\x1b[K"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}
