package simulate

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/goccy/go-yaml"
	"github.com/simonvetter/modbus"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/agent/config"
	"sluice/drivers/loopback"
)

func TestPlantTakesAllAddressesOrNone(t *testing.T) {
	taken := freeListener(t)
	defer taken.Close()
	free := loopback.Addr(t)
	tests := []struct {
		name, want string
		cfg        PlantConfig
	}{
		{"mqtt is taken", "--mqtt: " + taken.Addr().String() + " is in use", PlantConfig{MQTT: taken.Addr().String(), Kafka: free}},
		{"one modbus device is taken", "--modbus: " + taken.Addr().String() + " is in use", PlantConfig{MQTT: free, Modbus: []string{"127.0.0.1:0", taken.Addr().String()}}},
		{"kafka is taken", "--kafka: " + taken.Addr().String() + " is in use", PlantConfig{MQTT: free, Kafka: taken.Addr().String()}},
		{"two parts want the same", "--kafka: " + free + " is in use", PlantConfig{MQTT: free, Kafka: free}},
		{"an address of the network", "isn't on this machine's loopback", PlantConfig{MQTT: free, Kafka: "0.0.0.0:0"}},
		{"no port", `"localhost" is no address`, PlantConfig{MQTT: "localhost"}},
		{"a port that is too high", "no number from 0 to 65535", PlantConfig{MQTT: "127.0.0.1:70000"}},
		{"a port by name", "no number from 0 to 65535", PlantConfig{MQTT: "127.0.0.1:mqtt"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := NewPlant(tt.cfg)
			if err == nil {
				p.Close()
				t.Fatal("there is no error")
			}
			if !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error: %v", err)
			}
			l, err := net.Listen("tcp", free)
			if err != nil {
				t.Fatalf("an address is still held: %v", err)
			}
			l.Close()
		})
	}
}

func TestPlantServesAllParts(t *testing.T) {
	p, err := NewPlant(PlantConfig{MQTT: "127.0.0.1:0", Modbus: []string{"127.0.0.1:0", "127.0.0.1:0"}, Kafka: "127.0.0.1:0"})
	must(t, err)
	runIn(t, p.Run)
	client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + p.Broker.Addr()))
	must(t, awaitTest(client.Connect()))
	client.Disconnect(0)
	for _, m := range p.Meters {
		must(t, m.awaitServing(t.Context()))
		c, err := modbus.NewClient(&modbus.ClientConfiguration{URL: "tcp://" + m.Addr(), Timeout: patience})
		must(t, err)
		must(t, c.Open())
		_, err = c.ReadRegister(regPower, modbus.HOLDING_REGISTER)
		must(t, err)
		must(t, c.Close())
	}
	k, err := kgo.NewClient(kgo.SeedBrokers(p.Kafka.Addr()), kgo.AllowAutoTopicCreation())
	must(t, err)
	defer k.Close()
	must(t, k.ProduceSync(t.Context(), &kgo.Record{Topic: "made.as.asked.for", Value: []byte("x")}).FirstErr())
}

func TestTopicsCountReadAndDeleteTheirOwn(t *testing.T) {
	p, err := NewPlant(PlantConfig{Kafka: "127.0.0.1:0"})
	must(t, err)
	runIn(t, p.Run)
	topics, err := OpenTopics(t.Context(), p.Kafka.Addr(), []string{"a", "b"})
	must(t, err)
	defer topics.Close()
	if records, err := topics.ReadAll(t.Context()); err != nil || len(records) != 0 {
		t.Errorf("empty topics: %d records, %v", len(records), err)
	}
	k, err := kgo.NewClient(kgo.SeedBrokers(p.Kafka.Addr()), kgo.AllowAutoTopicCreation(), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	must(t, err)
	defer k.Close()
	for i := range 30 {
		topic := []string{"a", "b", "foreign"}[i%3]
		must(t, k.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: []byte{byte(i)}}).FirstErr())
	}
	counts, err := topics.Count(t.Context())
	if err != nil || counts["a"] != 10 || counts["b"] != 10 || len(counts) != 2 {
		t.Errorf("counts: %v, %v", counts, err)
	}
	records, err := topics.ReadAll(t.Context())
	must(t, err)
	if len(records) != 20 {
		t.Errorf("%d records, not 20", len(records))
	}
	for i := 1; i < len(records); i++ {
		if !before(records[i-1], records[i]) {
			t.Errorf("record %d isn't in order", i)
		}
	}
	must(t, topics.Delete(t.Context()))
	if _, err := topics.Count(t.Context()); err == nil {
		t.Error("deleted topics can be counted")
	}
}

