//go:build torture

package torture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// fileKinds is what happens to whole files and to the folder.
var fileKinds = []kind{
	{name: "segment missing", cases: 25, simple: true, do: func(v *victim) { v.remove(v.segment().Path) }},
	{name: "newest segment missing", cases: 25, do: func(v *victim) { v.remove(newest(v).Path) }},
	{name: "all segments missing", cases: 7, do: func(v *victim) { v.each(v.remove) }},
	{name: "segment of 0 bytes", cases: 25, simple: true, do: func(v *victim) { v.replace(v.segment().Path, nil) }},
	{name: "all segments of 0 bytes", cases: 7, do: func(v *victim) { v.each(func(rel string) { v.replace(rel, nil) }) }},
	{name: "newest segment of 0 bytes", cases: 14, do: func(v *victim) { v.replace(newest(v).Path, nil) }},
	{name: "segment full of zeros", cases: 10, simple: true, do: func(v *victim) { v.replace(v.segment().Path, make([]byte, 256<<10)) }},
	{name: "segment full of rubbish", cases: 15, simple: true, do: func(v *victim) { v.replace(v.segment().Path, v.bytes(1+v.rnd.IntN(400_000))) }},
	{name: "rubbish with a segment's name", cases: 30, simple: true, survives: 1, do: func(v *victim) {
		v.add(v.segmentName(v.class()), v.bytes(v.rnd.IntN(100_000)))
	}},
	{name: "rubbish as a later generation", cases: 15, survives: 1, do: func(v *victim) {
		v.add(laterName(v.segment().Path, 7+v.rnd.IntN(3)), v.bytes(v.rnd.IntN(100_000)))
	}},
	{name: "rubbish with an absurd number", cases: 10, survives: 1, do: func(v *victim) {
		seq := ^uint64(0) - uint64(v.rnd.IntN(3))
		if v.rnd.IntN(2) == 0 {
			seq = 1 << 63
		}
		v.add(filepath.Join("classes", v.class(), fmt.Sprintf("%020d-0000.seg", seq)), v.bytes(v.rnd.IntN(50_000)))
	}},
	{name: "strange names", cases: 20, simple: true, survives: 1, do: strangeName},
	{name: "folder with a segment's name", cases: 20, simple: true, survives: 1, do: folderAsSegment},
	{name: "folder with a temporary name", cases: 10, survives: 1, do: func(v *victim) {
		rel := v.segmentName(v.class()) + ".tmp"
		v.fail(os.Mkdir(v.path(rel), 0o700))
		v.add(filepath.Join(rel, "file"), v.bytes(100))
	}},
	{name: "link with a segment's name", cases: 28, simple: true, survives: 1, do: linkAsSegment},
	{name: "pipe with a segment's name", cases: 12, survives: 1, do: func(v *victim) {
		rel := v.segmentName(v.class())
		v.note("pipe %s", rel)
		v.fail(syscall.Mkfifo(v.path(rel), 0o600))
	}},
	{name: "socket with a segment's name", cases: 6, survives: 1, do: func(v *victim) {
		rel := v.segmentName(v.class())
		v.note("socket %s", rel)
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: v.path(rel), Net: "unix"})
		if err == nil {
			l.SetUnlinkOnClose(false)
			err = l.Close()
		}
		v.fail(err)
	}},
	{name: "pipe in a segment's place", cases: 6, do: func(v *victim) {
		rel := v.segment().Path
		v.remove(rel)
		v.fail(syscall.Mkfifo(v.path(rel), 0o600))
	}},
	{name: "folder in a segment's place", cases: 10, do: func(v *victim) {
		rel := v.segment().Path
		v.remove(rel)
		v.fail(os.Mkdir(v.path(rel), 0o700))
	}},
	{name: "segment of another class added", cases: 20, survives: 1, do: func(v *victim) {
		v.add(v.segmentName(v.class()), v.otherClass())
	}},
	{name: "segment of another class in place", cases: 15, do: func(v *victim) { v.replace(v.segment().Path, v.otherClass()) }},
	{name: "segment of another incarnation added", cases: 20, survives: 1, do: func(v *victim) {
		class := v.class()
		v.add(v.segmentName(class), v.foreign(class))
	}},
	{name: "segment of another incarnation in place", cases: 15, do: otherIncarnation},
	{name: "segment duplicated", cases: 25, survives: 1, do: func(v *victim) {
		class := v.class()
		list := v.files(class)
		b, err := os.ReadFile(v.path(list[v.rnd.IntN(len(list))].Path))
		v.fail(err)
		v.add(v.segmentName(class), b)
	}},
	{name: "segment duplicated as a later generation", cases: 15, survives: 1, do: func(v *victim) {
		s := v.segment()
		b, err := os.ReadFile(v.path(s.Path))
		v.fail(err)
		v.add(laterName(s.Path, 7+v.rnd.IntN(3)), b)
	}},
	{name: "later generation damaged, the older one there", cases: 42, survives: 1, do: laterGeneration},
	{name: "two segments swapped", cases: 15, do: swapped},
	{name: "left-over temporary files", cases: 12, simple: true, survives: 1, do: leftOvers},
	{name: "folder of an unknown class", cases: 10, simple: true, survives: 1, do: func(v *victim) {
		v.fail(os.MkdirAll(v.path("classes/unknown"), 0o700))
		v.add(filepath.Join("classes/unknown", fmt.Sprintf("%020d-0000.seg", 1+v.rnd.IntN(1000))), v.bytes(v.rnd.IntN(50_000)))
	}},
	{name: "class folder missing", cases: 7, do: func(v *victim) {
		class := v.class()
		for _, f := range v.files(class) {
			v.touched[f.Path] = true
		}
		v.fail(os.RemoveAll(v.path(filepath.Join("classes", class))))
	}},
	{name: "class folder is a file", cases: 7, mayFail: true, survives: 1, do: func(v *victim) { v.inTheWay(filepath.Join("classes", v.class()), false) }},
	{name: "classes is a file", cases: 7, mayFail: true, survives: 1, do: func(v *victim) { v.inTheWay("classes", false) }},
	{name: "state is a folder", cases: 7, mayFail: true, survives: 1, do: func(v *victim) { v.inTheWay("state", true) }},
	{name: "marks is a folder", cases: 7, mayFail: true, survives: 1, do: func(v *victim) { v.inTheWay("marks", true) }},
	{name: "a newer version's file", cases: 30, mayFail: true, mustFail: true, survives: 1, do: newerVersion},
	{name: "lock is a folder", cases: 7, mayFail: true, survives: 1, do: func(v *victim) { v.inTheWay("lock", true) }},
}

