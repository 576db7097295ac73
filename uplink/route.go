package uplink

import (
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// placePatience is how long an answer is held for records that the client puts into
// their partitions. That takes less than a millisecond on an idle machine; the bound
// is there so that no mistake of ours holds up a link for good.
const placePatience = 5 * time.Second

// route counts the records of a topic that the client was given since the last
// review, and those among them that have their partition, or came back without one.
//
// Why it is needed: records of a topic that the client does not know yet go on a list.
// When it knows the topic a goroutine of its own puts them into their partitions one by
// one, and the first of them go out at once. If these are refused meanwhile the rest of
// the list gets in behind the refusal, whatever the window's gate says, and stands in
// front of them for good (franz-go v1.22, storePartitionsUpdate and bufferRecord).
type route struct {
	handed int64 // of the gate
	placed atomic.Int64
}

// underway reports whether the client is in the middle of the list. Before it knows the
// topic nothing is placed, and behind the list each record is placed as it is handed
// over.
func (r *route) underway() bool {
	placed := r.placed.Load()
	return placed > 0 && placed < r.handed
}

// placing is the hook that counts. The client calls it with the partition locked, and
// so before it gives the record back.
type placing struct{}

var _ kgo.HookProduceRecordPartitioned = placing{}

// OnProduceRecordPartitioned is called when a record waits in its partition.
func (placing) OnProduceRecordPartitioned(r *kgo.Record, _ int32) {
	if s, ok := r.Context.(*slot); ok {
		s.place()
	}
}

// hand counts the record of s as one that the client was given. The gate is held.
func (w *window) hand(s *slot, topic string) {
	r := w.routes[topic]
	if r == nil {
		r = &route{}
		w.routes[topic] = r
	}
	r.handed++
	s.route, s.placed = r, false
}

// place counts the record once, if it came out of a window.
func (s *slot) place() {
	if s.route != nil && !s.placed {
		s.placed = true
		s.route.placed.Add(1)
	}
}

// awaitPlaced blocks until each record of a topic that the client knows is in its
// partition, placePatience at most. The gate must be closed.
func (w *window) awaitPlaced() {
	for end := time.Now().Add(placePatience); w.placing() && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}

func (w *window) placing() bool {
	w.gate.Lock()
	defer w.gate.Unlock()
	for _, r := range w.routes {
		if r.underway() {
			return true
		}
	}
	return false
}
