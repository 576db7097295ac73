//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// TestUplinkExactlyOnce runs the scenarios of delivery exactly_once on one Kafka.
func TestUplinkExactlyOnce(t *testing.T) {
	k := startKafka(t, t.TempDir())
	for _, s := range []struct {
		name string
		run  func(*testing.T, *kafka)
	}{
		{"kill-9", func(t *testing.T, k *kafka) { exactKilled(t, k, false) }},
		{"kill-9-nothing-kept", func(t *testing.T, k *kafka) { exactKilled(t, k, true) }},
		{"two-agents", twoAgents},
		{"refused-and-recreated", refusedAndRecreated},
		{"wrong-clock", wrongClock},
	} {
		t.Run(s.name, func(t *testing.T) {
			k.link.set(t, pass)
			s.run(t, k)
		})
	}
}

// exactKilled kills the agent with SIGKILL again and again while it sends: what a
// read_committed consumer sees must have each sequence number once, in order.
// With forget all that Kafka forgets after a while is deleted in between: offsets
// of groups, and events that were read.
func exactKilled(t *testing.T, k *kafka, forget bool) {
	const kills, perSecond = 30, 2000
	dir, topic := t.TempDir(), fmt.Sprintf("exact-%t.%s", forget, className)
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	broker := startMosquitto(t, dir)
	k.createTopic(t, topic)
	a := newAgent(t, dir, func(dataDir, http string) string { return exactConfig(dataDir, http, broker.url(), k.link.addr, topic) })
	a.startReady(t)
	total := kills * perSecond
	l := newLedger(agentID, mqttName, className, total)
	c := newCommittedConsumer(t, k, topic, l.add)
	pub := startHeldPublisher(t, broker, perSecond, total, perSecond)
	fresh := 0 // kills after which more had been committed
	for i := range kills {
		pub.letGo((i + 1) * perSecond) // a slow machine may need longer for the kills than the plant would send: each has something to do
		before, wait := l.messages, time.Duration(100+rnd.IntN(500))*time.Millisecond
		if i%2 == 0 { // not only starts
			c.until(t, patience, func() bool { return l.messages > before || l.missing() == 0 })
			wait /= 4
		}
		end := time.Now().Add(wait)
		c.until(t, wait, func() bool { return time.Now().After(end) })
		a.proc.kill()
		a.checkLog(t)
		if l.messages > before {
			fresh++
		}
		if forget {
			c.trim(t)
			dropGroups(t, k)
		}
		a.start(t)
	}
	pub.waitAcked(t, total)
	if !c.until(t, patience, func() bool { return l.missing() == 0 }) {
		t.Errorf("%d of %d messages have not arrived", l.missing(), total)
	}
	waitFor(t, "the agent's /readyz", func() bool { return a.get("/readyz") == nil }, a.proc) // it may have been started just now
	a.terminate(t)
	c.rest(t)
	r := l.report()
	fmt.Printf("E2E exactly-once kills=%d with-progress=%d %s out_of_order=%d\n", kills, fresh, r, len(c.faults))
	if r.missing > 0 || r.repeatedIDs > 0 || len(r.faults) > 0 || len(c.faults) > 0 || r.incarnations != 1 {
		t.Errorf("faults %v, examples %v, order %.5q", r.faults, r.example, c.faults)
	}
	if fresh < kills/2 {
		t.Errorf("after %d of %d starts only was anything committed: the kills came too soon", fresh, kills)
	}
}

// dropGroups deletes every consumer group with its offsets.
func dropGroups(t *testing.T, k *kafka) {
	t.Helper()
	groups, err := k.admin.ListGroups(t.Context())
	if err == nil && len(groups) > 0 {
		_, err = k.admin.DeleteGroups(t.Context(), groups.Groups()...)
	}
	if err != nil {
		t.Errorf("delete groups: %v", err)
	}
}

// twoAgents starts a second agent under the id of the first: the first one says so
// with 503, stands back and keeps what it takes.
func twoAgents(t *testing.T, k *kafka) {
	const total = 2000
	topic := "two-agents." + className
	k.createTopic(t, topic)
	var agents [2]*agent
	var brokers [2]*mosquitto
	for i := range agents {
		dir := t.TempDir()
		brokers[i] = startMosquitto(t, dir)
		agents[i] = newAgent(t, dir, func(dataDir, http string) string {
			return exactConfig(dataDir, http, brokers[i].url(), k.link.addr, topic)
		})
	}
	agents[0].startReady(t)
	startPublisher(t, brokers[0], total, 0).waitAcked(t, total)
	waitFor(t, "the first agent's records", func() bool { return k.committed(t, topic) >= total }, agents[0].proc)
	agents[1].startReady(t)
	startPublisher(t, brokers[1], total, 0).waitAcked(t, total)
	waitFor(t, "the second agent's records", func() bool { return k.committed(t, topic) >= 2*total }, agents[1].proc)
	startPublisher(t, brokers[0], total, 0).waitAcked(t, total)
	waitFor(t, "the first agent's 503", func() bool {
		err := agents[0].get("/healthz")
		return err != nil && strings.Contains(err.Error(), "another agent sends as "+agentID+"/central")
	}, agents[0].proc)
	for _, path := range []string{"/readyz", "/api/v1/status"} {
		if err := agents[0].get(path); err != nil {
			t.Errorf("the first agent: %v", err)
		}
	}
	if err := agents[1].get("/healthz"); err != nil {
		t.Errorf("the second agent: %v", err)
	}
	agents[1].terminate(t)
	agents[0].terminate(t)
	agents[0].start(t) // somebody decides for this one
	waitFor(t, "the rest", func() bool { return k.committed(t, topic) >= 3*total }, agents[0].proc)
	agents[0].terminate(t)
}
