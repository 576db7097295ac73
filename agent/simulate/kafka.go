package simulate

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

// How much the embedded Kafka keeps: it lives in memory, and a plant may run
// for days.
const (
	kafkaPartitions    = 4
	kafkaRetainBytes   = 32 << 20 // of each partition
	kafkaSegmentBytes  = 1 << 20
	kafkaRetentionTick = time.Minute
)

// Kafka is a one-broker Kafka in this process. It creates topics as they are
// asked for, with 4 partitions, and keeps the newest 32 MiB of each partition
// in memory.
type Kafka struct {
	listener net.Listener
}

// newKafka takes over the listener; it is closed at the end of Run or by Close.
func newKafka(l net.Listener) *Kafka { return &Kafka{listener: l} }

// Addr is where it listens, "127.0.0.1:9092" for example.
func (k *Kafka) Addr() string { return k.listener.Addr().String() }

// Close frees the address of a Kafka that was never run.
func (k *Kafka) Close() error { return k.listener.Close() }

// Run serves until ctx ends.
func (k *Kafka) Run(ctx context.Context) error {
	cluster, err := kfake.NewCluster(
		kfake.NumBrokers(1),
		kfake.ListenFn(func(string, string) (net.Listener, error) { return k.listener, nil }),
		kfake.AllowAutoTopicCreation(),
		kfake.DefaultNumPartitions(kafkaPartitions),
		kfake.BrokerConfigs(map[string]string{
			"log.retention.bytes": strconv.Itoa(kafkaRetainBytes),
			"log.segment.bytes":   strconv.Itoa(kafkaSegmentBytes),
		}),
	)
	if err != nil {
		return fmt.Errorf("embedded kafka: %w", err)
	}
	defer cluster.Close()
	tick := time.NewTicker(kafkaRetentionTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			cluster.ApplyRetention()
		}
	}
}
