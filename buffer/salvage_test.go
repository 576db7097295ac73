package buffer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// rawBlock is a block with any body and a right checksum.
func rawBlock(first uint64, count int, body []byte) []byte {
	b := append(make([]byte, blockHeader), body...)
	copy(b, blockMagic)
	binary.BigEndian.PutUint64(b[8:], first)
	binary.BigEndian.PutUint32(b[16:], uint32(count))
	binary.BigEndian.PutUint32(b[20:], uint32(len(body)))
	binary.BigEndian.PutUint32(b[24:], uint32(len(body)))
	copy(b[28:], "\x0b\xad\xca\xfe")
	binary.BigEndian.PutUint32(b[48:], uint32(count))
	binary.BigEndian.PutUint32(b[blockSummed:], blockSum(b))
	return b
}

// scanned is what scanBlocks finds.
func scanned(t testing.TB, r io.ReaderAt, size int64) (found []foundBlock, blocks [][]byte) {
	t.Helper()
	err := scanBlocks(r, size, func(at int64, block []byte) error {
		h, err := parseHeader(block)
		if err != nil {
			t.Fatalf("at %d: %v", at, err)
		}
		if n := len(found); n > 0 && at < found[n-1].at+int64(found[n-1].bytes) {
			t.Fatalf("at %d: not behind the one before", at)
		}
		found, blocks = append(found, foundBlock{header: h, at: at, bytes: len(block)}), append(blocks, bytes.Clone(block))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found, blocks
}

// searched is what scanBlocks has to find, found the slow way. Nothing that
// touches a bad sector counts.
func searched(b []byte, bad map[int64]bool) (at []int64) {
	for i := 0; i+blockHeader <= len(b); i++ {
		n, ok := plausible(b[i:], int64(len(b)-i))
		end := i + blockHeader + int(n)
		for s := i / scanSector; ok && s <= (end-1)/scanSector; s++ {
			ok = !bad[int64(s)]
		}
		if !ok {
			continue
		}
		if _, err := parseHeader(b[i:end]); err == nil {
			at = append(at, int64(i))
			i = end - 1
		}
	}
	return at
}

// badSectors cannot be read where bad says.
type badSectors struct {
	r   io.ReaderAt
	bad map[int64]bool
}

func (f badSectors) ReadAt(b []byte, at int64) (int, error) {
	for s := at / scanSector; s*scanSector < at+int64(len(b)); s++ {
		if f.bad[s] {
			n, _ := f.r.ReadAt(b[:max(0, s*scanSector-at)], at)
			return n, fmt.Errorf("read: %w", unix.EIO)
		}
	}
	return f.r.ReadAt(b, at)
}

func offsets(found []foundBlock) (at []int64) {
	for _, f := range found {
		at = append(at, f.at)
	}
	return at
}

// TestScanFindsTheBlocksOfDestroyedSegments destroys segments whole and by parts:
// each block whose bytes are left is found, with its events, and nothing else.
func TestScanFindsTheBlocksOfDestroyedSegments(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 4))
	c := testCodec(t)
	for name, b := range pageSegments(t) {
		m, _, err := readMetas(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		b = b[:int64(m.high)*m.pageSize]
		stored := storedBlocks(t, b)
		incarnation := ""
		for _, block := range stored {
			incarnation = fmt.Sprintf("%x", block[28:32])
		}
		ways := map[string]func(b []byte) []byte{
			"nothing":       func(b []byte) []byte { return b },
			"metas zeroed":  func(b []byte) []byte { clear(b[:2*4096]); return b },
			"root zeroed":   func(b []byte) []byte { clear(b[m.root*4096:][:4096]); return b },
			"cut to half":   func(b []byte) []byte { return b[:len(b)/2] },
			"a page zeroed": func(b []byte) []byte { clear(b[rnd.IntN(len(b)/4096)*4096:][:4096]); return b },
			"moved":         func(b []byte) []byte { return b[8192+rnd.IntN(1000):] },
			"a bit":         func(b []byte) []byte { b[rnd.IntN(len(b))] ^= 1 << rnd.IntN(8); return b },
		}
		total, kept := 0, 0
		for way, destroy := range ways {
			for range 30 {
				bad := destroy(bytes.Clone(b))
				found, blocks := scanned(t, bytes.NewReader(bad), int64(len(bad)))
				for i, block := range blocks {
					if want, ok := stored[found[i].first]; !ok || !bytes.Equal(block, want) {
						t.Fatalf("%s, %s: block %d is none that was stored", name, way, found[i].first)
					}
					if _, _, err := c.decode(block, "process"); err != nil {
						t.Fatal(err)
					}
				}
				picked := pickBlocks(found, incarnation, 1, 1<<40)
				left := 0
				for first, want := range stored {
					if !bytes.Contains(bad, want) {
						continue
					}
					left++
					if !slices.ContainsFunc(picked, func(f foundBlock) bool { return f.first == first }) {
						t.Fatalf("%s, %s: block %d is there and was not found", name, way, first)
					}
				}
				if left != len(picked) || way == "nothing" && left != len(stored) {
					t.Fatalf("%s, %s: %d of %d blocks are left, %d picked", name, way, left, len(stored), len(picked))
				}
				total, kept = total+len(stored), kept+left
			}
		}
		t.Logf("%-16s %3d blocks; %d of %d were left in destroyed files, all were found", name, len(stored), kept, total)
	}
}

// storedBlocks reads a sound segment through bbolt.
func storedBlocks(t *testing.T, b []byte) map[uint64][]byte {
	t.Helper()
	s := &segment{path: filepath.Join(t.TempDir(), "sound.seg")}
	blocks := map[uint64][]byte{}
	err := errors.Join(os.WriteFile(s.path, b, 0o600), s.each(func(first uint64, block []byte) error {
		blocks[first] = bytes.Clone(block)
		return nil
	}), s.close())
	if err != nil || len(blocks) == 0 {
		t.Fatal(len(blocks), err)
	}
	return blocks
}

// scanInput is a file of blocks, broken ones, bare headers and noise, longer than
// a window.
func scanInput(rnd *rand.Rand, size int) (b []byte) {
	for first := uint64(1); len(b) < size; first++ {
		block := rawBlock(first, 1+rnd.IntN(9), noise(rnd.Int(), 10+rnd.IntN(1<<(4+rnd.IntN(15)))))
		switch rnd.IntN(6) {
		case 0:
			block[rnd.IntN(len(block))] ^= 1 << rnd.IntN(8)
		case 1:
			block = block[:rnd.IntN(len(block))]
		case 2:
			block = rawBlock(first, 3, append(noise(rnd.Int(), rnd.IntN(90)), block...)) // one within another
		case 3:
			block = append(block[:blockHeader:blockHeader], block...)
		}
		b = append(append(b, block...), noise(rnd.Int(), rnd.IntN(3)*rnd.IntN(5000))...)
	}
	return b
}

func TestScanFindsWhatASlowSearchFinds(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 5))
	blocks, lost := 0, 0
	for range 12 {
		b := scanInput(rnd, 3<<20)
		all, _ := scanned(t, bytes.NewReader(b), int64(len(b)))
		if want := searched(b, nil); !slices.Equal(offsets(all), want) {
			t.Fatalf("found %d, there are %d", len(all), len(want))
		}
		bad := map[int64]bool{}
		for range 1 + rnd.IntN(20) {
			bad[rnd.Int64N(int64(len(b)/scanSector+1))] = true
		}
		found, _ := scanned(t, badSectors{bytes.NewReader(b), bad}, int64(len(b)))
		if want := searched(b, bad); !slices.Equal(offsets(found), want) {
			t.Fatalf("with bad sectors %v: found %d, there are %d", bad, len(found), len(want))
		}
		blocks, lost = blocks+len(all), lost+len(all)-len(found)
	}
	t.Logf("%d blocks found, and all but %d of them with bad sectors", blocks, lost)
}

