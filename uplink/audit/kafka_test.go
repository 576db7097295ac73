package audit

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// transact produces records in a transaction of its own and ends it.
func transact(t *testing.T, cl *kgo.Client, end kgo.TransactionEndTry, records ...*kgo.Record) {
	t.Helper()
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := cl.EndTransaction(t.Context(), end); err != nil {
		t.Fatal(err)
	}
}

func TestTransactions(t *testing.T) {
	r := newRig(t, plant)
	cl := r.newClient(t, kgo.TransactionalID("gw-1"))
	transact(t, cl, kgo.TryCommit, events(1, 30)...)
	transact(t, cl, kgo.TryAbort, events(31, 60)...) // sent again by the next
	transact(t, cl, kgo.TryCommit, events(31, 60, 50)...)
	transact(t, cl, kgo.TryAbort, events(61, 70)...) // the end of the topic holds nothing for us
	if l := only(t, r.audit(t, "plant.process")); !slices.Equal(l.UnexplainedExamples, []Range{{50, 50}}) || l.Duplicates != 0 || l.Last != 60 {
		t.Errorf("committed: %+v", l)
	}
	l := only(t, r.audit(t, "plant.process", func(c *Config) { c.Uncommitted = true }))
	if l.Unexplained != 0 || l.Duplicates != 29 || l.Last != 70 {
		t.Errorf("uncommitted: %+v", l)
	}
}

