package buffer

import (
	"bytes"
	"cmp"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
)

const (
	scanWindow  = 1 << 20
	scanSector  = 4 << 10 // what the page cache gives up at once
	scanPending = 1 << 16 // more than the headers that a block of blockBytes has room for
	aheadMin    = 4 << 10
	aheadMax    = 64 << 10
)

// scanBlocks visits the stored blocks in the size bytes of r, whatever their
// structure, in the order of the file: at any offset, with the right checksum.
// What a block holds is not searched: an event may carry the bytes of another
// block. Sectors that cannot be read are passed over. block is valid until visit
// returns; an error of visit ends the scan.
//
// The file is read once to find the blocks and once more where they are. The
// work does not depend on what the bytes say: see blockScan.
func scanBlocks(r io.ReaderAt, size int64, visit func(at int64, block []byte) error) error {
	s := blockScan{size: size}
	if err := s.readAll(r); err != nil {
		return err
	}
	slices.SortFunc(s.found, func(a, b blockAt) int { return cmp.Compare(a.at, b.at) })
	w, next := window{r: r, size: size, ahead: aheadMin}, int64(0)
	for _, f := range s.found {
		if f.at < next {
			continue
		}
		b, err := w.read(f.at, blockHeader+int(f.body))
		if err == nil {
			_, err = parseHeader(b)
		}
		if errors.Is(err, errDamaged) { // could be read before, and cannot any more
			continue
		}
		if err == nil {
			err = visit(f.at, b)
		}
		if err != nil {
			return err
		}
		next = f.at + blockHeader + int64(f.body)
	}
	return nil
}

// blockScan finds blocks in one pass, with one running CRC over the whole file. A
// header claims a body; to sum up each claimed body would be quadratic in a file
// full of headers that claim much. But a CRC is linear: two that run over the
// same bytes keep a difference that depends on where they began and on the
// number of bytes only. So that of a body follows from the running one, at the
// body's first and last byte, in time that does not grow with the body.
type blockScan struct {
	size    int64
	sum     uint32  // running, over all bytes so far
	pending pending // claims whose last byte is ahead, the nearest first
	found   []blockAt
}

type blockAt struct {
	at   int64
	body uint32
}

// claim is a plausible header.
type claim struct {
	blockAt
	end    int64
	diff   uint32 // between the block's own CRC and the running one, before the body
	stored uint32
}

type pending []claim

func (p pending) Len() int           { return len(p) }
func (p pending) Less(i, j int) bool { return p[i].end < p[j].end }
func (p pending) Swap(i, j int)      { p[i], p[j] = p[j], p[i] }

// Push implements heap.Interface.
func (p *pending) Push(x any) { *p = append(*p, x.(claim)) }

// Pop implements heap.Interface.
func (p *pending) Pop() any {
	last := (*p)[len(*p)-1]
	*p = (*p)[:len(*p)-1]
	return last
}

// readAll passes the file on in windows. A sector that cannot be read ends all
// claims that reach over it.
func (s *blockScan) readAll(r io.ReaderAt) error {
	buf := make([]byte, min(scanWindow, max(s.size, 0)))
	for base, have := int64(0), 0; base+int64(have) < s.size; {
		want := int(min(int64(len(buf)), s.size-base))
		n, err := r.ReadAt(buf[have:want], base+int64(have))
		have += n
		if have == want && base+int64(have) < s.size {
			done := have - blockHeader + 1 // a header may begin here and end in the next window
			s.window(buf[:have], base, done)
			base, have = base+int64(done), copy(buf, buf[done:have])
			continue
		}
		s.window(buf[:have], base, have)
		if have == want || errors.Is(err, io.EOF) {
			return nil
		}
		if err = openError(fmt.Errorf("read at %d: %w", base+int64(have), err)); !errors.Is(err, errDamaged) {
			return err
		}
		base, have, s.pending = (base+int64(have))&^(scanSector-1)+scanSector, 0, nil
	}
	return nil
}

// window looks for headers that begin in the first done bytes of b, which lies at
// base, and runs over these bytes.
func (s *blockScan) window(b []byte, base int64, done int) {
	summed := 0
	for from := 0; from < done; {
		n := bytes.Index(b[from:], []byte(blockMagic))
		if n < 0 || from+n >= done {
			break
		}
		n += from
		s.run(b[summed:n], base+int64(summed))
		s.consider(b[n:], base+int64(n))
		summed, from = n, n+len(blockMagic)
	}
	s.run(b[summed:done], base+int64(summed))
}

// run adds b, which lies at at, to the running CRC, and settles the claims that
// end there.
func (s *blockScan) run(b []byte, at int64) {
	for len(s.pending) > 0 && s.pending[0].end <= at+int64(len(b)) {
		c := heap.Pop(&s.pending).(claim)
		n := c.end - at
		s.sum, b, at = crc32.Update(s.sum, castagnoli, b[:n]), b[n:], c.end
		if s.sum^shiftCRC(c.diff, c.body) == c.stored {
			s.found = append(s.found, c.blockAt)
		}
	}
	s.sum = crc32.Update(s.sum, castagnoli, b)
}

// consider notes the header at the front of b, if it is one. The running CRC has
// come up to it.
func (s *blockScan) consider(b []byte, at int64) {
	body, ok := plausible(b, s.size-at)
	if !ok {
		return
	}
	if len(s.pending) == scanPending { // no file of ours: the nearer the end, the likelier a block
		slices.SortFunc(s.pending, func(a, b claim) int { return cmp.Compare(a.end, b.end) })
		s.pending = s.pending[:scanPending/2]
	}
	own, running := crc32.Checksum(b[:blockSummed], castagnoli), crc32.Update(s.sum, castagnoli, b[:blockHeader])
	heap.Push(&s.pending, claim{blockAt: blockAt{at: at, body: body}, end: at + blockHeader + int64(body),
		diff: own ^ running, stored: binary.BigEndian.Uint32(b[blockSummed:])})
}