func TestPlantCommandUntilItIsEnded(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "sluice.yaml")
	var out lockedBuffer
	run, err := plantCommand([]string{"--mqtt", "127.0.0.1:0", "--modbus", "127.0.0.1:0", "--kafka", "127.0.0.1:0",
		"--machines", "3", "--rate", "50/s", "--write-config", file}, &out, io.Discard)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	for until := time.Now().Add(patience); !strings.Contains(out.String(), "sluice run -c"); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("output: %s", out.String())
		}
	}
	text, err := os.ReadFile(file)
	must(t, err)
	var c fakeConfig
	must(t, yaml.Unmarshal(text, &c))
	for _, addr := range []string{c.Sources[mqttSource].MQTT.Servers[0], c.Sources["bus-1"].Modbus.Connection, c.Uplinks[uplinkName].Kafka.Brokers[0]} {
		if !strings.Contains(out.String(), addr) {
			t.Errorf("the address %s isn't in the output:\n%s", addr, out.String())
		}
	}
	cancel()
	must(t, <-done)
}

// lockedBuffer is written by one goroutine and read by another.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestConfigLooksAsItDid(t *testing.T) {
	meters := []*Meter{newMeter("meter-1", fixedAddr("127.0.0.1:1502"), nil), newMeter("meter-2", fixedAddr("127.0.0.1:1503"), nil)}
	all := agentConfig{
		comment: "A test.\n", agent: "gw", dataDir: `/tmp/a "b"`, mqtt: "127.0.0.1:1883", meters: meters,
		kafka: "127.0.0.1:9092", topic: "plant", http: "127.0.0.1:9273",
	}
	golden(t, filepath.Join("testdata", "config.yaml"), all.yaml())
	all.mqtt = ""
	golden(t, filepath.Join("testdata", "config-modbus-only.yaml"), all.yaml())
}

func TestConfigIsOneThatTheAgentTakes(t *testing.T) {
	for _, file := range []string{"config.yaml", "config-modbus-only.yaml"} {
		if _, err := config.Load(filepath.Join("testdata", file), config.Options{}); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// fixedAddr is a listener that has nothing but an address.
type fixedAddr string

func (f fixedAddr) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (f fixedAddr) Close() error              { return nil }
func (f fixedAddr) Addr() net.Addr            { return f }
func (f fixedAddr) Network() string           { return "tcp" }
func (f fixedAddr) String() string            { return string(f) }

func TestCommandLine(t *testing.T) {
	dir := t.TempDir()
	existing := filepath.Join(dir, "mine.yaml")
	must(t, os.WriteFile(existing, []byte("mine"), 0o600))
	taken := freeListener(t)
	defer taken.Close()
	ports := []string{"--mqtt", "127.0.0.1:0", "--modbus", "127.0.0.1:0", "--kafka", "127.0.0.1:0"}
	tests := []struct {
		name      string
		args      []string
		status    int
		out, errs string // what each must contain; empty: nothing is printed there
	}{
		{"help", []string{"-h"}, exitDone, "sluice-simulate demo", ""},
		{"help of plant", []string{"plant", "-h"}, exitDone, "-write-config FILE", ""},
		{"help of demo", []string{"demo", "--help"}, exitDone, "-sluice PATH", ""},
		{"an unknown command", []string{"plants"}, exitUsage, "", `there is no command "plants" (plant, demo)`},
		{"an unknown flag", []string{"demo", "--slice", "x"}, exitUsage, "", "flag provided but not defined: -slice"},
		{"something behind the flags", []string{"plant", "now"}, exitUsage, "", `unexpected "now"`},
		{"a rate without a unit", []string{"--rate", "5"}, exitUsage, "", "a number and its unit are expected: 5/s"},
		{"a rate of nothing", []string{"--rate", "0/s"}, exitUsage, "", "rate: 0/s is out of range (1/h to 10000/s)"},
		{"a rate that is no number", []string{"--rate", "NaN/s"}, exitUsage, "", "out of range"},
		{"no machines", []string{"--machines", "0"}, exitUsage, "", "machines: 0 is out of range (1 to 1000)"},
		{"nothing to read from", []string{"--no-mqtt", "--no-modbus"}, exitUsage, "", "leave nothing to read from"},
		{"no agent", []string{"demo", "--sluice", filepath.Join(dir, "sluice")}, exitUsage, "", `build it with "make build"`},
		{"a port in use", []string{"--mqtt", taken.Addr().String(), "--modbus", "127.0.0.1:0", "--kafka", "127.0.0.1:0"}, exitFailed, "", "is in use by another program"},
		{"a config file that exists", append(ports, "--write-config", existing), exitFailed, "", "mine.yaml exists and has another content"},
		{"a config file that can't be", append(ports, "--write-config", filepath.Join(dir, "no", "x.yaml")), exitFailed, "", "no such file or directory"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, err := os.Create(filepath.Join(t.TempDir(), "out"))
			must(t, err)
			defer out.Close()
			var errs bytes.Buffer
			if got := Main(t.Context(), tt.args, out, &errs); got != tt.status {
				t.Errorf("status %d, not %d", got, tt.status)
			}
			text, err := os.ReadFile(out.Name())
			must(t, err)
			if !strings.Contains(string(text), tt.out) || (tt.out == "") != (len(text) == 0) {
				t.Errorf("output: %q", text)
			}
			if !strings.Contains(errs.String(), tt.errs) || (tt.errs == "") != (errs.Len() == 0) || strings.Count(errs.String(), "\n") > 1 {
				t.Errorf("errors: %q", errs.String())
			}
		})
	}
}
