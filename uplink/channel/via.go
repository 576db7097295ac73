package channel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"sluice/uplink"
)

// Via sends a request to a broker over connections that are there for something else.
// Its error is an uplink.ErrAway where no connection is to be made now. It blocks until
// there is an answer or ctx ends.
type Via func(ctx context.Context, broker int32, req kmsg.Request) (kmsg.Response, error)

// errOwn says that a status has to be written by the channel's own client.
var errOwn = errors.New("not by way of the uplink")

// triesVia is how often in a row Via may fail before the own client is used.
const triesVia = 5

// via writes statuses by way of the uplink's connections. A client of one's own needs a
// connection more for that, and, when the cluster comes back, one before it to find out
// what is known already; a fleet has many of them. The goroutine of publishing owns it.
type via struct {
	send Via // nil: it is never used
	pack kgo.Compressor

	place  placed
	failed int // in a row
}

// placed is where the statuses go; the zero value: not known.
type placed struct {
	key       string
	id        [16]byte
	partition int32
	leader    int32
	known     bool
}

// learn notes where the own client has just written a record to.
func (v *via) learn(ctx context.Context, c *kgo.Client, r *kgo.Record) {
	v.failed, v.place = 0, placed{}
	if v.send == nil {
		return
	}
	req := kmsg.NewPtrMetadataRequest()
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = kmsg.StringPtr(r.Topic)
	req.Topics = append(req.Topics, rt)
	resp, err := c.RequestCachedMetadata(ctx, req, time.Hour)
	if err != nil || len(resp.Topics) != 1 {
		return // then the own client writes the next one, too
	}
	for _, p := range resp.Topics[0].Partitions {
		if p.Partition == r.Partition && p.Leader >= 0 {
			v.place = placed{string(r.Key), resp.Topics[0].TopicID, p.Partition, p.Leader, true}
		}
	}
}

// write writes a record. It returns errOwn where the own client is to do it; up says that
// it could.
func (v *via) write(ctx context.Context, topic, key string, value []byte, up bool) error {
	if v.send == nil || !v.place.known || v.place.key != key || up && v.failed >= triesVia {
		return errOwn
	}
	ctx, cancel := context.WithTimeout(uplink.Urgent(ctx), publishTimeout)
	defer cancel()
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, int32(publishTimeout/time.Millisecond)
	p := kmsg.NewProduceRequestTopicPartition()
	p.Partition, p.Records = v.place.partition, v.batch(key, value)
	t := kmsg.NewProduceRequestTopic()
	t.Topic, t.TopicID, t.Partitions = topic, v.place.id, []kmsg.ProduceRequestTopicPartition{p}
	req.Topics = append(req.Topics, t)
	resp, err := v.send(ctx, v.place.leader, req)
	if err == nil {
		err = v.answer(resp)
	}
	switch {
	case err == nil:
		v.failed = 0
		return nil
	case errors.Is(err, errOwn), errors.Is(err, uplink.ErrNoClient):
		return errOwn
	case errors.Is(err, uplink.ErrAway):
		return err
	}
	v.failed++
	return fmt.Errorf("by way of the uplink: %w", err)
}

// answer is what a broker said. Whatever it has against the record, the own client finds
// the way, or says why there is none.
func (v *via) answer(resp kmsg.Response) error {
	if r, ok := resp.(*kmsg.ProduceResponse); ok && len(r.Topics) == 1 && len(r.Topics[0].Partitions) == 1 {
		if kerr.ErrorForCode(r.Topics[0].Partitions[0].ErrorCode) == nil {
			return nil
		}
	}
	v.place = placed{}
	return errOwn
}

// batch makes a record batch of one record, without idempotence. The fields stand in
// batch.go.
func (v *via) batch(key string, value []byte) []byte {
	body := []byte{0, 0, 0} // attributes, distance in time, in offset
	body = binary.AppendVarint(body, int64(len(key)))
	body = append(body, key...)
	body = binary.AppendVarint(body, int64(len(value)))
	body = append(body, value...)
	body = append(body, 0) // headers
	records := append(binary.AppendVarint(nil, int64(len(body))), body...)
	codec := kgo.CodecNone
	if v.pack != nil {
		records, codec = v.pack.Compress(&bytes.Buffer{}, records)
	}
	now := uint64(time.Now().UnixMilli())
	b := make([]byte, batchHead, batchHead+len(records))
	binary.BigEndian.PutUint32(b[8:], uint32(batchHead-12+len(records)))
	binary.BigEndian.PutUint32(b[12:], ^uint32(0))
	b[16] = magicNow
	binary.BigEndian.PutUint16(b[21:], uint16(codec))
	binary.BigEndian.PutUint64(b[27:], now)
	binary.BigEndian.PutUint64(b[35:], now)
	for i := 43; i < 57; i++ { // producer id, epoch, sequence: none
		b[i] = 0xff
	}
	binary.BigEndian.PutUint32(b[57:], 1)
	b = append(b, records...)
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}
