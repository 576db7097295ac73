package uplink

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestRefusedWhileATopicIsNew has the broker refuse the first batch of a topic while
// the client still takes the records behind it out of its list for topics that it does
// not know yet. None of them may go out before those that were refused.
func TestRefusedWhileATopicIsNew(t *testing.T) {
	t.Parallel()
	for _, code := range []*kerr.Error{kerr.CorruptMessage, kerr.UnknownServerError, kerr.TopicAuthorizationFailed} {
		t.Run(code.Message, func(t *testing.T) {
			t.Parallel()
			c := cluster(t, kfake.SeedTopics(1, "sluice.process"))
			fault := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: code})
			log := newMemLog()
			log.put(messages("process", 0, 200, 1)...)
			startWith(t, Config{Brokers: c.ListenAddrs(), Reader: log}, func(k *Kafka) { k.options = append(k.options, stallingAt(100, k, fault)) })
			log.waitCursor(t, "process", 200)
			checkComplete(t, consume(t, c.ListenAddrs(), "sluice.process"), 200)
		})
	}
}

// stallingAt has the client's choice of a partition for record n take until fault was
// answered, and the answer has had time to arrive.
func stallingAt(n int, k *Kafka, fault *kfake.FaultHandle) kgo.Opt {
	return kgo.RecordPartitioner(kgo.BasicConsistentPartitioner(func(string) func(*kgo.Record, int) int {
		seen := 0
		return func(*kgo.Record, int) int {
			if seen++; seen == n {
				for end := time.Now().Add(patience); fault.Hits() == 0 && time.Now().Before(end); {
					time.Sleep(time.Millisecond)
				}
				for end := time.Now().Add(300 * time.Millisecond); len(k.inFlight().failures()) == 0 && time.Now().Before(end); {
					time.Sleep(time.Millisecond)
				}
			}
			return 0
		}
	}))
}
