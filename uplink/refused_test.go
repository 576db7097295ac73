package uplink

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"sluice/buffer"
)

// TestRefusedBatches makes the broker refuse batches at random while events flow
// and asks for each event once, in the order of its key.
func TestRefusedBatches(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		code *kerr.Error
	}{
		{"unknown error", kerr.UnknownServerError},
		{"corrupted on the way", kerr.CorruptMessage},
		{"no permission for a while", kerr.TopicAuthorizationFailed},
		{"no leader for a while", kerr.NotLeaderForPartition},
		{"too few replicas", kerr.NotEnoughReplicas},
		{"copies that take too long", kerr.RequestTimedOut},
		{"a disk that fails", kerr.KafkaStorageError},
		{"no topic for a while", kerr.UnknownTopicOrPartition},
		{"out of sequence", kerr.OutOfOrderSequenceNumber},
		{"a producer that is not known", kerr.UnknownProducerID},
		{"a producer of an older epoch", kerr.InvalidProducerEpoch},
		{"a policy that says no for a while", kerr.PolicyViolation},
		{"a leader that was deposed", kerr.FencedLeaderEpoch},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			rnd := rand.New(rand.NewPCG(seed, 0))
			c := cluster(t, kfake.SeedTopics(4, "sluice.process"))
			fault := c.Fault(kfake.Fault{
				Keys: []kmsg.Key{kmsg.Produce}, Err: tt.code, Count: 3,
				When: func(kmsg.Request) bool { return rnd.IntN(8) == 0 },
			})
			log := newMemLog()
			for i := range 60 {
				log.put(messages("process", i*200, 200, 7)...)
			}
			// No connection is closed for its silence, as happens on a loaded machine: this broker
			// refuses a batch that is sent again without looking whether it has it.
			k := startWith(t, Config{Brokers: c.ListenAddrs(), Reader: log, WindowRecords: 1000},
				func(k *Kafka) { k.silence.least = patience })
			log.waitCursor(t, "process", 12_000)
			checkComplete(t, consume(t, c.ListenAddrs(), "sluice.process"), 12_000)
			if fault.Hits() == 0 {
				t.Error("no batch was refused")
			}
			if d := k.Stats().Delivered["process"]; d != 12_000 {
				t.Errorf("delivered %d", d)
			}
		})
	}
}

// TestRecordsThatABrokerFindsInvalid has the broker refuse each batch that holds one
// of a few events: these are set aside, and all around them arrive.
func TestRecordsThatABrokerFindsInvalid(t *testing.T) {
	t.Parallel()
	for _, code := range []*kerr.Error{kerr.InvalidRecord, kerr.MessageTooLarge} {
		for _, exact := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, exactly once %t", code.Message, exact), func(t *testing.T) {
				t.Parallel()
				c := cluster(t, kfake.SeedTopics(3, "sluice.process"))
				c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "sluice.process", Err: code, Count: -1, When: func(r kmsg.Request) bool {
					for _, topic := range r.(*kmsg.ProduceRequest).Topics {
						for _, p := range topic.Partitions {
							if bytes.Contains(p.Records, []byte("invalid")) {
								return true
							}
						}
					}
					return false
				}})
				log := newMemLog()
				events := messages("process", 0, 600, 5)
				bad := []uint64{1, 300, 301, 600}
				for _, seq := range bad {
					events[seq-1].Payload = []byte("invalid")
				}
				log.put(events...)
				k := start(t, Config{Brokers: c.ListenAddrs(), Reader: log, Compression: "none", ExactlyOnce: exact})
				log.waitCursor(t, "process", 600)
				k.stop(t)
				checkComplete(t, consumeAll(t, exact, c.ListenAddrs(), "sluice.process"), 600, bad...)
				if got := log.rejects("process"); fmt.Sprint(got) != fmt.Sprint(bad) {
					t.Errorf("rejected %v, want %v", got, bad)
				}
			})
		}
	}
}

