//go:build e2e

package e2e

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// linkFault is something that happens to the link for a while.
type linkFault struct {
	name       string
	begin, end func()
	passes     bool // records go through meanwhile
}

// TestUplinkFaults sends to one Kafka with both deliveries at once while the link
// breaks in every way: nothing may be missing and, since nothing crashes, nothing
// double. At the end the link swallows everything and the agent must be quiet.
func TestUplinkFaults(t *testing.T) {
	const perSecond, seconds = 1000, 60
	dir := t.TempDir()
	k := startKafka(t, dir)
	slow := startSlowLink(t, k.link.target)
	k.link.target = slow.addr
	broker := startMosquitto(t, dir)
	both := map[string]string{"at_least_once": "faults.once", "exactly_once": "faults.exact"}
	for _, topic := range both {
		k.createTopic(t, topic)
	}
	a := newAgent(t, dir, func(dataDir, http string) string {
		return twoDeliveries(dataDir, http, broker.url(), k.link.addr, both["at_least_once"], both["exactly_once"])
	})
	a.startReady(t)
	total := perSecond * seconds
	pub := startPublisher(t, broker, total, perSecond)
	pub.waitAcked(t, perSecond)
	for _, topic := range both { // the first transaction of a new Kafka takes seconds, in which it makes its own topics
		waitFor(t, "records of "+topic, func() bool { return k.committed(t, topic) > 0 }, a.proc)
	}
	for _, f := range linkFaults(t, k, slow) {
		waitFor(t, "uplinks that are up", func() bool { // what a transaction that was given up leaves looks like a record
			return a.uplink(t, "central").Up && a.uplink(t, "exact").Up
		}, a.proc)
		k.suffer(t, f, both)
	}
	if left := total - perSecond/2 - int(pub.acked.Load()); left > 0 {
		pub.waitAcked(t, total-perSecond/2)
	}
	k.link.set(t, swallow)
	pub.waitAcked(t, total)
	time.Sleep(2 * time.Second)
	quiet(t, a, 10*time.Second)
	k.link.set(t, pass)

	l, exact := newLedger(agentID, mqttName, className, total), newLedger(agentID, mqttName, className, total)
	c, e := newConsumer(t, k, both["at_least_once"]), newCommittedConsumer(t, k, both["exactly_once"], exact.add)
	if !c.until(t, patience, l.add, func() bool { return l.missing() == 0 }) || !e.until(t, patience, func() bool { return exact.missing() == 0 }) {
		t.Errorf("%d and %d messages are missing", l.missing(), exact.missing())
	}
	a.terminate(t)
	c.rest(t, l.add)
	e.rest(t)
	for name, r := range map[string]report{"at-least-once": l.report(), "exactly-once": exact.report()} {
		fmt.Printf("E2E faults %s %s\n", name, r)
		if r.missing > 0 || r.duplicates > 0 || len(r.faults) > 0 {
			t.Errorf("%s: faults %v, examples %v", name, r.faults, r.example)
		}
	}
	if len(e.faults) > 0 {
		t.Errorf("out of order: %q", e.faults[0])
	}
}

func linkFaults(t *testing.T, k *kafka, slow *slowLink) []linkFault {
	nothing := func() {}
	cut := func(mode linkMode) func() { return func() { k.link.set(t, mode) } }
	healthy := func() { slow.set(0, 0) }
	return []linkFault{
		{"refused", cut(refuse), cut(pass), false},
		{"reset", cut(reset), cut(pass), false},
		{"latency-400ms", func() { slow.set(400*time.Millisecond, 0) }, healthy, true},
		{"32KB/s", func() { slow.set(0, 32<<10) }, healthy, true},
		{"black-hole", cut(swallow), cut(pass), false},
		{"answers-lost", cut(swallowAnswers), cut(pass), false},
		{"half-open", slow.halfOpen, nothing, false},
	}
}

// suffer lets a fault last for a while, heals it, and waits for records on both
// topics. How long that took is printed.
func (k *kafka) suffer(t *testing.T, f linkFault, topics map[string]string) {
	t.Helper()
	before := map[string]int{}
	for delivery, topic := range topics {
		before[delivery] = k.committed(t, topic)
	}
	f.begin()
	begun := time.Now()
	line := "E2E fault " + f.name
	if f.passes {
		for delivery, d := range k.firstRecords(t, "records through "+f.name, topics, before, begun) {
			line += fmt.Sprintf(" %s_meanwhile=%s", delivery, d.Round(time.Millisecond))
			if d > 10*time.Second { // 1 to 3 s is what it should be
				t.Errorf("%s, %s: the first record went through after %s", f.name, delivery, d)
			}
		}
	}
	if f.name != "half-open" { // that heals by itself
		time.Sleep(time.Until(begun.Add(4 * time.Second)))
	}
	at := map[string]int{}
	for delivery, topic := range topics {
		at[delivery] = k.committed(t, topic)
	}
	f.end()
	first := k.firstRecords(t, "records after "+f.name, topics, at, time.Now())
	for _, delivery := range slices.Sorted(maps.Keys(first)) {
		line += fmt.Sprintf(" %s=%s", delivery, first[delivery].Round(time.Millisecond))
		limit := 40 * time.Second // 2 s is what it should be, but for what must time out first
		switch f.name {
		case "refused", "reset": // nothing has to time out
			limit = 10 * time.Second
		case "half-open":
			limit = 10 * time.Second // before the client's own 15 s
		}
		if first[delivery] > limit {
			t.Errorf("%s, %s: the first record came %s after the link was healed", f.name, delivery, first[delivery])
		}
	}
	fmt.Println(line)
}

// firstRecords waits until each topic has more than it had, and returns how long after since
// that was seen, by delivery.
func (k *kafka) firstRecords(t *testing.T, what string, topics map[string]string, had map[string]int, since time.Time) map[string]time.Duration {
	t.Helper()
	first := map[string]time.Duration{}
	waitFor(t, what, func() bool {
		for delivery, topic := range topics {
			if first[delivery] == 0 && k.committed(t, topic) > had[delivery] {
				first[delivery] = time.Since(since)
			}
		}
		return len(first) == len(topics)
	})
	return first
}

// quiet measures the agent's CPU time while nothing can be done.
func quiet(t *testing.T, a *agent, d time.Duration) {
	t.Helper()
	before := cpuTime(t, a.proc.cmd.Process.Pid)
	time.Sleep(d)
	share := 100 * (cpuTime(t, a.proc.cmd.Process.Pid) - before).Seconds() / d.Seconds()
	fmt.Printf("E2E black-hole cpu=%.1f%% of a core\n", share)
	if share > 4 { // 2 % on a machine of its own
		t.Errorf("the agent uses %.1f %% of a core while the link swallows everything", share)
	}
}

// cpuTime is the user and system time of a process (proc(5), fields 14 and 15 of
// stat, in clock ticks of 10 ms).
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	ticks := 0
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// twoDeliveries is an agent with an uplink of each delivery.
func twoDeliveries(dataDir, http, mqttURL, broker, once, exact string) string {
	return strings.Replace(mqttConfig(dataDir, http, mqttURL, broker, once), "observe:",
		fmt.Sprintf("  exact:\n    kafka: { brokers: [ %q ], delivery: exactly_once, topic: %q }\nobserve:", broker, exact), 1)
}
