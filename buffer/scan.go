package buffer

import (
	"errors"
	"fmt"
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

// openSegments reads the folder of a class, oldest segment first. What is whole
// in a damaged file is saved into a new one that follows it in the list; the
// damaged one is marked bad. Left-over temporary files are removed.
func openSegments(dir, class string, log *slog.Logger) ([]*segment, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := errors.Join(syncDir(filepath.Dir(dir)), syncDir(dir)); err != nil {
		return nil, err
	}
	named, err := listSegments(dir, log)
	if err != nil {
		return nil, err
	}
	var segs []*segment
	for i, s := range named {
		fresh, err := s.examine(class, nextFirst(named, i), log)
		if err != nil {
			return nil, err
		}
		segs = append(segs, s)
		if fresh != nil {
			segs = append(segs, fresh)
		}
	}
	return segs, nil
}

// listSegments lists the files of a class by name, oldest first.
func listSegments(dir string, log *slog.Logger) (segs []*segment, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		s := &segment{path: filepath.Join(dir, e.Name())}
		switch {
		case strings.HasSuffix(e.Name(), segmentSuffix+".tmp"):
			if err = os.RemoveAll(s.path); err != nil {
				return nil, err
			}
		case !strings.HasSuffix(e.Name(), segmentSuffix):
		case !s.parseName() || !e.Type().IsRegular():
			log.Warn("a file that is not a segment lies in the buffer; it is left alone", "file", s.path)
		default:
			segs = append(segs, s)
		}
	}
	slices.SortFunc(segs, compareSegments)
	return segs, nil
}

// nextFirst is the number from which on a later file holds what segs[i] might.
func nextFirst(segs []*segment, i int) uint64 {
	if i+1 < len(segs) {
		return segs[i+1].about.First
	}
	return ^uint64(0)
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

// examine loads the file. It marks it bad when that shows damage, and returns
// what could be saved of it, if anything could.
func (s *segment) examine(class string, end uint64, log *slog.Logger) (fresh *segment, err error) {
	named := s.about.First
	err = s.load()
	foreign := err == nil && (s.about.First != named || s.about.Class != class)
	if foreign {
		err = fmt.Errorf("%w: its place says class %s, first %d; the file %s, %d", errDamaged, class, named, s.about.Class, s.about.First)
	}
	switch {
	case err == nil:
		return nil, s.close()
	case !errors.Is(err, errDamaged):
		return nil, fmt.Errorf("segment %s: %w", s.path, err)
	}
	log.Error("a segment is damaged and will be set aside; what is whole in it is saved, a gap record accounts for the rest", "file", s.path, "error", err)
	s.bad, s.tally, s.gaps, s.skips = true, tally{}, nil, nil
	s.about.First = named
	if err = s.close(); err != nil {
		return nil, err
	}
	if foreign { // what it holds is somebody else's
		return nil, nil
	}
	if fresh, err = s.rescue(class, end); err != nil {
		log.Error("nothing could be saved of a damaged segment", "file", s.path, "error", err)
		return nil, nil
	}
	if fresh != nil {
		log.Warn("saved from a damaged segment", "file", s.path, "events", fresh.tally.events)
		s.keepAsIs = true
	}
	return fresh, nil
}

// metasValid reports whether both of bbolt's meta pages are whole. bbolt goes
// back to the older one without a word when the newer one is not: a commit that
// was acknowledged would be gone.
func (s *segment) metasValid() bool {
	f, err := os.Open(s.path)
	if err != nil {
		return false
	}
	defer f.Close()
	_, both, err := readMetas(f, fileSize(s.path))
	return err == nil && both
}
