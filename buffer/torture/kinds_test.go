//go:build torture

package torture

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
)

// kind is one way to damage a directory.
type kind struct {
	name     string
	cases    int
	do       func(v *victim)
	shapes   []string // nil: all
	simple   bool     // may come together with others
	mayFail  bool     // no start can mend it: an error is right, and all is there once the cause is away
	mustFail bool     // and an error is the only answer
	survives float64  // at least this share of the events in damaged files is still there; far below what is usual where chance decides
}

var withBranches = []string{"commits of 1 KiB", "small commits, clean"}

// kinds is all damage that the suite knows.
var kinds = slices.Concat(pageKinds, fileKinds, stateKinds, []kind{{name: "several at once", cases: 80, survives: 0.15, do: several}})

// pageKinds is what happens within segments.
var pageKinds = []kind{
	{name: "one bit", cases: 110, simple: true, survives: 0.25, do: flip(1, anywhere)},
	{name: "many bits", cases: 60, simple: true, do: func(v *victim) { flip(2+v.rnd.IntN(300), anywhere)(v) }},
	{name: "bits in page heads", cases: 70, simple: true, survives: 0.3, do: func(v *victim) { flip(1+v.rnd.IntN(4), pageHeads)(v) }},
	{name: "bits in every file", cases: 20, do: bitsEverywhere},
	{name: "zeroed page", cases: 40, simple: true, survives: 0.3, do: func(v *victim) {
		v.inSegment(func(b []byte) []byte { clear(page(b, v.rnd.IntN(pages(b)))); return b })
	}},
	{name: "zeroed live page", cases: 40, simple: true, survives: 0.4, do: func(v *victim) {
		v.inSegment(func(b []byte) []byte { clear(page(b, v.livePage(b))); return b })
	}},
	{name: "random page", cases: 50, simple: true, survives: 0.3, do: func(v *victim) {
		v.inSegment(func(b []byte) []byte { copy(page(b, v.livePage(b)), v.bytes(pageSize)); return b })
	}},
	{name: "cut at any byte", cases: 50, simple: true, survives: 0.05, do: func(v *victim) {
		v.inSegment(func(b []byte) []byte { return b[:v.rnd.IntN(len(b))] })
	}},
	{name: "cut at a page", cases: 40, simple: true, survives: 0.05, do: func(v *victim) {
		v.inSegment(func(b []byte) []byte { return b[:v.rnd.IntN(pages(b))*pageSize] })
	}},
	{name: "extended", cases: 30, simple: true, survives: 1, do: func(v *victim) {
		v.inSegment(func(b []byte) []byte { return append(b, v.bytes(1+v.rnd.IntN(64<<10))...) })
	}},
	{name: "pages swapped", cases: 40, simple: true, survives: 0.3, do: func(v *victim) {
		v.inSegment(func(b []byte) []byte {
			p, q := page(b, v.livePage(b)), page(b, v.livePage(b))
			was := append([]byte(nil), p...)
			copy(p, q)
			copy(q, was)
			return b
		})
	}},
	{name: "page over another", cases: 60, simple: true, survives: 0.4, do: func(v *victim) {
		v.inSegment(func(b []byte) []byte { copy(page(b, v.livePage(b)), page(b, v.livePage(b))); return b })
	}},
	{name: "page of another file", cases: 40, survives: 0.2, do: pageOfAnother},
	{name: "meta pages swapped", cases: 10, survives: 0.9, do: func(v *victim) {
		v.inSegment(func(b []byte) []byte {
			was := append([]byte(nil), page(b, 0)...)
			copy(page(b, 0), page(b, 1))
			copy(page(b, 1), was)
			return b
		})
	}},
	{name: "older meta page twice", cases: 10, survives: 0.05, do: oldMeta},
	{name: "branch page points to itself", cases: 30, shapes: withBranches, do: func(v *victim) { cycle(v, false) }},
	{name: "branch page points to its parent", cases: 30, shapes: withBranches, do: func(v *victim) { cycle(v, true) }},
	{name: "page number changed anywhere", cases: 40, simple: true, survives: 0.9, do: anyLink},
	{name: "page count changed", cases: 35, simple: true, survives: 0.9, do: pageHead(10, 2)},
	{name: "page flags changed", cases: 35, simple: true, survives: 0.9, do: pageHead(8, 2)},
	{name: "page overflow changed", cases: 35, simple: true, survives: 0.9, do: pageHead(12, 4)},
	{name: "page id changed", cases: 15, simple: true, survives: 0.9, do: pageHead(0, 8)},
	{name: "element changed", cases: 60, simple: true, survives: 0.9, do: element},
}

func anywhere(v *victim, b []byte) int { return v.rnd.IntN(len(b)) }

