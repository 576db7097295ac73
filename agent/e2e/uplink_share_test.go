//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// TestUplinkLiveShare drains the backlog of an outage over a slow link while new
// events come faster than their share of it, and kills the agent in the middle:
// everything must arrive, what is late must say so, and only a kill may double.
func TestUplinkLiveShare(t *testing.T) {
	const total, perSecond, topic = 21_000, 700, "share.process"
	dir := t.TempDir()
	k := startKafka(t, dir)
	slow := startSlowLink(t, k.link.target)
	k.link.target = slow.addr
	broker := startMosquitto(t, dir)
	k.createTopic(t, topic)
	a := newAgent(t, dir, func(dataDir, http string) string {
		return strings.Replace(mqttConfig(dataDir, http, broker.url(), k.link.addr, topic), "topic: ", "compression: none, live_share: 70%, topic: ", 1)
	})
	a.startReady(t)
	pub := startPublisher(t, broker, total, perSecond)
	waitFor(t, "records", func() bool { return k.count(t, topic) > perSecond }, a.proc)
	k.link.set(t, refuse)
	time.Sleep(13 * time.Second)
	slow.set(0, 300<<10) // new events alone need about 300 KB/s with their headers
	k.link.set(t, pass)
	before := k.count(t, topic)
	// Long enough for a second in which the machine is busy with other things, and takes nothing new, not to matter.
	waitFor(t, "a part of the backlog", func() bool { return k.count(t, topic) > before+10*perSecond }, a.proc)
	atKill, beside := k.count(t, topic), newMarks()
	newConsumer(t, k, topic).rest(t, beside.add(t))
	slow.halfOpen() // what the killed one has sent and the link still holds would come among what the next one sends
	a.proc.kill()
	a.startReady(t)
	waitFor(t, "more", func() bool { return k.count(t, topic) > atKill+2*perSecond }, a.proc)
	slow.set(0, 0)
	pub.waitAcked(t, total)

	l, m := newLedger(agentID, mqttName, className, total), newMarks()
	c := newConsumer(t, k, topic)
	note := m.add(t)
	take := func(r *kgo.Record) { note(r); l.add(r) }
	if !c.until(t, patience, take, func() bool { return l.missing() == 0 }) {
		t.Errorf("%d messages are missing", l.missing())
	}
	a.terminate(t)
	c.rest(t, take)
	r := l.report()
	delete(r.faults, faultReordered) // as it must be, between late and new
	fmt.Printf("E2E live-share %s late=%d share_of_new=%.2f disorder=%d\n", r, m.late, beside.share(), m.disorder)
	if r.missing > 0 || len(r.faults) > 0 || m.late == 0 || m.disorder > 0 {
		t.Errorf("faults %v, examples %v, %d late, %d out of order among themselves", r.faults, r.example, m.late, m.disorder)
	}
	if limit := 8 * perSecond; r.duplicates > limit {
		t.Errorf("%d came twice, more than %d", r.duplicates, limit)
	}
	if s := beside.share(); s < 0.55 || s > 0.85 {
		t.Errorf("new events had %.0f %% of the records while a backlog drained, want about 70 %%", 100*s)
	}
}

// marks looks at what records say of themselves: late or new.
type marks struct {
	late, disorder int
	seen           map[uint64]bool
	last           map[string]uint64 // highest number by mark and key
	stream         map[int32][]bool  // by partition: late or not
}

func newMarks() *marks {
	return &marks{seen: map[uint64]bool{}, last: map[string]uint64{}, stream: map[int32][]bool{}}
}

// add returns what takes records into account, in the order of each partition.
// What a kill had sent again says nothing about the order.
func (m *marks) add(t *testing.T) func(*kgo.Record) {
	t.Helper()
	return func(r *kgo.Record) {
		h, err := headersOf(r)
		if err != nil {
			t.Fatal(err)
		}
		e, err := readEnvelope(r)
		if err != nil {
			t.Fatal(err)
		}
		late := h["sluice_late"] == "true"
		if late {
			m.late++
		}
		m.stream[r.Partition] = append(m.stream[r.Partition], late)
		name := fmt.Sprint(late, " ", string(r.Key))
		if e.seq < m.last[name] && !m.seen[e.seq] {
			m.disorder++
		}
		m.seen[e.seq], m.last[name] = true, max(m.last[name], e.seq)
	}
}

// share is the part of new records where there are both: from the first new one
// behind a late one of each partition on.
func (m *marks) share() float64 {
	fresh, all := 0, 0
	for _, stream := range m.stream {
		first := slices.Index(stream, true)
		if first < 0 {
			continue
		}
		begin := slices.Index(stream[first:], false)
		if begin < 0 {
			continue
		}
		for _, late := range stream[first+begin:] {
			if all++; !late {
				fresh++
			}
		}
	}
	return float64(fresh) / float64(max(1, all))
}
