package buffer

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
	"time"

	"sluice/drivers"
)

func testCodec(t testing.TB) *codec {
	t.Helper()
	c, err := newCodec()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func sampleEvents() []drivers.Event {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	return []drivers.Event{
		{Class: "process", Source: "line", Subject: "a/b", Type: drivers.TypeMQTTMessage, ContentType: drivers.ContentJSON, Time: at, Payload: []byte(`{"t":1}`)},
		{Class: "process", Source: "line", Subject: "a/b", Type: drivers.TypeMQTTMessage, ContentType: drivers.ContentBinary, Time: at.Add(-time.Hour), Payload: []byte{}},
		{Class: "process", Source: "bus", Device: "meter-1", Subject: "meter-1", Type: drivers.TypeModbusReading, ContentType: drivers.ContentJSON, Time: at.Add(1), Payload: bytes.Repeat([]byte("x"), 100_000)},
	}
}

// whole is a run without holes.
func whole(first uint64, events []drivers.Event) *run {
	return &run{first: first, span: len(events), events: events}
}

func TestAThinnedBlockKeepsItsNumbers(t *testing.T) {
	c := testCodec(t)
	for name, seqs := range map[string][]uint64{"ends": {77, 90, 176}, "middle": {80, 81, 82}, "nothing": {}} {
		want := run{incarnation: "0badcafe", first: 77, span: 100, seqs: seqs, events: sampleEvents()[:len(seqs)]}
		h, got, err := c.decode(c.encode("0badcafe", &want), "process")
		if err != nil || h.last() != 176 || h.count != len(seqs) || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v %+v\ngot  %+v\nwant %+v", name, err, h, got, want)
		}
	}
}

func TestBlockRoundTrip(t *testing.T) {
	c := testCodec(t)
	for name, events := range map[string][]drivers.Event{"several": sampleEvents(), "one": sampleEvents()[:1], "noise": {{Class: "process", Time: time.Unix(0, 1).UTC(), Payload: noise(1, 5000)}}} {
		t.Run(name, func(t *testing.T) {
			want := whole(77, events)
			want.incarnation = "0badcafe"
			h, got, err := c.decode(c.encode("0badcafe", want), "process")
			if err != nil {
				t.Fatal(err)
			}
			from, to := want.times()
			if h.first != 77 || h.count != len(events) || h.span != len(events) || !h.from.Equal(from) || !h.to.Equal(to) {
				t.Errorf("header %+v", h)
			}
			if !reflect.DeepEqual(got, *want) {
				t.Errorf("got  %+v\nwant %+v", got, *want)
			}
		})
	}
}

func TestEveryFlippedBitOfABlockIsFound(t *testing.T) {
	c := testCodec(t)
	block := c.encode("0badcafe", whole(1, sampleEvents()[:2]))
	for bit := range len(block) * 8 {
		bad := bytes.Clone(block)
		bad[bit/8] ^= 1 << (bit % 8)
		if _, _, err := c.decode(bad, "process"); !errors.Is(err, errDamaged) {
			t.Fatalf("bit %d: %v", bit, err)
		}
	}
	for n := range len(block) {
		if _, _, err := c.decode(block[:n], "process"); !errors.Is(err, errDamaged) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
}

// FuzzBlock feeds anything to the decoder, also with a right checksum; what it
// accepts must survive a round trip.
func FuzzBlock(f *testing.F) {
	c := testCodec(f)
	f.Add(c.encode("0badcafe", whole(1, sampleEvents())), false)
	f.Add(c.encode("0badcafe", &run{first: 9, span: 5, seqs: []uint64{10}, events: sampleEvents()[:1]}), true)
	f.Add([]byte("SLB1"), false)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		if seal && len(b) >= blockHeader {
			b = bytes.Clone(b)
			sum := blockSum(b)
			b[52], b[53], b[54], b[55] = byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum)
		}
		if len(b) >= blockHeader && (b[20] > 0 || b[21] > 0x10) {
			return // claims more than a MiB: not the fuzzer's memory
		}
		_, r, err := c.decode(b, "process")
		if err != nil {
			return
		}
		_, again, err := c.decode(c.encode(r.incarnation, &r), "process")
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Fatalf("%v: %+v became %+v", err, r, again)
		}
	})
}