func TestAnOpenTransactionIsNotJudged(t *testing.T) {
	r := newRig(t, plant)
	r.produce(t, events(1, 30)...)
	cl := r.newClient(t, kgo.TransactionalID("gw-1"))
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(t.Context(), events(31, 40)...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	res := r.audit(t, "plant.process")
	if l := only(t, res); l.Last != 30 || l.Unexplained != 0 {
		t.Errorf("lane %+v", l)
	}
	if len(res.Warnings) != 3 || !strings.Contains(res.Warnings[0], "open transaction") {
		t.Errorf("warnings %q", res.Warnings)
	}
	if err := cl.EndTransaction(t.Context(), kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
}

func TestACutHeadIsNoLoss(t *testing.T) {
	r := newRig(t, plant)
	r.produce(t, events(1, 500, 300)...)
	for p := range int32(3) {
		r.trim(t, "plant.process", p, int64(20+10*p))
	}
	res := r.audit(t, "plant.process")
	l := only(t, res)
	if l.Begins != FromCut || !slices.Equal(l.UnexplainedExamples, []Range{{300, 300}}) || l.CutOff != 20+30+40 {
		t.Errorf("lane %+v", l)
	}
	if res.Topics[0].CutPartitions != 3 {
		t.Errorf("topics %+v", res.Topics)
	}
}

// TestACutPartitionHidesNoLossInOthers: where time says that a number was taken
// after what the topic lost, it is not excused by it.
func TestACutPartitionHidesNoLossInOthers(t *testing.T) {
	r := newRig(t, plant)
	rare := func(n uint64) *kgo.Record { rec := event(n); rec.Partition = 2; return rec }
	r.produce(t, rare(1), rare(2))
	for n := uint64(3); n < 400; n++ {
		if n != 40 && n != 390 {
			rec := event(n)
			rec.Partition = int32(n % 2)
			r.produce(t, rec)
		}
	}
	r.produce(t, rare(400))
	other := eventOf("gw-2/process/"+inc, 20) // of second 20: what partition 2 lost is older
	other.Partition = 2
	r.produce(t, other, rare(401))
	r.trim(t, "plant.process", 2, 2) // 400 is the first that is left
	var lanes []Lane
	for l := range r.audit(t, "plant.process", func(c *Config) { c.Agents = []string{"gw-1"} }).Lanes() {
		lanes = append(lanes, l)
	}
	if len(lanes) != 1 || lanes[0].CutOff == 0 {
		t.Fatalf("lanes %+v", lanes)
	}
	// Partition 2 begins with a record of second 400: order and time leave both open.
	if lanes[0].CutOff != 4 || lanes[0].Unexplained != 0 {
		t.Errorf("lane %+v", lanes[0])
	}
	r.trim(t, "plant.process", 2, 3) // now it begins with second 20
	l := only(t, r.audit(t, "plant.process", func(c *Config) { c.Agents = []string{"gw-1"} }))
	if l.CutOff != 2 || !slices.Equal(l.UnexplainedExamples, []Range{{40, 40}, {390, 390}, {400, 400}}) {
		t.Errorf("lane %+v", l)
	}
}

func TestAnEmptyPartitionThatWasNot(t *testing.T) {
	r := newRig(t, plant)
	r.produce(t, events(1, 100)...)
	r.trim(t, "plant.process", 1, -1)
	res := r.audit(t, "plant.process")
	if l := only(t, res); l.Unexplained != 0 || l.CutOff == 0 {
		t.Errorf("lane %+v", l)
	}
}

func TestNumberOneMissingWithoutACut(t *testing.T) {
	r := newRig(t, plant)
	r.produce(t, events(4, 50)...)
	if l := only(t, r.audit(t, "plant.process")); l.Begins != FromHole || !slices.Equal(l.UnexplainedExamples, []Range{{1, 3}}) {
		t.Errorf("lane %+v", l)
	}
}

func TestCompactionHoles(t *testing.T) {
	r := newRig(t, nil)
	for name, more := range map[string][]string{"plain": nil, "compacted": {"cleanup.policy", "compact", "segment.bytes", "100", "min.cleanable.dirty.ratio", "0"}} {
		configs := map[string]string{"retention.ms": "-1"}
		for i := 0; i < len(more); i += 2 {
			configs[more[i]] = more[i+1]
		}
		if err := r.fake.CreateTopic(name, 1, configs); err != nil {
			t.Fatal(err)
		}
		for n := uint64(1); n <= 60; n++ {
			rec := event(n)
			rec.Topic, rec.Partition = name, 0
			if n == 1 {
				rec.Key = []byte("a key that comes once")
			}
			r.produce(t, rec)
		}
	}
	r.fake.Compact()
	if l := only(t, r.audit(t, "plain")); l.Unexplained != 0 || l.Delivered != 60 {
		t.Errorf("plain: %+v", l)
	}
	res := r.audit(t, "compacted")
	if l := only(t, res); l.Unexplained == 0 || l.Last != 60 {
		t.Errorf("compacted: %+v", l)
	}
	if len(res.Warnings) != 1 || !strings.Contains(res.Warnings[0], "compacted") {
		t.Errorf("warnings %q", res.Warnings)
	}
}

func TestWindow(t *testing.T) {
	r := newRig(t, plant)
	recs := events(1, 300, 50, 150, 250, 160)
	recs[130].Timestamp = origin.Add(-1000 * time.Hour) // a clock that was not set
	r.produce(t, recs...)
	r.produce(t, gap(301, 160, 160, "corrupt"), event(120)) // the explanation comes after the window
	l := only(t, r.audit(t, "plant.process", func(c *Config) { c.From, c.To = origin.Add(100*time.Second), origin.Add(200*time.Second) }))
	if l.Begins != FromWindow || l.First != 100 || l.Last != 199 || !slices.Equal(l.UnexplainedExamples, []Range{{150, 150}}) || l.Explained["corrupt"] != 1 {
		t.Errorf("lane %+v", l)
	}
	if l.Delivered != 98 || l.Duplicates != 1 {
		t.Errorf("lane %+v", l)
	}
	l = only(t, r.audit(t, "plant.process", func(c *Config) { c.From = origin.Add(200 * time.Second) }))
	if l.First != 200 || l.Last != 301 || !slices.Equal(l.UnexplainedExamples, []Range{{250, 250}}) {
		t.Errorf("lane %+v", l)
	}
	if res := r.audit(t, "plant.process", func(c *Config) { c.From = origin.Add(99999 * time.Hour) }); res.Totals.Lanes != 0 {
		t.Errorf("totals %+v", res.Totals)
	}
}

func TestWhatIsOnItsWayIsNoLoss(t *testing.T) {
	r := newRig(t, plant)
	r.produce(t, events(1, 100, 60, 70, 80)...)
	r.onFirstFetch(func() { // the ends are known by now
		r.produce(t, event(60), gap(101, 70, 70, "restart"), event(105), eventOf("gw-2/process/"+inc, 5))
	})
	l := only(t, r.audit(t, "plant.process", func(c *Config) { c.Settle = time.Millisecond }))
	if l.Last != 100 || l.Records != 97 || !slices.Equal(l.UnexplainedExamples, []Range{{80, 80}}) || l.Explained["restart"] != 1 || l.Duplicates != 0 {
		t.Errorf("lane %+v", l)
	}
}

// TestWhatComesLaterIsNotJudged: without a second look the audit ends where the
// topics ended at its start.
func TestWhatComesLaterIsNotJudged(t *testing.T) {
	r := newRig(t, plant)
	r.produce(t, events(1, 100)...)
	r.onFirstFetch(func() { r.produce(t, events(103, 140)...) })
	if l := only(t, r.audit(t, "plant.process")); l.Last != 100 || l.Records != 100 || l.Unexplained != 0 {
		t.Errorf("lane %+v", l)
	}
}

func TestLeadersMoveWhileReading(t *testing.T) {
	r := newRig(t, plant)
	r.produce(t, events(1, 3000)...)
	var fetches atomic.Int32
	r.fake.ControlKey(1, func(kmsg.Request) (kmsg.Response, error, bool) {
		r.fake.KeepControl()
		if n := fetches.Add(1); n == 2 || n == 5 {
			go r.fake.ShufflePartitionLeaders()
		}
		return nil, nil, false
	})
	small := func(c *Config) { c.Memory = MinMemory }
	if l := only(t, r.audit(t, "plant.process", small)); l.Unexplained != 0 || l.Delivered != 3000 {
		t.Errorf("lane %+v", l)
	}
}

// TestAPartitionThatCannotBeRead: the rest is read, and the result says that it is
// not whole.
func TestAPartitionThatCannotBeRead(t *testing.T) {
	for _, c := range []struct {
		name string
		code *kerr.Error
		want string
	}{
		{"deleted while reading", kerr.OffsetOutOfRange, "deleted while they were read"},
		{"not allowed", kerr.TopicAuthorizationFailed, "TOPIC_AUTHORIZATION_FAILED"},
		{"away for long", kerr.NotLeaderForPartition, "NOT_LEADER"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, plant)
			r.produce(t, events(1, 300)...)
			r.fake.ControlKey(1, func(req kmsg.Request) (kmsg.Response, error, bool) {
				r.fake.KeepControl()
				fetch := req.(*kmsg.FetchRequest)
				if fetch.Topics[0].Partitions[0].Partition != 1 {
					return nil, nil, false
				}
				return refuse(fetch, c.code), nil, true
			})
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			res, err := Run(ctx, Config{Clusters: []Cluster{r.cluster()}, Topics: []string{"plant.process"}, Patience: time.Second})
			if err != nil {
				t.Fatal(err)
			}
			if !res.Unread || len(res.Incomplete) != 1 || !strings.Contains(res.Incomplete[0], c.want) || !strings.Contains(res.Incomplete[0], "partition 1") {
				t.Errorf("incomplete %q", res.Incomplete)
			}
			if l := only(t, res); l.Delivered != 300-uint64(len(slices.Collect(keysOf(1)))*300/7) && l.Delivered == 300 {
				t.Errorf("lane %+v", l)
			}
		})
	}
}

// keysOf are the keys that the rig puts into a partition.
func keysOf(partition int32) func(func(int) bool) {
	return func(yield func(int) bool) {
		for k := range 7 {
			if int32(k%3) == partition && !yield(k) {
				return
			}
		}
	}
}

func refuse(req *kmsg.FetchRequest, code *kerr.Error) kmsg.Response {
	resp := req.ResponseKind().(*kmsg.FetchResponse)
	rt := kmsg.NewFetchResponseTopic()
	rt.Topic, rt.TopicID = req.Topics[0].Topic, req.Topics[0].TopicID
	rp := kmsg.NewFetchResponseTopicPartition()
	rp.Partition, rp.ErrorCode = req.Topics[0].Partitions[0].Partition, code.Code
	rt.Partitions = append(rt.Partitions, rp)
	resp.Topics = append(resp.Topics, rt)
	return resp
}
