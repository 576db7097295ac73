package simulate

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const testTopic = "factory/L1/m01/telemetry"

// testRun is a ledger of 5 messages and 3 answers, and the records that they
// become when all is well.
func testRun() (*Ledger, []*kgo.Record) {
	ledger := &Ledger{}
	var records []*kgo.Record
	for n := uint64(1); n <= 5; n++ {
		payload := fmt.Appendf(nil, `{"run":"r1","topic":%q,"n":%d}`, testTopic, n)
		ledger.Sent(testTopic, n, payload)
		ledger.Confirmed(testTopic, n)
		records = append(records, testRecord("sluice.mqtt.message.v1", "/gw/line-mqtt", testTopic, 0, n, payload))
	}
	for n := uint64(1); n <= 3; n++ {
		ledger.Sent("meter-1", n, nil)
		ledger.Confirmed("meter-1", n)
		records = append(records, testReading(5+n, fmt.Sprintf(`{"power":%v,"answer":%d}`, powerAt("meter-1", uint32(n)), n)))
	}
	return ledger, records
}

func testReading(seq uint64, values string) *kgo.Record {
	return testRecord("sluice.modbus.reading.v1", "/gw/bus-1/meter-1", "meter-1", 1, seq,
		[]byte(`{"device":"meter-1","time":"2026-01-02T03:04:05Z","values":`+values+`}`))
}

func testRecord(kind, source, subject string, partition int32, seq uint64, value []byte) *kgo.Record {
	at := time.Date(2026, 1, 2, 3, 4, 5, int(seq)*1_000_001, time.UTC)
	return &kgo.Record{
		Topic: "demo.process", Partition: partition, Offset: int64(seq),
		Key: []byte(subject), Value: value, Timestamp: at.Truncate(time.Millisecond),
		Headers: []kgo.RecordHeader{
			{Key: "ce_specversion", Value: []byte("1.0")},
			{Key: "ce_id", Value: fmt.Appendf(nil, "gw/process/00c0ffee/%d", seq)},
			{Key: "ce_source", Value: []byte(source)},
			{Key: "ce_type", Value: []byte(kind)},
			{Key: "ce_subject", Value: []byte(subject)},
			{Key: "ce_time", Value: []byte(at.Format(time.RFC3339Nano))},
			{Key: "content-type", Value: []byte("application/json")},
		},
	}
}

func setHeader(r *kgo.Record, key, value string) {
	for i := range r.Headers {
		if r.Headers[i].Key == key {
			r.Headers[i].Value = []byte(value)
		}
	}
}

// renumber gives the records sequence numbers without a hole, so that a test of
// one thing doesn't trip over the other.
func renumber(records []*kgo.Record) []*kgo.Record {
	for i, r := range records {
		setHeader(r, "ce_id", fmt.Sprintf("gw/process/00c0ffee/%d", i+1))
	}
	return records
}

