package cli

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A compacted topic may begin and end with offsets that have no records, and one
// that is not compacted may have none at all: reading it ends all the same.
func TestReadingATopicEnds(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.KeepControlRecords())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, value := range []string{"old", "new"} {
		if err := client.ProduceSync(ctx, &kgo.Record{Topic: "t", Key: []byte("k"), Value: []byte(value)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	f := &fleet{client: client}
	var start, end atomic.Int64
	cluster.ControlKey(kmsg.ListOffsets.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		return spansOf(req.(*kmsg.ListOffsetsRequest), start.Load(), end.Load()), nil, true
	})
	for name, tt := range map[string]struct {
		start, end int64
		want       string
	}{
		"as it is": {0, 2, "new"}, "records are missing at the end": {0, 7, "new"}, "all are gone": {2, 2, ""},
	} {
		t.Run(name, func(t *testing.T) {
			start.Store(tt.start)
			end.Store(tt.end)
			records, err := f.records(ctx, "t", nil)
			if err != nil || string(records["k"]) != tt.want {
				t.Errorf("%q, %v", records, err)
			}
		})
	}
}

// spansOf answers with an offset for the start (-2) and the end (-1).
func spansOf(req *kmsg.ListOffsetsRequest, start, end int64) *kmsg.ListOffsetsResponse {
	resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
	for _, topic := range req.Topics {
		rt := kmsg.NewListOffsetsResponseTopic()
		rt.Topic = topic.Topic
		for _, p := range topic.Partitions {
			rp := kmsg.NewListOffsetsResponseTopicPartition()
			if rp.Partition, rp.Offset = p.Partition, start; p.Timestamp == -1 {
				rp.Offset = end
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}
