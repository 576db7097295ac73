package buffer

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// A segment is one bbolt file with these buckets:
//
//	meta     about    JSON: format, class, incarnation, first
//	         tally    last, events, from, to: 8 bytes each, big-endian
//	         cursors  per uplink: length of the name (1), name, acknowledged (8)
//	batches  <first seq, 8 bytes>: a bucket of its own per block, key "block"
//	gaps     <seq, 8 bytes>: the value of each gap record in this file
//	skipped  <first seq, 8 bytes>: last (8), numbers up to a block of this file that
//	         were never written: refused, or delivered before they had to be
//
// All values but blocks, which have their own, end with their CRC32C.
//
// A bucket per block keeps bbolt from rewriting the blocks before it: a leaf
// with four keys or fewer is never split, however large its values are.
//
// A file is written by one process life, and never again after a failed commit.
// It is named by the first sequence number and a generation, so that a file
// that takes over after a failure sorts behind the one it replaces.
const (
	segmentSuffix = ".seg"
	growStep      = 1 << 20
)

var (
	bucketMeta    = []byte("meta")
	bucketBatches = []byte("batches")
	bucketGaps    = []byte("gaps")
	bucketSkipped = []byte("skipped")
	keyAbout      = []byte("about")
	keyTally      = []byte("tally")
	keyCursors    = []byte("cursors")
	keyBlock      = []byte("block")

	errGone   = errors.New("segment is gone")
	errNoMore = errors.New("no more batches in this segment")
)

// about is what a segment says of itself.
type about struct {
	Format      int    `json:"format"`
	Class       string `json:"class"`
	Incarnation string `json:"incarnation"`
	First       uint64 `json:"first"`
	Thinned     string `json:"thinned,omitempty"` // the interval of the last thinning
}

// span is a run of numbers.
type span struct{ first, last uint64 }

// tally sums up what a segment holds.
type tally struct {
	last     uint64 // 0: nothing
	events   uint64
	from, to time.Time
}

// add counts r in; blocks come in order.
func (t *tally) add(r *run) {
	from, to := r.times()
	if len(r.events) > 0 && (t.events == 0 || from.Before(t.from)) {
		t.from = from
	}
	if len(r.events) > 0 && (t.events == 0 || to.After(t.to)) {
		t.to = to
	}
	t.last = r.last()
	t.events += uint64(len(r.events))
}

func (t tally) bytes() []byte {
	b := binary.BigEndian.AppendUint64(nil, t.last)
	b = binary.BigEndian.AppendUint64(b, t.events)
	b = binary.BigEndian.AppendUint64(b, uint64(t.from.UnixNano()))
	return binary.BigEndian.AppendUint64(b, uint64(t.to.UnixNano()))
}

func parseTally(b []byte) (tally, error) {
	if len(b) != 32 {
		return tally{}, fmt.Errorf("%w: tally of %d bytes", errDamaged, len(b))
	}
	u := func(at int) uint64 { return binary.BigEndian.Uint64(b[at:]) }
	return tally{last: u(0), events: u(8), from: time.Unix(0, int64(u(16))).UTC(), to: time.Unix(0, int64(u(24))).UTC()}, nil
}

// segment is one file. The fields up to gaps change under the lane's lock only;
// mu guards the open file.
type segment struct {
	path  string
	file  fs.FileInfo // of one that this process made: which file it is
	about about
	gen   uint32
	tally tally
	bytes int64 // used in the file
	gaps  []gapAt
	skips []span // never written

	blocks   uint64 // 0: not known, of an earlier process
	keepAsIs bool   // not to be rewritten (again)

	rescued []span // of a file that was saved from a damaged one at this start: what it holds

	damaged    atomic.Bool // a reader met a bad page or block
	doubtful   bool        // the last commit may be missing
	foreign    bool        // of another class or buffer
	superseded bool        // a later generation stands for it
	bad        bool        // cannot be read at all; set aside once the state says so

	aside string // where the damaged file lies now

	mu   sync.Mutex
	db   *bbolt.DB // nil: closed, opened again by view
	gone bool      // unlinked
}

