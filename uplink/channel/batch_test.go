package channel

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"testing"

	"encoding/binary"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// encode makes a batch of records with the client's own types.
func encode(first int64, records ...kmsg.Record) []byte {
	b := kmsg.RecordBatch{FirstOffset: first, Magic: 2, LastOffsetDelta: int32(len(records) - 1), NumRecords: int32(len(records))}
	for i, r := range records {
		r.OffsetDelta = int32(i)
		r.Length = int32(len(r.AppendTo(nil)) - 1)
		b.Records = r.AppendTo(b.Records)
	}
	b.Length = int32(len(b.AppendTo(nil)) - 12)
	out := b.AppendTo(nil)
	binary.BigEndian.PutUint32(out[17:], crc32.Checksum(out[21:], crc32.MakeTable(crc32.Castagnoli)))
	return out
}

func contents(x *batch) (lines []string, err error) {
	err = x.each(kgo.DefaultDecompressor(), func(offset int64, key, value []byte) {
		lines = append(lines, fmt.Sprintf("%d %q %q %t", offset, key, value, value == nil))
	})
	return lines, err
}

func TestCutBatch(t *testing.T) {
	whole := encode(7, kmsg.Record{Key: []byte("a"), Value: []byte("1")}, kmsg.Record{Value: []byte{}},
		kmsg.Record{Key: []byte("b"), Headers: []kmsg.Header{{Key: "h", Value: []byte("v")}}})
	x, rest, ok, err := cutBatch(append(bytes.Clone(whole), "more"...))
	lines, err2 := contents(&x)
	want := `[7 "a" "1" false 8 "" "" false 9 "b" "" true]`
	if !ok || err != nil || err2 != nil || string(rest) != "more" || x.first != 7 || x.last != 9 || fmt.Sprint(lines) != want {
		t.Errorf("%+v, rest %q, %v, %v, %v: %q", x, rest, ok, err, err2, lines)
	}
	for n := range whole {
		if _, _, ok, _ := cutBatch(whole[:n]); ok {
			t.Errorf("a batch of %d bytes was taken from %d", len(whole), n)
		}
	}
	for i := 21; i < len(whole); i++ {
		broken := bytes.Clone(whole)
		broken[i] ^= 0x10
		if _, _, ok, err := cutBatch(broken); !ok || !errors.Is(err, errDamaged) {
			t.Errorf("byte %d changed: %v, %v", i, ok, err)
		}
	}
}

// Whatever the bytes, a batch ends, and its records lie within it.
func FuzzBatch(f *testing.F) {
	f.Add(encode(0, kmsg.Record{Key: []byte("a"), Value: []byte("1")}))
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			if len(b) > batchHead { // as if the sum were right
				if n := int64(binary.BigEndian.Uint32(b[8:])) + 12; n > 21 && n <= int64(len(b)) {
					binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:n], crc32.MakeTable(crc32.Castagnoli)))
				}
			}
			x, rest, ok, err := cutBatch(b)
			if !ok {
				return
			}
			if len(rest) >= len(b) || x.last < x.first {
				t.Fatalf("no progress: %d of %d, %d to %d", len(rest), len(b), x.first, x.last)
			}
			if err == nil && !x.old && x.codec == kgo.CodecNone {
				total := 0
				_ = x.each(nil, func(_ int64, key, value []byte) { total += len(key) + len(value) })
				if total > len(b) {
					t.Fatalf("records of %d bytes in %d", total, len(b))
				}
			}
			b = rest
		}
	})
}
