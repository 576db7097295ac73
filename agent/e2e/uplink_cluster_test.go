//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"
)

// TestUplinkLeaderKilled kills a broker that leads partitions with SIGKILL while both
// deliveries write to a cluster of three with min.insync.replicas=2.
func TestUplinkLeaderKilled(t *testing.T) {
	const total, perSecond = 12_000, 500
	begin := time.Now()
	k, nodes := startCluster(t)
	dir := t.TempDir()
	broker := startMosquitto(t, dir)
	two := "2"
	for _, topic := range []string{"cluster.once", "cluster.exact"} {
		if _, err := k.admin.CreateTopic(t.Context(), 4, 3, map[string]*string{"min.insync.replicas": &two}, topic); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the leaders of "+topic, func() bool { // each broker learns of a new topic by itself
			offsets, err := k.admin.ListCommittedOffsets(t.Context(), topic)
			return err == nil && offsets.Error() == nil && len(offsets[topic]) == 4
		})
	}
	t.Logf("the cluster is ready after %s", time.Since(begin).Round(time.Millisecond))
	a := newAgent(t, dir, func(dataDir, http string) string {
		return twoDeliveries(dataDir, http, broker.url(), k.internal, "cluster.once", "cluster.exact")
	})
	a.startReady(t)
	pub := startPublisher(t, broker, total, perSecond)
	waitFor(t, "records", func() bool { return k.committed(t, "cluster.exact") > perSecond }, a.proc)
	victim := leaderOf(t, k, "cluster.exact", 1)
	before := k.committed(t, "cluster.once")
	nodes[victim].proc.kill()
	killed := time.Now()
	pub.waitAcked(t, total)
	t.Logf("node %d killed when %d of %d were there", victim, before, total)

	once, exact := newLedger(agentID, mqttName, className, total), newLedger(agentID, mqttName, className, total)
	c, e := newConsumer(t, k, "cluster.once"), newCommittedConsumer(t, k, "cluster.exact", exact.add)
	if !c.until(t, patience, once.add, func() bool { return once.missing() == 0 }) || !e.until(t, patience, func() bool { return exact.missing() == 0 }) {
		t.Errorf("%d and %d messages are missing", once.missing(), exact.missing())
	}
	all := time.Since(killed)
	a.terminate(t)
	c.rest(t, once.add)
	e.rest(t)
	for name, r := range map[string]report{"at-least-once": once.report(), "exactly-once": exact.report()} {
		fmt.Printf("E2E leader-killed %s %s all_after=%s\n", name, r, all.Round(time.Millisecond))
		if r.missing > 0 || r.duplicates > 0 || len(r.faults) > 0 {
			t.Errorf("%s: faults %v, examples %v", name, r.faults, r.example)
		}
	}
	if before >= total || len(e.faults) > 0 {
		t.Errorf("killed too late, or out of order: %d there, %q", before, e.faults)
	}
}