func TestCompareCountsEachKindOfFault(t *testing.T) {
	type change func(*Ledger, []*kgo.Record) []*kgo.Record
	tests := []struct {
		name   string
		change change
		want   Report // Taken and Delivered are 8 where not given
	}{
		{"all is well", func(_ *Ledger, r []*kgo.Record) []*kgo.Record { return r }, Report{}},
		{"a message is lost", func(_ *Ledger, r []*kgo.Record) []*kgo.Record {
			return renumber(append(r[:2], r[3:]...))
		}, Report{Delivered: 7, Lost: 1}},
		{"the last message is lost", func(_ *Ledger, r []*kgo.Record) []*kgo.Record {
			return renumber(append(r[:4], r[5:]...))
		}, Report{Delivered: 7, Lost: 1}},
		{"a reading is lost", func(_ *Ledger, r []*kgo.Record) []*kgo.Record { return r[:7] }, Report{Delivered: 7, Lost: 1}},
		{"everything is lost", func(*Ledger, []*kgo.Record) []*kgo.Record { return nil }, Report{Delivered: 0, Lost: 8}},
		{"a sequence number is missing", func(_ *Ledger, r []*kgo.Record) []*kgo.Record {
			setHeader(r[7], "ce_id", "gw/process/00c0ffee/10")
			return r
		}, Report{Gaps: 2}},
		{"a record is there twice", func(_ *Ledger, r []*kgo.Record) []*kgo.Record { return append(r, r[4]) }, Report{Duplicated: 1}},
		{"an event is there twice with two ids", func(_ *Ledger, r []*kgo.Record) []*kgo.Record {
			again := testRecord("sluice.mqtt.message.v1", "/gw/line-mqtt", testTopic, 0, 9, r[4].Value)
			return append(r, again)
		}, Report{Duplicated: 1}},
		{"two messages of a topic changed places", func(_ *Ledger, r []*kgo.Record) []*kgo.Record {
			r[1], r[2] = r[2], r[1]
			return r
		}, Report{Reordered: 1}},
		{"a topic's messages stand in two partitions", func(_ *Ledger, r []*kgo.Record) []*kgo.Record {
			r[4].Partition = 3
			return r
		}, Report{Reordered: 1}},
		{"a payload differs in one byte", func(_ *Ledger, r []*kgo.Record) []*kgo.Record {
			r[0].Value = append(r[0].Value, ' ')
			return r
		}, Report{Altered: 1}},
		{"a reading has the power of another answer", func(_ *Ledger, r []*kgo.Record) []*kgo.Record {
			r[5].Value = []byte(strings.ReplaceAll(string(r[5].Value), `"answer":1`, `"answer":2`))
			r[6].Value = []byte(strings.ReplaceAll(string(r[6].Value), `"answer":2`, `"answer":1`))
			return r
		}, Report{Altered: 2, Reordered: 1}},
		{"a message of another run", func(_ *Ledger, r []*kgo.Record) []*kgo.Record {
			r[4].Value = []byte(strings.ReplaceAll(string(r[4].Value), `"r1"`, `"r0"`))
			return renumber(append(r[:4:4], append(r[5:], r[4])...))
		}, Report{Delivered: 7, Lost: 1, Foreign: 1}},
		{"a number that was never sent", func(_ *Ledger, r []*kgo.Record) []*kgo.Record {
			return append(r, testReading(9, `{"power":1,"answer":4}`))
		}, Report{Foreign: 1, Altered: 1}},
		{"a payload that isn't JSON", func(_ *Ledger, r []*kgo.Record) []*kgo.Record {
			return append(r, testRecord("sluice.mqtt.message.v1", "/gw/line-mqtt", "x", 0, 9, []byte("x")))
		}, Report{Foreign: 1}},
		{"a device that isn't there", func(_ *Ledger, r []*kgo.Record) []*kgo.Record {
			return append(r, testRecord("sluice.modbus.reading.v1", "/gw/bus-1/meter-9", "meter-9", 0, 9, []byte(`{"device":"meter-9","values":{"answer":1}}`)))
		}, Report{Foreign: 1}},
		{"a gap record", func(_ *Ledger, r []*kgo.Record) []*kgo.Record {
			return append(r, testRecord("sluice.gap.v1", "/gw/buffer", "x", 0, 9, []byte(`{"first":1,"last":2,"reason":"expired"}`)))
		}, Report{Foreign: 1}},
		{"a reading of a frozen meter doesn't count", func(_ *Ledger, r []*kgo.Record) []*kgo.Record {
			return append(r, testReading(9, `{"power":1,"answer":0}`))
		}, Report{}},
		{"a reading without its number is bad, but doesn't count", func(_ *Ledger, r []*kgo.Record) []*kgo.Record {
			bad := testReading(9, `{}`)
			bad.Value = []byte(`{"device":"meter-1","values":{},"bad":{"power":"timeout","answer":"timeout"}}`)
			return append(r, bad)
		}, Report{Bad: 1}},
		{"an unconfirmed message needn't arrive", func(l *Ledger, r []*kgo.Record) []*kgo.Record {
			l.Sent(testTopic, 6, []byte("x"))
			return r
		}, Report{}},
		{"an unconfirmed message may arrive", func(l *Ledger, r []*kgo.Record) []*kgo.Record {
			payload := []byte(`{"run":"r1","topic":"` + testTopic + `","n":6}`)
			l.Sent(testTopic, 6, payload)
			late := testRecord("sluice.mqtt.message.v1", "/gw/line-mqtt", testTopic, 0, 9, payload)
			return append(r, late)
		}, Report{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ledger, records := testRun()
			records = tt.change(ledger, records)
			want := tt.want
			want.Taken = 8
			if want.Delivered == 0 && want.Lost != 8 {
				want.Delivered = 8
			}
			got := compareTest(ledger, records)
			if got.numbers() != want.numbers() {
				t.Errorf("got  %s\nwant %s\n%s", got.numbers(), want.numbers(), strings.Join(got.Notes, "\n"))
			}
			if faulty := want.Lost+want.Duplicated+want.Reordered+want.Altered+want.Foreign+want.Headers+want.Gaps > 0; got.OK() == faulty {
				t.Errorf("OK is %v", got.OK())
			}
		})
	}
}

