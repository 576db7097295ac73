package uplink

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// forgetful has the client forget the topic of positions when the first position of a
// run is acknowledged. It stands for a client that does not know the topic yet at
// that moment, since its goroutine did not run: both commit nothing and say they did.
type forgetful struct {
	k    *Kafka
	once chan struct{} // capacity 1
}

var _ kgo.HookProduceRecordUnbuffered = forgetful{}

func (f forgetful) OnProduceRecordUnbuffered(r *kgo.Record, err error) {
	if r.Topic != DefaultPositionTopic || err != nil {
		return
	}
	select {
	case f.once <- struct{}{}:
		f.k.link().PurgeTopicsFromClient(DefaultPositionTopic)
	default:
	}
}

// TestClaimThatTheClientWouldNotCommit asks that a run whose first position the client
// would drop in silence is not believed to have begun. When the next transaction failed
// then it took the position of the run before it for one of another agent, and stood back.
func TestClaimThatTheClientWouldNotCommit(t *testing.T) {
	t.Parallel()
	c, log := hadRun(t)
	log.Rewind(nil)
	log.put(messages("process", 100, 50, 5)...)
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "sluice.process", Err: kerr.OutOfOrderSequenceNumber, Count: 1})
	once := make(chan struct{}, 1)
	k := startWith(t, exactConfig(c, log), func(k *Kafka) { k.options = append(k.options, kgo.WithHooks(forgetful{k, once})) })
	waitFor(t, "a claim that is not committed", func() bool { return len(once) == 1 })
	for end := time.Now().Add(patience); log.cursor("process") < 150 && !k.Stats().Fenced && time.Now().Before(end); {
		time.Sleep(2 * time.Millisecond)
	}
	if s := k.Stats(); s.Fenced || log.cursor("process") < 150 {
		t.Fatalf("cursor %d, stats %+v", log.cursor("process"), s)
	}
	checkComplete(t, committed(t, c.ListenAddrs(), "sluice.process"), 150)
}
