package uplink

import (
	"errors"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// forgotten stands in an answer for a refusal over which the client would start its
// producer anew. It has no meaning of its own in answers to records: the client takes it
// for a refusal that it knows nothing about, and gives the records back.
//
// Why the client is not told the truth: it would rewind the partitions by itself and send
// on under a new epoch. A request that it puts together at that moment is taken back, and
// that sets the partition to the batch that was in it, which may not be the first any
// more (franz-go v1.22, undoStagedBatches after resetBatchDrainIdx). The batches in front
// of it then wait for good, and where the broker knows nothing of the producer, it takes
// the ones behind them out of order. Records that are given back have nothing in the
// client that could be skipped: they are sent again from the window, in order.
var forgotten = kerr.NoReassignmentInProgress

// startsAnew reports whether the client would start its producer anew after e. The broker
// says so where it lost records that it had acknowledged (an unclean election of a leader,
// a disk that came back older), or the producer's place in them.
func startsAnew(e *kerr.Error) bool {
	switch e {
	case kerr.OutOfOrderSequenceNumber, kerr.UnknownProducerID, kerr.InvalidProducerIDMapping, kerr.InvalidProducerEpoch:
		return true
	}
	return false
}

// readAnswer decodes the body of the answer to a produce of a version; tags are the bytes
// of the answer's header that come before it.
func readAnswer(version int16, body []byte) (resp *kmsg.ProduceResponse, tags []byte, ok bool) {
	resp = kmsg.NewPtrProduceResponse()
	if version < 0 || version > resp.MaxVersion() || body == nil {
		return nil, nil, false
	}
	resp.SetVersion(version)
	b := kbin.Reader{Src: body}
	if version >= flexibleProduce {
		kmsg.SkipTags(&b)
	}
	if !b.Ok() || resp.ReadFrom(b.Src) != nil {
		return nil, nil, false
	}
	return resp, body[:len(body)-len(b.Src)], true
}

// disguise returns the body of the answer with forgotten in place of what makes the
// client start anew, and false if there is none of that in it.
func disguise(resp *kmsg.ProduceResponse, tags []byte) ([]byte, bool) {
	found := false
	for i := range resp.Topics {
		for j := range resp.Topics[i].Partitions {
			p := &resp.Topics[i].Partitions[j]
			if e, ok := errors.AsType[*kerr.Error](kerr.ErrorForCode(p.ErrorCode)); ok && startsAnew(e) {
				p.ErrorCode, found = forgotten.Code, true
			}
		}
	}
	if !found {
		return nil, false
	}
	return resp.AppendTo(append([]byte{}, tags...)), true
}
