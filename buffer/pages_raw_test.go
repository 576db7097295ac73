package buffer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// rawTree is a file made by hand, with pages of 1 KiB.
type rawTree []byte

type rawElement struct {
	key, value string
	bucket     bool
	child      uint64 // on a branch
}

func pointer(root uint64) string {
	return string(binary.NativeEndian.AppendUint64(nil, root)) + "sequence"
}

// rawPage is a page's bytes; an inline bucket's has the number 0.
func rawPage(id uint64, kind uint16, elements ...rawElement) (b []byte) {
	native := binary.NativeEndian
	b = native.AppendUint64(b, id)
	b = native.AppendUint32(native.AppendUint16(native.AppendUint16(b, kind), uint16(len(elements))), 0)
	var data []byte
	for i, e := range elements {
		place := uint32(16*(len(elements)-i) + len(data))
		if kind == branchPage {
			b = native.AppendUint64(native.AppendUint32(native.AppendUint32(b, place), uint32(len(e.key))), e.child)
		} else {
			for _, n := range []uint32{map[bool]uint32{true: 1}[e.bucket], place, uint32(len(e.key)), uint32(len(e.value))} {
				b = native.AppendUint32(b, n)
			}
		}
		data = append(append(data, e.key...), e.value...)
	}
	return append(b, data...)
}

func newRawTree(pages int, root uint64) rawTree {
	b := make([]byte, 1024*pages)
	for i := range 2 {
		p := b[1024*i:]
		copy(p, rawPage(uint64(i), metaPage))
		binary.NativeEndian.PutUint32(p[16:], 0xED0CDAED)
		binary.NativeEndian.PutUint32(p[20:], 2)
		binary.NativeEndian.PutUint32(p[24:], 1024)
		for at, n := range map[int]uint64{32: root, 48: noFreelist, 56: uint64(pages), 64: uint64(i)} {
			binary.NativeEndian.PutUint64(p[at:], n)
		}
	}
	reseal(b, 1024)
	return b
}

func (r rawTree) put(id uint64, kind uint16, elements ...rawElement) rawTree {
	copy(r[1024*id:], rawPage(id, kind, elements...))
	return r
}

// soundTree has a branch, leaves and an inline bucket.
func soundTree() []byte {
	return newRawTree(8, 2).put(2, leafPage, rawElement{key: "a", bucket: true, value: pointer(3)}, rawElement{key: "b", bucket: true, value: pointer(0) + string(rawPage(0, leafPage, rawElement{key: "x", value: "y"}))}).
		put(3, branchPage, rawElement{key: "a", child: 4}, rawElement{key: "c", child: 5}).put(4, leafPage, rawElement{key: "b", value: "1"}).put(5, leafPage, rawElement{key: "c"})
}

