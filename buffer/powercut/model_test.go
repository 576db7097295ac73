//go:build torture

package powercut

import (
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"sluice/buffer"
)

// hexed is s as strace -xx writes it.
func hexed(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		b.WriteString(`\x` + hex.EncodeToString([]byte{c}))
	}
	return b.String()
}

func TestTraceIsRead(t *testing.T) {
	text := strings.Join([]string{
		`7  openat(AT_FDCWD<` + hexed("/") + `>, "` + hexed("/r/a") + `", O_RDWR|O_CREAT|O_CLOEXEC, 0600) = 3<` + hexed("/r/a") + `>`,
		`7  pwrite64(3<` + hexed("/r/a") + `>, "` + hexed("b = c") + `", 5, 4096 <unfinished ...>`,
		`8  fdatasync(3<` + hexed("/r/a") + `>)     = -1 EIO (Input/output error) (INJECTED)`,
		`7  <... pwrite64 resumed>)           = 5`,
		`8  renameat(AT_FDCWD<` + hexed("/r") + `>, "` + hexed("a") + `", AT_FDCWD<` + hexed("/r") + `>, "` + hexed("b") + `") = 0`,
		`8  --- SIGURG {si_signo=SIGURG} ---`,
		`7  unlinkat(AT_FDCWD<` + hexed("/") + `>, "` + hexed("/r/b") + `", 0 <unfinished ...>) = ?`,
		`9  fdatasync(3<` + hexed("/r/a") + `> <detached ...>`,
		`9  ???( <detached ...>`,
		`7  +++ killed by SIGKILL +++`, ""}, "\n")
	steps, err := parseTrace(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range steps {
		if s.exit {
			got = append(got, fmt.Sprintf("%s %t %d %t", s.name, s.returned, s.ret, s.injected))
			continue
		}
		got = append(got, fmt.Sprintf("%s fd %d %s %s %s %q at %d", s.name, s.fd, s.fdPath, s.path, s.to, s.data, s.off))
	}
	want := []string{
		`openat fd -1  /r/a  "" at 0`, "openat true 3 false",
		`pwrite64 fd 3 /r/a   "b = c" at 4096`,
		`fdatasync fd 3 /r/a   "" at 0`, "fdatasync true -1 true",
		"pwrite64 true 5 false",
		`renameat fd -1  /r/a /r/b "" at 0`, "renameat true 0 false",
		`unlinkat fd -1  /r/b  "" at 0`,
		`fdatasync fd 3 /r/a   "" at 0`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, bad := range []string{"7  what\n", `7  write(3<` + hexed("/r/a") + `>, "` + hexed("ab") + `"..., 900) = 900` + "\n", "7  <... fsync resumed>) = 0\n"} {
		if _, err := parseTrace(strings.NewReader(bad)); err == nil {
			t.Errorf("no error for %q", bad)
		}
	}
}

// play has calls change a disk, in a notation of one word for each: open:a,
// write:a:OFF:TEXT, size:a:N, sync:a, syncfail:a, sync:. (the folder), rename:a:b,
// unlink:a; a ! at the end has the call not return.
func play(t *testing.T, m model, calls ...string) *disk {
	t.Helper()
	d := newDisk("/r", m)
	h := newHost(d)
	fds, n := map[string]int{".": 99}, 2
	h.fds[99] = &handle{on: d.live["/r"]}
	for _, word := range calls {
		word, stuck := strings.CutSuffix(word, "!")
		a := strings.Split(word, ":")
		path := "/r/" + a[1]
		c := &call{path: path, fd: fds[a[1]], returned: !stuck}
		switch a[0] {
		case "open":
			n++
			fds[a[1]] = n
			c.name, c.flags, c.ret = "openat", "O_RDWR|O_CREAT", int64(n)
		case "write":
			c.name, c.data, c.ret = "pwrite64", []byte(a[3]), int64(len(a[3]))
			_, _ = fmt.Sscan(a[2], &c.off)
		case "size":
			c.name = "ftruncate"
			_, _ = fmt.Sscan(a[2], &c.off)
		case "sync":
			c.name = "fdatasync"
		case "syncfail":
			c.name, c.ret = "fdatasync", -1
		case "rename":
			c.name, c.to = "renameat", "/r/"+a[2]
		case "unlink":
			c.name = "unlinkat"
		}
		if f := h.fds[c.fd]; f != nil && a[0] != "open" {
			c.fdPath = f.on.name
		}
		for _, exit := range []bool{false, true} {
			if err := h.take(step{call: c, exit: exit}); err != nil && !(exit && stuck) {
				t.Fatal(err)
			}
		}
	}
	return d
}

// outcomes lists the disks that a cut may leave, as NAME=TEXT.
func outcomes(t *testing.T, d *disk) []string {
	t.Helper()
	s, err := newImages(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p := d.pending()
	found := map[string]bool{}
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 20 {
		for _, c := range p.cuts(true, rnd) {
			var names []string
			for _, f := range s.build(d, p, c).files {
				names = append(names, f.path+"="+strings.ReplaceAll(string(f.data), "\x00", "0"))
			}
			found[strings.Join(names, " ")] = true
		}
	}
	var list []string
	for o := range found {
		list = append(list, o)
	}
	slices.Sort(list)
	return list
}

func TestDiskKeepsWhatWasSynced(t *testing.T) {
	for _, c := range []struct {
		name  string
		model model
		calls []string
		want  []string
	}{
		{"nothing is certain", model{}, []string{"open:a", "write:a:0:x"}, []string{"", "a=", "a=x"}},
		{"a sync of a file does not make its name durable, or does", model{}, []string{"open:a", "write:a:0:x", "sync:a"}, []string{"", "a=x"}},
		{"a sync of the folder does", model{}, []string{"open:a", "write:a:0:x", "sync:a", "sync:."}, []string{"a=x"}},
		{"and not the data", model{}, []string{"open:a", "sync:.", "write:a:0:x"}, []string{"a=", "a=x"}},
		{"writes in any subset", model{}, []string{"open:a", "sync:.", "write:a:0:x", "write:a:1:y"}, []string{"a=", "a=0y", "a=x", "a=xy"}},
		{"a sync covers what had returned", model{}, []string{"open:a", "sync:.", "write:a:0:x", "write:a:1:y!", "sync:a"}, []string{"a=x", "a=xy"}},
		{"a size", model{}, []string{"open:a", "sync:.", "write:a:0:xyz", "sync:a", "size:a:1"}, []string{"a=x", "a=xyz"}},
		{"a rename is there as a whole or not", model{}, []string{"open:a", "write:a:0:x", "sync:a", "sync:.", "rename:a:b"}, []string{"a=x", "b=x"}},
		{"a rename over a file", model{}, []string{"open:b", "sync:.", "open:a", "write:a:0:x", "sync:a", "rename:a:b"},
			[]string{"a=x b=", "b=", "b=x"}},
		{"a removal may come back", model{}, []string{"open:a", "open:b", "sync:.", "unlink:a", "unlink:b"}, []string{"", "a=", "a= b=", "b="}},
		{"a failed sync, then a good one", model{}, []string{"open:a", "sync:.", "write:a:0:x", "syncfail:a", "sync:a"}, []string{"a=x"}},
		{"which comes too late", model{forgetful: true}, []string{"open:a", "sync:.", "write:a:0:x", "syncfail:a", "sync:a"}, []string{"a=", "a=x"}},
		{"and later writes stay in order", model{forgetful: true}, []string{"open:a", "sync:.", "write:a:0:xx", "syncfail:a", "write:a:1:y", "sync:a"}, []string{"a=0y", "a=xy"}},
		{"a write over all of it settles it", model{forgetful: true}, []string{"open:a", "sync:.", "write:a:0:x", "syncfail:a", "write:a:0:z", "sync:a"}, []string{"a=z"}},
		{"a sync that does nothing", model{deafData: true}, []string{"open:a", "sync:.", "write:a:0:x", "sync:a"}, []string{"a=", "a=x"}},
		{"a folder whose sync does nothing", model{deafDirs: true}, []string{"open:a", "sync:."}, []string{"", "a="}},
		{"a rename before the data", model{eagerRename: true}, []string{"open:a.tmp", "write:a.tmp:0:x", "sync:a.tmp", "rename:a.tmp:a"}, []string{"a=", "a=x"}},
	} {
		got := outcomes(t, play(t, c.model, c.calls...))
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestWritesAreTorn(t *testing.T) {
	text := strings.Repeat("a", 512) + strings.Repeat("b", 512)
	got := outcomes(t, play(t, model{}, "open:f", "write:f:0:"+strings.Repeat("-", 1024), "sync:f", "sync:.", "write:f:0:"+text))
	want := map[string]bool{}
	for _, first := range "-a" {
		for _, second := range "-b" {
			want["f="+strings.Repeat(string(first), 512)+strings.Repeat(string(second), 512)] = true
		}
	}
	for _, g := range got {
		if !want[g] {
			t.Errorf("outcome %.4s…%s", g, g[len(g)-4:])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d outcomes, want %d", len(got), len(want))
	}
}

func TestOrderOfFolderChangesIsTold(t *testing.T) {
	for in, want := range map[string]bool{"": true, "110": true, "000": true, "01": false, "101": false} {
		var c cut
		for _, r := range in {
			c.metas = append(c.metas, r == '1')
		}
		if c.inOrder() != want {
			t.Errorf("%s: %t", in, !want)
		}
	}
}

// promised is a story of six events in a class, of which four were read and two
// acknowledged by the uplink, and what a sound buffer answers after the cut.
func promisedStory() (*scenario, []mark, answer) {
	s := &scenario{name: "story", classes: one(buffer.Class{}), uplinks: only(central)}
	marks := []mark{{Kind: markOpen, Incarnation: "00000001"}}
	for id := 1; id <= 6; id++ {
		marks = append(marks, mark{Kind: markAppend, Class: process, ID: id})
		if id < 6 {
			marks = append(marks, mark{Kind: markAcked, Class: process, ID: id})
		}
	}
	marks = append(marks, mark{Kind: markGot, Class: process, Uplink: central, Incarnation: "00000001", Items: []item{{Seq: 1, ID: 1, N: 4}}},
		mark{Kind: markAck, Class: process, Uplink: central, Seq: 2})
	r := read{Cursor: 1, Items: []item{{Seq: 2, ID: 2, N: 4}}, Next: 6, New: 6}
	again := read{Cursor: 6, Items: []item{{Seq: 7, ID: lastID, N: 1}}, Next: 8}
	return s, marks, answer{Incarnation: "00000001", First: map[string]map[string]read{process: {central: r}}, Second: map[string]map[string]read{process: {central: again}}}
}

func missing(first, last uint64, reason string) *gap {
	return &gap{First: first, Last: last, Count: last - first + 1, Reason: reason}
}

func TestGapRecordsMayKeepSome(t *testing.T) {
	g := gap{First: 3, Last: 9, Count: 4, Kept: []uint64{3, 5, 6}}
	if got := fmt.Sprint(g.spans()); got != "[{4 4} {7 9}]" || !g.sound() {
		t.Errorf("missing %s, sound %t", got, g.sound())
	}
	if g.Count = 5; g.sound() {
		t.Error("a wrong count is sound")
	}
}

func TestJudgeFindsWhatIsBroken(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(s *scenario, first, second *read, a *answer)
		want  string // part of the failure; empty: none
	}{
		{"sound", func(*scenario, *read, *read, *answer) {}, ""},
		{"more than was promised", func(_ *scenario, f, s *read, _ *answer) {
			f.Items[0].N, f.Next, f.New = 5, 7, 7
			s.Cursor, s.Items[0].Seq, s.Next = 7, 8, 9
		}, ""},
		{"error", func(_ *scenario, _, _ *read, a *answer) { a.Err = "open: no" }, "open: no"},
		{"incarnation", func(_ *scenario, _, _ *read, a *answer) { a.Incarnation = "00000002" }, "incarnation"},
		{"uplink gone", func(_ *scenario, _, _ *read, a *answer) { delete(a.First[process], central) }, "not known any more"},
		{"cursor too far", func(_ *scenario, f, _ *read, _ *answer) { f.Cursor = 3; f.Items = []item{{Seq: 4, ID: 4, N: 2}} }, "beyond all"},
		{"lost at the end", func(_ *scenario, f, _ *read, _ *answer) { f.Items[0].N, f.Next = 3, 5 }, "LOST"},
		{"hole", func(_ *scenario, f, _ *read, _ *answer) {
			f.Items = []item{{Seq: 2, ID: 2, N: 1}, {Seq: 4, ID: 4, N: 2}}
		}, "neither delivered nor explained"},
		{"hole with a wrong reason", func(_ *scenario, f, _ *read, _ *answer) {
			f.Items = []item{{Seq: 2, ID: 2, N: 1}, {Seq: 4, ID: 4, N: 2}, {Seq: 6, Gap: missing(3, 3, "corrupt")}}
			f.Next = 7
		}, "stands over number 3"},
		{"dropped as allowed", func(sc *scenario, f, s *read, _ *answer) {
			sc.reasons = []string{"drop_oldest"}
			f.Items = []item{{Seq: 3, ID: 3, N: 3}, {Seq: 6, Gap: missing(2, 2, "drop_oldest")}}
			f.Next, f.New = 7, 7
			s.Cursor, s.Items[0].Seq, s.Next = 7, 8, 9
		}, ""},
		{"more missing than dropped", func(sc *scenario, f, _ *read, _ *answer) {
			sc.reasons = []string{"drop_newest"}
			f.Items = []item{{Seq: 2, ID: 2, N: 3}, {Seq: 5, Gap: missing(5, 5, "corrupt")}}
		}, "LOST"},
		{"never used numbers", func(_ *scenario, f, s *read, _ *answer) {
			f.Items = append(f.Items, item{Seq: 70_000, Gap: missing(6, 69_999, "corrupt")})
			f.Next, f.New = 70_001, 70_001
			s.Cursor, s.Items[0].Seq, s.Next = 70_001, 70_002, 70_003
		}, ""},
		{"other number", func(_ *scenario, f, _ *read, _ *answer) { f.Items = []item{{Seq: 2, ID: 1, N: 4}} }, "number 2 was event 2 and is event 1"},
		{"twice", func(_ *scenario, f, _ *read, _ *answer) {
			f.Items, f.Next = append(f.Items, item{Seq: 6, ID: 5, N: 1}), 7
		}, "event 5 has the numbers 5 and 6"},
		{"invented", func(_ *scenario, f, _ *read, _ *answer) { f.Items[0].N, f.Next = 6, 8 }, "never appended"},
		{"changed", func(_ *scenario, f, _ *read, _ *answer) { f.Items[0] = item{Seq: 2, Bad: "?"} }, "nothing that was appended"},
		{"number used again", func(_ *scenario, f, _ *read, _ *answer) { f.New = 5 }, "the new event has the number 5"},
		{"new event lost", func(_ *scenario, f, _ *read, _ *answer) { f.New = 0 }, "did not come"},
		{"cursor lost at the close", func(_ *scenario, _, s *read, _ *answer) { s.Cursor = 3 }, "after a clean close"},
		{"new event lost at the close", func(_ *scenario, _, s *read, _ *answer) { s.Items, s.Next = nil, 7 }, "after a clean close"},
	} {
		s, marks, a := promisedStory()
		first, second := a.First[process][central], a.Second[process][central]
		c.spoil(s, &first, &second, &a)
		if _, ok := a.First[process][central]; ok {
			a.First[process][central], a.Second[process][central] = first, second
		}
		if got := judge(s, marks, a, false); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// A worker that ends is told as a failure of that disk, and replaced.
func TestDeadWorkersAreReplaced(t *testing.T) {
	p := newPool(1)
	got := make(chan answer, 3)
	for _, name := range []string{"no such scenario", deadly, "no such scenario"} {
		p.submit(task{Dir: t.TempDir(), Scenario: name}, func(a answer) { got <- a })
	}
	for i, want := range []string{"there is no scenario", "died", "there is no scenario"} {
		if a := <-got; !strings.Contains(a.Err, want) {
			t.Errorf("answer %d: %q, want %q", i, a.Err, want)
		}
	}
	if err := p.close(); err != nil {
		t.Error(err)
	}
}
