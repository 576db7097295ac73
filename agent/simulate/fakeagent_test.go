package simulate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/goccy/go-yaml"
	"github.com/simonvetter/modbus"
	"github.com/twmb/franz-go/pkg/kgo"
)

// fakeMode is the environment variable that says what the fake agent does wrong.
const fakeMode = "SLUICE_SIMULATE_FAKE_AGENT"

// TestMain turns the test binary into an agent when it is started as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "run" {
		if err := runFakeAgent(os.Args[3], os.Getenv(fakeMode)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// fakeAgent does the least that an agent must do, in memory, to test the
// demonstration against one that is right and against some that are wrong.
type fakeAgent struct {
	cfg  fakeConfig
	mode string
	kgo  *kgo.Client

	mu        sync.Mutex
	seq       map[string]uint64
	messages  uint64 // of MQTT
	produced  uint64
	delivered uint64
}

type fakeConfig struct {
	Agent   struct{ ID string }
	Sources map[string]struct {
		MQTT *struct {
			Servers   []string
			Subscribe []struct{ Filter, Class string }
		}
		Modbus *struct {
			Connection string
			Devices    map[string]struct{ Class string }
		}
	}
	Uplinks map[string]struct {
		Kafka struct {
			Brokers []string
			Topic   string
		}
	}
	Observe struct{ HTTP string }
}

func runFakeAgent(config, mode string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	a := &fakeAgent{mode: mode, seq: make(map[string]uint64)}
	text, err := os.ReadFile(config)
	if err == nil {
		err = yaml.Unmarshal(text, &a.cfg)
	}
	if err != nil {
		return err
	}
	fmt.Println("the fake agent runs, mode", mode)
	if a.kgo, err = kgo.NewClient(kgo.SeedBrokers(a.cfg.Uplinks[uplinkName].Kafka.Brokers...),
		kgo.UnknownTopicRetries(-1), kgo.MetadataMinAge(20*time.Millisecond), kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond })); err != nil {
		return err
	}
	defer a.kgo.Close()
	var wg sync.WaitGroup
	for name, s := range a.cfg.Sources {
		if s.MQTT != nil {
			client, err := a.subscribe(name, s.MQTT.Servers[0], s.MQTT.Subscribe)
			if err != nil {
				return err
			}
			defer client.Disconnect(0)
			continue
		}
		for device, d := range s.Modbus.Devices {
			wg.Go(func() { a.pollMeter(ctx, name, s.Modbus.Connection, device, d.Class) })
		}
	}
	server := &http.Server{Addr: a.cfg.Observe.HTTP, Handler: a}
	wg.Go(func() { _ = server.ListenAndServe() })
	if mode == "crash" {
		time.Sleep(700 * time.Millisecond)
		return errors.New("the fake agent crashes")
	}
	<-ctx.Done()
	if mode == "stubborn" {
		time.Sleep(time.Minute)
	}
	_ = server.Close()
	wg.Wait()
	flush, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return a.kgo.Flush(flush)
}

func (a *fakeAgent) subscribe(source, server string, filters []struct{ Filter, Class string }) (mqtt.Client, error) {
	client := mqtt.NewClient(mqtt.NewClientOptions().AddBroker(server).SetClientID("fake").SetProtocolVersion(4).SetAutoReconnect(false))
	if err := await(client.Connect()); err != nil {
		return nil, err
	}
	for _, f := range filters {
		err := await(client.Subscribe(f.Filter, 1, func(_ mqtt.Client, m mqtt.Message) {
			a.produce(f.Class, source, "", m.Topic(), "sluice.mqtt.message.v1", m.Payload())
		}))
		if err != nil {
			return nil, err
		}
	}
	return client, nil
}

func (a *fakeAgent) pollMeter(ctx context.Context, source, connection, device, class string) {
	client, err := modbus.NewClient(&modbus.ClientConfiguration{URL: connection, Timeout: time.Second})
	if err == nil {
		err = client.Open()
	}
	if err != nil {
		fmt.Println("modbus:", err)
		return
	}
	defer client.Close()
	client.SetUnitId(meterUnit)
	for ; ctx.Err() == nil; pause(ctx, 50*time.Millisecond) {
		power, err := client.ReadFloat32(regPower, modbus.HOLDING_REGISTER)
		if err != nil {
			fmt.Println("modbus:", err)
			return
		}
		// One request for both, as the agent's planner makes it.
		regs, err := client.ReadRegisters(regPower, 4, modbus.HOLDING_REGISTER)
		if err != nil {
			fmt.Println("modbus:", err)
			return
		}
		n := uint32(regs[2])<<16 | uint32(regs[3])
		if n > 0 {
			power = powerAt(device, n)
		}
		value, _ := json.Marshal(map[string]any{"device": device, "values": map[string]any{"power": power, "answer": n}})
		a.produce(class, source, device, device, "sluice.modbus.reading.v1", value)
	}
}

// produce hands one event to Kafka, or does what the mode says.
func (a *fakeAgent) produce(class, source, device, subject, kind string, payload []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.produced++
	a.seq[class]++
	times := 1
	if a.mode == "wrong" && kind == "sluice.mqtt.message.v1" {
		a.messages++
		switch a.messages {
		case 50:
			times = 0
		case 60:
			times = 2
		case 70:
			payload = append([]byte(" "), payload...)
		}
	}
	from := "/" + a.cfg.Agent.ID + "/" + source
	if device != "" {
		from += "/" + device
	}
	now := time.Now().UTC()
	for range times {
		a.kgo.Produce(context.Background(), &kgo.Record{
			Topic: strings.ReplaceAll(a.cfg.Uplinks[uplinkName].Kafka.Topic, "{class}", class),
			Key:   []byte(subject), Value: payload, Timestamp: now,
			Headers: []kgo.RecordHeader{
				{Key: "ce_specversion", Value: []byte("1.0")},
				{Key: "ce_id", Value: fmt.Appendf(nil, "%s/%s/0123abcd/%d", a.cfg.Agent.ID, class, a.seq[class])},
				{Key: "ce_source", Value: []byte(from)},
				{Key: "ce_type", Value: []byte(kind)},
				{Key: "ce_subject", Value: []byte(subject)},
				{Key: "ce_time", Value: []byte(now.Format(time.RFC3339Nano))},
				{Key: "content-type", Value: []byte("application/json")},
			},
		}, func(_ *kgo.Record, err error) {
			a.mu.Lock()
			defer a.mu.Unlock()
			if err == nil {
				a.delivered++
			}
		})
	}
	if times == 0 { // so that the agent doesn't seem to be waiting for it
		a.delivered++
	}
}

// ServeHTTP answers /readyz and /api/v1/status.
func (a *fakeAgent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/readyz" {
		if a.mode == "unready" {
			http.Error(w, "source line-mqtt: not connected", http.StatusServiceUnavailable)
		}
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	waiting := max(0, int64(a.produced)-int64(a.delivered))
	fmt.Fprintf(w, `{"sources":{"line-mqtt":{"up":true,"taken":{"process":%d}}},
		"classes":{"process":{"events":%d,"bytes":1000,"oldest_seconds":0.5}},
		"uplinks":{"central":{"up":true,"delivered":{"process":%d}}}}`, a.produced, waiting, a.delivered)
}
