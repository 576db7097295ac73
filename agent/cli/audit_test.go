package cli

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestAudit runs the scripts in testdata/audit against a Kafka at $KAFKA, whose
// topics whole, holed, doubled, mixed, stuck and sieve are as auditTopics says.
func TestAudit(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/audit",
		Setup: func(env *testscript.Env) error {
			c, err := kfake.NewCluster(kfake.NumBrokers(1))
			if err != nil {
				return err
			}
			env.Defer(c.Close)
			env.Setenv("KAFKA", c.ListenAddrs()[0])
			if err := auditTopics(c); err != nil {
				return err
			}
			env.Values["stuck"] = stick(c)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": exitStatus, "send": send,
			"waitstuck": func(ts *testscript.TestScript, _ bool, _ []string) { // until somebody reads the topic stuck
				select {
				case <-ts.Value("stuck").(chan struct{}):
				case <-time.After(5 * time.Minute):
					ts.Fatalf("nobody reads the topic stuck")
				}
			},
			"substkafka": func(ts *testscript.TestScript, _ bool, args []string) {
				text := strings.ReplaceAll(ts.ReadFile(args[0]), "$KAFKA", ts.Getenv("KAFKA"))
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
			},
		},
	})
}

// stick refuses to let the topic stuck be read, and tells once somebody tries.
func stick(c *kfake.Cluster) chan struct{} {
	tried := make(chan struct{}, 1)
	id := c.TopicInfo("stuck").TopicID
	c.ControlKey(1, func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		fetch := req.(*kmsg.FetchRequest)
		if fetch.Topics[0].TopicID != id && fetch.Topics[0].Topic != "stuck" {
			return nil, nil, false
		}
		select {
		case tried <- struct{}{}:
		default:
		}
		resp := fetch.ResponseKind().(*kmsg.FetchResponse)
		rt := kmsg.NewFetchResponseTopic()
		rt.Topic, rt.TopicID = fetch.Topics[0].Topic, fetch.Topics[0].TopicID
		rp := kmsg.NewFetchResponseTopicPartition()
		rp.Partition, rp.ErrorCode = fetch.Topics[0].Partitions[0].Partition, kerr.LeaderNotAvailable.Code
		rt.Partitions, resp.Topics = append(rt.Partitions, rp), append(resp.Topics, rt)
		return resp, nil, true
	})
	return tried
}

// auditTopics makes topics of gw-1, class process, each with the numbers 1 to 30
// in two partitions: whole, with a gap record at 30 for 11 to 14; holed, without
// 7 and 20 to 22; doubled, with 5 twice; mixed, with foreign and malformed records;
// stuck, whole; and sieve, without the even numbers to 20, for each of which there is
// a gap record at 21 to 30.
func auditTopics(c *kfake.Cluster) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return err
	}
	defer cl.Close()
	records := sieve()
	for _, topic := range []string{"whole", "holed", "doubled", "mixed", "stuck", "sieve"} {
		if err := c.CreateTopic(topic, 2, map[string]string{"retention.ms": "-1"}); err != nil {
			return err
		}
		for seq := 1; seq <= 30 && topic != "sieve"; seq++ {
			switch {
			case topic == "whole" && seq >= 11 && seq <= 14, topic == "holed" && (seq == 7 || seq >= 20 && seq <= 22):
			case topic == "whole" && seq == 30:
				records = append(records, auditRecord(topic, seq, "sluice.gap.v1", `{"first":11,"last":14,"count":4,"reason":"expired"}`))
			default:
				records = append(records, auditRecord(topic, seq, "sluice.mqtt.message.v1", "{}"))
			}
		}
	}
	bad := auditRecord("mixed", 1, "sluice.mqtt.message.v1", "{}")
	bad.Headers[0].Value = []byte("gw-1/process/1")
	records = append(records, auditRecord("doubled", 5, "sluice.mqtt.message.v1", "{}"), &kgo.Record{Topic: "mixed", Value: []byte("x")}, bad)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	return cl.ProduceSync(ctx, records...).FirstErr()
}

// sieve are the records of the topic sieve.
func sieve() (records []*kgo.Record) {
	for seq := 1; seq <= 20; seq += 2 {
		records = append(records, auditRecord("sieve", seq, "sluice.mqtt.message.v1", "{}"))
	}
	for i := 1; i <= 10; i++ {
		reason := "expired"
		if i > 6 {
			reason = "corrupt"
		}
		records = append(records, auditRecord("sieve", 20+i, "sluice.gap.v1", fmt.Sprintf(`{"first":%d,"last":%d,"count":1,"reason":%q}`, 2*i, 2*i, reason)))
	}
	return records
}

func auditRecord(topic string, seq int, kind, value string) *kgo.Record {
	return &kgo.Record{
		Topic: topic, Partition: int32(seq % 2), Key: []byte("k"), Value: []byte(value),
		Timestamp: time.Date(2026, 1, 2, 3, 0, seq, 0, time.UTC),
		Headers: []kgo.RecordHeader{
			{Key: "ce_id", Value: fmt.Appendf(nil, "gw-1/process/0badcafe/%d", seq)}, {Key: "ce_type", Value: []byte(kind)},
		},
	}
}