// TestScanOfHostileBytesIsLinear fills a file with headers that claim all the
// rest of it. The blocks between them are found, and not much more than the file
// is read.
func TestScanOfHostileBytesIsLinear(t *testing.T) {
	for _, claims := range []int{1, 1000, 200_000, 1 << 30} { // bytes of the body, or what is left
		b, fakes := make([]byte, 8<<20), 0
		want := []int64{}
		for at := 0; at+1000 < len(b); fakes++ {
			if fakes%1000 == 999 {
				block := rawBlock(uint64(fakes), 1, noise(fakes, 500))
				want = append(want, int64(at))
				at += copy(b[at:], block)
				continue
			}
			fake := rawBlock(uint64(fakes+1), 1, nil)[:28] // the next one begins within
			n := uint32(min(claims, len(b)-at-blockHeader))
			binary.BigEndian.PutUint32(fake[20:], n)
			binary.BigEndian.PutUint32(fake[24:], n)
			at += copy(b[at:], fake)
		}
		r := &countingReader{r: bytes.NewReader(b)}
		begin := time.Now()
		found, _ := scanned(t, r, int64(len(b)))
		if !slices.Equal(offsets(found), want) {
			t.Errorf("claims of %d: %d blocks found of %d", claims, len(found), len(want))
		}
		t.Logf("%d headers that claim %d bytes: %v, %d bytes read of %d", fakes, claims, time.Since(begin), r.bytes, len(b))
		if r.bytes > 2*int64(len(b)) {
			t.Errorf("claims of %d: %d bytes read of %d", claims, r.bytes, len(b))
		}
	}
}

