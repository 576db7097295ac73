//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestUplinkFailover sends to a cluster that goes away and comes back, with another
// one that takes over, and kills the agent while it does: both together must have
// everything, each in the order of its keys, and double only what a kill or the
// broken link left open.
func TestUplinkFailover(t *testing.T) {
	const total, perSecond, topic = 12_000, 500, "plant.process"
	dir := t.TempDir()
	central, dr := startKafka(t, mkdir(t, dir, "central")), startKafka(t, mkdir(t, dir, "dr"))
	broker := startMosquitto(t, dir)
	for _, k := range []*kafka{central, dr} {
		k.createTopic(t, topic)
	}
	a := newAgent(t, dir, func(dataDir, http string) string {
		return failoverConfig(dataDir, http, broker.url(), central.link.addr, dr.link.addr)
	})
	a.startReady(t)
	pub := startPublisher(t, broker, total, perSecond)
	pub.waitAcked(t, total/12)
	central.link.set(t, swallowAnswers) // what arrives there now is not known here
	time.Sleep(time.Second)
	central.link.set(t, refuse)
	cut := time.Now()
	waitFor(t, "the other cluster to take over", func() bool { return dr.count(t, topic) > 0 }, a.proc)
	over := time.Since(cut)
	if to := a.goesTo(t, "central"); to != "dr" {
		t.Errorf("the status says that events go to %q", to)
	}
	atKill := dr.count(t, topic)
	a.proc.kill()
	a.startReady(t)
	waitFor(t, "it to take over again", func() bool { return dr.count(t, topic) > atKill }, a.proc)
	central.link.set(t, pass)
	healed, before := time.Now(), central.count(t, topic)
	waitFor(t, "events at the first cluster", func() bool { return central.count(t, topic) > before }, a.proc)
	back := time.Since(healed)
	waitFor(t, "the status to say so", func() bool { return a.goesTo(t, "central") == "central" }, a.proc)
	pub.waitAcked(t, total)

	union, first, second := newLedger(agentID, mqttName, className, total), newLedger(agentID, mqttName, className, total), newLedger(agentID, mqttName, className, total)
	c, d := newConsumer(t, central, topic), newConsumer(t, dr, topic)
	d.rest(t, second.add)
	if !c.until(t, patience, first.add, func() bool {
		return first.delivered()+second.delivered() >= total && union.adopt(first, second).missing() == 0
	}) {
		t.Errorf("%d messages are in neither cluster", union.adopt(first, second).missing())
	}
	a.terminate(t)
	c.rest(t, first.add)
	d.rest(t, second.add)
	r := union.adopt(first, second).report()
	fmt.Printf("E2E failover %s over_after=%s back_after=%s central=%d dr=%d\n", r, over.Round(time.Millisecond), back.Round(time.Millisecond), first.delivered(), second.delivered())
	if r.missing > 0 || r.faults[faultSequence] > 0 {
		t.Errorf("faults %v, examples %v", r.faults, r.example)
	}
	for name, l := range map[string]*ledger{"central": first, "dr": second} {
		r := l.report()
		delete(r.faults, faultSequence) // the other one has those
		if len(r.faults) > 0 {
			t.Errorf("%s: faults %v, examples %v", name, r.faults, r.example)
		}
	}
	// A kill: what was sent since cursors were saved, 3 s at most. A broken link: what came in until it was known.
	if limit := 2 * 5 * perSecond; first.delivered()+second.delivered()-r.delivered > limit || first.messages-first.delivered()+second.messages-second.delivered() > limit {
		t.Errorf("too many twice: %d in both, %d in central, %d in dr", first.delivered()+second.delivered()-r.delivered,
			first.messages-first.delivered(), second.messages-second.delivered())
	}
	if first.delivered() < total/4 || second.delivered() < perSecond {
		t.Errorf("central has %d, dr %d: one of them was hardly used", first.delivered(), second.delivered())
	}
}

// adopt makes l the union of what others have seen: which messages and which
// numbers, without an order.
func (l *ledger) adopt(others ...*ledger) *ledger {
	for _, o := range others {
		for key, k := range o.keys {
			if l.keys[key] == nil {
				l.keys[key] = &keyAccount{seen: map[int]bool{}}
			}
			for n := range k.seen {
				l.keys[key].seen[n] = true
			}
		}
		for name, in := range o.lanes {
			if l.lanes[name] == nil {
				l.lanes[name] = &lane{seen: map[uint64]uint32{}, explained: map[uint64]bool{}}
			}
			mine := l.lanes[name]
			mine.highest = max(mine.highest, in.highest)
			for seq, sum := range in.seen {
				if was, ok := mine.seen[seq]; ok && was != sum {
					l.fault(faultConflict, "%s: sequence number %d is two events", name, seq)
				}
				mine.seen[seq] = sum
			}
			for seq := range in.explained {
				mine.explained[seq] = true
			}
		}
	}
	l.messages = l.delivered()
	return l
}

// goesTo is where the agent says that events of an uplink go; empty: it does not
// answer.
func (a *agent) goesTo(t testing.TB, uplink string) string {
	t.Helper()
	resp, err := http.Get("http://" + a.http + "/api/v1/status")
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	var st struct {
		Uplinks map[string]struct{ Failover struct{ To string } }
	}
	body, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(body, &st)
	}
	if err != nil {
		t.Fatalf("status: %v", err)
	}
	return st.Uplinks[uplink].Failover.To
}

// failoverConfig is mqttConfig with a second cluster that takes over after 2 s.
func failoverConfig(dataDir, http, mqttURL, central, dr string) string {
	text := mqttConfig(dataDir, http, mqttURL, central, "plant.{class}")
	return strings.Replace(text, "observe:", fmt.Sprintf("    failover: dr\n    failover_after: 2s\n    failback_after: 3s\n"+
		"  dr:\n    kafka: { brokers: [ %q ], topic: \"plant.{class}\" }\nobserve:", dr), 1)
}

func mkdir(t testing.TB, elem ...string) string {
	t.Helper()
	dir := filepath.Join(elem...)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
