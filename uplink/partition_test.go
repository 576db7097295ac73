package uplink

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"sluice/drivers"
)

// murmur2Vectors are those of the Java client's own test, UtilsTest.testMurmur2 of
// Apache Kafka 4.1. Its partitioner takes toPositive(murmur2(key)) % partitions, where
// toPositive clears the sign (BuiltInPartitioner.partitionForKey).
var murmur2Vectors = map[string]int32{
	"21":                         -973932308,
	"foobar":                     -790332482,
	"a-little-bit-long-string":   -985981536,
	"a-little-bit-longer-string": -1486304829,
	"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
	"abc": 479470107,
}

// TestKeysGoWhereTheJavaClientPutsThem: consumers may join our topics with those of
// Java producers by partition.
func TestKeysGoWhereTheJavaClientPutsThem(t *testing.T) {
	t.Parallel()
	const partitions = 97
	for name, exact := range map[string]bool{"at least once": false, "exactly once": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := cluster(t, kfake.SeedTopics(partitions, "sluice.process"))
			log := newMemLog()
			var events []drivers.Event
			for key := range murmur2Vectors {
				events = append(events, message("process", key, "x"))
			}
			log.put(events...)
			start(t, Config{Brokers: c.ListenAddrs(), Reader: log, ExactlyOnce: exact})
			log.waitCursor(t, "process", uint64(len(events)))
			for _, r := range consumeAll(t, exact, c.ListenAddrs(), "sluice.process") {
				want := (murmur2Vectors[string(r.Key)] & 0x7fffffff) % partitions
				if r.Partition != want {
					t.Errorf("key %q is in partition %d, the Java client puts it into %d", r.Key, r.Partition, want)
				}
			}
		})
	}
}
