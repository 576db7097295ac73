package update

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
)

// ChunkSize is how many bytes of a bundle a record holds, less than what brokers
// take by default (message.max.bytes, 1 MiB).
const ChunkSize = 512 << 10

// A chunk is a record whose key is SHA256/FROM: the bundle's digest in hex, and
// where in the bundle the value begins, decimal. Records with other keys do not
// belong to the bundle; several may be put into one topic.
func chunkKey(sum string, from int64) []byte { return []byte(sum + "/" + strconv.FormatInt(from, 10)) }

// Put writes a bundle into partition 0 of a topic and returns what the arguments
// of the command update have to say. It reads the bundle twice. client must let
// records choose their partition (kgo.ManualPartitioner). It blocks until all is
// acknowledged.
func Put(ctx context.Context, client *kgo.Client, topic, version string, bundle io.ReadSeeker) (Bundle, error) {
	sum := sha256.New()
	size, err := io.Copy(sum, bundle)
	if err == nil {
		_, err = bundle.Seek(0, io.SeekStart)
	}
	if err != nil {
		return Bundle{}, fmt.Errorf("read the bundle: %w", err)
	}
	b := Bundle{Version: version, Size: size, SHA256: hex.EncodeToString(sum.Sum(nil)), Topic: topic}
	if err := b.Check(); err != nil {
		return Bundle{}, err
	}
	for from := int64(0); from < size; from += ChunkSize {
		value := make([]byte, min(ChunkSize, size-from))
		if _, err := io.ReadFull(bundle, value); err != nil {
			return Bundle{}, fmt.Errorf("read the bundle: %w", err)
		}
		r, err := client.ProduceSync(ctx, &kgo.Record{Topic: topic, Partition: 0, Key: chunkKey(b.SHA256, from), Value: value}).First()
		if err != nil {
			return Bundle{}, fmt.Errorf("write to topic %s: %w", topic, err)
		}
		if from == 0 {
			b.Offset = r.Offset
		}
	}
	return b, nil
}

// fromTopic reads chunks from where the job is. What belongs to the bundle and
// does not come next is left out: a chunk that was put twice, say.
func (s *sink) fromTopic(ctx context.Context) error {
	opts, err := s.u.cfg.Kafka()
	if err != nil {
		return hopeless("update: %w", err)
	}
	b := s.j.Bundle
	client, err := kgo.NewClient(append(opts,
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{b.Topic: {b.Partition: kgo.NewOffset().At(s.next)}}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchMaxBytes(2*ChunkSize), kgo.FetchMaxPartitionBytes(2*ChunkSize), kgo.BrokerMaxReadBytes(64<<20), kgo.MaxConcurrentFetches(1))...)
	if err != nil {
		return hopeless("update: %w", err)
	}
	defer client.Close()
	for s.size < b.Size {
		poll, cancel := context.WithTimeout(ctx, quiet)
		fetches := client.PollRecords(poll, 2)
		cancel()
		if poll.Err() != nil && fetches.NumRecords() == 0 {
			return fmt.Errorf("fetch the bundle: nothing new in topic %s behind offset %d for %s", b.Topic, s.next-1, quiet)
		}
		for _, e := range fetches.Errors() {
			return fmt.Errorf("fetch the bundle from topic %s: %w", b.Topic, e.Err)
		}
		for _, r := range fetches.Records() {
			if err := s.chunk(ctx, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// chunk takes a record.
func (s *sink) chunk(ctx context.Context, r *kgo.Record) error {
	s.next = r.Offset + 1
	sum, at, _ := strings.Cut(string(r.Key), "/")
	from, err := strconv.ParseInt(at, 10, 64)
	if sum != s.j.Bundle.SHA256 || err != nil || from != s.size {
		return nil
	}
	return s.write(ctx, r.Value)
}