// stateKinds is what happens to the state file and the lock.
var stateKinds = []kind{
	{name: "state missing", cases: 20, simple: true, survives: 1, do: func(v *victim) { v.remove("state") }},
	{name: "lock missing", cases: 10, simple: true, survives: 1, do: func(v *victim) { v.remove("lock") }},
	{name: "lock full of rubbish", cases: 7, simple: true, survives: 1, do: func(v *victim) { v.replace("lock", v.bytes(1+v.rnd.IntN(5000))) }},
	{name: "state and newest segment missing", cases: 20, do: func(v *victim) {
		v.remove("state")
		v.remove(newest(v).Path)
	}},
	{name: "state, marks and newest segment missing", cases: 10, do: func(v *victim) {
		v.remove("state")
		v.remove("marks")
		v.remove(newest(v).Path)
	}},
	{name: "state slot zeroed, newest segment missing", cases: 14, do: func(v *victim) {
		slots(func(v *victim, a, b []byte) { clear(either(v, a, b)) })(v)
		v.remove(newest(v).Path)
	}},
	{name: "old state, newest segment missing", cases: 14, do: func(v *victim) {
		b, err := os.ReadFile(v.o.oldState())
		v.fail(err)
		v.replace("state", b)
		v.remove(newest(v).Path)
	}},
	{name: "marks missing", cases: 10, simple: true, survives: 1, do: func(v *victim) { v.remove("marks") }},
	{name: "marks full of rubbish", cases: 10, simple: true, survives: 1, do: func(v *victim) { v.replace("marks", v.bytes(1+v.rnd.IntN(200<<10))) }},
	{name: "state and marks missing", cases: 10, survives: 1, do: func(v *victim) {
		v.remove("state")
		v.remove("marks")
	}},
	{name: "state missing, a segment damaged", cases: 30, survives: 0.05, do: func(v *victim) {
		v.remove("state")
		flip(1+v.rnd.IntN(50), anywhere)(v)
	}},
	{name: "state of 0 bytes", cases: 10, simple: true, survives: 1, do: func(v *victim) { v.replace("state", nil) }},
	{name: "state cut", cases: 15, simple: true, survives: 1, do: func(v *victim) {
		v.edit("state", func(b []byte) []byte { return b[:v.rnd.IntN(len(b)+1)] })
	}},
	{name: "state extended", cases: 10, survives: 1, do: func(v *victim) {
		v.edit("state", func(b []byte) []byte { return append(b, v.bytes(1+v.rnd.IntN(300_000))...) })
	}},
	{name: "state full of rubbish", cases: 15, simple: true, survives: 1, do: func(v *victim) { v.replace("state", v.bytes(128<<10)) }},
	{name: "bits in the state", cases: 30, simple: true, survives: 1, do: func(v *victim) {
		v.edit("state", func(b []byte) []byte {
			for n := 1 + v.rnd.IntN(4); n > 0 && len(b) > 600; n-- {
				b[v.rnd.IntN(2)*len(b)/2+v.rnd.IntN(300)] ^= 1 << v.rnd.IntN(8)
			}
			return b
		})
	}},
	{name: "state slots swapped", cases: 10, survives: 1, do: slots(func(_ *victim, a, b []byte) {
		was := append([]byte(nil), a...)
		copy(a, b)
		copy(b, was)
	})},
	{name: "state slot zeroed", cases: 20, survives: 1, do: slots(func(v *victim, a, b []byte) { clear(either(v, a, b)) })},
	{name: "state slot full of rubbish", cases: 20, survives: 1, do: slots(func(v *victim, a, b []byte) {
		s := either(v, a, b)
		copy(s, v.bytes(len(s)))
	})},
	{name: "state slot over the other", cases: 14, survives: 1, do: slots(func(v *victim, a, b []byte) {
		if v.rnd.IntN(2) == 0 {
			a, b = b, a
		}
		copy(a, b)
	})},
	{name: "old state", cases: 20, survives: 1, do: func(v *victim) {
		b, err := os.ReadFile(v.o.oldState())
		v.fail(err)
		v.replace("state", b)
	}},
	{name: "state of another buffer", cases: 10, survives: 1, do: func(v *victim) {
		o := v.others[v.rnd.IntN(len(v.others))]
		b, err := os.ReadFile(filepath.Join(o.data(), "state"))
		v.fail(err)
		v.replace("state", b)
	}},
	{name: "state that is whole and makes no sense", cases: 20, survives: 1, do: sealedNonsense},
}