// plausible reports whether b begins with a header that encode could have made,
// of a block that fits into room bytes, and how long its body is.
func plausible(b []byte, room int64) (body uint32, ok bool) {
	if len(b) < blockHeader || string(b[:4]) != blockMagic || b[4] > codecZstd || b[5]|b[6]|b[7] != 0 {
		return 0, false
	}
	first, count, raw := binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint32(b[16:]), binary.BigEndian.Uint32(b[20:])
	body, numbers := binary.BigEndian.Uint32(b[24:]), binary.BigEndian.Uint32(b[48:])
	if first == 0 || numbers == 0 || count > numbers || count > raw || raw > blockLimit || first+uint64(numbers) < first || int64(body) > room-blockHeader {
		return 0, false
	}
	return body, body == raw || body < raw && b[4] == codecZstd
}

// shiftCRC returns what becomes of the difference of two CRC32C over n more bytes:
// its product with x^8n, modulo the polynomial.
func shiftCRC(diff, n uint32) uint32 {
	for power := 3; n > 0; n, power = n>>1, power+1 {
		if n&1 != 0 {
			diff = multiplyCRC(crcPowers[power], diff)
		}
	}
	return diff
}

// crcPowers holds x^(2^i).
var crcPowers = func() (p [36]uint32) {
	p[0] = 1 << 30
	for i := 1; i < len(p); i++ {
		p[i] = multiplyCRC(p[i-1], p[i-1])
	}
	return p
}()

// multiplyCRC multiplies two polynomials, with the highest bit for x^0.
func multiplyCRC(a, b uint32) (product uint32) {
	for ; a != 0; a <<= 1 {
		if a&(1<<31) != 0 {
			product ^= b
		}
		b = b>>1 ^ crc32.Castagnoli&-(b&1)
	}
	return product
}

// foundBlock is what is kept of a block that scanBlocks found.
type foundBlock struct {
	header
	at    int64
	bytes int
}

// pickBlocks returns those of the found blocks that are to be kept of a segment
// that holds the numbers from first on, up to but without end: in the order of
// their numbers, which no two of them share. The last may reach beyond end, where
// the next segment counts: the caller cuts it. One that begins before first is
// none of this segment's, whatever else is in it.
//
// The copies that bbolt leaves behind when it moves a page are alike, and the
// first is taken. Blocks that differ and claim the same numbers are not both
// ours: a segment is never written again after a failed commit, so it gives no
// number twice. One is a stray: bytes that an event carried, in a damaged block,
// or what the disk held before. Committed blocks follow each other without a
// hole, so the one with more neighbours is kept: a block that ends where it
// begins, and one that begins where it ends. If that does not tell, the one with
// fewer events is: it hides less if it is the wrong one. If that does not tell
// either, the one that lies first in the file: numbers and places grow together,
// and bytes that an event carried can only copy what was stored before it.
func pickBlocks(found []foundBlock, incarnation string, first, end uint64) []foundBlock {
	var fit []foundBlock
	for _, f := range found {
		if f.incarnation == incarnation && f.first >= first && f.first < end {
			fit = append(fit, f)
		}
	}
	slices.SortFunc(fit, func(a, b foundBlock) int { return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(a.at, b.at)) })
	starts, ends := make([]uint64, len(fit)), make([]uint64, len(fit))
	for i, f := range fit {
		starts[i], ends[i] = f.first, f.last()+1
	}
	slices.Sort(ends)
	neighbours := func(f foundBlock) (n int) {
		if _, ok := slices.BinarySearch(ends, f.first); ok || f.first == first {
			n++
		}
		if _, ok := slices.BinarySearch(starts, f.last()+1); ok || f.last()+1 == end {
			n++
		}
		return n
	}
	kept := fit[:0]
	for _, f := range fit {
		last := len(kept) - 1
		if last < 0 || kept[last].last() < f.first {
			kept = append(kept, f)
			continue
		}
		k := kept[last]
		if cmp.Or(cmp.Compare(neighbours(k), neighbours(f)), cmp.Compare(f.span, k.span), cmp.Compare(f.at, k.at)) < 0 {
			kept[last] = f
		}
	}
	return kept
}

// window reads a file by parts: small ones here and there, larger ones as long as
// they follow each other.
type window struct {
	r     io.ReaderAt
	size  int64
	at    int64
	bytes []byte
	ahead int
}

// read returns n bytes at at; they are valid until the next read.
func (w *window) read(at int64, n int) ([]byte, error) {
	if off := at - w.at; off >= 0 && off+int64(n) <= int64(len(w.bytes)) {
		return w.bytes[off:][:n], nil
	}
	if at < 0 || int64(n) > w.size-at {
		return nil, fmt.Errorf("%w: %d bytes at %d are needed, and the file ends at %d", errDamaged, n, at, w.size)
	}
	if end := w.at + int64(len(w.bytes)); at >= w.at && at <= end+aheadMin {
		w.ahead = min(2*w.ahead, aheadMax)
	} else {
		w.ahead = aheadMin
	}
	want := int(min(int64(max(n, w.ahead)), w.size-at))
	if cap(w.bytes) < want {
		w.bytes = make([]byte, want)
	}
	got, err := w.r.ReadAt(w.bytes[:want], at)
	if w.at, w.bytes = at, w.bytes[:got]; got < n { // what was read ahead need not be readable
		return nil, openError(fmt.Errorf("read %d bytes at %d: %w", want, at, err))
	}
	return w.bytes[:n], nil
}