// createSegment makes a new, durable, empty file.
func createSegment(dir string, a about, gen uint32, limit int64) (*segment, error) {
	s, err := newSegment(dir, a, gen, limit)
	if err != nil {
		return nil, err
	}
	if err = s.appear(); err != nil {
		return nil, errors.Join(err, s.discard())
	}
	return s, nil
}

// newSegment makes a file under a temporary name; appear gives it its own when it
// is whole: a power cut in the middle of a bbolt file's first pages leaves one
// that kills whoever opens it. limit is about how large it will get.
func newSegment(dir string, a about, gen uint32, limit int64) (*segment, error) {
	s := &segment{path: filepath.Join(dir, segmentName(a.First, gen)), about: a, gen: gen}
	if err := removeQuietly(s.temporary()); err != nil {
		return nil, fmt.Errorf("remove a left-over file: %w", err)
	}
	// The map is as large as the file will ever be: growing it would make the
	// writer wait for all readers. The list of free pages is not stored: only a
	// file's first process writes it, and nobody else needs that list.
	db, err := bbolt.Open(s.temporary(), 0o600, &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType,
		NoFreelistSync: true, InitialMmapSize: int(limit + limit/4 + 4<<20)})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create segment: %w", err), removeQuietly(s.temporary()))
	}
	db.AllocSize = int(min(growStep, limit/4))
	s.db = db
	if err = db.Update(s.prepare); err != nil {
		return nil, errors.Join(fmt.Errorf("create segment: %w", err), s.discard())
	}
	return s, nil
}

func segmentName(first uint64, gen uint32) string {
	return fmt.Sprintf("%020d-%04d%s", first, gen, segmentSuffix)
}

func (s *segment) temporary() string { return s.path + ".tmp" }

func (s *segment) prepare(tx *bbolt.Tx) error {
	js, err := json.Marshal(s.about)
	if err != nil {
		return err
	}
	meta, err := tx.CreateBucket(bucketMeta)
	if err != nil {
		return err
	}
	for _, name := range [][]byte{bucketBatches, bucketGaps, bucketSkipped} {
		if _, err = tx.CreateBucket(name); err != nil {
			return err
		}
	}
	return errors.Join(meta.Put(keyAbout, sealed(js)), meta.Put(keyTally, sealed(tally{}.bytes())))
}

// appear renames a file whose contents are durable to its own name, durably.
func (s *segment) appear() error {
	file, err := os.Stat(s.temporary())
	if err == nil {
		err = os.Rename(s.temporary(), s.path)
	}
	if err != nil {
		return fmt.Errorf("create segment: %w", err)
	}
	s.file = file
	return syncDir(filepath.Dir(s.path))
}

// discard removes a file that was not finished. What lies at its name is another's
// until it has appeared there itself.
func (s *segment) discard() error {
	err := errors.Join(s.close(), removeQuietly(s.temporary()))
	if s.file != nil {
		err = errors.Join(err, removeQuietly(s.path))
	}
	return err
}

// stored is a block on its way into a segment.
type stored struct {
	first uint64
	block []byte
}

// load is what one transaction adds to a segment.
type load struct {
	blocks  []stored
	tally   tally // with them
	gaps    []gapAt
	skip    *span
	cursors map[string]uint64
}

// append commits w in one transaction. It returns the bytes written. After an
// error the segment must not be written again.
func (s *segment) append(w load) (written, size int64, err error) {
	tx, err := s.db.Begin(true)
	if err != nil {
		return 0, 0, err
	}
	defer func() {
		if r := recover(); r != nil { // release bbolt's lock, or close would wait for ever
			err = errors.Join(fmt.Errorf("%w: %v", errDamaged, r), rollback(tx))
		}
	}()
	if err = w.fill(tx); err != nil {
		return 0, 0, errors.Join(err, tx.Rollback())
	}
	if err = tx.Commit(); err != nil {
		return 0, 0, err
	}
	st := tx.Stats()
	err = s.db.View(func(tx *bbolt.Tx) error { size = tx.Size(); return nil })
	return st.GetPageAlloc() + int64(s.db.Info().PageSize), size, err
}