func TestScanOfBlocksEndsWithAnError(t *testing.T) {
	b := scanInput(rand.New(rand.NewPCG(1, 1)), 1<<20)
	stop := errors.New("stop")
	if err := scanBlocks(bytes.NewReader(b), int64(len(b)), func(int64, []byte) error { return stop }); !errors.Is(err, stop) {
		t.Error("the visitor's error:", err)
	}
	visit := func(int64, []byte) error { return nil }
	if err := scanBlocks(faulty{bytes.NewReader(b), 500_000, unix.ENOMEM}, int64(len(b)), visit); !errors.Is(err, unix.ENOMEM) {
		t.Error("a machine short of memory:", err)
	}
	if err := scanBlocks(bytes.NewReader(b), 1<<50, visit); err != nil {
		t.Error("a file that is shorter than it was:", err)
	}
	if err := scanBlocks(bytes.NewReader(nil), 0, visit); err != nil {
		t.Error("an empty file:", err)
	}
}

func TestBlocksShiftACRC(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3, 255, 4096, 1<<20 + 7} {
		run := noise(n, n)
		a, b := crc32.Checksum([]byte("one"), castagnoli), crc32.Checksum([]byte("another"), castagnoli)
		if got, want := shiftCRC(a^b, uint32(n)), crc32.Update(a, castagnoli, run)^crc32.Update(b, castagnoli, run); got != want {
			t.Errorf("%d bytes: %08x, want %08x", n, got, want)
		}
	}
}

