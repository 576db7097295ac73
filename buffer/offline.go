package buffer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"sluice/drivers"
)

// Offline is a data directory that no agent runs on, open for looking at.
// Nothing in it is changed. Its methods are for one goroutine.
type Offline struct {
	dir   string
	lock  *os.File
	codec *codec
	state savedState
}

// OpenOffline opens dir. It returns ErrInUse, naming the process, when an agent
// has it, an error that is fs.ErrNotExist when there is no buffer, and ErrNewer
// when a newer version has written in it.
func OpenOffline(dir string) (*Offline, error) { return openOffline(dir, unix.LOCK_SH) }

// openOffline takes the lock of dir, shared or exclusive.
func openOffline(dir string, how int) (*Offline, error) {
	path := filepath.Join(dir, lockName)
	lock, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("no buffer in %s: %w", dir, err)
	}
	if err = unix.Flock(int(lock.Fd()), how|unix.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(path)
		return nil, errors.Join(fmt.Errorf("%s is %w by an agent (%s): stop it first, or ask it with \"sluice status\"", dir, ErrInUse, strings.TrimSpace(string(holder))), lock.Close())
	}
	o := &Offline{dir: dir, lock: lock}
	if err = o.checkFormats(how == unix.LOCK_EX); err == nil {
		o.codec, err = newCodec()
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	o.state, _ = o.readState() // Verify says what is wrong with it
	return o, nil
}

// Close gives the directory back.
func (o *Offline) Close() error { return o.lock.Close() }

// SegmentReport is what is known of one segment file.
type SegmentReport struct {
	File        string            `json:"file"` // below the data directory
	Incarnation string            `json:"incarnation"`
	First       uint64            `json:"first"`
	Last        uint64            `json:"last"` // 0: empty
	Events      uint64            `json:"events"`
	Bytes       int64             `json:"bytes"`
	From        time.Time         `json:"from"`
	To          time.Time         `json:"to"`
	Cursors     map[string]uint64 `json:"cursors"` // as of its last commit
	Fault       string            `json:"fault,omitempty"`
}

// ClassReport is one class.
type ClassReport struct {
	Name     string            `json:"name"`
	Cursors  map[string]uint64 `json:"cursors"` // by uplink: delivered up to here
	Segments []SegmentReport   `json:"segments"`
}

// Stat describes every class, by name. It reads what the files say of
// themselves; Verify reads all of them.
func (o *Offline) Stat() ([]ClassReport, error) {
	names, err := o.classes()
	if err != nil {
		return nil, err
	}
	var out []ClassReport
	for _, name := range names {
		segs, err := o.segments(name)
		if err != nil {
			return nil, err
		}
		c := ClassReport{Name: name, Cursors: map[string]uint64{}, Segments: []SegmentReport{}}
		for uplink, seq := range o.state.Classes[name].Cursors {
			c.Cursors[uplink] = seq
		}
		for _, s := range segs {
			r := o.report(s)
			for uplink, seq := range r.Cursors {
				c.Cursors[uplink] = max(c.Cursors[uplink], seq)
			}
			c.Segments = append(c.Segments, r)
		}
		out = append(out, c)
	}
	return out, nil
}

// classes lists the folders of classes.
func (o *Offline) classes() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(o.dir, "classes"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && validName(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// segments lists the files of a class, oldest first, closed and unread.
func (o *Offline) segments(class string) ([]*segment, error) {
	entries, err := os.ReadDir(filepath.Join(o.dir, "classes", class))
	if err != nil {
		return nil, err
	}
	var segs []*segment
	for _, e := range entries {
		s := &segment{path: filepath.Join(o.dir, "classes", class, e.Name())}
		if s.parseName() {
			segs = append(segs, s)
		}
	}
	slices.SortFunc(segs, compareSegments)
	return segs, nil
}

func (o *Offline) report(s *segment) SegmentReport {
	file, _ := filepath.Rel(o.dir, s.path)
	r := SegmentReport{File: file, First: s.about.First}
	err := s.load()
	if err == nil {
		r.Cursors, err = s.cursors()
	}
	if err = errors.Join(err, s.close()); err != nil {
		r.Fault = err.Error()
		return r
	}
	r.Incarnation, r.Last, r.Events, r.Bytes = s.about.Incarnation, s.tally.last, s.tally.events, s.bytes
	if s.tally.events > 0 {
		r.From, r.To = s.tally.from, s.tally.to
	}
	return r
}

func (o *Offline) readState() (savedState, error) {
	f, err := os.Open(filepath.Join(o.dir, stateName))
	if err != nil {
		return savedState{}, err
	}
	defer f.Close()
	value, _, damaged, err := readSlots(f)
	if err != nil {
		return savedState{}, err
	}
	st, err := parseState(value)
	if err == nil && damaged {
		err = errors.New("one of its two slots is damaged")
	}
	return st, err
}

// each visits the blocks of a segment in order; block is valid until visit
// returns.
func (s *segment) each(visit func(first uint64, block []byte) error) error {
	return s.view(func(tx *bbolt.Tx) error {
		batches := tx.Bucket(bucketBatches)
		if batches == nil {
			return fmt.Errorf("%w: no batches", errDamaged)
		}
		return batches.ForEachBucket(func(k []byte) error {
			if len(k) != 8 {
				return fmt.Errorf("%w: a batch's key has %d bytes", errDamaged, len(k))
			}
			return visit(binary.BigEndian.Uint64(k), batches.Bucket(k).Get(keyBlock))
		})
	})
}

// Export visits the events of a class that can be read, in order, each once.
// What cannot be read is passed to damaged, and left out.
func (o *Offline) Export(ctx context.Context, class string, visit func(incarnation string, seq uint64, e drivers.Event) error, damaged func(Finding)) error {
	segs, err := o.segments(class)
	if err != nil {
		return fmt.Errorf("class %q: %w", class, err)
	}
	if err = chooseFiles(segs, class); err != nil {
		return err
	}
	var next uint64
	for i, s := range segs {
		end := nextFirst(segs, i) // a file that took over replaces what follows its first number
		file, _ := filepath.Rel(o.dir, s.path)
		err := s.load()
		if err == nil && s.bad {
			err = fmt.Errorf("%w: it is of another place, or the file that it was made of is still there and holds more", errDamaged)
		}
		if err == nil {
			err = s.each(func(first uint64, block []byte) error {
				_, r, err := o.codec.decode(block, class)
				if errors.Is(err, ErrNewer) {
					return err
				}
				if err != nil {
					damaged(Finding{File: file, First: first, What: err.Error()})
					return nil
				}
				for j, e := range r.events {
					seq := r.seq(j)
					if seq < next || seq >= end {
						continue
					}
					if err := errors.Join(ctx.Err(), visit(s.about.Incarnation, seq, e)); err != nil {
						return err
					}
					next = seq + 1
				}
				return nil
			})
		}
		err = errors.Join(err, s.close())
		if err != nil && !errors.Is(err, errDamaged) {
			return err
		}
		if err != nil {
			damaged(Finding{File: file, What: err.Error()})
		}
	}
	return nil
}

// chooseFiles marks the files bad that a start would not go by.
func chooseFiles(segs []*segment, class string) error {
	silent := slog.New(slog.DiscardHandler)
	for _, s := range segs {
		if err := s.examine(class, silent); err != nil {
			return err
		}
	}
	return preferWhole(segs, silent)
}
