package buffer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// A slot file holds one small value durably. It has two slots of the same size,
// written in turn and in place, so that a save needs no new space on a full disk,
// costs one write and one sync, and leaves the value before whole whatever
// happens to it. All integers are big-endian:
//
//	0  4  magic "SLS1"        16  4  bytes of the value
//	4  4  zero                20  4  CRC32C of bytes 0..19 and the value
//	8  8  counter             24  …  the value
const (
	slotMagic  = "SLS1"
	slotHeader = 24
	slotSize   = 64 << 10
)

// slots is an open slot file. Its methods are for one goroutine.
type slots struct {
	file    *os.File
	counter uint64 // of the newest value
}

// openSlots opens path, or creates it, and returns the newest value that is
// whole; nil without one. damaged says that a slot holds something else than
// a value or nothing.
func openSlots(path string) (s *slots, value []byte, damaged bool, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = createSlots(path)
	}
	if err != nil {
		return nil, nil, false, err
	}
	// Its name, too: whoever made it may have failed to.
	if err = syncDir(filepath.Dir(path)); err != nil {
		return nil, nil, false, errors.Join(err, f.Close())
	}
	s = &slots{file: f}
	if value, s.counter, damaged, err = readSlots(f); err != nil {
		return nil, nil, false, errors.Join(err, f.Close())
	}
	return s, value, damaged, nil
}

// createSlots makes the file under a temporary name, with its space allocated.
func createSlots(path string) (*os.File, error) {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(make([]byte, 2*slotSize))
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), removeQuietly(tmp))
	}
	return f, nil
}

// readSlots returns the newest whole value and its counter.
func readSlots(r io.ReaderAt) (value []byte, counter uint64, damaged bool, err error) {
	for i := range int64(2) {
		b := make([]byte, slotSize)
		if n, err := r.ReadAt(b, i*slotSize); err != nil && !errors.Is(err, io.EOF) {
			return nil, 0, false, err
		} else if n < slotSize {
			damaged = true
		}
		v, c, ok := parseSlot(b)
		if !ok && newerSlot(b) {
			return nil, 0, false, fmt.Errorf("%w: a slot that begins with %q (nothing was changed: run the version that wrote it, or a later one)", ErrNewer, b[:4])
		}
		damaged = damaged || !ok
		if ok && c > counter {
			value, counter = v, c
		}
	}
	return value, counter, damaged, nil
}

// parseSlot reads a slot; an empty one is right and has the counter 0.
func parseSlot(b []byte) (value []byte, counter uint64, ok bool) {
	empty := true
	for _, x := range b[:slotHeader] {
		empty = empty && x == 0
	}
	if empty {
		return nil, 0, true
	}
	value, ok = sealedSlot(b)
	if string(b[:4]) != slotMagic {
		return nil, 0, false
	}
	return value, binary.BigEndian.Uint64(b[8:]), ok
}

// sealedSlot returns the value; ok says that length and checksum fit.
func sealedSlot(b []byte) (value []byte, ok bool) {
	n := binary.BigEndian.Uint32(b[16:])
	if n > slotSize-slotHeader {
		return nil, false
	}
	value = b[slotHeader : slotHeader+n]
	sum := crc32.Update(crc32.Checksum(b[:20], castagnoli), castagnoli, value)
	return value, sum == binary.BigEndian.Uint32(b[20:])
}

// newerSlot reports whether the slot is whole and has another number in its magic.
func newerSlot(b []byte) bool {
	_, ok := sealedSlot(b)
	return ok && string(b[:3]) == slotMagic[:3] && b[3] > slotMagic[3]
}

// save makes value the newest one, durably. After an error the one before is
// still there.
func (s *slots) save(value []byte) error {
	if len(value) > slotSize-slotHeader {
		return fmt.Errorf("%d bytes do not fit into a slot of %d (fewer classes or uplinks)", len(value), slotSize-slotHeader)
	}
	b := make([]byte, slotHeader, slotHeader+len(value))
	copy(b, slotMagic)
	binary.BigEndian.PutUint64(b[8:], s.counter+1)
	binary.BigEndian.PutUint32(b[16:], uint32(len(value)))
	b = append(b, value...)
	binary.BigEndian.PutUint32(b[20:], crc32.Update(crc32.Checksum(b[:20], castagnoli), castagnoli, value))
	if _, err := s.file.WriteAt(b, int64((s.counter+1)%2)*slotSize); err != nil {
		return err
	}
	if err := s.file.Sync(); err != nil {
		return err
	}
	s.counter++
	return nil
}