func rollback(tx *bbolt.Tx) (err error) {
	defer recoverDamage(&err)
	return tx.Rollback()
}

func (w *load) fill(tx *bbolt.Tx) error {
	batches := tx.Bucket(bucketBatches)
	batches.FillPercent = 1 // sequential keys: half-filled pages would never be filled later
	for _, bl := range w.blocks {
		sub, err := batches.CreateBucket(seqKey(bl.first))
		if err != nil {
			return fmt.Errorf("batch %d: %w", bl.first, err)
		}
		if err = sub.Put(keyBlock, bl.block); err != nil {
			return fmt.Errorf("batch %d: %w", bl.first, err)
		}
	}
	for _, g := range w.gaps {
		if err := tx.Bucket(bucketGaps).Put(seqKey(g.seq), sealed(g.gap.value())); err != nil {
			return fmt.Errorf("gap %d: %w", g.seq, err)
		}
	}
	if w.skip != nil {
		if err := tx.Bucket(bucketSkipped).Put(seqKey(w.skip.first), sealed(seqKey(w.skip.last))); err != nil {
			return fmt.Errorf("skipped %d: %w", w.skip.first, err)
		}
	}
	meta := tx.Bucket(bucketMeta)
	return errors.Join(meta.Put(keyTally, sealed(w.tally.bytes())), meta.Put(keyCursors, sealed(encodeCursors(w.cursors))))
}

func seqKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

// view runs fn in a read transaction, opening the file if it is closed. A page
// that panics or faults in fn gives an error that is errDamaged.
func (s *segment) view(fn func(tx *bbolt.Tx) error) (err error) {
	defer recoverDamage(&err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	tx, err := s.begin()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tx.Rollback()) }()
	return fn(tx)
}

func (s *segment) begin() (*bbolt.Tx, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return nil, errGone
	}
	if s.db == nil {
		if err := checkPages(s.path); err != nil {
			return nil, err
		}
		db, err := bbolt.Open(s.path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second, FreelistType: bbolt.FreelistMapType})
		if err != nil {
			return nil, openError(err)
		}
		s.db = db
	}
	return s.db.Begin(false)
}

// openError tells a damaged file from a machine that is short of something or
// forbids it: only the former may ever cost a segment.
func openError(err error) error {
	for _, machine := range []error{berrors.ErrTimeout, unix.ENOMEM, unix.EMFILE, unix.ENFILE, unix.EAGAIN, unix.EINTR,
		unix.ENOSPC, unix.EROFS, unix.EACCES, unix.EPERM} {
		if errors.Is(err, machine) {
			return fmt.Errorf("open: %w", err)
		}
	}
	return fmt.Errorf("%w: open: %w", errDamaged, err)
}

// recoverDamage turns a panic of bbolt on a bad page into an error.
func recoverDamage(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%w: %v", errDamaged, r)
	}
}

// load reads what the file says of itself. Nothing else may use s meanwhile.
func (s *segment) load() error {
	return s.view(func(tx *bbolt.Tx) error {
		meta, gaps, skipped := tx.Bucket(bucketMeta), tx.Bucket(bucketGaps), tx.Bucket(bucketSkipped)
		if err := s.loadAbout(meta); err != nil {
			return err
		}
		if gaps == nil || skipped == nil || tx.Bucket(bucketBatches) == nil {
			return fmt.Errorf("%w: buckets are missing", errDamaged)
		}
		value, err := unseal(meta.Get(keyTally))
		if err != nil {
			return err
		}
		if s.tally, err = parseTally(value); err != nil {
			return err
		}
		s.bytes, s.gaps, s.skips = tx.Size(), nil, nil
		return errors.Join(gaps.ForEach(s.loadGap), skipped.ForEach(s.loadSkip))
	})
}

