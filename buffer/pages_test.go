package buffer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// pageSegments makes segments of every shape through the package.
func pageSegments(t *testing.T) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for name, fill := range map[string]func(*running){
		"one event each": func(r *running) {
			for n := range 45 {
				r.put("process", n, 1)
			}
		},
		"batches": func(r *running) {
			for n := range 15 {
				r.put("process", 200*n, 200+n)
			}
		},
		"large events": func(r *running) {
			for n := range 4 {
				done := make(chan error, 1)
				e := event("process", n)
				e.Payload = noise(n, 90_000)
				if err := errors.Join(r.Append(t.Context(), e, func(err error) { done <- err }), <-done); err != nil {
					t.Fatal(err)
				}
			}
		},
		"gap records": func(r *running) {
			rd := r.reader("central")
			for n := range 15 {
				r.put("process", n, 1)
				if err := rd.Reject(t.Context(), "process", uint64(n+1), "test"); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		r := start(t, config(t, nil))
		fill(r)
		r.stop()
		list := segmentFiles(t, r.cfg.Dir)
		b, err := os.ReadFile(list[0])
		if err != nil || len(list) != 1 {
			t.Fatal(list, err)
		}
		files[name] = b
	}
	return files
}

// smallTree is a file with the buckets of a segment and pages of 1 KiB: several
// levels of branches, little to go through.
func smallTree(t testing.TB, blocks int) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "small")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{PageSize: 1024, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketMeta, bucketBatches, bucketGaps, bucketSkipped} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return nil
	})
	for n := range blocks {
		err = errors.Join(err, db.Update(func(tx *bbolt.Tx) error {
			block := noise(n, 20)
			if n%13 == 12 {
				block = noise(n, 300*(n%7+1))
			}
			w := load{blocks: []stored{{first: uint64(n + 1), block: block}}}
			return w.fill(tx)
		}))
	}
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := readMetas(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return b[:int64(m.high)*m.pageSize]
}

// allTrees are sound files, by name.
func allTrees(t *testing.T) map[string][]byte {
	files := pageSegments(t)
	files["small pages"] = smallTree(t, 400)
	return files
}

func TestPagesOfSoundFilesAreAccepted(t *testing.T) {
	for name, b := range allTrees(t) {
		v := newVictim(t, b)
		v.try(name, b)
		r := &countingReader{r: bytes.NewReader(b)}
		if err := checkTree(r, int64(len(b))); err != nil || v.harmless[name] != 1 {
			t.Fatal(name, err)
		}
		m, both, err := readMetas(r.r, int64(len(b)))
		if err != nil || !both {
			t.Errorf("%s: the meta pages: %v", name, err)
		}
		t.Logf("%-16s %7d bytes, %4d pages, %4d bytes of structure: %3d reads of %d bytes", name, len(b), m.high, len(spots(b)), r.reads, r.bytes)
		if r.bytes > 4*int64(len(b)) {
			t.Errorf("%s: %d bytes were read of %d", name, r.bytes, len(b))
		}
	}
}

type countingReader struct {
	r     io.ReaderAt
	reads int
	bytes int64
}

func (c *countingReader) ReadAt(b []byte, at int64) (int, error) {
	c.reads++
	c.bytes += int64(len(b))
	return c.r.ReadAt(b, at)
}

