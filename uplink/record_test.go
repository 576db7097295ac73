package uplink

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/buffer"
	"sluice/drivers"
)

// TestRecordsAreCloudEvents sends one event of each kind through a broker and
// compares what a consumer gets with testdata/records.txt.
func TestRecordsAreCloudEvents(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 123456789, time.FixedZone("CET", 3600))
	events := []drivers.Event{
		{Source: "line-mqtt", Subject: "factory/1/telemetry", Type: drivers.TypeMQTTMessage, ContentType: drivers.ContentJSON,
			Time: at, Payload: []byte(`{"t":1}`)},
		{Source: "line-mqtt", Subject: "factory/1/empty", Type: drivers.TypeMQTTMessage, ContentType: drivers.ContentBinary,
			Time: at.Add(-123456789)},
		{Source: "bus-a", Device: "meter-1", Subject: "meter-1", Type: drivers.TypeModbusReading, ContentType: drivers.ContentJSON,
			Time: at, Payload: []byte(`{"device":"meter-1"}`)},
		{Source: "bus a", Device: "Zähler/1", Subject: "Zähler/1", Type: drivers.TypeModbusReading, ContentType: drivers.ContentJSON,
			Time: at, Payload: []byte(`{}`)},
		{Subject: "process", Type: "sluice.gap.v1", ContentType: drivers.ContentJSON,
			Time: at, Payload: []byte(`{"first":1,"last":2,"count":2,"reason":"expired"}`)},
		{Source: "line-mqtt", Subject: "bad\x01topic\xff", Type: drivers.TypeMQTTMessage, ContentType: drivers.ContentBinary,
			Time: at, Payload: []byte{0, 255}},
	}
	for i := range events {
		events[i].Class = "process"
	}
	c := cluster(t, kfake.SeedTopics(1, "plant.process"))
	log := newMemLog()
	log.put(events...)
	start(t, Config{Brokers: c.ListenAddrs(), Reader: log, Topic: "plant.{class}"})
	log.waitCursor(t, "process", uint64(len(events)))
	var got bytes.Buffer
	for _, r := range consume(t, c.ListenAddrs(), "plant.process") {
		show(&got, r)
	}
	golden(t, "records.txt", got.Bytes())
}

func show(w *bytes.Buffer, r *kgo.Record) {
	fmt.Fprintf(w, "topic %s timestamp %s\n  key %q\n  value %q null=%t\n", r.Topic,
		r.Timestamp.UTC().Format(time.RFC3339Nano), r.Key, r.Value, r.Value == nil)
	for _, h := range r.Headers {
		fmt.Fprintf(w, "  %s: %q\n", h.Key, h.Value)
	}
}

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares got with a file of testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("records differ from %s; got\n%s", path, got)
	}
}

func TestRecordKey(t *testing.T) {
	tests := []struct {
		name, key string
		event     drivers.Event
		want      string
	}{
		{"default is the subject", "", drivers.Event{Subject: "a/b"}, "a/b"},
		{"subject byte for byte", "", drivers.Event{Subject: "a\xffb"}, "a\xffb"},
		{"from the template", "{device}", drivers.Event{Subject: "x", Device: "meter-1"}, "meter-1"},
		{"empty falls back", "{device}", drivers.Event{Subject: "a/b"}, "a/b"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			enc := newEncoder("gw-17", mustTemplate(t, DefaultTopic), mustTemplate(t, tt.key))
			c := newChunk(1)
			enc.encode(c, buffer.Batch{First: 1, Events: []drivers.Event{tt.event}}, 1, 1000)
			if got := string(c.records[0].Key); got != tt.want {
				t.Errorf("key %q, want %q", got, tt.want)
			}
			if c.records[0].Value == nil {
				t.Error("the value is null")
			}
		})
	}
}

func TestChunkIsUsedAgain(t *testing.T) {
	enc := newEncoder("gw-17", mustTemplate(t, "{mqtt.topic}"), template{})
	c := newChunk(4)
	for round := range 3 {
		var events []drivers.Event
		for i := range 4 - round {
			events = append(events, message("process", fmt.Sprintf("t%d-%s", i, strings.Repeat("x", 100*round)), fmt.Sprint(round)))
		}
		first := uint64(100*round + 1)
		if n := enc.encode(c, buffer.Batch{Class: "process", Incarnation: incarnation, First: first, Events: events}, 4, 1<<20); n != len(events) {
			t.Fatalf("%d records", n)
		}
		for i, r := range c.records {
			want := fmt.Sprintf("gw-17/process/%s/%d", incarnation, first+uint64(i))
			if got := header(&r, headerID); got != want || r.Topic != events[i].Subject || string(r.Key) != events[i].Subject {
				t.Errorf("round %d record %d: id %q topic %q key %q", round, i, got, r.Topic, r.Key)
			}
			if got := header(&r, headerTime); got != events[i].Time.UTC().Format("2006-01-02T15:04:05.000000000Z") {
				t.Errorf("time %q", got)
			}
		}
		if c.left != len(events) || c.prefix != 0 || c.isSettled(0) {
			t.Errorf("round %d: left %d prefix %d", round, c.left, c.prefix)
		}
	}
}

// FuzzText asks that header values are strings as CloudEvents wants them, and
// that those that were stay as they were.
func FuzzText(f *testing.F) {
	f.Add("a/b")
	f.Add("w\u00e4rme\x00\x7f\u0085\xff\uFFFD")
	f.Fuzz(func(t *testing.T, s string) {
		got := appendText([]byte("x"), s)[1:]
		if !utf8.Valid(got) {
			t.Fatalf("%q", got)
		}
		clean := utf8.ValidString(s)
		for _, r := range s {
			clean = clean && r >= 0x20 && (r < 0x7f || r > 0x9f)
		}
		for _, r := range string(got) {
			if r < 0x20 || r >= 0x7f && r <= 0x9f {
				t.Fatalf("%q", got)
			}
		}
		if clean && string(got) != s {
			t.Fatalf("%q became %q", s, got)
		}
		for _, c := range appendSegment(nil, s)[1:] {
			if !isTopicByte(c) && c != '~' && c != '%' {
				t.Fatalf("%q in a segment", c)
			}
		}
	})
}
