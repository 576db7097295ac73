package floor

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// A memory is kept in two copies, memory.0 and memory.1, each one line and the
// JSON of Memory:
//
//	sluice-memory 1 <counter> <SHA-256 of the JSON, hex>\n{…}
//
// A save writes the one and then the other, and each goes: temporary name, write,
// fsync, rename, fsync of the folder. A power cut leaves
//
//	instant                           memory.0    memory.1    read back
//	before the first rename           old         old         old
//	renamed, folder not synced        old or new  old         old or new; the save has not returned
//	first copy durable                new         old         new
//	second rename, not synced         new         old or new  new
//	returned                          new         new         new
//
// and never a torn file under either name, since a file is synced before it gets
// the name. So what was returned is there, and one file that turns to rubbish, or
// vanishes, costs nothing. A kill may leave in the page cache what the disk does not
// have yet, so Open syncs what it has read before anybody acts by it. On a full
// disk a save fails and the copies stay as they are.
//
// Both gone is for Open's caller to bear: versions start from what the running
// config says of itself, and commands that were issued before now are refused.
const (
	format   = "sluice-memory 1"
	tmpName  = "memory.tmp"
	maxBytes = 1 << 20
)

var copies = [2]string{"memory.0", "memory.1"}

// Folder is where files are changed. Each call returns when it is done; Sync makes
// the names durable.
type Folder interface {
	Create(name string) (File, error) // empty, whatever was there
	Rename(from, to string) error
	Remove(name string) error // fs.ErrNotExist where it is not there
	Sync() error
}

// File is one that is being written.
type File interface {
	io.WriteCloser
	Sync() error
}

// Store is an open memory. It is for one goroutine, and one process: the lock of
// the data directory sees to that.
type Store struct {
	folder  Folder
	memory  Memory
	counter uint64
}

// Report says what Open found.
type Report struct {
	Fresh   bool     // there was none
	Lost    bool     // there was one and both copies cannot be read: it began anew
	Damaged []string // copies that cannot be read
}

// Open reads the memory in dir, which it makes if need be. running is what the
// running config says of the document it came from, zero for none: versions do
// not go below it. now begins a new memory; a time that is certainly past, such as
// that of the build, should bound it from below. An error is one of the file
// system, or names a memory that a newer version has written.
func Open(dir string, running Applied, now time.Time) (*Store, Report, error) {
	return OpenIn(Dir(dir), dir, running, now)
}

// OpenIn is Open with a Folder that changes dir; what is there is read from dir.
func OpenIn(folder Folder, dir string, running Applied, now time.Time) (*Store, Report, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, Report{}, fmt.Errorf("make the folder of the memory: %w", err)
	}
	s := &Store{folder: folder}
	report, err := s.read(dir)
	if err != nil {
		return nil, report, fmt.Errorf("read the memory: %w", err)
	}
	if report.Fresh || report.Lost {
		s.memory = Memory{}
		s.memory.raise(running)
		s.memory.See(now)
		s.memory.Born = s.memory.Highest
	} else {
		s.memory.raise(running)
	}
	return s, report, nil
}

// read takes the newer of the copies that are whole.
func (s *Store) read(dir string) (r Report, err error) {
	found, good := 0, 0
	for _, name := range copies {
		data, err := readSynced(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return r, err
		}
		found++
		m, counter, err := parse(data)
		switch {
		case errors.Is(err, errNewer):
			return r, fmt.Errorf("%s: %w", name, err)
		case err != nil:
			r.Damaged = append(r.Damaged, name)
			continue
		}
		good++
		if counter >= s.counter {
			s.memory, s.counter = m, counter
		}
	}
	r.Fresh, r.Lost = found == 0, found > 0 && good == 0
	if err := os.Remove(filepath.Join(dir, tmpName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	return r, errors.Join(s.folder.Sync(), syncDir(filepath.Dir(dir)))
}

// readSynced reads a file that is on the disk for certain.
func readSynced(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	return data, errors.Join(err, f.Sync(), f.Close())
}

var (
	errNewer   = errors.New("written by a newer version of sluice (start that one, or move the file away)")
	errDamaged = errors.New("damaged")
)

func parse(data []byte) (m Memory, counter uint64, err error) {
	line, body, ok := bytes.Cut(data, []byte("\n"))
	words := bytes.Fields(line)
	if !ok || len(data) > maxBytes || len(words) != 4 || string(words[0]) != "sluice-memory" {
		return m, 0, errDamaged
	}
	counter, err = strconv.ParseUint(string(words[2]), 10, 64)
	if err != nil || string(words[3]) != digest(body) {
		return m, 0, errDamaged
	}
	if string(words[1]) != "1" {
		return m, 0, errNewer
	}
	if json.Unmarshal(body, &m) != nil {
		return Memory{}, 0, errDamaged
	}
	return m, counter, nil
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Memory is a copy of what is remembered.
func (s *Store) Memory() Memory { return s.memory.Clone() }

// Save makes m what is remembered, durably when it returns; it blocks for the
// disk. A memory that forgets what the one before protects from is refused. After
// an error the one before is remembered, though the disk may have m.
func (s *Store) Save(m Memory) error {
	if err := m.follows(&s.memory); err != nil {
		return fmt.Errorf("save the memory: %w", err)
	}
	body, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("save the memory: %w", err)
	}
	s.counter++
	data := append(fmt.Appendf(nil, "%s %d %s\n", format, s.counter, digest(body)), body...)
	if len(data) > maxBytes {
		return fmt.Errorf("save the memory: %d bytes (at most %d)", len(data), maxBytes)
	}
	for _, name := range copies {
		if err := s.write(name, data); err != nil {
			return fmt.Errorf("save the memory: %w", err)
		}
	}
	s.memory = m.Clone()
	return nil
}

func (s *Store) write(name string, data []byte) error { return replace(s.folder, tmpName, name, data) }

// replace puts a file in the place of another, or of none; it is durable when it
// returns, and never there in part.
func replace(folder Folder, tmp, name string, data []byte) error {
	f, err := folder.Create(tmp)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := folder.Rename(tmp, name); err != nil {
		return err
	}
	return folder.Sync()
}

// Dir is a Folder of the file system.
type Dir string

// Create implements Folder.
func (d Dir) Create(name string) (File, error) {
	return os.OpenFile(filepath.Join(string(d), name), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
}

// Rename implements Folder.
func (d Dir) Rename(from, to string) error {
	return os.Rename(filepath.Join(string(d), from), filepath.Join(string(d), to))
}

// Remove implements Folder.
func (d Dir) Remove(name string) error { return os.Remove(filepath.Join(string(d), name)) }

// Sync implements Folder.
func (d Dir) Sync() error { return syncDir(string(d)) }

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
