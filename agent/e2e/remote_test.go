//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice/agent/remote"
	"sluice/agent/remote/trust"
	"sluice/agent/web"
)

// operator signs and publishes with the program that operators have.
type operator struct {
	*testing.T
	plant *plant
	dir   string
}

// run is "sluice config" with a key in dir.
func (o *operator) run(args ...string) string {
	o.Helper()
	c := exec.Command(sluiceBinary(o.T), append([]string{"config"}, args...)...)
	c.Dir = o.dir
	out, err := c.CombinedOutput()
	if err != nil {
		o.Fatalf("sluice config %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// publish signs a config for the agent and pushes it; change is made to the text of
// the agent's own.
func (o *operator) publish(version int, change ...string) {
	o.Helper()
	text, err := os.ReadFile(o.plant.agent.config)
	if err != nil {
		o.Fatal(err)
	}
	plain, _, _ := strings.Cut(string(text), "remote:")
	changed := strings.NewReplacer(change...).Replace(plain)
	if changed == plain {
		o.Fatalf("nothing is changed by %q", change)
	}
	writeFile(o.T, filepath.Join(o.dir, "site.yaml"), changed)
	o.run("sign", "site.yaml", "--target", "agent:"+agentID, "--version", fmt.Sprint(version), "--expires", "24h", "--key", "ops", "-o", "doc.json")
	waitFor(o.T, "the push", func() bool { // a topic that was made a moment ago is not there at once
		c := exec.Command(sluiceBinary(o.T), "config", "push", "-c", o.plant.agent.config, "--create", "doc.json")
		c.Dir = o.dir
		out, err := c.CombinedOutput()
		if err != nil && !strings.Contains(string(out), "is not there") {
			o.Fatalf("sluice config push: %v\n%s", err, out)
		}
		return err == nil
	})
}

// until waits for a status of the agent.
func (o *operator) until(state remote.State, running uint64, code trust.Code) remote.ConfigStatus {
	o.Helper()
	var st remote.StatusRecord
	waitFor(o.T, fmt.Sprintf("the status %s, running %d, code %q", state, running, code), func() bool {
		st = remote.StatusRecord{} // what a record leaves out must not stay from the one before
		out := o.run("status", "-c", o.plant.agent.config, "--json")
		return json.Unmarshal([]byte(out), &st) == nil && st.Config.State == state && st.Config.Running == running && st.Config.Code == code
	}, o.plant.agent.proc)
	return st.Config
}

// page is how the agent's own page says that it stands with the config.
func (o *operator) page() web.Config {
	client := http.Client{Timeout: 5 * time.Second}
	resp, err := client.Get("http://" + o.plant.agent.http + "/api/v1/status")
	if err != nil {
		return web.Config{}
	}
	defer resp.Body.Close()
	var st web.Status
	if json.NewDecoder(resp.Body).Decode(&st) != nil {
		return web.Config{}
	}
	return st.Config
}

// awaitStatusTopic waits until the agent has made the topic, compacted, on a cluster in
// which nobody has made one of the three.
func (o *operator) awaitStatusTopic(k *kafka) {
	policy := ""
	waitFor(o.T, "a status topic", func() bool {
		found, err := k.admin.DescribeTopicConfigs(o.Context(), "sluice.status")
		if err != nil || len(found) != 1 || found[0].Err != nil {
			return false
		}
		for _, c := range found[0].Configs {
			if c.Key == "cleanup.policy" {
				policy = c.MaybeValue()
			}
		}
		return true
	}, o.plant.agent.proc)
	if policy != "compact" {
		o.Errorf("sluice.status: cleanup.policy=%q", policy)
	}
}

// newOperator has a key, and a plant whose agent trusts it; nothing runs yet.
func newOperator(t *testing.T, k *kafka, trial string) *operator {
	o := &operator{T: t, dir: t.TempDir()}
	o.run("keygen", "ops", "--no-passphrase")
	key, err := os.ReadFile(filepath.Join(o.dir, "ops.pub"))
	if err != nil {
		t.Fatal(err)
	}
	o.plant = newPlantWith(t, k, fmt.Sprintf("remote: { uplink: central, trust: [ %q ], trial: %s }\n", strings.TrimSpace(string(key)), trial))
	k.createTopic(t, strings.Replace(o.plant.topic, className, "security", 1)) // reports of each config go there
	return o
}

// remoteConfig has the agent make its status topic on a real Kafka, adopts a config, has two
// that break something undone, one of them over a kill -9, and has the topic made anew,
// while a plant publishes.
func remoteConfig(t *testing.T, k *kafka) {
	o := newOperator(t, k, "10s")
	p := o.plant
	p.agent.startReady(t)
	o.awaitStatusTopic(k)
	pub := startPublisher(t, p.broker, 20_000, 400)

	o.publish(1, "process: { when_full: block }", "process: { when_full: block, keep: { bytes: 64MiB } }")
	o.until(remote.StateApplied, 1, "")

	o.publish(2, k.link.addr, loopback(freePort(t)))
	if st := o.until(remote.StateRolledBack, 1, remote.TrialFailed); !strings.Contains(st.Reason, "uplink central") {
		t.Errorf("%+v", st)
	}

	o.publish(3, p.broker.url(), "tcp://"+loopback(freePort(t)))
	waitFor(t, "the trial", func() bool { return o.page().State == string(remote.StateTrial) }, p.agent.proc)
	p.agent.proc.kill()
	p.agent.start(t)
	if st := o.until(remote.StateRolledBack, 1, remote.TrialFailed); !strings.Contains(st.Reason, "source "+mqttName) {
		t.Errorf("%+v", st)
	}

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := k.admin.DeleteTopics(ctx, "sluice.config"); err != nil {
		t.Fatal(err)
	}
	o.until(remote.StateRolledBack, 1, remote.TrialFailed) // what runs goes on
	time.Sleep(2 * time.Second)                            // a topic that is deleted goes in its own time
	o.publish(4, "process: { when_full: block }", "process: { when_full: block, keep: { bytes: 32MiB } }")
	o.until(remote.StateApplied, 4, "")

	pub.waitAcked(t, 20_000)
	p.settle(t, 20_000)
}
