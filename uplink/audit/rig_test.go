package audit

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	inc = "0badcafe"

	// patience ends a test that hangs; nothing is measured by it.
	patience = 5 * time.Minute
)

// origin is the time of number 0: each number is a second later.
var origin = time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)

// rig is a cluster of a test.
type rig struct {
	fake   *kfake.Cluster
	client *kgo.Client
}

func newRig(t testing.TB, topics map[string]int32) *rig {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(3))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	for name, n := range topics { // the records' times are long ago
		if err := c.CreateTopic(name, n, map[string]string{"retention.ms": "-1"}); err != nil {
			t.Fatal(err)
		}
	}
	r := &rig{fake: c}
	r.client = r.newClient(t)
	return r
}

func (r *rig) newClient(t testing.TB, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	opts = append(opts, kgo.SeedBrokers(r.fake.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.MetadataMinAge(50*time.Millisecond), kgo.ProducerBatchMaxBytes(16<<10), kgo.ProducerLinger(0))
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// produce writes records in this order to each partition. Any goroutine may call it.
func (r *rig) produce(t testing.TB, records ...*kgo.Record) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := r.client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		t.Errorf("produce: %v", err)
	}
}

// onFirstFetch has something happen before the first fetch is answered.
func (r *rig) onFirstFetch(do func()) {
	var fetches atomic.Int32
	r.fake.ControlKey(1, func(kmsg.Request) (kmsg.Response, error, bool) {
		r.fake.KeepControl()
		if fetches.Add(1) == 1 {
			r.fake.SleepControl(do)
		}
		return nil, nil, false
	})
}

// trim deletes the records of a partition before an offset.
func (r *rig) trim(t testing.TB, topic string, partition int32, before int64) {
	t.Helper()
	var o kadm.Offsets
	o.AddOffset(topic, partition, before, -1)
	resp, err := kadm.NewClient(r.client).DeleteRecords(t.Context(), o)
	if err == nil {
		err = resp.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) cluster() Cluster { return Cluster{Brokers: r.fake.ListenAddrs()} }

// audit runs an audit that has to succeed; set changes what it is asked.
func (r *rig) audit(t testing.TB, topics string, set ...func(*Config)) *Result {
	t.Helper()
	cfg := Config{Clusters: []Cluster{r.cluster()}, Topics: strings.Split(topics, ","), Settle: -1}
	for _, s := range set {
		s(&cfg)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	res, err := Run(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Incomplete) > 0 {
		t.Fatalf("incomplete: %q", res.Incomplete)
	}
	return res
}

// event is a record of gw-1, class process.
func event(seq uint64) *kgo.Record { return eventOf("gw-1/process/"+inc, seq) }

func eventOf(lane string, seq uint64) *kgo.Record {
	at := origin.Add(time.Duration(min(seq, 1<<30)) * time.Second)
	r := &kgo.Record{Topic: "plant.process", Key: fmt.Appendf(nil, "key-%d", seq%7), Value: []byte("{}"), Timestamp: at}
	r.Partition = int32(seq % 7 % 3)
	return header(header(header(r, headerID, fmt.Sprintf("%s/%d", lane, seq)), headerType, "sluice.mqtt.message.v1"),
		headerTime, at.Format("2006-01-02T15:04:05.000000000Z"))
}

func header(r *kgo.Record, key, value string) *kgo.Record {
	r.Headers = append(r.Headers, kgo.RecordHeader{Key: key, Value: []byte(value)})
	return r
}

// gap is a gap record with a number of its own.
func gap(seq, first, last uint64, reason string, kept ...uint64) *kgo.Record {
	return gapOf("gw-1/process/"+inc, seq, first, last, reason, kept...)
}

func gapOf(lane string, seq, first, last uint64, reason string, kept ...uint64) *kgo.Record {
	r := eventOf(lane, seq)
	r.Key, r.Partition = []byte("process"), 0
	r.Headers[1].Value = []byte(typeGap)
	list := ""
	if len(kept) > 0 {
		list = `,"kept":` + strings.ReplaceAll(fmt.Sprint(kept), " ", ",")
	}
	r.Value = fmt.Appendf(nil, `{"first":%d,"last":%d,"count":%d,"reason":%q,"from":"2026-01-02T03:04:05Z","to":"2026-01-02T03:04:05Z"%s}`,
		first, last, last-first+1-uint64(len(kept)), reason, list)
	return r
}

// events are the numbers first to last, but not those in left.
func events(first, last uint64, left ...uint64) (all []*kgo.Record) {
	for n := first; n <= last; n++ {
		if !slices.Contains(left, n) {
			all = append(all, event(n))
		}
	}
	return all
}

// only is the one lane of a result.
func only(t testing.TB, r *Result) Lane {
	t.Helper()
	all := slices.Collect(r.Lanes())
	if len(all) != 1 {
		t.Fatalf("%d lanes, want 1: %+v", len(all), all)
	}
	return all[0]
}
