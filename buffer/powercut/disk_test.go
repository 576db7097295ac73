//go:build torture

package powercut

import (
	"path/filepath"
	"slices"
	"strings"
)

// A disk is modelled as what is on it for certain, and as writes, truncations
// and changes of folders that may have reached it or not. What a sync covers is
// certain when it returns. The rest may be there in any subset:
//
//   - of a file: each write whole, not at all, or in any of its sectors; each
//     change of size. A sync of the file covers all of them.
//   - of a folder: each creation, rename and removal, a rename as one. Only a
//     sync of the folder covers them.
//
// Within what is chosen the order is kept. Journals that keep the order of all
// changes of folders (ext4) leave a first part of them; those are among the
// subsets, so a fault that is only found with others is told apart (see cut).
// That a sync of a new file may also make its name durable is among them, too.
type disk struct {
	root  string
	live  map[string]*inode // what processes see
	base  map[string]*inode // what is on the disk for certain
	metas []*meta           // not in base yet
	count int               // of everything that was ever pending: the order
	nodes int

	model model
}

// model says where the disk differs from the one that was recorded. The zero
// value is the honest disk.
type model struct {
	deafData    bool // fdatasync and fsync of a segment do nothing
	deafState   bool // fsync of the state file does nothing
	deafDirs    bool // fsync of a folder does nothing
	eagerRename bool // a rename is durable at once, and what was written before it only with the next sync after it
	earlyAcks   bool // events count as acknowledged when they are handed in
	// What a failed sync of a file left is not made durable by a later one: Linux
	// takes the pages for written. Folders are in the journal, which either comes
	// through later or stops the file system.
	forgetful bool
}

// inode is a file or a folder, whatever its names are.
type inode struct {
	id      int
	dir     bool
	name    string // the newest
	base    []byte // on the disk for certain
	version int    // of base
	size    int64  // as processes see it
	ops     []*op  // in order; the first one is not durable
}

// op is a write or a change of size.
type op struct {
	n        int
	on       *inode
	truncate bool
	off      int64 // or the new size
	data     []byte
	status
}

// meta is a change of a folder.
type meta struct {
	n    int
	kind string // link, rename or unlink
	path string
	to   string // of a rename
	on   *inode
	status
}

type status struct {
	returned bool // it has happened for processes
	durable  bool // it is on the disk for certain
	doomed   bool // no sync makes it durable any more; writes and truncations only
}

func newDisk(root string, m model) *disk {
	d := &disk{root: root, live: map[string]*inode{}, base: map[string]*inode{}, model: m}
	top := d.node(root, true)
	d.live[root], d.base[root] = top, top
	return d
}

func (d *disk) node(name string, dir bool) *inode {
	d.nodes++
	return &inode{id: d.nodes, dir: dir, name: name}
}

// quiet reports whether what a file holds is of no interest: a lock file is never
// synced, and would double the number of states.
func (i *inode) quiet() bool { return filepath.Base(i.name) == "lock" }

func (d *disk) begin(i *inode, o *op) *op {
	d.count++
	o.n, o.on = d.count, i
	i.ops = append(i.ops, o)
	return o
}

func (d *disk) change(m *meta) *meta {
	d.count++
	m.n = d.count
	d.metas = append(d.metas, m)
	return m
}

// end notes that a write or a truncation has returned. What a failed one did is
// not known, and no sync can tell.
func (o *op) end(ok bool, written int64) {
	o.returned = true
	switch {
	case !ok:
		o.doomed = true
	case o.truncate:
		o.on.size = o.off
	default:
		o.data = o.data[:written]
		o.on.size = max(o.on.size, o.off+written)
	}
}

// finish notes that a change of a folder has returned.
func (d *disk) finish(m *meta, ok bool) {
	if !ok {
		d.metas = slices.DeleteFunc(d.metas, func(x *meta) bool { return x == m })
		return
	}
	m.returned = true
	switch m.kind {
	case "rename":
		m.on.name = m.to
		if d.model.eagerRename {
			d.settle([]*meta{m})
		}
	}
	m.apply(d.live)
}

