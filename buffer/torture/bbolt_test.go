//go:build torture

package torture

import "encoding/binary"

// What the kinds of damage know of a bbolt file, on a machine with pages of
// 4 KiB and little-endian integers. A page begins with its id (8 bytes), flags
// (2), count (2) and overflow (4); elements of 16 bytes follow.
const (
	pageSize   = 4096
	flagBranch = 0x01
	flagLeaf   = 0x02
	metaRoot   = 32 // in a meta page
	metaTxid   = 64
	leafBucket = 0x01
)

// livePage is a page that the newest commit uses.
type livePage struct {
	id, parent uint64 // parent: the page that points to it, 0 for the root
	flags      uint16
	links      []int // offsets in the file of the page numbers that it points with
	children   []uint64
}

func le16(b []byte) uint16        { return binary.LittleEndian.Uint16(b) }
func le32(b []byte) uint32        { return binary.LittleEndian.Uint32(b) }
func le64(b []byte) uint64        { return binary.LittleEndian.Uint64(b) }
func put64(b []byte, n uint64)    { binary.LittleEndian.PutUint64(b, n) }
func pages(b []byte) int          { return len(b) / pageSize }
func page(b []byte, n int) []byte { return b[n*pageSize : (n+1)*pageSize] }

// live lists the pages that lie under the root, the root first. The file may
// be damaged already: it follows nothing out of it, nor for ever.
func live(b []byte) []livePage {
	meta := page(b, 0)
	if other := page(b, 1); le64(other[metaTxid:]) > le64(meta[metaTxid:]) {
		meta = other
	}
	var list []livePage
	walk(b, le64(meta[metaRoot:]), 0, &list)
	return list
}

func walk(b []byte, id, parent uint64, list *[]livePage) {
	if id < 2 || id >= uint64(pages(b)) || len(*list) > pages(b) {
		return
	}
	at := int(id) * pageSize
	p := livePage{id: id, parent: parent, flags: le16(b[at+8:])}
	for n := range int(le16(b[at+10:])) {
		e := at + 16 + 16*n
		if e+16 > len(b) {
			break
		}
		if p.flags&flagBranch != 0 {
			p.links = append(p.links, e+8)
		} else if p.flags&flagLeaf != 0 && le32(b[e:])&leafBucket != 0 {
			// The value of a bucket begins with its root; 0: it lies inline.
			if v := e + int(le32(b[e+4:])) + int(le32(b[e+8:])); v+8 <= len(b) && le64(b[v:]) != 0 {
				p.links = append(p.links, v)
			}
		}
	}
	for _, l := range p.links {
		p.children = append(p.children, le64(b[l:]))
	}
	*list = append(*list, p)
	for _, c := range p.children {
		walk(b, c, id, list)
	}
}

// branches are the live pages of which there are branch pages.
func branches(b []byte) (list []livePage) {
	for _, p := range live(b) {
		if p.flags&flagBranch != 0 && len(p.links) > 0 {
			list = append(list, p)
		}
	}
	return list
}