// TestPagesWithAnyByteOfTheStructureChanged changes every byte that bbolt goes
// by, in several ways.
func TestPagesWithAnyByteOfTheStructureChanged(t *testing.T) {
	files := pageSegments(t)
	clear(files["batches"][len(files["batches"])/2:]) // never used
	for name, b := range map[string][]byte{"small pages": smallTree(t, 27), "one event each": files["one event each"], "gap records": files["gap records"], "batches": files["batches"]} {
		t.Run(name, func(t *testing.T) {
			m, _, err := readMetas(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			b = b[:int64(m.high)*m.pageSize]
			v, bad := newVictim(t, b), bytes.Clone(b)
			offset := rand.IntN(sparing)
			for i, s := range spots(b) {
				if (i+offset)%sparing != 0 {
					continue
				}
				values := []byte{0xFF, b[s.at] + 1, b[s.at] ^ 1<<(i%8)}
				if name == "small pages" {
					values = append(values, 0, b[s.at]^1, b[s.at]^2, b[s.at]^4, b[s.at]^8, b[s.at]^16, b[s.at]^32, b[s.at]^64, b[s.at]^128)
				}
				slices.Sort(values)
				for _, value := range slices.Compact(values) {
					if value == b[s.at] {
						continue
					}
					bad[s.at] = value
					v.try(s.what, bad)
					if s.what == "meta" {
						reseal(bad, int(m.pageSize))
						v.try("meta, sealed again", bad)
						copy(bad, b)
					}
				}
				bad[s.at] = b[s.at]
			}
			v.report()
		})
	}
}

// TestPagesDamagedAtRandom damages larger parts.
func TestPagesDamagedAtRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 3))
	for name, b := range allTrees(t) {
		t.Run(name, func(t *testing.T) {
			m, _, err := readMetas(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			size, pages, known := int(m.pageSize), int(m.high), spots(b)
			b = b[:size*pages]
			page := func(b []byte, n int) []byte { return b[n*size:][:size] }
			some := func() int { return rnd.IntN(pages) }
			ways := map[string]func([]byte){
				"a bit": func(b []byte) { b[rnd.IntN(len(b))] ^= 1 << rnd.IntN(8) },
				"bits of structure": func(b []byte) {
					for range 1 + rnd.IntN(3) {
						b[known[rnd.IntN(len(known))].at] ^= 1 << rnd.IntN(8)
					}
				},
				"a page zeroed":   func(b []byte) { clear(page(b, some())) },
				"a page of noise": func(b []byte) { copy(page(b, some()), noise(rnd.Int(), size)) },
				"a sector zeroed": func(b []byte) { clear(b[rnd.IntN(len(b)/512)*512:][:512]) },
				"two pages swapped": func(b []byte) {
					i, j := some(), some()
					was := bytes.Clone(page(b, i))
					copy(page(b, i), page(b, j))
					copy(page(b, j), was)
				},
				"a page copied as another": func(b []byte) {
					i, j := some(), some()
					copy(page(b, i), page(b, j))
					binary.NativeEndian.PutUint64(page(b, i), uint64(i))
				},
				"a page number changed": func(b []byte) { // whatever it was
					at := known[rnd.IntN(len(known))].at
					binary.NativeEndian.PutUint64(b[min(at, len(b)-8):], uint64(some()))
				},
			}
			v := newVictim(t, b)
			for way, damage := range ways {
				for range 150 / sparing {
					bad := bytes.Clone(b)
					damage(bad)
					reseal(bad, size*rnd.IntN(2))
					v.try(way, bad)
				}
			}
			for n := rand.IntN(sparing); n < pages; n += sparing {
				for _, end := range []int{n * size, n*size + 1, n*size + size/2, (n+1)*size - 1} {
					v.try("cut", b[:end])
				}
			}
			v.report()
		})
	}
}

// TestPagesOfHugeFilesCostLittle: sizes and numbers alone take no memory or time.
func TestPagesOfHugeFilesCostLittle(t *testing.T) {
	b := newRawTree(8, 2).put(2, leafPage)
	for at := range 2 {
		binary.NativeEndian.PutUint64(b[1024*at+56:], 1<<60)
	}
	reseal(b, 1024)
	for _, size := range []int64{int64(len(b)), 1 << 40, 1<<63 - 1} {
		r := &countingReader{r: sparse{b, size}}
		if err := checkTree(r, size); (err == nil) != (size < 1<<32) || r.bytes > 1<<16 {
			t.Errorf("%d bytes: %v, %d read", size, err, r.bytes)
		}
	}
}

type sparse struct {
	b    []byte
	size int64
}

func (s sparse) ReadAt(b []byte, at int64) (int, error) {
	clear(b)
	if at < int64(len(s.b)) {
		copy(b, s.b[at:])
	}
	if n := s.size - at; n < int64(len(b)) {
		return int(n), io.EOF
	}
	return len(b), nil
}

func TestPagesTellTheMachineFromTheFile(t *testing.T) {
	b := smallTree(t, 60)
	damaged := 0
	for _, fault := range []error{unix.EIO, unix.EUCLEAN, unix.ENOMEM, unix.EACCES} {
		for page := range len(b) / 1024 {
			err := checkTree(faulty{bytes.NewReader(b), int64(page) * 1024, fault}, int64(len(b)))
			machine := errors.Is(fault, unix.ENOMEM) || errors.Is(fault, unix.EACCES)
			if err != nil && (!errors.Is(err, fault) || errors.Is(err, errDamaged) == machine) {
				t.Fatalf("%v on page %d: %v", fault, page, err)
			}
			if err != nil && !machine {
				damaged++
			}
		}
	}
	if damaged == 0 {
		t.Error("no page was missed")
	}
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{dir: errDamaged, fifo: errDamaged, filepath.Join(dir, "none"): fs.ErrNotExist} {
		if err := checkPages(path); !errors.Is(err, want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// faulty cannot read the page at bad.
type faulty struct {
	r   io.ReaderAt
	bad int64
	err error
}

func (f faulty) ReadAt(b []byte, at int64) (int, error) {
	if at+int64(len(b)) <= f.bad || at >= f.bad+1024 {
		return f.r.ReadAt(b, at)
	}
	n, _ := f.r.ReadAt(b[:max(0, f.bad-at)], at)
	return n, fmt.Errorf("read: %w", f.err)
}
