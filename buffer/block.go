package buffer

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/klauspost/compress/zstd"

	"sluice/drivers"
)

// A stored block, all integers big-endian:
//
//	 0  4  magic "SLB1"             24  4  bytes of the body
//	 4  1  codec: 0 none, 1 zstd    28  4  incarnation
//	 5  3  zero                     32  8  time of the first event, Unix ns
//	 8  8  first sequence number    40  8  time of the last event, Unix ns
//	16  4  number of events         48  4  CRC32C of bytes 0..47 and the body
//	20  4  bytes of the body        52  …  body: the events, compressed
//	       before compression
//
// Length, checksum and incarnation let a block be found and trusted in a file
// whose structure is lost.
const (
	blockMagic  = "SLB1"
	blockHeader = 52
	blockSummed = 48 // bytes of the header that the checksum covers

	codecNone = 0
	codecZstd = 1

	// A block is closed at this many events or bytes, so that a reader holds
	// little at a time; a single larger event has a block of its own.
	blockEvents = 1024
	blockBytes  = 256 << 10
	// No block is larger than this before compression: a header that claims
	// more is damaged.
	blockLimit = 512 << 20
)

var errDamaged = errors.New("damaged block")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is what is known of a block without decompressing it.
type header struct {
	first    uint64
	count    int
	raw      int
	from, to time.Time
	codec    byte
}

func (h header) last() uint64 { return h.first + uint64(h.count) - 1 }

// codec compresses and decompresses blocks. The encoder is for one goroutine,
// the decoder for any number.
type codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
	raw []byte
}

func newCodec() (*codec, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(blockBytes), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fmt.Errorf("zstd encoder: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(blockLimit))
	if err != nil {
		return nil, fmt.Errorf("zstd decoder: %w", err)
	}
	return &codec{enc: enc, dec: dec}, nil
}

// encode makes a block of the events, the first of which has the sequence
// number first. incarnation is 8 hex digits.
func (c *codec) encode(incarnation string, first uint64, events []drivers.Event) []byte {
	c.raw = c.raw[:0]
	base := events[0].Time.UnixNano()
	for i := range events {
		c.raw = appendEvent(c.raw, &events[i], base)
	}
	b := make([]byte, blockHeader, blockHeader+len(c.raw)/4+64)
	b = c.enc.EncodeAll(c.raw, b)
	kind := byte(codecZstd)
	if len(b)-blockHeader >= len(c.raw) {
		b, kind = append(b[:blockHeader], c.raw...), codecNone
	}
	copy(b, blockMagic)
	b[4] = kind
	binary.BigEndian.PutUint64(b[8:], first)
	binary.BigEndian.PutUint32(b[16:], uint32(len(events)))
	binary.BigEndian.PutUint32(b[20:], uint32(len(c.raw)))
	binary.BigEndian.PutUint32(b[24:], uint32(len(b)-blockHeader))
	_, _ = hex.Decode(b[28:32], []byte(incarnation)) // drawn by us: 8 hex digits
	binary.BigEndian.PutUint64(b[32:], uint64(base))
	binary.BigEndian.PutUint64(b[40:], uint64(events[len(events)-1].Time.UnixNano()))
	binary.BigEndian.PutUint32(b[blockSummed:], blockSum(b))
	if cap(c.raw) > 4*blockBytes {
		c.raw = nil // one large event must not pin its size for ever
	}
	return b
}

func blockSum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:blockSummed], castagnoli), castagnoli, b[blockHeader:])
}

// parseHeader reads and checks a block's header and checksum. The error is
// errDamaged with what is wrong.
func parseHeader(b []byte) (header, error) {
	if len(b) < blockHeader || string(b[:4]) != blockMagic {
		return header{}, fmt.Errorf("%w: no block header in %d bytes", errDamaged, len(b))
	}
	if got, want := blockSum(b), binary.BigEndian.Uint32(b[blockSummed:]); got != want {
		return header{}, fmt.Errorf("%w: checksum %08x, stored %08x", errDamaged, got, want)
	}
	h := header{
		codec: b[4],
		first: binary.BigEndian.Uint64(b[8:]),
		count: int(binary.BigEndian.Uint32(b[16:])),
		raw:   int(binary.BigEndian.Uint32(b[20:])),
		from:  time.Unix(0, int64(binary.BigEndian.Uint64(b[32:]))).UTC(),
		to:    time.Unix(0, int64(binary.BigEndian.Uint64(b[40:]))).UTC(),
	}
	switch {
	case int(binary.BigEndian.Uint32(b[24:])) != len(b)-blockHeader:
		return header{}, fmt.Errorf("%w: a body of %d bytes, %d stored", errDamaged, len(b)-blockHeader, binary.BigEndian.Uint32(b[24:]))
	case h.codec > codecZstd:
		return header{}, fmt.Errorf("%w: codec %d (this version knows 0 and 1)", errDamaged, h.codec)
	case h.first == 0 || h.count == 0 || h.count > h.raw || h.raw > blockLimit || h.first+uint64(h.count) < h.first:
		return header{}, fmt.Errorf("%w: first %d, %d events in %d bytes", errDamaged, h.first, h.count, h.raw)
	}
	return h, nil
}

// decode returns the events of a block. They share no memory with b. class is
// not stored with each event; it is set to the lane's.
func (c *codec) decode(b []byte, class string) (header, []drivers.Event, error) {
	h, err := parseHeader(b)
	if err != nil {
		return h, nil, err
	}
	raw := make([]byte, 0, h.raw)
	if h.codec == codecNone {
		raw = append(raw, b[blockHeader:]...)
	} else if raw, err = c.dec.DecodeAll(b[blockHeader:], raw); err != nil {
		return h, nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if len(raw) != h.raw {
		return h, nil, fmt.Errorf("%w: %d bytes after decompression, %d expected", errDamaged, len(raw), h.raw)
	}
	d := decoder{raw: raw, text: string(raw), base: h.from.UnixNano(), class: class}
	events := make([]drivers.Event, h.count)
	for i := range events {
		if !d.event(&events[i]) {
			return h, nil, fmt.Errorf("%w: event %d of %d ends early", errDamaged, i+1, h.count)
		}
	}
	if d.at != len(raw) {
		return h, nil, fmt.Errorf("%w: %d bytes after the last event", errDamaged, len(raw)-d.at)
	}
	return h, events, nil
}