func (m *meta) apply(names map[string]*inode) {
	switch m.kind {
	case "link":
		names[m.path] = m.on
	case "unlink":
		delete(names, m.path)
	case "rename":
		delete(names, m.path)
		names[m.to] = m.on
	}
}

// covered is what a sync that begins now makes durable.
type covered struct {
	ops   []*op
	metas []*meta
}

func (d *disk) coveredBy(i *inode) (c covered) {
	for _, o := range i.ops {
		if o.returned && !o.durable && !o.doomed {
			c.ops = append(c.ops, o)
		}
	}
	if !i.dir {
		return c
	}
	in := func(path string) bool { return d.live[filepath.Dir(path)] == i }
	for _, m := range d.metas {
		if m.returned && !m.durable && (in(m.path) || m.to != "" && in(m.to)) {
			c.metas = append(c.metas, m)
		}
	}
	return c
}

// deaf reports whether the model ignores syncs of i.
func (d *disk) deaf(i *inode) bool {
	switch {
	case i.dir:
		return d.model.deafDirs
	case filepath.Base(i.name) == "state":
		return d.model.deafState
	case d.model.eagerRename && strings.HasSuffix(i.name, ".tmp"):
		return true
	}
	return d.model.deafData
}

// synced notes how a sync of i ended.
func (d *disk) synced(i *inode, c covered, ok bool) {
	switch {
	case ok && d.deaf(i):
	case ok:
		for _, o := range c.ops {
			o.durable = true
		}
		i.fold()
		d.settle(c.metas)
	case d.model.forgetful:
		for _, o := range c.ops {
			o.doomed = true
		}
	}
}

// settle makes changes of folders durable, and moves what nothing before it may
// still change into base.
func (d *disk) settle(metas []*meta) {
	for _, m := range metas {
		m.durable = true
	}
	var open []*meta
	touches := func(m *meta, path string) bool { return m.path == path || m.to == path }
	for _, m := range d.metas {
		waits := slices.ContainsFunc(open, func(o *meta) bool { return touches(o, m.path) || m.to != "" && touches(o, m.to) })
		if m.durable && !waits {
			m.apply(d.base)
		} else {
			open = append(open, m)
		}
	}
	d.metas = open
}

// fold moves what is durable into base as far as nothing before it is pending,
// and forgets pending writes that a durable one has replaced as a whole.
func (i *inode) fold() {
	for k, o := range i.ops {
		if !o.durable || o.truncate {
			continue
		}
		for j := k - 1; j >= 0 && !i.ops[j].truncate; j-- {
			e := i.ops[j]
			if !e.durable && e.off >= o.off && e.off+int64(len(e.data)) <= o.off+int64(len(o.data)) {
				e.durable, e.data = true, nil
			}
		}
	}
	n := 0
	for n < len(i.ops) && i.ops[n].durable {
		n++
	}
	if n == 0 {
		return
	}
	base := append(make([]byte, 0, i.size), i.base...) // images may hold the old one
	for _, o := range i.ops[:n] {
		base = o.apply(base, nil)
	}
	i.base, i.ops = base, i.ops[n:]
	i.version++
}

// apply puts o into b; sectors, when given, tells which of its sectors are in.
func (o *op) apply(b []byte, t *tear) []byte {
	if o.truncate {
		return resized(b, o.off)
	}
	if len(o.data) == 0 {
		return b
	}
	if end := o.off + int64(len(o.data)); t == nil && end > int64(len(b)) {
		b = resized(b, end)
	}
	if t == nil {
		copy(b[o.off:], o.data)
		return b
	}
	for k, in := range t.in {
		if !in {
			continue
		}
		from, to := t.bounds(o, k)
		if to > int64(len(b)) {
			b = resized(b, to)
		}
		copy(b[from:to], o.data[from-o.off:])
	}
	return b
}

func resized(b []byte, n int64) []byte {
	if n <= int64(len(b)) {
		return b[:n]
	}
	if n <= int64(cap(b)) {
		old := len(b)
		b = b[:n]
		clear(b[old:])
		return b
	}
	grown := make([]byte, n, n+n/4)
	copy(grown, b)
	return grown
}