// TestWhatIsNeverSetAside has the broker refuse a gap record, and times, as with a clock
// that is wrong: a gap record for them would be refused, too, and another one for that.
// They wait, the status says why, and all arrive when the broker takes them.
func TestWhatIsNeverSetAside(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, kind, says string
		code             *kerr.Error
	}{
		{"a gap record", buffer.TypeGap, "INVALID_RECORD", kerr.InvalidRecord},
		{"a time", "sluice.mqtt.message.v1", "is this gateway's clock right?", kerr.InvalidTimestamp},
	} {
		for _, exact := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, exactly once %t", tt.name, exact), func(t *testing.T) {
				t.Parallel()
				c := cluster(t, kfake.SeedTopics(1, "sluice.process"))
				var lifted atomic.Bool
				c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "sluice.process", Err: tt.code, Count: -1, When: func(r kmsg.Request) bool {
					for _, topic := range r.(*kmsg.ProduceRequest).Topics {
						for _, p := range topic.Partitions {
							if bytes.Contains(p.Records, []byte("refused")) {
								return !lifted.Load()
							}
						}
					}
					return false
				}})
				log := newMemLog()
				events := messages("process", 0, 60, 5)
				events[29].Payload, events[29].Type = []byte("refused"), tt.kind
				log.put(events...)
				k := start(t, Config{Brokers: c.ListenAddrs(), Reader: log, Compression: "none", ExactlyOnce: exact})
				waitFor(t, "the reason", func() bool { return strings.Contains(k.Stats().LastError, tt.says) })
				lifted.Store(true)
				log.waitCursor(t, "process", 60)
				k.stop(t)
				checkComplete(t, consumeAll(t, exact, c.ListenAddrs(), "sluice.process"), 60)
				if got := log.rejects("process"); len(got) > 0 {
					t.Errorf("set aside: %v", got)
				}
			})
		}
	}
}

// TestATimeAheadOfTheClockIsReplaced has a topic refuse times more than an hour ahead, as
// Kafka 4 does, and an event that was taken by a clock two days ahead, which is right now.
func TestATimeAheadOfTheClockIsReplaced(t *testing.T) {
	t.Parallel()
	for _, exact := range []bool{false, true} {
		t.Run(fmt.Sprintf("exactly once %t", exact), func(t *testing.T) {
			t.Parallel()
			c := cluster(t, kfake.SeedTopics(1, "sluice.process"))
			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "sluice.process", Err: kerr.InvalidTimestamp, Count: -1, When: func(r kmsg.Request) bool {
				for _, topic := range r.(*kmsg.ProduceRequest).Topics {
					for _, p := range topic.Partitions {
						if latest := int64(binary.BigEndian.Uint64(p.Records[35:])); latest > time.Now().Add(time.Hour).UnixMilli() { // MaxTimestamp of a RecordBatch
							return true
						}
					}
				}
				return false
			}})
			log := newMemLog()
			events := messages("process", 0, 60, 5)
			taken := time.Now().Add(48 * time.Hour)
			events[29].Time = taken
			log.put(events...)
			k := start(t, Config{Brokers: c.ListenAddrs(), Reader: log, Compression: "none", ExactlyOnce: exact})
			log.waitCursor(t, "process", 60)
			k.stop(t)
			all := consumeAll(t, exact, c.ListenAddrs(), "sluice.process")
			checkComplete(t, all, 60)
			for _, r := range all {
				at := time.Time{}
				for _, h := range r.Headers {
					if h.Key == headerTime {
						at, _ = time.Parse(time.RFC3339Nano, string(h.Value))
					}
				}
				if at.After(time.Now()) && (!at.Equal(taken) || r.Timestamp.After(time.Now())) {
					t.Errorf("taken at %s, sent with %s and ce_time %s", taken, r.Timestamp, at)
				}
			}
		})
	}
}
