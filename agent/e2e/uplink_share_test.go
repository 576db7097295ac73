//go:build e2e

package e2e

import (
	"fmt"
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
	beside := k.sharedLink(t, slow, topic, a, perSecond)
	atKill := k.count(t, topic)
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
	if s := beside.share(); s < 0.65 || s > 0.75 {
		t.Errorf("new events had %.0f %% of the records while a backlog drained, want 70 %%", 100*s)
	}
}

// sharedLink lets the link pass again, narrow enough for both kinds to wait all the time,
// and returns what it carried of either. The share is one of what is sent while both have
// something to send. So at first nearly nothing gets through, until seconds of new events
// wait, and then less than comes new: a machine that takes nothing for a while changes
// nothing. What was in flight before new events waited is not counted.
func (k *kafka) sharedLink(t *testing.T, slow *slowLink, topic string, a *agent, perSecond int) *marks {
	t.Helper()
	stored := func() uint64 {
		return uint64((&plant{agent: a}).metric(t, `sluice_events_committed_total{class="`+className+`"}`))
	}
	healed, second := stored(), uint64(perSecond)
	slow.set(0, 40<<10)
	k.link.set(t, pass)
	waitFor(t, "new events that wait", func() bool { return stored() > healed+4*second }, a.proc)
	slow.set(0, 200<<10) // new events alone need about 300 KB/s with their headers
	c, lead, m := newConsumer(t, k, topic), newMarks(), newMarks()
	if !c.until(t, patience, lead.add(t), func() bool { return lead.newest > healed+second }) { // more than 40 KB/s can carry
		t.Fatalf("no new events came beside the backlog: %d of %d records are late", lead.late, lead.all)
	}
	end := k.count(t, topic) + 6*perSecond
	waitFor(t, "a part of the backlog", func() bool { return k.count(t, topic) > end }, a.proc)
	c.rest(t, m.add(t))
	if left := stored() - m.newest; left < second {
		t.Errorf("%d new events only waited at the end: too few came for a share to be judged", left)
	}
	return m
}

// marks looks at what records say of themselves: late or new.
type marks struct {
	all, late, disorder int
	newest              uint64 // highest number of a new one
	seen                map[uint64]bool
	last                map[string]uint64 // highest number by mark and key
}

func newMarks() *marks {
	return &marks{seen: map[uint64]bool{}, last: map[string]uint64{}}
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
		m.all++
		if late {
			m.late++
		} else {
			m.newest = max(m.newest, e.seq)
		}
		name := fmt.Sprint(late, " ", string(r.Key))
		if e.seq < m.last[name] && !m.seen[e.seq] {
			m.disorder++
		}
		m.seen[e.seq], m.last[name] = true, max(m.last[name], e.seq)
	}
}

// share is the part of new ones among the records.
func (m *marks) share() float64 {
	return 1 - float64(m.late)/float64(max(1, m.all))
}
