//go:build torture

package powercut

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// cut is one outcome of a power cut: what of the pending is on the disk.
type cut struct {
	metas []bool // by pending change of a folder
	ops   []part // by pending write or truncation
	note  string // how it was chosen
}

// part says what of an operation is on the disk.
type part struct {
	in   bool
	torn *tear // with in: only some sectors
}

// tear says which sectors of a write are on the disk.
type tear struct {
	sector int64
	in     []bool
	grown  bool // the file has its new size all the same
}

func sectors(o *op, size int64) int {
	if o.truncate || len(o.data) == 0 {
		return 0
	}
	return int((o.off+int64(len(o.data))-1)/size - o.off/size + 1)
}

// bounds is where in the file the k-th sector of o lies, as far as o writes it.
func (t *tear) bounds(o *op, k int) (from, to int64) {
	from = (o.off/t.sector + int64(k)) * t.sector
	return max(from, o.off), min(from+t.sector, o.off+int64(len(o.data)))
}

// pending is what a cut now may have lost.
type pending struct {
	metas []*meta
	ops   []*op
}

// pending lists, in order, what is not certain and can be reached by a name.
func (d *disk) pending() (p pending) {
	reach := map[*inode]bool{}
	for _, i := range d.base {
		reach[i] = true
	}
	for _, m := range d.metas {
		reach[m.on] = true
		if !m.durable {
			p.metas = append(p.metas, m)
		}
	}
	for i := range reach {
		if i.quiet() {
			continue
		}
		for _, o := range i.ops {
			if !o.durable {
				p.ops = append(p.ops, o)
			}
		}
	}
	slices.SortFunc(p.ops, func(a, b *op) int { return a.n - b.n })
	return p
}

// choices of a list of n: which of them are in.
type choice struct {
	in   []bool
	note string
}

// mostEach bounds how many choices of each kind are made of a long list.
const mostEach = 12

// choices lists the ways in which some of n things may have happened: nothing, all,
// first parts, one, all but one, and random ones.
func choices(n, random int, rnd *rand.Rand) []choice {
	pick := func(note string, in func(i int) bool) choice {
		c := choice{note: note, in: make([]bool, n)}
		for i := range c.in {
			c.in[i] = in(i)
		}
		return c
	}
	list := []choice{
		pick("none", func(int) bool { return false }),
		pick("all", func(int) bool { return true }),
	}
	if n < 2 {
		return list[:n+1]
	}
	some := func(from, to int) []int {
		at := rnd.Perm(to - from)
		return at[:min(len(at), mostEach)]
	}
	for _, k := range some(1, n) {
		list = append(list, pick(fmt.Sprintf("first %d", k+1), func(i int) bool { return i <= k }))
	}
	for _, k := range some(0, n) {
		list = append(list, pick(fmt.Sprintf("only %d", k), func(i int) bool { return i == k }),
			pick(fmt.Sprintf("all but %d", k), func(i int) bool { return i != k }))
	}
	for range random {
		list = append(list, pick("random", func(int) bool { return rnd.IntN(2) == 0 }))
	}
	return list
}

// parts lists the ways in which the pending writes may be on the disk.
func parts(ops []*op, full bool, rnd *rand.Rand) (list [][]part, notes []string) {
	for _, c := range choices(len(ops), 6, rnd) {
		p := make([]part, len(ops))
		for i := range p {
			p[i].in = c.in[i]
		}
		list, notes = append(list, p), append(notes, c.note)
	}
	if !full {
		return list, notes
	}
	for i, o := range ops {
		if i >= mostEach {
			break
		}
		for _, t := range tears(o, rnd) { // what came before it is there, what came after is not, or all is
			before, around := make([]part, len(ops)), make([]part, len(ops))
			for k := range ops {
				before[k].in, around[k].in = k <= i, true
			}
			before[i].torn, around[i].torn = t, t
			list = append(list, before, around)
			notes = append(notes, fmt.Sprintf("torn %d", i), fmt.Sprintf("all, torn %d", i))
		}
	}
	for _, size := range []int64{512, 4096, 512, 4096} {
		p := make([]part, len(ops))
		for i, o := range ops {
			p[i].in = rnd.IntN(8) > 0
			if n := sectors(o, size); n > 1 {
				p[i].torn = randomTear(n, size, rnd)
			}
		}
		list, notes = append(list, p), append(notes, fmt.Sprintf("all torn by %d", size))
	}
	return list, notes
}