// hostileTrees would kill, or hang, a process that walks them.
func hostileTrees() map[string][]byte {
	large := func(pages int, root uint64) rawTree { // the root bucket, with one bucket in it
		return newRawTree(pages, 2).put(2, leafPage, rawElement{key: "a", bucket: true, value: pointer(root)})
	}
	top := func(root uint64) rawTree { return large(8, root) }
	inline := func(page []byte) rawTree {
		return newRawTree(4, 2).put(2, leafPage, rawElement{key: "a", bucket: true, value: pointer(0) + string(page)})
	}
	deep, nested := large(200, 3), large(200, 3)
	for id := uint64(3); id < 150; id++ {
		deep.put(id, branchPage, rawElement{key: "a", child: id + 1})
		nested.put(id, leafPage, rawElement{key: "a", bucket: true, value: pointer(id + 1)})
	}
	return map[string][]byte{
		"branch to itself":           top(3).put(3, branchPage, rawElement{key: "a", child: 3}),
		"two branches in a ring":     top(3).put(3, branchPage, rawElement{key: "a", child: 4}).put(4, branchPage, rawElement{key: "a", child: 3}),
		"bucket holds itself":        top(2),
		"branch to the root":         top(3).put(3, branchPage, rawElement{key: "a", child: 2}),
		"branch to a meta page":      top(3).put(3, branchPage, rawElement{key: "a", child: 1}),
		"branch past the end":        top(3).put(3, branchPage, rawElement{key: "a", child: 1 << 50}),
		"branch without elements":    top(3).put(3, branchPage),
		"only empty leaves":          top(3).put(3, branchPage, rawElement{key: "a", child: 4}).put(4, leafPage),
		"two point to one":           top(3).put(3, branchPage, rawElement{key: "a", child: 4}, rawElement{key: "b", child: 4}).put(4, leafPage, rawElement{key: "a"}),
		"deep branches":              deep.put(150, leafPage, rawElement{key: "a"}),
		"deep buckets":               nested.put(150, leafPage, rawElement{key: "a"}),
		"inline branch to itself":    inline(rawPage(0, branchPage, rawElement{key: "a", child: 0})),
		"inline branch to a page":    inline(rawPage(0, branchPage, rawElement{key: "a", child: 3})),
		"inline, longer than it is":  inline(bytes.Replace(rawPage(0, leafPage, rawElement{key: "a", value: "123"}), []byte{3, 0, 0, 0}, []byte{3, 0, 4, 0}, 1)),
		"inline, of noise":           inline(noise(7, 100)),
		"inline, many elements":      inline(rawPage(0, leafPage, rawElement{key: "a"})[:12]),
		"bucket without a page":      inline(nil),
		"bucket in an inline bucket": inline(rawPage(0, leafPage, rawElement{key: "a", bucket: true, value: pointer(0) + string(rawPage(0, leafPage))})),
		"bucket of 8 bytes":          newRawTree(4, 2).put(2, leafPage, rawElement{key: "a", bucket: true, value: "12345678"}),
		"no bucket at the top":       newRawTree(4, 2).put(2, leafPage, rawElement{key: "a", value: "value"}),
		"root 0":                     newRawTree(4, 0),
		"root 1":                     newRawTree(4, 1),
		"key of no bytes":            top(3).put(3, leafPage, rawElement{}),
		"equal keys":                 top(3).put(3, leafPage, rawElement{key: "a"}, rawElement{key: "a"}),
		"key below its branch's":     top(3).put(3, branchPage, rawElement{key: "b", child: 4}).put(4, leafPage, rawElement{key: "a"}),
		"key above its branch's":     top(3).put(3, branchPage, rawElement{key: "a", child: 4}, rawElement{key: "c", child: 5}).put(4, leafPage, rawElement{key: "c"}).put(5, leafPage, rawElement{key: "c"}),
	}
}

func TestPagesMadeToKillAreRefused(t *testing.T) {
	sound := soundTree()
	v := newVictim(t, sound)
	if v.try("sound", sound); v.harmless["sound"] != 1 {
		t.Fatal("a sound file made by hand is refused:", checkTree(bytes.NewReader(sound), int64(len(sound))))
	}
	for name, b := range hostileTrees() {
		if v.try(name, b); v.refused[name] != 1 {
			t.Errorf("%s: accepted", name)
		}
	}
	for _, name := range []string{"branch to itself", "bucket holds itself", "branch past the end", "root 0"} {
		if err := os.WriteFile(v.path, hostileTrees()[name], 0o600); err != nil {
			t.Fatal(err)
		}
		err := v.w.walk(v.path)
		if err == nil {
			t.Errorf("%s: the walker does not mind", name)
		}
		t.Logf("%s: %.100v", name, err)
	}
}

