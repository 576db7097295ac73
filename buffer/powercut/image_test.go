//go:build torture

package powercut

import (
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// image is one disk as files.
type image struct {
	root  string
	files []file // folders before what they hold
	hash  uint64
}

type file struct {
	path string // below the root
	dir  bool
	data []byte
	from *inode // with the data of its base: it may be linked
}

// images builds disks, and keeps what they share.
type images struct {
	dir   string // where files that several disks share lie
	seed  maphash.Seed
	sums  map[*inode]sum
	pools map[*inode]pooled
}

// sum is the hash of a file's base.
type sum struct {
	version int
	hash    uint64
}

// pooled is a file that holds a base and is linked into many disks.
type pooled struct {
	version int
	path    string
}

// pooledTime is the time of change of shared files: a later one tells that
// somebody wrote to them.
var pooledTime = time.Unix(1_000_000_000, 0)

func newImages(dir string) (*images, error) {
	return &images{dir: dir, seed: maphash.MakeSeed(), sums: map[*inode]sum{}, pools: map[*inode]pooled{}}, os.MkdirAll(dir, 0o700)
}

// build makes the image of the disk after c.
func (s *images) build(d *disk, p pending, c cut) image {
	names := maps.Clone(d.base)
	chosen := make(map[*meta]bool, len(c.metas))
	for i, m := range p.metas {
		chosen[m] = c.metas[i]
	}
	for _, m := range d.metas {
		if m.durable || chosen[m] {
			m.apply(names)
		}
	}
	split := map[*op]part{}
	for i, o := range p.ops {
		split[o] = c.ops[i]
	}
	m := image{root: d.root}
	var h maphash.Hash
	h.SetSeed(s.seed)
	reached := map[string]bool{d.root: true}
	for _, path := range slices.Sorted(maps.Keys(names)) {
		if i := names[path]; path != d.root && reached[filepath.Dir(path)] { // else its folder is not there
			reached[path] = i.dir
			f, sum := s.file(i, split, len(c.ops) == 0 || slices.ContainsFunc(c.ops, func(p part) bool { return p.in }))
			f.path = strings.TrimPrefix(path, d.root+string(filepath.Separator))
			fmt.Fprintf(&h, "%s %t %d %d\n", f.path, f.dir, len(f.data), sum)
			m.files = append(m.files, f)
		}
	}
	m.hash = h.Sum64()
	return m
}

// file makes the content of i; rest says whether quiet files have what is pending.
func (s *images) file(i *inode, split map[*op]part, rest bool) (f file, hash uint64) {
	f = file{dir: i.dir, data: i.base, from: i}
	for _, o := range i.ops {
		p, known := split[o]
		if !known {
			p.in = rest
		}
		if !o.durable && !p.in {
			continue
		}
		if f.from != nil { // base is not to be changed
			f.data, f.from = append(make([]byte, 0, len(i.base)+len(o.data)+4096), i.base...), nil
		}
		t := p.torn
		if o.durable {
			t = nil
		}
		f.data = o.apply(f.data, t)
		if t != nil && t.grown {
			f.data = resized(f.data, max(int64(len(f.data)), o.off+int64(len(o.data))))
		}
	}
	if f.from == nil || i.dir {
		return f, maphash.Bytes(s.seed, f.data)
	}
	known, ok := s.sums[i]
	if !ok || known.version != i.version {
		known = sum{version: i.version, hash: maphash.Bytes(s.seed, i.base)}
		s.sums[i] = known
	}
	return f, known.hash
}

// write makes the image's files below dir. Segments that are all durable are links
// to one file for many images: no process writes a segment of an earlier one.
func (s *images) write(m image, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for _, f := range m.files {
		path := filepath.Join(dir, f.path)
		var err error
		switch {
		case f.dir:
			err = os.Mkdir(path, 0o700)
		case f.from != nil && strings.HasSuffix(f.path, ".seg"):
			err = s.link(f, path)
		default:
			err = os.WriteFile(path, f.data, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *images) link(f file, path string) error {
	p, ok := s.pools[f.from]
	if !ok || p.version != f.from.version || !untouched(p.path) {
		if ok {
			if err := os.Remove(p.path); err != nil { // disks that have it keep it
				return err
			}
		}
		p = pooled{version: f.from.version, path: filepath.Join(s.dir, fmt.Sprintf("%d-%d", f.from.id, f.from.version))}
		if err := errors.Join(os.WriteFile(p.path, f.data, 0o600), os.Chtimes(p.path, pooledTime, pooledTime)); err != nil {
			return err
		}
		s.pools[f.from] = p
	}
	return os.Link(p.path, path)
}

func untouched(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.ModTime().Equal(pooledTime)
}

// written names a shared file below dir that somebody wrote to; empty: none.
func (m image) written(dir string) string {
	for _, f := range m.files {
		if f.from == nil || f.dir || !strings.HasSuffix(f.path, ".seg") {
			continue
		}
		path := filepath.Join(dir, f.path)
		if _, err := os.Stat(path); err == nil && !untouched(path) {
			return f.path
		}
	}
	return ""
}