func (v *victim) each(f func(rel string)) {
	for _, class := range v.o.shape.classes {
		for _, s := range v.files(class) {
			f(s.Path)
		}
	}
}

func newest(v *victim) heldFile {
	list := v.o.manifest.Classes[v.class()].Files
	return list[len(list)-1]
}

func strangeName(v *victim) {
	names := []string{"\n.seg", "\xff\xfe.seg", strings.Repeat("x", 250) + ".seg", ".seg", "-.seg", "-1-0000.seg", "0-0.seg", "1-0.seg", "00000000000000000001-0000.seg.seg",
		"00000000000000000001-99999999999.seg", "99999999999999999999-0000.seg", "00000000000000000000-0000.seg", "+0000000000000000007-0000.seg", "0x1-0.seg", "7-0-7.seg", " 5-0000.seg"}
	for range 1 + v.rnd.IntN(3) {
		v.add(filepath.Join("classes", v.class(), names[v.rnd.IntN(len(names))]), v.bytes(v.rnd.IntN(9000)))
	}
}

func folderAsSegment(v *victim) {
	rel := v.segmentName(v.class())
	v.note("folder %s", rel)
	v.fail(os.Mkdir(v.path(rel), 0o700))
	if v.rnd.IntN(2) == 0 {
		v.add(filepath.Join(rel, "file"), v.bytes(100))
	}
}

