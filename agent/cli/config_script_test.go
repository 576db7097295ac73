package cli

import (
	"context"
	"crypto/ed25519"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"sluice/agent/remote/trust"
)

// startKafka is "kafka": a cluster of one broker at $KAFKA, for the rest of the
// script. It creates topics only for clients that ask it to.
func startKafka(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: kafka")
	}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.AllowAutoTopicCreation())
	ts.Check(err)
	ts.Defer(cluster.Close)
	ts.Setenv("KAFKA", cluster.ListenAddrs()[0])
}

func kafkaClient(ts *testscript.TestScript, opts ...kgo.Opt) *kgo.Client {
	client, err := kgo.NewClient(append(opts, kgo.SeedBrokers(ts.Getenv("KAFKA")), kgo.AllowAutoTopicCreation())...)
	ts.Check(err)
	return client
}

// produce is "produce TOPIC KEY [FILE]": a record, or without a file a deletion.
func produce(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: produce TOPIC KEY [FILE]")
	}
	client := kafkaClient(ts)
	defer client.Close()
	r := &kgo.Record{Topic: args[0], Key: []byte(args[1])}
	if len(args) == 3 {
		r.Value = []byte(ts.ReadFile(args[2]))
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ts.Check(client.ProduceSync(ctx, r).FirstErr())
}

// consume is "consume TOPIC N FILE": writes keys and values of the first N records.
func consume(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 || len(args[1]) != 1 {
		ts.Fatalf("usage: consume TOPIC N FILE")
	}
	client := kafkaClient(ts, kgo.ConsumeTopics(args[0]), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var b strings.Builder
	for n := 0; n < int(args[1][0]-'0'); {
		fetches := client.PollFetches(ctx)
		ts.Check(ctx.Err())
		fetches.EachRecord(func(r *kgo.Record) { n++; b.WriteString(string(r.Key) + " " + string(r.Value) + "\n") })
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), []byte(b.String()), 0o600))
}

// envFile is "envfile NAME FILE": the variable becomes the file's first line.
func envFile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: envfile NAME FILE")
	}
	line, _, _ := strings.Cut(ts.ReadFile(args[1]), "\n")
	ts.Setenv(args[0], line)
}

// startAgent is "sshagent KEY…": an ssh-agent with the key files, at
// SSH_AUTH_SOCK.
func startAgent(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: sshagent KEY…")
	}
	ring := agent.NewKeyring()
	for _, file := range args {
		raw, err := ssh.ParseRawPrivateKey([]byte(ts.ReadFile(file)))
		ts.Check(err)
		ts.Check(ring.Add(agent.AddedKey{PrivateKey: raw}))
	}
	dir, err := os.MkdirTemp("", "a") // a socket's path must be short
	ts.Check(err)
	ts.Defer(func() { _ = os.RemoveAll(dir) })
	ln, err := net.Listen("unix", dir+"/s")
	ts.Check(err)
	ts.Defer(func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(ring, conn); _ = conn.Close() }()
		}
	}()
	ts.Setenv("SSH_AUTH_SOCK", dir+"/s")
}

// signWith is an operator's own signing program: it reads the bytes to sign and
// writes the signature.
func signWith() int {
	in, err := io.ReadAll(os.Stdin)
	if err == nil && strings.HasPrefix(string(in), "DSSEv1 ") && len(os.Args) > 1 {
		s, err := fileSigner(os.Args[1], "")
		if err != nil {
			return 1
		}
		sig, err := s.sign(in)
		if err == nil {
			_, err = os.Stdout.Write(sig)
		}
		if err == nil {
			return 0
		}
	}
	return 1
}

func TestAgentSignerNeedsItsKey(t *testing.T) {
	ring := agent.NewKeyring()
	for _, seed := range []string{"a", "b"} {
		if err := ring.Add(agent.AddedKey{PrivateKey: ed25519.NewKeyFromSeed([]byte(strings.Repeat(seed, 32)))}); err != nil {
			t.Fatal(err)
		}
	}
	client, _ := ring.(agent.ExtendedAgent)
	want := trust.KeyID(ed25519.NewKeyFromSeed([]byte(strings.Repeat("b", 32))).Public().(ed25519.PublicKey))
	s, err := agentSigner(client, want)
	if err != nil || s.key.ID() != want {
		t.Fatalf("%v", err)
	}
	env := &trust.Envelope{Type: trust.TypeConfig, Payload: []byte("x")}
	if err := env.Sign(s.key, s.sign); err != nil {
		t.Error(err)
	}
	for id, part := range map[string]string{"any": "2 ed25519 keys", "0123": "no ed25519 key 0123"} {
		if _, err := agentSigner(client, id); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v", id, err)
		}
	}
}
