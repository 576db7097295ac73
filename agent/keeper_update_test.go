package agent

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/agent/remote"
	"sluice/agent/remote/trust"
	"sluice/agent/update"
)

// startVersion runs an agent of that version.
func (f *fleet) startVersion(version string, text []byte) (stop func()) {
	f.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, "sluice.yaml"), text, 0o600); err != nil {
		f.Fatal(err)
	}
	s := supervisor(f.dir, fixed(0))
	s.Out, s.Version = f.Output(), version
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			f.Error(err)
		}
	})
}

// order publishes a signed command update.
func (f *fleet) order(id string, args string) {
	f.Helper()
	now := time.Now().UTC().Add(time.Second) // seconds are all that is written; not before the agent's memory
	payload := fmt.Appendf(nil, "id: %q\ntarget: 'agent:gw-1'\nissued: %s\nexpires: %s\nkind: update\nargs: %s\n", id, now.Format(time.RFC3339), now.Add(time.Hour).Format(time.RFC3339), args)
	f.put("sluice.command", "agent:gw-1", f.envelope(trust.TypeUpdate, payload, 1).Encode())
}

// A signed command, a bundle in chunks over a topic, an installer, and the new
// version: each phase stands on the status topic.
func TestUpdateOverTopics(t *testing.T) {
	f := newFleet(t)
	f.topic("sluice.update", "delete")
	installed := filepath.Join(f.dir, "installed")
	text := f.file(fmt.Sprintf("update: { install: [ /bin/cp, \"{file}\", %q ] }\n", installed))
	bundle := make([]byte, 2<<20)
	random := rand.New(rand.NewPCG(3, 4))
	for i := range bundle {
		bundle[i] = byte(random.Uint32())
	}
	producer, err := kgo.NewClient(kgo.SeedBrokers(f.cluster.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	b, err := update.Put(t.Context(), producer, "sluice.update", "1.1.0", bytes.NewReader(bundle))
	if err != nil {
		t.Fatal(err)
	}
	args := func(version string) string {
		return fmt.Sprintf("{ version: %q, topic: sluice.update, offset: %d, size: %d, sha256: %q }", version, b.Offset, b.Size, b.SHA256)
	}

	stop := f.startVersion("1.0.0", text)
	f.state(0, remote.StateApplied, 0, "")
	f.order("u-old", args("0.9.0"))
	f.status(0, "a refusal of an older version", func(st remote.StatusRecord) bool {
		return len(st.Commands) > 0 && st.Commands[0].ID == "u-old" && st.Commands[0].State == remote.CommandFailed
	})
	from := f.mark()
	f.order("u-new", args("1.1.0"))
	for _, phase := range []string{update.Fetching, update.Installing, update.Installed} {
		f.status(from, "phase "+phase, func(st remote.StatusRecord) bool {
			return st.Update != nil && st.Update.Phase == phase && st.Update.Version == "1.1.0"
		})
	}
	if got, err := os.ReadFile(installed); err != nil || !bytes.Equal(got, bundle) {
		t.Errorf("%d bytes were installed, want %d (%v)", len(got), len(bundle), err)
	}
	stop()

	// The machine starts again, and it is still the old version: a rollback.
	from = f.mark()
	stop = f.startVersion("1.0.0", text)
	f.status(from, "the rollback", func(st remote.StatusRecord) bool { return st.Update != nil && st.Update.Phase == update.Failed })
	from = f.mark()
	f.order("u-again", args("1.1.0"))
	f.status(from, "phase installed", func(st remote.StatusRecord) bool { return st.Update != nil && st.Update.Phase == update.Installed })
	stop()
	from = f.mark()
	stop = f.startVersion("1.1.0", text)
	st := f.status(from, "the new version", func(st remote.StatusRecord) bool { return st.Version == "1.1.0" })
	if st.Update != nil {
		t.Errorf("the new version tells of %+v", st.Update)
	}
	stop()
}
