package cli

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"sluice/agent/remote/trust"
)

// A broker that takes a record and goes before it answers leaves the client in doubt,
// in which it would wait for the answer for ever: neither a time-out nor SIGTERM
// ends that by itself.
func TestAStopEndsWhatABrokerDoesNotAnswer(t *testing.T) {
	for name, publish := range map[string]func(ctx context.Context, c *call) error{
		"update put": func(ctx context.Context, c *call) error {
			c.name, c.rest = "update", []string{"put", "--version", "1.2.3", filepath.Join(filepath.Dir(c.file), "bundle")}
			return updateCommand(ctx, c)
		},
		"config push": func(ctx context.Context, c *call) error {
			f, err := c.openFleet(ctx)
			if err != nil {
				return err
			}
			defer f.client.Close()
			_, err = f.publish(ctx, "sluice.update", content{key: "all", env: &trust.Envelope{}})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, stop := context.WithTimeout(t.Context(), time.Minute)
			defer stop()
			c, onTheWay := callOfAMuteBroker(t)
			ended := make(chan error, 1)
			go func() { ended <- publish(ctx, c) }()
			select {
			case <-onTheWay:
			case err := <-ended:
				t.Fatalf("it has not come to the record: %v", err)
			}
			stop()
			select {
			case err := <-ended:
				if !errors.Is(err, context.Canceled) {
					t.Errorf("%v, want that it was cancelled", err)
				}
			case <-time.After(time.Minute):
				t.Fatal("it does not stop")
			}
		})
	}
}

// callOfAMuteBroker is a command whose config names a broker that closes the
// connection where a record is to be answered. The channel tells of the second one.
func callOfAMuteBroker(t *testing.T) (*call, <-chan struct{}) {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "sluice.update"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	seen, onTheWay := 0, make(chan struct{})
	cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if seen++; seen == 2 {
			close(onTheWay)
		}
		return nil, errors.New("gone"), true
	})
	dir := t.TempDir()
	for file, text := range map[string]string{"bundle": "not a real one", "ops.yaml": fmt.Sprintf(`version: 1
sources: { line: { mqtt: { servers: [ "tcp://127.0.0.1:1883" ], subscribe: [ { filter: "a/#" } ] } } }
uplinks: { central: { kafka: { brokers: [ %q ] } } }
remote: { uplink: central, trust: [ "ed25519:A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=" ] }
`, cluster.ListenAddrs()[0])} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := Process{Out: &bytes.Buffer{}, Err: &bytes.Buffer{}, Env: func(string) (string, bool) { return "", false }}
	return &call{Process: p, flags: flag.NewFlagSet("test", flag.ContinueOnError), file: filepath.Join(dir, "ops.yaml")}, onTheWay
}
