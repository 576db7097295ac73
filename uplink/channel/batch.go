package channel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A record batch (Kafka protocol, "Record Batch"), its fields by their place:
//
//	 0 first offset      17 CRC-32C of all that follows   43 producer id
//	 8 length after 12   21 attributes                    51 producer epoch
//	12 leader epoch      23 last offset, from the first   53 first sequence
//	16 magic: 2          27 first and largest timestamp   57 number of records
//	                                                      61 records
const (
	batchHead = 61
	magicNow  = 2

	maskCodec   = 0x07
	maskControl = 0x20
)

// errDamaged marks a batch whose bytes are not what was written.
var errDamaged = errors.New("a damaged record batch")

// batch is one whole batch of a response.
type batch struct {
	first, last int64 // offsets; compaction may have taken those records
	control     bool  // the end of a transaction: nobody's record
	codec       kgo.CompressionCodecType
	count       int32
	records     []byte
	old         bool // of a format before Kafka 0.11; nothing else is known of it
}

// cutBatch takes the first batch off b. ok is false where b holds no whole batch:
// a broker cuts the last one short. The error is errDamaged; last is right even
// then, unless the length is not.
func cutBatch(b []byte) (x batch, rest []byte, ok bool, err error) {
	if len(b) < 17 {
		return x, nil, false, nil
	}
	length := int64(int32(binary.BigEndian.Uint32(b[8:])))
	if length < 5 || length > int64(len(b))-12 { // up to magic
		return x, nil, false, nil
	}
	x.first = int64(binary.BigEndian.Uint64(b))
	x.last = x.first
	body := b[:12+length]
	rest = b[12+length:]
	switch {
	case body[16] != magicNow:
		x.old = true
		return x, rest, true, nil
	case len(body) < batchHead:
		return x, rest, true, errDamaged
	}
	delta := int32(binary.BigEndian.Uint32(body[23:]))
	x.last += int64(max(delta, 0))
	if crc32.Checksum(body[21:], crc32.MakeTable(crc32.Castagnoli)) != binary.BigEndian.Uint32(body[17:]) {
		return x, rest, true, errDamaged
	}
	attributes := binary.BigEndian.Uint16(body[21:])
	x.control, x.codec = attributes&maskControl != 0, kgo.CompressionCodecType(attributes&maskCodec)
	x.count = int32(binary.BigEndian.Uint32(body[57:]))
	x.records = body[batchHead:]
	return x, rest, true, nil
}

// each calls f for each record of the batch with its offset. Key and value are
// only good during the call; nothing is allocated for a record. It is an error
// where the batch would decompress to more than the decompressor allows, or
// where its records are none.
func (x *batch) each(d kgo.Decompressor, f func(offset int64, key, value []byte)) error {
	b := x.records
	if x.codec != kgo.CodecNone {
		var err error
		if b, err = d.Decompress(b, x.codec); err != nil {
			return fmt.Errorf("decompress: %w", err)
		}
	}
	for range x.count {
		delta, key, value, rest, ok := cutRecord(b)
		if !ok {
			return errDamaged
		}
		f(x.first+delta, key, value)
		b = rest
	}
	return nil
}

// cutRecord takes the first record off b (Kafka protocol, "Record"): its length,
// attributes, timestamp and offset from those of the batch, key, value, headers,
// which are left alone. A key or value without bytes is empty, one that is null
// is nil.
func cutRecord(b []byte) (delta int64, key, value, rest []byte, ok bool) {
	length, n := binary.Varint(b)
	if n <= 0 || length < 1 || length > int64(len(b)-n) {
		return 0, nil, nil, nil, false
	}
	rest = b[n+int(length):]
	b = b[n : n+int(length)][1:] // behind the attributes
	if _, n = binary.Varint(b); n <= 0 {
		return 0, nil, nil, nil, false
	}
	b = b[n:]
	if delta, n = binary.Varint(b); n <= 0 || delta < 0 {
		return 0, nil, nil, nil, false
	}
	if key, b, ok = cutBytes(b[n:]); !ok {
		return 0, nil, nil, nil, false
	}
	value, _, ok = cutBytes(b)
	return delta, key, value, rest, ok
}

func cutBytes(b []byte) (field, rest []byte, ok bool) {
	length, n := binary.Varint(b)
	switch {
	case n <= 0 || length < -1 || length > int64(len(b)-n):
		return nil, nil, false
	case length == -1:
		return nil, b[n:], true
	}
	return b[n : n+int(length) : n+int(length)], b[n+int(length):], true
}
