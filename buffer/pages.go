package buffer

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// The file format of bbolt, version 2. Integers lie as the machine has them.
//
//	page    0 8 its number   8 2 type   10 2 elements   12 4 pages after it that belong to it
//	meta    (after the page's header) 0 4 magic   4 4 version   8 4 page size   12 4 flags   16 8 root page
//	        24 8 sequence   32 8 freelist page   40 8 high-water mark   48 8 transaction   56 8 FNV-1a of 0..55
//	leaf    0 4 flags, 1: a bucket   4 4 place of the key, from here   8 4 bytes of the key   12 4 of the value
//	branch  0 4 place of the key, from here   4 4 bytes of the key   8 8 page
//	bucket  (a value) 0 8 root page, 0: it follows here, inline   8 8 sequence
//
// bbolt writes keys and values one after the other, right behind the elements,
// and takes no page more than they need.
const (
	boltHeader = 16 // of a page, of an element, of a bucket
	boltMeta   = 64

	branchPage   = 0x01
	leafPage     = 0x02
	metaPage     = 0x04
	freelistPage = 0x10

	noFreelist    = math.MaxUint64
	manyFreePages = 0xFFFF // the number of entries is the first entry

	pageSizeMin, pageSizeMax = 1 << 10, 16 << 20 // where bbolt looks for its second meta page
	keyLimit                 = 32768             // bbolt's
	branchLimit              = 256 << 10         // bbolt splits a branch with more than four keys: none is larger
	pagesLimit               = 1 << 22           // bounds the bitmap; a segment has 2^17
	depthLimit               = 64                // pages from the root to the deepest leaf, through all buckets; a segment has 6
	// How far from an element bbolt can reach its key and value.
	elementReach = min(math.MaxInt>>3, math.MaxInt32)
)