func linkAsSegment(v *victim) {
	rel := v.segmentName(v.class())
	to := []string{"nowhere", filepath.Base(rel), "/dev/null", "/dev/zero", "/", "..", filepath.Base(v.segment().Path)}[v.rnd.IntN(7)]
	v.note("link %s to %s", rel, to)
	v.fail(os.Symlink(to, v.path(rel)))
}

// otherClass is a segment that says it is of another class.
func (v *victim) otherClass() []byte {
	for _, o := range v.others {
		if c := o.manifest.Classes["alarm"]; c != nil && o != v.o {
			b, err := os.ReadFile(filepath.Join(o.data(), c.Files[v.rnd.IntN(len(c.Files))].Path))
			v.fail(err)
			return b
		}
	}
	b, err := os.ReadFile(v.path(v.files("alarm")[0].Path))
	v.fail(err)
	return b
}

// otherIncarnation puts a segment of another buffer in the place of one that
// begins with the same number, so that only the incarnation tells.
func otherIncarnation(v *victim) {
	class := v.class()
	first := v.files(class)[0]
	for _, o := range v.others {
		c := o.manifest.Classes[class]
		if o == v.o || c == nil || c.Files[0].First != first.First {
			continue
		}
		b, err := os.ReadFile(filepath.Join(o.data(), c.Files[0].Path))
		v.fail(err)
		v.replace(first.Path, b)
		return
	}
	v.replace(first.Path, v.foreign(class))
}

// laterName is the name of a later generation of a segment, which is of generation
// 0, or a few more.
func laterName(path string, gen int) string {
	return path[:len(path)-len("0000.seg")] + fmt.Sprintf("%04d.seg", gen)
}

// laterGeneration leaves what a crash does that comes before the file is removed
// that a segment was made anew of, and damages the new one.
func laterGeneration(v *victim) {
	s := v.segment()
	b, err := os.ReadFile(v.path(s.Path))
	v.fail(err)
	switch v.rnd.IntN(4) {
	case 0:
		v.note("its older meta page twice")
		b = olderMeta(b)
	case 1:
		v.note("cut")
		b = b[:v.rnd.IntN(len(b))]
	case 2:
		v.note("a live page is zeroed")
		clear(page(b, v.livePage(b)))
	default:
		v.note("bits")
		for range 1 + v.rnd.IntN(100) {
			b[v.rnd.IntN(len(b))] ^= 1 << v.rnd.IntN(8)
		}
	}
	v.add(laterName(s.Path, 7), b)
}

func swapped(v *victim) {
	list := v.files(v.class())
	n := v.rnd.IntN(len(list) - 1)
	a, b := list[n].Path, list[n+1].Path
	v.note("%s and %s", a, b)
	v.touched[a], v.touched[b] = true, true
	for _, move := range [][2]string{{a, "swap"}, {b, a}, {"swap", b}} {
		v.fail(os.Rename(v.path(move[0]), v.path(move[1])))
	}
}

func leftOvers(v *victim) {
	class := v.class()
	v.add(v.segmentName(class)+".tmp", v.bytes(v.rnd.IntN(100_000)))
	v.add("state.tmp", v.bytes(v.rnd.IntN(200_000)))
	v.add(v.segment().Path+".corrupt-20260102T150405.000", v.bytes(100))
}