// TestPagesMetasAsBboltSeesThem: which of the two counts, and whether the last
// commit may be missing.
func TestPagesMetasAsBboltSeesThem(t *testing.T) {
	native := binary.NativeEndian
	for name, c := range map[string]struct {
		edit   func(b []byte)
		sealed bool
		txn    uint64 // of the one that counts
		both   bool
		err    bool
	}{
		"sound":                   {func([]byte) {}, true, 1, true, false},
		"the older is newer":      {func(b []byte) { native.PutUint64(b[64:], 2) }, true, 2, true, false},
		"the newer damaged":       {func(b []byte) { b[1024+60] ^= 1 }, false, 0, false, false},
		"the older damaged":       {func(b []byte) { b[60] ^= 1 }, false, 1, false, false},
		"both damaged":            {func(b []byte) { b[60] ^= 1; b[1024+60] ^= 1 }, false, 0, false, true},
		"another version":         {func(b []byte) { b[20], b[1024+20] = 3, 3 }, true, 0, false, true},
		"no magic number":         {func(b []byte) { b[16], b[1024+16] = 3, 3 }, true, 0, false, true},
		"a write lost":            {func(b []byte) { native.PutUint64(b[64:], 4) }, true, 4, false, false},
		"in the other's place":    {func(b []byte) { native.PutUint64(b[64:], 1); native.PutUint64(b[1024+64:], 2) }, true, 2, false, false},
		"one as both":             {func(b []byte) { copy(b[:1024], b[1024:]) }, true, 1, false, false},
		"a header zeroed":         {func(b []byte) { clear(b[:16]) }, true, 1, false, false},
		"a header with a type":    {func(b []byte) { b[1024+8] = leafPage }, true, 1, false, false},
		"page sizes differ":       {func(b []byte) { native.PutUint32(b[24:], 2048) }, true, 0, false, false},
		"a page size of 1000":     {func(b []byte) { native.PutUint32(b[24:], 1000) }, true, 0, false, true},
		"a page size of 0":        {func(b []byte) { native.PutUint32(b[24:], 0) }, true, 0, false, true},
		"pages of 16 MiB, claims": {func(b []byte) { native.PutUint32(b[24:], 16<<20) }, true, 0, false, true},
	} {
		b := soundTree()
		c.edit(b)
		if c.sealed {
			reseal(b, 1024)
		}
		m, both, err := readMetas(bytes.NewReader(b), int64(len(b)))
		if (err != nil) != c.err || err != nil && !errors.Is(err, errDamaged) || err == nil && (m.txn != c.txn || both != c.both) {
			t.Errorf("%s: transaction %d, both %v, %v", name, m.txn, both, err)
		}
	}
	for n := range 4096 {
		if _, _, err := readMetas(bytes.NewReader(soundTree()[:n]), int64(n)); !errors.Is(err, errDamaged) {
			t.Fatalf("cut to %d: %v", n, err)
		}
	}
}

// FuzzCheckPages checks file, or one of the sound files with patches: two bytes
// that choose a byte of the structure, and its value. What is accepted is walked,
// in this process.
func FuzzCheckPages(f *testing.F) {
	bases := [][]byte{nil, soundTree(), smallTree(f, 6), smallTree(f, 60)}
	known := make([][]spot, len(bases))
	for i, b := range bases {
		f.Add([]byte{}, byte(i), []byte{0, 40, 1, 1, 7, 200}, true)
		known[i] = spots(b)
	}
	for _, b := range hostileTrees() {
		if len(b) <= 8<<10 {
			f.Add(b, byte(0), []byte{}, true)
		}
	}
	path := filepath.Join(f.TempDir(), "fuzz.seg")
	f.Fuzz(func(t *testing.T, file []byte, base byte, patches []byte, seal bool) {
		n := int(base) % len(bases)
		if n > 0 {
			file = bases[n]
		}
		file = bytes.Clone(file)
		for ; len(patches) >= 3 && n > 0; patches = patches[3:] {
			file[known[n][(int(patches[0])<<8|int(patches[1]))%len(known[n])].at] = patches[2]
		}
		if seal {
			reseal(file, 1024)
		}
		if checkTree(bytes.NewReader(file), int64(len(file))) != nil {
			return
		}
		if err := errors.Join(os.WriteFile(path, file, 0o600), walkFile(path)); err != nil {
			t.Fatal(err)
		}
	})
}
