package buffer

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sluice/drivers"
)

// tidySegments tidies each of segs; what fails is left for the next start.
func tidySegments(segs []*segment, log *slog.Logger) {
	for _, s := range segs {
		if err := s.tidy(); err != nil {
			log.Warn("cannot set a segment aside", "file", s.path, "error", err)
		}
	}
}

// tidy sets a damaged file aside, and removes one that a later generation stands
// for.
func (s *segment) tidy() error {
	switch {
	case s.bad:
		return s.setAside()
	case s.superseded:
		return s.remove()
	}
	return nil
}

// openSegments reads the folder of a class, oldest segment first. Damaged files
// are marked bad.
func openSegments(dir, class string, log *slog.Logger) ([]*segment, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := errors.Join(syncDir(filepath.Dir(dir)), syncDir(dir)); err != nil {
		return nil, err
	}
	segs, err := listSegments(dir, log)
	if err != nil {
		return nil, err
	}
	for _, s := range segs {
		if err := s.examine(class, log); err != nil {
			return nil, err
		}
	}
	return segs, preferWhole(segs, log)
}

// preferWhole looks at files of which a later generation is there, too: a crash
// came before the older one was removed. It is the older one that counts where it
// is whole, the later one was made of it, and that one is not whole, or ends before
// it: then it has lost its last commit, and what is left of it is whole as far as it goes.
func preferWhole(segs []*segment, log *slog.Logger) error {
	for i, later := range segs {
		older := generationBefore(segs, i)
		if later.bad || older == nil || older.tally.last < later.tally.last {
			continue
		}
		if other, err := later.tookOver(older); err != nil {
			return fmt.Errorf("segment %s: %w", later.path, err)
		} else if other { // what is damaged in it the older one does not hold
			continue
		}
		if later.tally.last >= min(older.tally.last, sealedAt(segs, i)) {
			if whole, err := later.whole(); err != nil {
				return err
			} else if whole {
				continue
			}
		}
		if whole, err := older.whole(); err != nil {
			return err
		} else if whole {
			log.Error("a segment is damaged and will be set aside; the one that it was made of is still there", "file", later.path)
			later.condemn(false)
		}
	}
	return nil
}

// tookOver reports whether s is not made of older but took over from it: its first
// number holds another event. A process found nothing in older, since the one before
// was killed in its first commit, and gave the numbers of that anew. An error says that
// this machine cannot tell now.
func (s *segment) tookOver(older *segment) (bool, error) {
	c, err := newCodec()
	if err != nil {
		return false, err
	}
	_, r, err := s.read(s.about.First, c)
	if err = errors.Join(ignored(err), s.close()); err != nil || len(r.events) == 0 {
		return false, err
	}
	_, was, err := older.read(r.seq(0), c)
	if err = errors.Join(ignored(err), older.close()); err != nil {
		return false, err
	}
	for i := range was.events {
		if was.seq(i) == r.seq(0) {
			return !sameEvent(&was.events[i], &r.events[0]), nil
		}
	}
	return false, nil
}

// ignored is nil for what says that a file holds nothing that can be read there.
func ignored(err error) error {
	if errors.Is(err, errDamaged) || errors.Is(err, errNoMore) {
		return nil
	}
	return err
}

func sameEvent(a, b *drivers.Event) bool {
	return a.Time.Equal(b.Time) && a.Source == b.Source && a.Device == b.Device && a.Subject == b.Subject && a.Type == b.Type &&
		a.ContentType == b.ContentType && bytes.Equal(a.Payload, b.Payload)
}

// generationBefore is the generation of segs[i] before it that is not damaged.
func generationBefore(segs []*segment, i int) *segment {
	for j := i - 1; j >= 0 && segs[j].about.First == segs[i].about.First; j-- {
		if !segs[j].bad {
			return segs[j]
		}
	}
	return nil
}

// sealedAt is the last number that segs[i] can hold: the next file of its buffer
// took over after that.
func sealedAt(segs []*segment, i int) uint64 {
	for _, s := range segs[i+1:] {
		if !s.bad && s.about.First > segs[i].about.First && s.about.Incarnation == segs[i].about.Incarnation {
			return s.about.First - 1
		}
	}
	return math.MaxUint64
}

// whole reports whether everything that was committed can be read. An error says
// that this machine cannot tell now.
func (s *segment) whole() (bool, error) {
	var events uint64
	err := s.each(func(first uint64, block []byte) error {
		h, err := parseHeader(block)
		if err == nil && h.first != first {
			err = errDamaged
		}
		events += uint64(h.count)
		return err
	})
	if err = errors.Join(err, s.close()); err == nil || errors.Is(err, errDamaged) {
		return err == nil && events == s.tally.events, nil
	}
	return false, fmt.Errorf("segment %s: %w", s.path, err)
}

