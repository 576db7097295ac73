package buffer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"runtime"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"sluice/drivers"
)

// floorLog is the least a durable log can do, to compare the buffer with: one
// file that grows, one write and one fdatasync for a batch. It has no numbers, no
// cursors, no limits, and nothing that finds its way after damage. A frame, all
// integers little-endian:
//
//	0  4  bytes of the body
//	4  4  CRC32C of the body
//	8  …  raw: one event; compressed: all events of the batch, zstd
type floorLog struct {
	file    *os.File
	enc     *zstd.Encoder // nil: raw
	written int64
	out     []byte
	body    []byte
}

func newFloor(path string, compressed bool) (*floorLog, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil || !compressed {
		return &floorLog{file: f}, err
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
	return &floorLog{file: f, enc: enc}, err
}

// append makes events durable.
func (f *floorLog) append(events []drivers.Event) error {
	f.out, f.body = f.out[:0], f.body[:0]
	for i := range events {
		f.body = appendPlain(f.body, &events[i])
		if f.enc == nil {
			f.out = append(frame(f.out, f.body), f.body...)
			f.body = f.body[:0]
		}
	}
	if f.enc != nil {
		f.out = f.enc.EncodeAll(f.body, append(f.out, make([]byte, 8)...))
		frame(f.out[:0], f.out[8:])
	}
	n, err := f.file.Write(f.out)
	f.written += int64(n)
	return errors.Join(err, unix.Fdatasync(int(f.file.Fd())))
}

func frame(b, body []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(body)))
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(body, castagnoli))
}

// readFloor reads a floor's file from its beginning, checks every frame, and
// returns how many events it holds.
func readFloor(path string, compressed bool) (events int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return 0, err
	}
	defer dec.Close()
	var buf, raw []byte
	for chunk := make([]byte, 256<<10); ; {
		n, err := f.Read(chunk)
		if n == 0 {
			if len(buf) > 0 {
				err = fmt.Errorf("%d bytes after the last frame: %w", len(buf), err)
				return events, err
			}
			return events, nil
		}
		buf = append(buf, chunk[:n]...)
		rest := buf
		for len(rest) >= 8 {
			size := 8 + int(binary.LittleEndian.Uint32(rest))
			if len(rest) < size {
				break
			}
			body := rest[8:size]
			if !bytes.Equal(rest[:8], frame(nil, body)) {
				return events, fmt.Errorf("damaged frame after %d events", events)
			}
			if raw = append([]byte(nil), body...); compressed {
				if raw, err = dec.DecodeAll(body, nil); err != nil {
					return events, err
				}
			}
			rest = rest[size:]
			n, err := countPlain(raw)
			if err != nil {
				return events, err
			}
			events += n
		}
		buf = append(buf[:0], rest...)
	}
}

// appendPlain appends e as its time and its fields, each with its length.
func appendPlain(b []byte, e *drivers.Event) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(e.Time.UnixNano()))
	for _, s := range [...]string{e.Source, e.Device, e.Subject, e.Type, e.ContentType} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	return append(binary.AppendUvarint(b, uint64(len(e.Payload))), e.Payload...)
}

// countPlain reads the events that appendPlain wrote and returns how many there are.
func countPlain(raw []byte) (n int, err error) {
	d := decoder{raw: raw, text: string(raw)}
	for ; d.at < len(raw); n++ {
		if len(raw)-d.at < 8 {
			return n, errors.New("an event ends early")
		}
		e := drivers.Event{Time: time.Unix(0, int64(binary.LittleEndian.Uint64(raw[d.at:]))).UTC()}
		d.at += 8
		for _, s := range []*string{&e.Source, &e.Device, &e.Subject, &e.Type, &e.ContentType} {
			from, to, _ := d.span()
			*s = d.text[from:to]
		}
		from, to, ok := d.span()
		if !ok {
			return n, errors.New("an event ends early")
		}
		e.Payload = raw[from:to:to]
		runtime.KeepAlive(&e)
	}
	return n, nil
}
