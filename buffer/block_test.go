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

func TestBlockRoundTrip(t *testing.T) {
	c := testCodec(t)
	for name, events := range map[string][]drivers.Event{"several": sampleEvents(), "one": sampleEvents()[:1], "noise": {{Class: "process", Time: time.Unix(0, 1).UTC(), Payload: noise(1, 5000)}}} {
		t.Run(name, func(t *testing.T) {
			h, got, err := c.decode(c.encode("0badcafe", 77, events), "process")
			if err != nil {
				t.Fatal(err)
			}
			if h.first != 77 || h.count != len(events) || !h.from.Equal(events[0].Time) {
				t.Errorf("header %+v", h)
			}
			if !reflect.DeepEqual(got, events) {
				t.Errorf("got  %+v\nwant %+v", got, events)
			}
		})
	}
}

func TestEveryFlippedBitOfABlockIsFound(t *testing.T) {
	c := testCodec(t)
	block := c.encode("0badcafe", 1, sampleEvents()[:2])
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
	f.Add(c.encode("0badcafe", 1, sampleEvents()), false)
	f.Add(c.encode("0badcafe", 9, sampleEvents()[:1]), true)
	f.Add([]byte("SLB1"), false)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		if seal && len(b) >= blockHeader {
			b = bytes.Clone(b)
			sum := blockSum(b)
			b[48], b[49], b[50], b[51] = byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum)
		}
		if len(b) >= blockHeader && (b[20] > 0 || b[21] > 0x10) {
			return // claims more than a MiB: not the fuzzer's memory
		}
		h, events, err := c.decode(b, "process")
		if err != nil {
			return
		}
		_, again, err := c.decode(c.encode("0badcafe", h.first, events), "process")
		if err != nil || !reflect.DeepEqual(again, events) {
			t.Fatalf("%v: %+v became %+v", err, events, again)
		}
	})
}