// syncSegments makes durable what a process that was killed left in the page
// cache: a commit that it wrote and had not synced is read like any other.
func syncSegments(segs []*segment, log *slog.Logger) {
	for _, s := range segs {
		if s.bad {
			continue
		}
		if err := syncDir(s.path); err != nil {
			log.Warn("cannot sync a segment; its last commit may not survive a power cut", "file", s.path, "error", err)
		}
	}
}

// rescueSegments saves what is whole in the damaged ones of segs into new files,
// which follow them in the list. Files of an incarnation that is not ours are
// marked bad.
func rescueSegments(segs []*segment, class string, ours func(incarnation string) bool, log *slog.Logger) (out []*segment) {
	for _, s := range segs {
		if !s.bad && !ours(s.about.Incarnation) {
			log.Error("a segment belongs to another buffer and will be set aside", "file", s.path, "incarnation", s.about.Incarnation)
			s.condemn(true)
		}
	}
	for i, s := range segs {
		out = append(out, s)
		if !s.bad || s.foreign {
			continue
		}
		fresh, err := s.rescue(class, nextFirst(segs, i), ours)
		switch {
		case err != nil:
			log.Error("nothing could be saved of a damaged segment", "file", s.path, "error", err)
			continue
		case fresh == nil:
			continue
		}
		if !fresh.adds(generationBefore(segs, i)) {
			if err := fresh.remove(); err != nil {
				log.Warn("remove a segment", "file", fresh.path, "error", err)
			}
			continue
		}
		log.Warn("saved from a damaged segment", "file", s.path, "events", fresh.tally.events)
		out = append(out, fresh)
	}
	return out
}

// adds reports whether s, which was saved from a later generation, holds what older
// does not; older is nil where there is none.
func (s *segment) adds(older *segment) bool {
	if older == nil || older.tally.last < s.tally.last {
		return true
	}
	other, err := s.tookOver(older)
	return err == nil && other
}

// condemn marks the file as not to be read.
func (s *segment) condemn(foreign bool) {
	s.bad, s.foreign = true, foreign
	s.tally, s.gaps, s.skips = tally{}, nil, nil
}

// removeLeftOvers removes the temporary files of segments that were not finished.
func removeLeftOvers(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), segmentSuffix+".tmp") {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return err
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

// parseName takes first and gen from the file's name; false: it is no segment.
func (s *segment) parseName() bool {
	name := filepath.Base(s.path)
	_, err := fmt.Sscanf(name, "%020d-%04d"+segmentSuffix, &s.about.First, &s.gen)
	return err == nil && s.about.First > 0 && name == segmentName(s.about.First, s.gen)
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

// examine loads the file, and marks it bad when that shows damage.
func (s *segment) examine(class string, log *slog.Logger) error {
	named := s.about.First
	err := s.load()
	foreign := err == nil && (s.about.First != named || s.about.Class != class)
	if foreign {
		err = fmt.Errorf("%w: its place says class %s, first %d; the file %s, %d", errDamaged, class, named, s.about.Class, s.about.First)
	}
	if err == nil {
		var valid bool
		valid, err = s.metasValid()
		s.doubtful = !valid
	}
	switch {
	case err == nil:
	case !errors.Is(err, errDamaged):
		return fmt.Errorf("segment %s: %w", s.path, err)
	default:
		log.Error("a segment is damaged and will be set aside; what is whole in it is saved, a gap record accounts for the rest", "file", s.path, "error", err)
		s.condemn(foreign) // what a foreign one holds is somebody else's
		s.about.First = named
	}
	return s.close()
}

// metasValid reports whether both of bbolt's meta pages are whole. bbolt goes
// back to the older one without a word when the newer one is not: a commit that
// was acknowledged would be gone. An error says that this machine cannot tell now.
func (s *segment) metasValid() (bool, error) {
	f, err := os.Open(s.path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	_, both, err := readMetas(f, fileSize(s.path))
	if errors.Is(err, errDamaged) {
		return false, nil
	}
	return both, err
}

// keepAside is how many damaged files of a class are kept: what is whole in them
// was saved, and they must not fill the disk.
const keepAside = 8

// setAside renames a damaged file to NAME.corrupt-TIME, for people to look at, and
// removes those that were set aside long ago.
func (s *segment) setAside() error {
	err := s.leave()
	s.aside = s.path + ".corrupt-" + time.Now().UTC().Format("20060102T150405.000")
	err = errors.Join(err, os.Rename(s.path, s.aside))
	old, _ := filepath.Glob(filepath.Join(filepath.Dir(s.path), "*"+segmentSuffix+".corrupt-*"))
	when := func(path string) string { return path[strings.LastIndex(path, ".corrupt-"):] }
	slices.SortFunc(old, func(a, b string) int { return cmp.Compare(when(a), when(b)) })
	for _, path := range old[:max(0, len(old)-keepAside)] {
		err = errors.Join(err, removeQuietly(path))
	}
	return err
}