// tears lists ways to tear one write.
func tears(o *op, rnd *rand.Rand) (list []*tear) {
	for _, size := range []int64{512, 4096} {
		n := sectors(o, size)
		if n < 2 {
			continue
		}
		head := &tear{sector: size, in: make([]bool, n)}
		tail := &tear{sector: size, in: make([]bool, n)}
		at := 1 + rnd.IntN(n-1)
		for k := range n {
			head.in[k], tail.in[k] = k < at, k >= at
		}
		list = append(list, head, tail, randomTear(n, size, rnd))
	}
	return list
}

func randomTear(n int, size int64, rnd *rand.Rand) *tear {
	t := &tear{sector: size, in: make([]bool, n), grown: rnd.IntN(2) == 0}
	for k := range t.in {
		t.in[k] = rnd.IntN(2) == 0
	}
	return t
}

// cuts lists the outcomes of a power cut now. full is for the instants at which
// most is pending; else a few of them do.
func (p pending) cuts(full bool, rnd *rand.Rand) (list []cut) {
	ops, notes := parts(p.ops, full, rnd)
	metas := choices(len(p.metas), 3, rnd)
	add := func(o, m int) {
		list = append(list, cut{metas: metas[m].in, ops: ops[o], note: "writes " + notes[o] + ", folders " + metas[m].note})
	}
	last := min(1, len(metas)-1) // "all", or "none" where nothing is pending
	lastOps := min(1, len(ops)-1)
	if !full {
		add(0, 0)
		add(lastOps, last)
		add(lastOps, 0)
		add(rnd.IntN(len(ops)), rnd.IntN(len(metas)))
		return list
	}
	for o := range ops {
		add(o, 0)
		if last > 0 {
			add(o, last)
		}
	}
	for m := range metas {
		add(0, m)
		add(lastOps, m)
	}
	if len(metas) > 2 {
		for range (len(ops) + len(metas)) / 2 {
			add(rnd.IntN(len(ops)), rnd.IntN(len(metas)))
		}
	}
	return list
}

// inOrder reports whether a journal that keeps the order of changes of folders
// may leave c.
func (c cut) inOrder() bool {
	out := false
	for _, in := range c.metas {
		if in && out {
			return false
		}
		out = out || !in
	}
	return true
}

// describe tells which operations are in.
func (p pending) describe(c cut) string {
	var b strings.Builder
	order := "any order of folder changes"
	if c.inOrder() {
		order = "folder changes in order"
	}
	fmt.Fprintf(&b, "%s (%s)\n", c.note, order)
	for i, m := range p.metas {
		fmt.Fprintf(&b, "  %-4s %s %s %s\n", yes(c.metas[i]), m.kind, m.path, m.to)
	}
	for i, o := range p.ops {
		what := fmt.Sprintf("write %d bytes at %d", len(o.data), o.off)
		if o.truncate {
			what = fmt.Sprintf("truncate to %d", o.off)
		}
		if o.doomed {
			what += " (it or its sync failed)"
		}
		fmt.Fprintf(&b, "  %-4s %s of %s", yes(c.ops[i].in), what, o.on.name)
		if t := c.ops[i].torn; c.ops[i].in && t != nil {
			fmt.Fprintf(&b, ", sectors of %d: ", t.sector)
			for _, in := range t.in {
				b.WriteString(map[bool]string{true: "x", false: "."}[in])
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func yes(in bool) string {
	if in {
		return "in"
	}
	return "out"
}
