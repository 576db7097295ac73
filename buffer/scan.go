package buffer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func (s *segment) setAsideIfBad() error {
	if !s.bad {
		return nil
	}
	return s.setAside()
}

// openSegments reads the folder of a class, oldest segment first. A file that
// cannot be read is marked bad. Left-over temporary files are removed.
func openSegments(dir, class string, log *slog.Logger) ([]*segment, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := errors.Join(syncDir(filepath.Dir(dir)), syncDir(dir)); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var segs []*segment
	for _, e := range entries {
		s := &segment{path: filepath.Join(dir, e.Name())}
		switch {
		case strings.HasSuffix(e.Name(), segmentSuffix+".tmp"):
			if err = os.Remove(s.path); err != nil {
				return nil, err
			}
		case !strings.HasSuffix(e.Name(), segmentSuffix):
		case !s.parseName():
			log.Warn("a file that is not a segment lies in the buffer; it is left alone", "file", s.path)
		default:
			if err = s.examine(class, log); err != nil {
				return nil, err
			}
			segs = append(segs, s)
		}
	}
	slices.SortFunc(segs, compareSegments)
	return segs, nil
}

// parseName takes first and gen from the file's name; false: it is no segment.
func (s *segment) parseName() bool {
	name := filepath.Base(s.path)
	_, err := fmt.Sscanf(name, "%020d-%04d"+segmentSuffix, &s.about.First, &s.gen)
	return err == nil && s.about.First > 0 && strings.HasSuffix(name, segmentSuffix)
}

func compareSegments(a, b *segment) int {
	if a.about.First != b.about.First {
		if a.about.First < b.about.First {
			return -1
		}
		return 1
	}
	return int(a.gen) - int(b.gen)
}

// examine loads the file and marks it bad when that shows damage.
func (s *segment) examine(class string, log *slog.Logger) error {
	named := s.about.First
	err := s.load()
	if err == nil && (s.about.First != named || s.about.Class != class) {
		err = fmt.Errorf("%w: its place says class %s, first %d; the file %s, %d", errDamaged, class, named, s.about.Class, s.about.First)
	}
	switch {
	case err == nil:
		return s.close()
	case !errors.Is(err, errDamaged):
		return fmt.Errorf("segment %s: %w", s.path, err)
	}
	log.Error("a segment is damaged and will be set aside; what it held is accounted for by a gap record", "file", s.path, "error", err)
	s.bad, s.tally, s.gaps = true, tally{}, nil
	s.about.First = named
	return s.close()
}

// metasValid reports whether both of bbolt's meta pages are whole. bbolt goes
// back to the older one without a word when the newer one is not: a commit that
// was acknowledged would be gone.
func (s *segment) metasValid() bool {
	// A page header of 16 bytes; then magic, version, page size, flags (4 each),
	// root (16), freelist, pages, transaction (8 each), FNV-1a of all that (8).
	const header, summed = 16, 56
	f, err := os.Open(s.path)
	if err != nil {
		return false
	}
	defer f.Close()
	for at, i := int64(0), 0; i < 2; i++ {
		var b [header + summed + 8]byte
		if _, err := f.ReadAt(b[:], at); err != nil {
			return false
		}
		meta := b[header:]
		sum := fnv.New64a()
		_, _ = sum.Write(meta[:summed])
		if binary.NativeEndian.Uint64(meta[summed:]) != sum.Sum64() {
			return false
		}
		at = int64(binary.NativeEndian.Uint32(meta[8:]))
	}
	return true
}
