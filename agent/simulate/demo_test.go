package simulate

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// shortDemo is a demonstration of a few seconds with a fake agent.
func shortDemo(t *testing.T, mode string, change func(*DemoConfig)) (out, errs string, err error) {
	t.Helper()
	t.Setenv(fakeMode, mode)
	t.Setenv("TMPDIR", t.TempDir())
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var problems bytes.Buffer
	cfg := DemoConfig{
		Sluice: os.Args[0], Machines: 5, Rate: 20,
		Before: time.Second, Outage: time.Second, After: 500 * time.Millisecond,
		Out: file, Err: &problems,
	}
	if change != nil {
		change(&cfg)
	}
	d, err := NewDemo(cfg)
	if err != nil {
		t.Fatal(err)
	}
	err = d.Run(t.Context())
	text, readErr := os.ReadFile(file.Name())
	if readErr != nil {
		t.Fatal(readErr)
	}
	return string(text), problems.String(), err
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return lines[len(lines)-1]
}

func scratchFolders(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(os.Getenv("TMPDIR"), "sluice-demo-*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestDemoOfAnHonestAgentEndsWithNothingLost(t *testing.T) {
	out, errs, err := shortDemo(t, "honest", nil)
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, errs)
	}
	m := regexp.MustCompile(`^taken=(\d+) delivered=(\d+) lost=0 duplicated=0$`).FindStringSubmatch(lastLine(out))
	if m == nil || m[1] != m[2] || len(m[1]) < 3 {
		t.Errorf("last line: %q", lastLine(out))
	}
	for _, want := range []string{"LINK CUT", "the backlog drains", "The link was cut for 1s"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q isn't in the output:\n%s", want, out)
		}
	}
	if strings.Contains(out, "\x1b") {
		t.Error("a log has escape sequences")
	}
	if left := scratchFolders(t); len(left) > 0 {
		t.Errorf("scratch folders are left: %v", left)
	}
}

func TestDemoFindsWhatAnAgentDoesWrong(t *testing.T) {
	out, errs, err := shortDemo(t, "wrong", nil) // loses one message, doubles one, alters one
	if err == nil || !strings.Contains(err.Error(), "isn't what the plant sent") {
		t.Fatalf("error: %v\n%s", err, out)
	}
	if !strings.HasSuffix(lastLine(out), " lost=1 duplicated=1") {
		t.Errorf("last line: %q", lastLine(out))
	}
	for _, note := range []string{"lost: ", "duplicate: ", "altered: ", "gap: "} {
		if !strings.Contains(out, note) {
			t.Errorf("%q isn't in the output:\n%s", note, out)
		}
	}
	if !strings.Contains(errs, "the fake agent runs") || len(scratchFolders(t)) != 1 {
		t.Errorf("the agent's log isn't shown or not kept: %v\n%s", scratchFolders(t), errs)
	}
}

func TestDemoEndsWhenTheAgentFails(t *testing.T) {
	tests := []struct {
		name, mode, want string
		change           func(*DemoConfig)
	}{
		{"it ends by itself", "crash", "the agent ended by itself: exit status 1", nil},
		{"it is never ready", "unready", "the agent isn't ready: the demonstration took longer than 2s (GET ", func(c *DemoConfig) { c.Limit = 2 * time.Second }},
		{"it isn't a program", "", "start the agent", func(c *DemoConfig) { c.Sluice = "demo_test.go" }},
		{"there is no Kafka", "honest", "kafka at 127.0.0.1:1 doesn't answer", func(c *DemoConfig) { c.Kafka = "127.0.0.1:1"; c.Limit = 3 * time.Second }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, _, err := shortDemo(t, tt.mode, tt.change)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error: %v\n%s", err, out)
			}
			if strings.Contains(out, "taken=") {
				t.Errorf("there is a result:\n%s", out)
			}
		})
	}
}

func TestDemoThatIsInterruptedLeavesNothing(t *testing.T) {
	t.Setenv(fakeMode, "honest")
	t.Setenv("TMPDIR", t.TempDir())
	out, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	d, err := NewDemo(DemoConfig{Sluice: os.Args[0], Out: out, Err: new(bytes.Buffer)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { // as soon as the plant publishes
		for d.ledger.Taken() < 50 && ctx.Err() == nil {
			time.Sleep(10 * time.Millisecond)
		}
		cancel()
	}()
	if err := d.Run(ctx); err == nil || err.Error() != "interrupted" {
		t.Errorf("error: %v", err)
	}
	select {
	case <-d.agent.ended:
	default:
		t.Error("the agent still runs")
	}
	if left := scratchFolders(t); len(left) > 0 {
		t.Errorf("scratch folders are left: %v", left)
	}
}

func TestDemoOnAKafkaOfSomebodyElseLeavesNoTopics(t *testing.T) {
	tests := []struct {
		name      string
		interrupt bool
	}{{"that ends by itself", false}, {"that is interrupted", true}}
	p, err := NewPlant(PlantConfig{Kafka: "127.0.0.1:0"})
	must(t, err)
	runIn(t, p.Run)
	client, err := kgo.NewClient(kgo.SeedBrokers(p.Kafka.Addr()))
	must(t, err)
	defer client.Close()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv(fakeMode, "honest")
			t.Setenv("TMPDIR", t.TempDir())
			out, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
			must(t, err)
			defer out.Close()
			d, err := NewDemo(DemoConfig{
				Sluice: os.Args[0], Kafka: p.Kafka.Addr(), Machines: 2, Rate: 50, Out: out, Err: io.Discard,
				Before: 300 * time.Millisecond, Outage: 200 * time.Millisecond, After: 100 * time.Millisecond,
			})
			must(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if tt.interrupt {
				time.AfterFunc(700*time.Millisecond, cancel)
			}
			if err := d.Run(ctx); (err != nil) != tt.interrupt {
				t.Errorf("error: %v", err)
			}
			left, err := kadm.NewClient(client).ListTopics(t.Context())
			must(t, err)
			if len(left) > 0 {
				t.Errorf("topics are left: %v", left.Names())
			}
		})
	}
}

func TestAgentThatDoesNotStopIsKilled(t *testing.T) {
	t.Setenv(fakeMode, "stubborn")
	a := startFake(t)
	a.limit = 100 * time.Millisecond
	if err := a.stop(); err == nil || !strings.Contains(err.Error(), "didn't stop within 100ms of SIGTERM and was killed") {
		t.Errorf("error: %v", err)
	}
	<-a.ended
}

// startFake starts a fake agent without sources and waits until it is ready.
func startFake(t *testing.T) *agentProcess {
	t.Helper()
	dir := t.TempDir()
	l, err := listenStable()
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	config := filepath.Join(dir, "c.yaml")
	text := fmt.Sprintf("uplinks: { %s: { kafka: { brokers: [ \"127.0.0.1:1\" ], topic: t } } }\nobserve: { http: %q }\n", uplinkName, addr)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	l.Close()
	a, err := startAgent(os.Args[0], config, filepath.Join(dir, "log"), addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.kill)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := a.ready(ctx); err != nil {
		t.Fatal(err, a.tail(10))
	}
	return a
}