// inTheWay puts a file or a folder where the other is needed. The original
// waits beside the directory until undo.
func (v *victim) inTheWay(rel string, folder bool) {
	aside := v.dir + ".aside"
	v.note("%s is in the way", rel)
	v.fail(os.Rename(v.path(rel), aside))
	if folder {
		v.fail(os.Mkdir(v.path(rel), 0o700))
	} else {
		v.fail(os.WriteFile(v.path(rel), []byte("not a folder"), 0o600))
	}
	v.undo = func() error {
		if err := os.RemoveAll(v.path(rel)); err != nil {
			return err
		}
		return os.Rename(aside, v.path(rel))
	}
}

// slots changes the two halves of the state file.
func slots(do func(v *victim, a, b []byte)) func(v *victim) {
	return func(v *victim) {
		v.edit("state", func(b []byte) []byte {
			do(v, b[:len(b)/2], b[len(b)/2:])
			return b
		})
	}
}

func either(v *victim, a, b []byte) []byte {
	if v.rnd.IntN(2) == 0 {
		return a
	}
	return b
}

// sealedNonsense writes a value with a right checksum into a slot, as the
// newest: the state file's form is in ARCHITECTURE.md.
func sealedNonsense(v *victim) {
	values := []string{"", "{}", "null", "[]", `{"format":0}`, `{"format":1,"incarnation":"zzzzzzzz","classes":{}}`, `{"format":1,"incarnation":"0badcafe"}`,
		`{"format":1,"incarnation":"` + v.o.manifest.Incarnation + `","classes":{"process":{"next":0,"reserved":0,"newest":0,"cursors":null}}}`,
		`{"format":1,"incarnation":"` + v.o.manifest.Incarnation + `","classes":null}`}
	writeSlot(v, values[v.rnd.IntN(len(values))])
}

// writeSlot saves a value in one of the state's slots, as its newest.
func writeSlot(v *victim, value string) {
	v.note("state %q", value)
	slots(func(v *victim, a, b []byte) {
		s := either(v, a, b)
		clear(s)
		copy(s, "SLS1")
		binary.BigEndian.PutUint64(s[8:], 1<<40)
		binary.BigEndian.PutUint32(s[16:], uint32(len(value)))
		copy(s[24:], value)
		table := crc32.MakeTable(crc32.Castagnoli)
		binary.BigEndian.PutUint32(s[20:], crc32.Update(crc32.Checksum(s[:20], table), table, []byte(value)))
	})(v)
}

// newerVersion leaves what a newer version wrote: a start must not touch it. The
// file as it was comes back with undo.
func newerVersion(v *victim) {
	rel := "state"
	if v.rnd.IntN(2) == 0 {
		rel = v.segment().Path
	}
	was, err := os.ReadFile(v.path(rel))
	v.fail(err)
	v.undo = func() error {
		now, err := os.ReadFile(v.path(rel))
		if err == nil && !bytes.Equal(now, v.newer) {
			err = fmt.Errorf("%s was changed", rel)
		}
		return errors.Join(err, os.WriteFile(v.path(rel), was, 0o600))
	}
	if rel == "state" {
		writeSlot(v, `{"format":2,"incarnation":1}`)
	} else {
		v.note("format 2 in %s", rel)
		v.fail(os.WriteFile(v.path(rel), formatTwo(bytes.Clone(was)), 0o600))
	}
	v.newer, err = os.ReadFile(v.path(rel))
	v.fail(err)
	v.touched = map[string]bool{}
}

// formatTwo raises the number in a segment's "about", in all copies of it.
func formatTwo(b []byte) []byte {
	table, begin := crc32.MakeTable(crc32.Castagnoli), []byte(`{"format":1,`)
	for at := bytes.Index(b, begin); at >= 0; {
		js := b[at:]
		n := bytes.IndexByte(js, '}') + 1
		if n > 0 && len(js) >= n+4 && binary.BigEndian.Uint32(js[n:]) == crc32.Checksum(js[:n], table) {
			js[len(begin)-2] = '2'
			binary.BigEndian.PutUint32(js[n:], crc32.Checksum(js[:n], table))
		}
		next := bytes.Index(b[at+1:], begin)
		if next < 0 {
			break
		}
		at += 1 + next
	}
	return b
}
