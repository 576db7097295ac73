//go:build images

package test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	status "sluice/agent/remote"
	"sluice/agent/remote/trust"
	"sluice/agent/update"
)

func operatorKey() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, 32)) }

// operator is the entry of remote.trust.
func operator() trust.Key { return trust.Key{Public: operatorKey().Public().(ed25519.PublicKey)} }

// order publishes a signed command update for the gateway.
func (p *plant) order(b update.Bundle) {
	p.t.Helper()
	now := time.Now().UTC().Add(time.Second) // whole seconds are written; not before the agent's memory begins
	payload := fmt.Appendf(nil, "id: %q\ntarget: 'agent:gw-1'\nissued: %s\nexpires: %s\nkind: update\nargs: { version: %q, size: %d, sha256: %q, topic: %q, offset: %d }\n",
		"update-"+b.Version, now.Format(time.RFC3339), now.Add(time.Hour).Format(time.RFC3339), b.Version, b.Size, b.SHA256, b.Topic, b.Offset)
	e := &trust.Envelope{Type: trust.TypeUpdate, Payload: payload}
	if err := e.Sign(operator(), func(pae []byte) ([]byte, error) { return ed25519.Sign(operatorKey(), pae), nil }); err != nil {
		p.t.Fatal(err)
	}
	if err := p.client.ProduceSync(context.Background(), &kgo.Record{Topic: "sluice.command", Key: []byte("agent:gw-1"), Value: e.Encode()}).FirstErr(); err != nil {
		p.t.Fatal(err)
	}
}

// The whole way: the bundle lies in a topic, in chunks; a signed command names
// it; the agent fetches it, RAUC installs it, the machine restarts, the new slot
// proves itself, and the status topic tells of each phase and of the new version.
// The gateway reaches nothing but the Kafka and its machine.
func TestUpdateOverTheCommandTopic(t *testing.T) {
	g := newGateway(t, trialEnv)
	bundle, err := os.Open(filepath.Join(made(t), "bundles", "good.raucb"))
	if err != nil {
		t.Fatal(err)
	}
	defer bundle.Close()
	b, err := update.Put(t.Context(), g.plant.client, "sluice.update", "0.2.0", bundle)
	if err != nil {
		t.Fatal(err)
	}
	statuses := g.plant.reads("sluice.status")
	began, ordered, told := time.Now(), false, map[string]bool{}
	for end := time.Now().Add(patience); !told["version 0.2.0"]; {
		if time.Now().After(end) {
			t.Fatalf("told: %v\n%s", told, tail(g.console(), 3000))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		statuses.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
			for _, what := range news(t, r.Value) {
				if !told[what] {
					t.Logf("%5.1f s: %s", time.Since(began).Seconds(), what)
				}
				told[what] = true
			}
		})
		cancel()
		if !ordered && told["version 0.1.0"] { // it listens
			g.plant.order(b)
			began, ordered = time.Now(), true
		}
	}
	for _, phase := range []string{update.Fetching, update.Checking, update.Installing, update.Installed} {
		if !told[phase] {
			t.Errorf("the status topic does not tell of phase %s", phase)
		}
	}
	g.boots("B", "good now")
	t.Logf("%5.1f s: slot B is good", time.Since(began).Seconds())
	g.plant.verdict(sluice(t))
}

// news is what a status record tells of versions, commands and updates.
func news(t *testing.T, record []byte) (all []string) {
	t.Helper()
	var st status.StatusRecord
	if json.Unmarshal(record, &st) != nil {
		return nil
	}
	all = append(all, "version "+st.Version)
	for _, c := range st.Commands {
		all = append(all, fmt.Sprintf("command %s %s %s %s", c.ID, c.State, c.Code, c.Reason))
	}
	if st.Update == nil {
		return all
	}
	if st.Update.Phase == update.Failed {
		t.Fatalf("failed: %+v", *st.Update)
	}
	return append(all, st.Update.Phase)
}
