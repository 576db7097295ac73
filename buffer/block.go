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
//	 0  4  magic "SLB1"             28  4  incarnation
//	 4  1  codec: 0 none, 1 zstd    32  8  earliest time of its events, Unix ns
//	 5  3  zero                     40  8  latest time of its events, Unix ns
//	 8  8  first sequence number    48  4  span: the numbers it stands for
//	16  4  number of events         52  4  CRC32C of bytes 0..51 and the body
//	20  4  bytes of the body        56  …  body: the events, compressed
//	       before compression
//	24  4  bytes of the body
//
// A block with fewer events than its span is what thinning left: its body begins
// with the events' numbers, each as uvarint of its distance from the one before
// (the first: from the block's first number); the others were thinned out.
//
// Length, checksum and incarnation let a block be found and trusted in a file
// whose structure is lost.
const (
	blockMagic  = "SLB1"
	blockHeader = 56
	blockSummed = 52 // bytes of the header that the checksum covers

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
	first       uint64
	count       int // events
	span        int // numbers
	raw         int
	incarnation string
	from, to    time.Time
	codec       byte
}

func (h header) last() uint64 { return h.first + uint64(h.span) - 1 }

// run is a stretch of the log: the numbers from first on, span of them, and the
// events among them that are there.
type run struct {
	incarnation string // 8 hex digits; empty: the lane's

	first  uint64
	span   int
	seqs   []uint64 // the number of each event; nil: all of them are there
	events []drivers.Event
}

func (r *run) last() uint64 { return r.first + uint64(r.span) - 1 }

// seq is the number of the event at i.
func (r *run) seq(i int) uint64 {
	if r.seqs != nil {
		return r.seqs[i]
	}
	return r.first + uint64(i)
}

// times returns the earliest and the latest time of the events.
func (r *run) times() (from, to time.Time) {
	for i := range r.events {
		t := r.events[i].Time
		if i == 0 || t.Before(from) {
			from = t
		}
		if i == 0 || t.After(to) {
			to = t
		}
	}
	return from, to
}

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

// encode makes a block of r. incarnation is 8 hex digits.
func (c *codec) encode(incarnation string, r *run) []byte {
	c.raw = c.raw[:0]
	from, to := r.times()
	at := r.first
	for _, seq := range r.seqs {
		c.raw = binary.AppendUvarint(c.raw, seq-at)
		at = seq
	}
	base := from.UnixNano()
	for i := range r.events {
		c.raw = appendEvent(c.raw, &r.events[i], base)
	}
	b := make([]byte, blockHeader, blockHeader+len(c.raw)/4+64)
	b = c.enc.EncodeAll(c.raw, b)
	kind := byte(codecZstd)
	if len(b)-blockHeader >= len(c.raw) {
		b, kind = append(b[:blockHeader], c.raw...), codecNone
	}
	copy(b, blockMagic)
	b[4] = kind
	binary.BigEndian.PutUint64(b[8:], r.first)
	binary.BigEndian.PutUint32(b[16:], uint32(len(r.events)))
	binary.BigEndian.PutUint32(b[20:], uint32(len(c.raw)))
	binary.BigEndian.PutUint32(b[24:], uint32(len(b)-blockHeader))
	_, _ = hex.Decode(b[28:32], []byte(incarnation)) // drawn by us: 8 hex digits
	binary.BigEndian.PutUint64(b[32:], uint64(base))
	binary.BigEndian.PutUint64(b[40:], uint64(to.UnixNano()))
	binary.BigEndian.PutUint32(b[48:], uint32(r.span))
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
// errDamaged with what is wrong, or ErrNewer.
func parseHeader(b []byte) (header, error) {
	if len(b) < blockHeader || string(b[:4]) != blockMagic {
		return header{}, fmt.Errorf("%w: no block header in %d bytes", errDamaged, len(b))
	}
	if got, want := blockSum(b), binary.BigEndian.Uint32(b[blockSummed:]); got != want {
		return header{}, fmt.Errorf("%w: checksum %08x, stored %08x", errDamaged, got, want)
	}
	h := header{
		codec:       b[4],
		first:       binary.BigEndian.Uint64(b[8:]),
		count:       int(binary.BigEndian.Uint32(b[16:])),
		raw:         int(binary.BigEndian.Uint32(b[20:])),
		incarnation: hex.EncodeToString(b[28:32]),
		from:        time.Unix(0, int64(binary.BigEndian.Uint64(b[32:]))).UTC(),
		to:          time.Unix(0, int64(binary.BigEndian.Uint64(b[40:]))).UTC(),
		span:        int(binary.BigEndian.Uint32(b[48:])),
	}
	switch {
	case int(binary.BigEndian.Uint32(b[24:])) != len(b)-blockHeader:
		return header{}, fmt.Errorf("%w: a body of %d bytes, %d stored", errDamaged, len(b)-blockHeader, binary.BigEndian.Uint32(b[24:]))
	case h.codec > codecZstd || b[5]|b[6]|b[7] != 0: // the checksum says that it is meant so
		return header{}, fmt.Errorf("%w: a block with codec %d and %x, and this version knows 0 and 1, and zeros", ErrNewer, h.codec, b[5:8])
	case h.first == 0 || h.span < 1 || h.count < 0 || h.count > h.span || h.count > h.raw || h.raw < 0 || h.raw > blockLimit ||
		h.first+uint64(h.span) < h.first:
		return header{}, fmt.Errorf("%w: first %d, %d events of %d in %d bytes", errDamaged, h.first, h.count, h.span, h.raw)
	}
	return h, nil
}

// decode returns the events of a block. They share no memory with b. class is
// not stored with each event; it is set to the lane's. After an error the header
// is what is known of it.
func (c *codec) decode(b []byte, class string) (header, run, error) {
	h, err := parseHeader(b)
	if err != nil {
		return h, run{}, err
	}
	raw := make([]byte, 0, h.raw)
	if h.codec == codecNone {
		raw = append(raw, b[blockHeader:]...)
	} else if raw, err = c.dec.DecodeAll(b[blockHeader:], raw); err != nil {
		return h, run{}, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if len(raw) != h.raw {
		return h, run{}, fmt.Errorf("%w: %d bytes after decompression, %d expected", errDamaged, len(raw), h.raw)
	}
	d := decoder{raw: raw, text: string(raw), base: h.from.UnixNano(), class: class}
	r := run{incarnation: h.incarnation, first: h.first, span: h.span, events: make([]drivers.Event, h.count)}
	if h.count < h.span && !d.numbers(&r) {
		return h, run{}, fmt.Errorf("%w: the numbers of its %d events", errDamaged, h.count)
	}
	for i := range r.events {
		if !d.event(&r.events[i]) {
			return h, run{}, fmt.Errorf("%w: event %d of %d ends early", errDamaged, i+1, h.count)
		}
	}
	if d.at != len(raw) {
		return h, run{}, fmt.Errorf("%w: %d bytes after the last event", errDamaged, len(raw)-d.at)
	}
	return h, r, nil
}