// loadAbout looks at the format first: the rest of a newer file may be anything.
func (s *segment) loadAbout(meta *bbolt.Bucket) error {
	if meta == nil {
		return fmt.Errorf("%w: buckets are missing", errDamaged)
	}
	about, err := unseal(meta.Get(keyAbout))
	if err == nil {
		if err = checkFormat(about, segmentFormat); errors.Is(err, ErrNewer) {
			return err
		}
		err = json.Unmarshal(about, &s.about)
	}
	if err == nil && s.about.Format < 1 {
		err = fmt.Errorf("format %d", s.about.Format)
	}
	if err != nil {
		return fmt.Errorf("%w: about: %w", errDamaged, err)
	}
	return nil
}

func (s *segment) loadGap(k, v []byte) error {
	value, err := unseal(v)
	if err != nil {
		return err
	}
	g, err := parseGap(value)
	if len(k) != 8 || err != nil {
		return fmt.Errorf("%w: gap record", errDamaged)
	}
	s.gaps = append(s.gaps, gapAt{seq: binary.BigEndian.Uint64(k), gap: g})
	return nil
}

func (s *segment) loadSkip(k, v []byte) error {
	value, err := unseal(v)
	if len(k) != 8 || err != nil || len(value) != 8 {
		return fmt.Errorf("%w: skipped numbers", errDamaged)
	}
	s.skips = append(s.skips, span{binary.BigEndian.Uint64(k), binary.BigEndian.Uint64(value)})
	return nil
}

// cursors returns the cursors that the last commit carried.
func (s *segment) cursors() (map[string]uint64, error) {
	var m map[string]uint64
	err := s.view(func(tx *bbolt.Tx) (err error) {
		value := tx.Bucket(bucketMeta).Get(keyCursors)
		if value == nil { // created and never committed to
			return nil
		}
		if value, err = unseal(value); err == nil {
			m, err = parseCursors(value)
		}
		return err
	})
	return m, err
}

// read decodes the block that holds pos, or the first one after it. errNoMore
// means that the file holds nothing at or after pos. With errDamaged the header
// tells which numbers the bad block stood for: first, and span as far as the
// keys tell.
func (s *segment) read(pos uint64, c *codec) (h header, r run, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		batches := tx.Bucket(bucketBatches)
		if batches == nil {
			return fmt.Errorf("%w: no batches", errDamaged)
		}
		cur := batches.Cursor()
		k, _ := cur.Seek(seqKey(pos + 1))
		if k == nil {
			k, _ = cur.Last()
		} else {
			k, _ = cur.Prev()
		}
		if k == nil { // all blocks lie after pos
			k, _ = cur.First()
		}
		for ; len(k) == 8; k, _ = cur.Next() {
			h.first = binary.BigEndian.Uint64(k)
			sub := batches.Bucket(k)
			if sub == nil {
				return fmt.Errorf("%w: batch %d has no bucket", errDamaged, h.first)
			}
			var got header
			if got, r, err = c.decode(sub.Get(keyBlock), s.about.Class); err == nil && got.first != h.first {
				err = fmt.Errorf("%w: batch %d says it is %d", errDamaged, h.first, got.first)
			}
			if err != nil {
				if next, _ := cur.Next(); len(next) == 8 {
					h.span = int(min(binary.BigEndian.Uint64(next)-h.first, math.MaxInt32))
				}
				return err
			}
			if h = got; h.last() >= pos {
				return nil
			}
		}
		return errNoMore
	})
	return h, r, err
}

// close closes the file; view opens it again.
func (s *segment) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		return nil
	}
	db := s.db
	s.db = nil
	return db.Close()
}

// leave closes the file for good.
func (s *segment) leave() error {
	err := s.close()
	s.mu.Lock()
	s.gone = true
	s.mu.Unlock()
	return err
}

// remove closes and unlinks the file. A crash may bring it back.
func (s *segment) remove() error {
	return errors.Join(s.leave(), removeQuietly(s.path))
}
