//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

const spillAfter = "buffer: { spill_after: 2s }\n"

// metric reads one of the agent's metrics.
func (p *plant) metric(t *testing.T, name string) (value float64) {
	t.Helper()
	resp, err := http.Get("http://" + p.agent.http + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(text), "\n") {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			if _, err := fmt.Sscan(rest, &value); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			return value
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// writeBehind sends while the link is up: nothing may touch the disk. It has longer for
// that than the others: on a busy machine Kafka may take seconds.
func writeBehind(t *testing.T, k *kafka) {
	p := newPlantWith(t, k, strings.Replace(spillAfter, "2s", "30s", 1))
	p.agent.startReady(t)
	startPublisher(t, p.broker, total, 10_000).waitAcked(t, total) // what outruns the uplink waits longer, and is written
	waitFor(t, "everything in Kafka", func() bool { return k.count(t, p.topic) >= total }, p.agent.proc)
	written, commits := p.metric(t, "sluice_buffer_written_bytes_total"), p.metric(t, "sluice_buffer_commits_total")
	fmt.Printf("E2E write-behind written_bytes=%.0f commits=%.0f\n", written, commits)
	if written > 0 || commits > 0 {
		t.Errorf("%.0f bytes in %.0f commits were written while the link was up", written, commits)
	}
	wantOnce(t, p.settle(t, total))
}

// writeBehindOutage cuts the link in the middle: what waits is written, and
// nothing is once the uplink has caught up.
func writeBehindOutage(t *testing.T, k *kafka) {
	p := newPlantWith(t, k, spillAfter)
	p.agent.startReady(t)
	pub := startPublisher(t, p.broker, total, 5000)
	pub.waitAcked(t, total/5)
	k.link.set(t, refuse)
	pub.waitAcked(t, total*3/5)
	if p.metric(t, "sluice_buffer_written_bytes_total") == 0 {
		t.Error("nothing was written during the outage")
	}
	k.link.set(t, pass)
	pub.waitAcked(t, total)
	wantOnce(t, p.settle(t, total))
}

// writeBehindKilled kills the agent while it holds events: the broker sends them
// again.
func writeBehindKilled(t *testing.T, k *kafka) {
	newPlantWith(t, k, spillAfter).killWhileSending(t)
}