// checkPages reports whether bbolt can open the file at path read-only and walk
// all its buckets without a panic, a fault, an endless recursion or loop: bbolt
// trusts every byte but those of the meta pages. The error is errDamaged and
// names the page, unless the machine is at fault. Large values are not read: a
// sector there that the disk cannot give still faults.
func checkPages(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO of that name must not block
	if err != nil {
		return openError(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return openError(err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: %s is not a regular file", errDamaged, path)
	}
	return checkTree(f, info.Size())
}

// metaInfo is what a meta page says.
type metaInfo struct {
	pageSize                  int64
	root, freelist, high, txn uint64
	valid                     bool // as bbolt sees it
	placed                    bool // its page's header is right, too
}

// readMetas returns the meta page that bbolt goes by. both says that the other is
// whole, too, and of the commit before: otherwise the newest commit may be gone,
// since bbolt goes back to the older meta page without a word.
func readMetas(r io.ReaderAt, size int64) (m metaInfo, both bool, err error) {
	if size < 4*pageSizeMin {
		return m, false, fmt.Errorf("%w: %d bytes are no bbolt file", errDamaged, size)
	}
	first, err := readMeta(r, 0, 0)
	found := first
	for at := int64(pageSizeMin); err == nil && !found.valid && at <= pageSizeMax && at < size-1024; at *= 2 {
		found, err = readMeta(r, at, 1)
	}
	if err != nil {
		return m, false, err
	}
	p := found.pageSize
	if !found.valid || p < pageSizeMin || p > pageSizeMax || p&(p-1) != 0 || size < 4*p {
		return m, false, fmt.Errorf("%w: no valid meta page (the page size would be %d, of %d bytes)", errDamaged, p, size)
	}
	second, err := readMeta(r, p, 1)
	if err != nil {
		return m, false, err
	}
	if m = first; second.valid && (!first.valid || second.txn > first.txn) {
		m = second
	}
	if !m.valid || m.pageSize != p {
		return m, false, fmt.Errorf("%w: no valid meta page for pages of %d bytes", errDamaged, p)
	}
	both = first.placed && second.placed && first.pageSize == second.pageSize && (first.txn+1 == second.txn || second.txn+1 == first.txn)
	return m, both, nil
}

func readMeta(r io.ReaderAt, at int64, id uint64) (m metaInfo, err error) {
	var b [boltHeader + boltMeta]byte
	if _, err := r.ReadAt(b[:], at); err != nil {
		return m, openError(fmt.Errorf("meta page at %d: %w", at, err))
	}
	const magic, version, summed = 0xED0CDAED, 2, 56
	meta, native := b[boltHeader:], binary.NativeEndian
	sum := fnv.New64a()
	_, _ = sum.Write(meta[:summed])
	m = metaInfo{pageSize: int64(native.Uint32(meta[8:])), root: native.Uint64(meta[16:]), freelist: native.Uint64(meta[32:]),
		high: native.Uint64(meta[40:]), txn: native.Uint64(meta[48:])}
	m.valid = native.Uint32(meta) == magic && native.Uint32(meta[4:]) == version && native.Uint64(meta[summed:]) == sum.Sum64()
	m.placed = m.valid && native.Uint64(b[:]) == id && native.Uint16(b[8:]) == metaPage && m.txn%2 == id
	return m, nil
}

// pageCheck walks the tree of one file.
type pageCheck struct {
	file  window
	size  int64    // of a page
	pages uint64   // numbers below are within the file and the high-water mark
	used  []uint64 // a bit for each page that something points to
	todo  []pageRef
	outer scratch
	inner scratch // for an inline bucket
}

// pageRef is a page that something points to.
type pageRef struct {
	id       uint64
	min, max []byte // its keys are >= min and < max; nil: any
	depth    int
	top      bool // the root of the root bucket: it may be empty, and holds buckets only
}

// scratch is reused from page to page.
type scratch struct{ elements, key []byte }

// checkTree is checkPages for a file of size bytes.
func checkTree(r io.ReaderAt, size int64) error {
	m, _, err := readMetas(r, size)
	if err != nil {
		return err
	}
	c := &pageCheck{file: window{r: r, size: size, ahead: aheadMin}, size: m.pageSize, pages: min(m.high, uint64(size/m.pageSize))}
	if c.pages > pagesLimit {
		return fmt.Errorf("%w: %d pages", errDamaged, c.pages)
	}
	c.used = make([]uint64, c.pages/64+1)
	c.used[0] = 1<<0 | 1<<1 // the meta pages
	if err = c.point(pageRef{id: m.root, top: true}); err != nil {
		return err
	}
	for len(c.todo) > 0 {
		ref := c.todo[len(c.todo)-1]
		c.todo = c.todo[:len(c.todo)-1]
		if err = c.page(ref); err != nil {
			return err
		}
	}
	return c.freelist(m.freelist, m.high)
}

// bad makes the error for a page.
func bad(id uint64, format string, args ...any) error {
	return fmt.Errorf("%w: page %d: %s", errDamaged, id, fmt.Sprintf(format, args...))
}

// point notes a page to be checked. A page that something points to already
// fails here, before it is read: so nothing is looked at twice, and what is left
// to do never outgrows the file.
func (c *pageCheck) point(ref pageRef) error {
	if ref.depth++; ref.depth > depthLimit {
		return bad(ref.id, "more than %d levels deep", depthLimit)
	}
	c.todo = append(c.todo, ref)
	return c.claim(ref.id)
}

func (c *pageCheck) claim(id uint64) error {
	if id >= c.pages {
		return bad(id, "is pointed to, and there are %d", c.pages)
	}
	if c.taken(id) {
		return bad(id, "is in use twice")
	}
	c.used[id/64] |= 1 << (id % 64)
	return nil
}

func (c *pageCheck) taken(id uint64) bool { return c.used[id/64]&(1<<(id%64)) != 0 }

// pageInfo is the header of a page, or of an inline one.
type pageInfo struct {
	id          uint64
	kind, count int
	extra       uint64 // pages that follow
	at, end     int64
}

func (c *pageCheck) header(at, end int64) (p pageInfo, err error) {
	b, err := c.file.read(at, boltHeader)
	if err != nil {
		return p, err
	}
	native := binary.NativeEndian
	return pageInfo{id: native.Uint64(b), kind: int(native.Uint16(b[8:])), count: int(native.Uint16(b[10:])), extra: uint64(native.Uint32(b[12:])), at: at, end: end}, nil
}

// open reads the header of page id, which is claimed, and claims what follows it.
func (c *pageCheck) open(id uint64) (p pageInfo, err error) {
	at := int64(id) * c.size
	if p, err = c.header(at, at+c.size); err != nil {
		return p, err
	}
	if p.id != id {
		return p, bad(id, "says it is page %d", p.id)
	}
	if p.extra >= c.pages-id {
		return p, bad(id, "goes on for %d pages, and there are %d", p.extra, c.pages)
	}
	for next := id + 1; next <= id+p.extra; next++ {
		if err = c.claim(next); err != nil {
			return p, err
		}
	}
	p.end += int64(p.extra) * c.size
	return p, nil
}

// page checks one page of the tree and notes the pages it points to.
func (c *pageCheck) page(ref pageRef) error {
	p, err := c.open(ref.id)
	if err != nil {
		return err
	}
	known := len(c.todo)
	visit := func(e element) error { return c.value(ref, e) }
	switch {
	case p.kind == branchPage && p.count > 0 && p.end-p.at <= max(branchLimit, c.size):
		visit = func(e element) error {
			return c.point(pageRef{id: e.child, min: bytes.Clone(e.key), max: ref.max, depth: ref.depth})
		}
	case p.kind == leafPage && (p.count > 0 || ref.top):
	default:
		return bad(ref.id, "type %#x with %d elements in %d bytes", p.kind, p.count, p.end-p.at)
	}
	used, err := c.elements(p, ref, &c.outer, visit)
	if err != nil {
		return err
	}
	if p.end-used >= c.size {
		return bad(ref.id, "takes %d bytes and needs %d", p.end-p.at, used-p.at)
	}
	refs := c.todo[known:]
	for i := 0; p.kind == branchPage && i+1 < len(refs); i++ {
		refs[i].max = refs[i+1].min
	}
	slices.SortFunc(refs, func(a, b pageRef) int { return cmp.Compare(b.id, a.id) }) // last in, first out: in the order of the file
	return nil
}

// value checks a leaf element's value, which may be a bucket.
func (c *pageCheck) value(ref pageRef, e element) error {
	if e.flags == 0 && !ref.top {
		return nil
	}
	if e.flags != 1 || e.end-e.at < boltHeader {
		return bad(ref.id, "key %.40q has flags %#x and %d bytes", e.key, e.flags, e.end-e.at)
	}
	b, err := c.file.read(e.at, boltHeader)
	if err != nil {
		return err
	}
	if root := binary.NativeEndian.Uint64(b); root != 0 {
		return c.point(pageRef{id: root, depth: ref.depth})
	}
	p, err := c.header(e.at+boltHeader, e.end)
	if err != nil {
		return err
	}
	if p.id != 0 || p.kind != leafPage || p.extra != 0 {
		return bad(ref.id, "bucket %.40q: an inline page %d of type %#x with %d more", e.key, p.id, p.kind, p.extra)
	}
	used, err := c.elements(p, pageRef{id: ref.id}, &c.inner, func(in element) error {
		if in.flags != 0 { // bbolt makes no bucket inline that has buckets
			return bad(ref.id, "bucket %.40q: key %.40q has flags %#x", e.key, in.key, in.flags)
		}
		return nil
	})
	if err == nil && used != p.end {
		err = bad(ref.id, "bucket %.40q takes %d bytes and needs %d", e.key, p.end-p.at, used-p.at)
	}
	return err
}

// element is one of a page.
type element struct {
	flags   uint32
	child   uint64
	key     []byte // valid until the next one
	at, end int64  // of the value
}

// elements visits the elements of a page and returns where their bytes end.
func (c *pageCheck) elements(p pageInfo, ref pageRef, s *scratch, visit func(element) error) (next int64, err error) {
	next = p.at + boltHeader + int64(p.count)*boltHeader
	if next > p.end {
		return 0, bad(ref.id, "%d elements in %d bytes", p.count, p.end-p.at)
	}
	b, err := c.file.read(p.at+boltHeader, p.count*boltHeader)
	if err != nil {
		return 0, err
	}
	s.elements, s.key = append(s.elements[:0], b...), s.key[:0]
	for i := range p.count {
		e, place, keyBytes, valueBytes := parseElement(p.kind, s.elements[i*boltHeader:])
		own := p.at + boltHeader + int64(i)*boltHeader
		e.at, e.end = next+keyBytes, next+keyBytes+valueBytes
		if own+place != next || keyBytes == 0 || keyBytes > keyLimit || e.end > p.end || e.end-own > elementReach {
			return 0, bad(ref.id, "element %d: %d and %d bytes at %d of %d, expected at %d", i, keyBytes, valueBytes, own+place-p.at, p.end-p.at, next-p.at)
		}
		if e.key, err = c.file.read(next, int(keyBytes)); err != nil {
			return 0, err
		}
		if bytes.Compare(e.key, s.key) <= 0 || bytes.Compare(e.key, ref.min) < 0 || ref.max != nil && bytes.Compare(e.key, ref.max) >= 0 {
			return 0, bad(ref.id, "element %d: key %.40q is out of order", i, e.key)
		}
		s.key = append(s.key[:0], e.key...)
		e.key = s.key
		if err = visit(e); err != nil {
			return 0, err
		}
		next = e.end
	}
	return next, nil
}

func parseElement(kind int, b []byte) (e element, place, keyBytes, valueBytes int64) {
	u := func(at int) int64 { return int64(binary.NativeEndian.Uint32(b[at:])) }
	if kind == branchPage {
		return element{child: binary.NativeEndian.Uint64(b[8:])}, u(0), u(4), 0
	}
	return element{flags: uint32(u(0))}, u(4), u(8), u(12)
}

// freelist checks the list of free pages. No reader needs it, but a page that is
// both free and in use shows that one of the two pages is not of this commit.
func (c *pageCheck) freelist(id, high uint64) error {
	if id == noFreelist {
		return nil
	}
	if err := c.claim(id); err != nil {
		return err
	}
	p, err := c.open(id)
	if err != nil {
		return err
	}
	at, entries := p.at+boltHeader, uint64(p.count)
	if p.count == manyFreePages {
		b, err := c.file.read(at, 8)
		if err != nil {
			return err
		}
		at, entries = at+8, binary.NativeEndian.Uint64(b)
	}
	if p.kind != freelistPage || entries > uint64(p.end-at)/8 {
		return bad(id, "type %#x with %d free pages in %d bytes", p.kind, entries, p.end-p.at)
	}
	for last := uint64(1); entries > 0; entries-- {
		b, err := c.file.read(at, 8)
		if err != nil {
			return err
		}
		free := binary.NativeEndian.Uint64(b)
		if free <= last || free >= high || free < c.pages && c.taken(free) {
			return bad(id, "page %d, after %d, cannot be free", free, last)
		}
		at, last = at+8, free
	}
	return nil
}