func TestBlocksThatArePicked(t *testing.T) {
	at := int64(0)
	block := func(first, last uint64) foundBlock {
		at += 1000
		n := int(last - first + 1)
		return foundBlock{header: header{first: first, count: n, span: n, incarnation: "0badcafe"}, at: at, bytes: 500}
	}
	other := block(1, 10)
	other.incarnation = "0badcaff"
	for name, c := range map[string]struct {
		first, end uint64
		found      []foundBlock
		want       []int // places in found
	}{
		"in order":                      {1, 31, []foundBlock{block(11, 20), block(1, 10), block(21, 30)}, []int{1, 0, 2}},
		"a hole":                        {1, 100, []foundBlock{block(1, 10), block(50, 60)}, []int{0, 1}},
		"another incarnation":           {1, 31, []foundBlock{other, block(11, 20)}, []int{1}},
		"before the first":              {5, 31, []foundBlock{block(1, 10), block(11, 20)}, []int{1}},
		"at the end":                    {1, 21, []foundBlock{block(11, 20), block(21, 30)}, []int{0}},
		"over the end":                  {1, 15, []foundBlock{block(1, 10), block(11, 20)}, []int{0, 1}},
		"copies":                        {1, 31, []foundBlock{block(1, 10), block(11, 20), block(1, 10), block(11, 20), block(1, 10)}, []int{0, 1}},
		"a stray over two":              {1, 31, []foundBlock{block(5, 15), block(1, 10), block(11, 20), block(21, 30)}, []int{1, 2, 3}},
		"a stray in front":              {1, 31, []foundBlock{block(1, 25), block(1, 10), block(11, 20), block(21, 30)}, []int{1, 2, 3}},
		"a stray and a hole":            {1, 31, []foundBlock{block(2, 15), block(11, 20), block(21, 30)}, []int{1, 2}},
		"a giant":                       {1, 1 << 40, []foundBlock{block(1, 1<<30), block(1, 10), block(11, 20), block(30, 40)}, []int{1, 2, 3}},
		"a giant with a neighbour":      {1, 1 << 40, []foundBlock{block(1, 29), block(11, 20), block(30, 40)}, []int{0, 2}},
		"the same numbers, alone":       {1, 100, []foundBlock{block(40, 50), block(40, 50)}, []int{0}},
		"as many neighbours, shorter":   {1, 100, []foundBlock{block(40, 60), block(50, 55)}, []int{1}},
		"the same numbers, neighbours":  {1, 31, []foundBlock{block(11, 20), block(1, 10), block(21, 30), block(11, 20)}, []int{1, 0, 2}},
		"none":                          {1, 31, nil, nil},
		"the highest numbers there are": {1, 1<<64 - 1, []foundBlock{block(1<<64-20, 1<<64-11), block(1<<64-10, 1<<64-2)}, []int{0, 1}},
	} {
		got := pickBlocks(slices.Clone(c.found), "0badcafe", c.first, c.end)
		var want []foundBlock
		for _, i := range c.want {
			want = append(want, c.found[i])
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	if got := pickBlocks([]foundBlock{block(1, 10)}, "no digits", 1, 31); got != nil {
		t.Error(got)
	}
}

func TestBlocksThatArePickedShareNoNumber(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 6))
	for range 3000 {
		var found []foundBlock
		for at := range rnd.IntN(30) {
			n := 1 + rnd.IntN(9)
			h := header{first: 1 + rnd.Uint64N(60), count: n, span: n, incarnation: []string{"00000000", "00000001"}[rnd.IntN(8)/7]}
			found = append(found, foundBlock{header: h, at: int64(at)})
		}
		next, kept := uint64(10), pickBlocks(slices.Clone(found), "00000000", 10, 50)
		for _, f := range kept {
			if f.first < next || f.first >= 50 || f.incarnation != "00000000" || !slices.Contains(found, f) {
				t.Fatalf("%+v of %+v", kept, found)
			}
			next = f.last() + 1
		}
		for _, f := range found {
			if f.incarnation == "00000000" && f.first >= 10 && f.first < 50 && len(kept) == 0 {
				t.Fatalf("%+v is left out for nothing", f)
			}
		}
	}
}

// FuzzScanBlocks holds the scan against the slow search. seal makes the checksum
// of each header right whose claim fits.
func FuzzScanBlocks(f *testing.F) {
	rnd := rand.New(rand.NewPCG(1, 7))
	f.Add(rawBlock(1, 1, []byte("body")), uint16(0), false)
	f.Add(scanInput(rnd, 2_000), uint16(2), false)
	f.Add(bytes.Repeat(rawBlock(1, 1, []byte("SLB1 body"))[:60], 5), uint16(0), true)
	f.Fuzz(func(t *testing.T, b []byte, bad uint16, seal bool) {
		b = bytes.Clone(b)
		for i := len(b) - blockHeader; seal && i >= 0; i-- {
			if n, ok := plausible(b[i:], int64(len(b)-i)); ok {
				block := b[i:][:blockHeader+int(n)]
				binary.BigEndian.PutUint32(block[blockSummed:], blockSum(block))
			}
		}
		sectors := map[int64]bool{}
		for i := range int64(16) {
			sectors[i] = bad&(1<<i) != 0
		}
		found, _ := scanned(t, badSectors{bytes.NewReader(b), sectors}, int64(len(b)))
		if want := searched(b, sectors); !slices.Equal(offsets(found), want) {
			t.Fatalf("found %v, there are %v", offsets(found), want)
		}
	})
}

func BenchmarkScanBlocks(b *testing.B) {
	for _, body := range []int{200, 3_000, 60_000} {
		file := make([]byte, 0, 16<<20)
		for first := uint64(1); len(file)+body+5000 < cap(file); first++ {
			file = append(append(file, rawBlock(first, 1, noise(int(first), body))...), make([]byte, 100)...)
		}
		path := filepath.Join(b.TempDir(), "blocks")
		if err := os.WriteFile(path, file, 0o600); err != nil {
			b.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("body=%d", body), func(b *testing.B) {
			b.SetBytes(int64(len(file)))
			for b.Loop() {
				if err := scanBlocks(f, int64(len(file)), func(int64, []byte) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
		f.Close()
	}
}