// pageHeads is a byte of a live page's head or first elements, where bbolt
// keeps what it follows without asking.
func pageHeads(v *victim, b []byte) int { return v.livePage(b)*pageSize + v.rnd.IntN(96) }

func flip(n int, where func(v *victim, b []byte) int) func(v *victim) {
	return func(v *victim) {
		v.inSegment(func(b []byte) []byte {
			for range n {
				at := where(v, b)
				b[at] ^= 1 << v.rnd.IntN(8)
				if n == 1 {
					v.note("bit at %d", at)
				}
			}
			return b
		})
	}
}

func bitsEverywhere(v *victim) {
	n := 1 + v.rnd.IntN(100)
	v.note("%d bits in each", n)
	for _, class := range v.o.shape.classes {
		for _, f := range v.files(class) {
			v.edit(f.Path, func(b []byte) []byte {
				for range n {
					b[v.rnd.IntN(len(b))] ^= 1 << v.rnd.IntN(8)
				}
				return b
			})
		}
	}
}

// pageOfAnother puts a live page of another segment in the wrong place.
func pageOfAnother(v *victim) {
	from, err := os.ReadFile(v.path(v.segment().Path))
	if err != nil {
		v.fail(err)
		return
	}
	p := page(from, v.livePage(from))
	v.inSegment(func(b []byte) []byte { copy(page(b, v.livePage(b)), p); return b })
}

// oldMeta makes the commit before the newest the only one that is known.
func oldMeta(v *victim) { v.inSegment(olderMeta) }

func olderMeta(b []byte) []byte {
	older, newer := page(b, 0), page(b, 1)
	if le64(older[metaTxid:]) > le64(newer[metaTxid:]) {
		older, newer = newer, older
	}
	copy(newer, older)
	return b
}

// cycle points an element of a branch page to the page itself or to the one
// that points to it.
func cycle(v *victim, parent bool) {
	rel := newest(v).Path
	v.edit(rel, func(b []byte) []byte {
		list := branches(b)
		if len(list) == 0 {
			v.fail(fmt.Errorf("%s has no branch page", rel))
			return b
		}
		p := list[v.rnd.IntN(len(list))]
		n := v.rnd.IntN(len(p.links))
		to := p.id
		if parent {
			to = p.parent
		}
		v.note("element %d of page %d points to %d", n, p.id, to)
		put64(b[p.links[n]:], to)
		return b
	})
}

// anyLink changes one page number, of a branch page or of a bucket's root.
func anyLink(v *victim) {
	v.inSegment(func(b []byte) []byte {
		var with []livePage
		for _, p := range live(b) {
			if len(p.links) > 0 {
				with = append(with, p)
			}
		}
		if len(with) == 0 {
			return b
		}
		p := with[v.rnd.IntN(len(with))]
		to := v.rnd.Uint64N(uint64(pages(b)) + 3)
		switch v.rnd.IntN(4) {
		case 0:
			to = v.rnd.Uint64()
		case 1:
			to = p.id
		case 2:
			to = with[v.rnd.IntN(len(with))].id
		}
		link := p.links[v.rnd.IntN(len(p.links))]
		v.note("page number at %d is %d", link, to)
		put64(b[link:], to)
		return b
	})
}

// pageHead changes a field of a live page's head: to something near, or
// anything.
func pageHead(at, size int) func(v *victim) {
	return func(v *victim) {
		v.inSegment(func(b []byte) []byte {
			n := v.livePage(b)
			field := page(b, n)[at : at+size]
			switch v.rnd.IntN(4) {
			case 0:
				field[0]++
			case 1:
				field[0]--
			case 2:
				field[0] ^= 1 << v.rnd.IntN(5)
			default:
				copy(field, v.bytes(size))
			}
			v.note("page %d, head bytes %d to %d are %x", n, at, at+size-1, field)
			return b
		})
	}
}

// element changes 4 bytes of an element of a live page: a position, a size,
// flags or a page number.
func element(v *victim) {
	v.inSegment(func(b []byte) []byte {
		n := v.livePage(b)
		p := page(b, n)
		at := 16 + 4*v.rnd.IntN(4*max(1, min(int(le16(p[10:])), 250)))
		value := v.rnd.Uint32()
		if v.rnd.IntN(2) == 0 {
			value = v.rnd.Uint32N(2 * pageSize)
		}
		v.note("page %d, %d at byte %d", n, value, at)
		binary.LittleEndian.PutUint32(p[at:], value)
		return b
	})
}

func several(v *victim) {
	var some []kind
	for _, k := range slices.Concat(pageKinds, fileKinds, stateKinds) {
		if k.simple {
			some = append(some, k)
		}
	}
	for range 2 + v.rnd.IntN(4) {
		k := some[v.rnd.IntN(len(some))]
		v.note("<%s>", k.name)
		k.do(v)
	}
}