// numbers are all numbers of a report.
func (r *Report) numbers() string {
	return fmt.Sprintf("%s reordered=%d altered=%d foreign=%d headers=%d gaps=%d bad=%d",
		r.Line(), r.Reordered, r.Altered, r.Foreign, r.Headers, r.Gaps, r.Bad)
}

func compareTest(ledger *Ledger, records []*kgo.Record) *Report {
	return compare(ledger, expectation{agent: "gw", run: "r1", mqtt: "line-mqtt", meters: map[string]string{"meter-1": "bus-1"}}, records)
}

func TestCompareChecksKeyAndHeaders(t *testing.T) {
	tests := []struct {
		name, want string
		change     func(*kgo.Record)
	}{
		{"another specversion", "ce_specversion", func(r *kgo.Record) { setHeader(r, "ce_specversion", "0.3") }},
		{"another source", "ce_source", func(r *kgo.Record) { setHeader(r, "ce_source", "/gw/other") }},
		{"another subject", "ce_subject", func(r *kgo.Record) { setHeader(r, "ce_subject", "t") }},
		{"another content type", "content-type", func(r *kgo.Record) { setHeader(r, "content-type", "application/octet-stream") }},
		{"another key", "the key", func(r *kgo.Record) { r.Key = nil }},
		{"an id of another agent", "ce_id", func(r *kgo.Record) { setHeader(r, "ce_id", "gx/process/00c0ffee/9") }},
		{"an incarnation of 7 digits", "ce_id", func(r *kgo.Record) { setHeader(r, "ce_id", "gw/process/0c0ffee/9") }},
		{"an incarnation in capitals", "ce_id", func(r *kgo.Record) { setHeader(r, "ce_id", "gw/process/00C0FFEE/9") }},
		{"a sequence number with a leading zero", "ce_id", func(r *kgo.Record) { setHeader(r, "ce_id", "gw/process/00c0ffee/09") }},
		{"a sequence number 0", "ce_id", func(r *kgo.Record) { setHeader(r, "ce_id", "gw/process/00c0ffee/0") }},
		{"a class in another class's topic", "class", func(r *kgo.Record) { r.Topic = "demo.alarm" }},
		{"a time with an offset", "ce_time", func(r *kgo.Record) { setHeader(r, "ce_time", "2026-01-02T04:04:05+01:00") }},
		{"a time that isn't the record's", "ce_time", func(r *kgo.Record) { r.Timestamp = r.Timestamp.Add(time.Second) }},
		{"no headers but the type", "ce_specversion", func(r *kgo.Record) { r.Headers = r.Headers[3:4] }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ledger, records := testRun()
			tt.change(records[4])
			got := compareTest(ledger, records)
			if got.Headers != 1 || got.OK() || !strings.Contains(got.Notes[0], "wrong record: ") || !strings.Contains(got.Notes[0], tt.want) {
				t.Errorf("headers %d, notes %q", got.Headers, got.Notes)
			}
		})
	}
}

func TestCompareDescribesOnlyTheFirstOfEachKind(t *testing.T) {
	ledger := &Ledger{}
	for n := uint64(1); n <= 1000; n++ {
		ledger.Confirmed(testTopic, n)
	}
	got := compareTest(ledger, nil)
	if got.Lost != 1000 || len(got.Notes) != maxNotes+1 || got.Notes[maxNotes] != "lost: and more" {
		t.Errorf("lost %d, notes %q", got.Lost, got.Notes)
	}
}

func FuzzCompareNeverPanics(f *testing.F) {
	f.Add("sluice.mqtt.message.v1", "gw/process/00c0ffee/1", []byte(`{"run":"r1","topic":"factory/L1/m01/telemetry","n":1}`))
	f.Add("sluice.modbus.reading.v1", "gw/process/00c0ffee/1", []byte(`{"device":"meter-1","values":{"power":1,"answer":2}}`))
	f.Add("sluice.modbus.reading.v1", "gw//00c0ffee/18446744073709551615", []byte(`{"device":"meter-1","values":{"answer":18446744073709551615}}`))
	f.Fuzz(func(t *testing.T, kind, id string, value []byte) {
		ledger, _ := testRun()
		r := testRecord(kind, "/gw/line-mqtt", testTopic, 0, 1, value)
		setHeader(r, "ce_id", id)
		if got := compareTest(ledger, []*kgo.Record{r}); got.Delivered > 1 || got.OK() {
			t.Errorf("%s", got.numbers())
		}
	})
}
