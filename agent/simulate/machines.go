package simulate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// Bounds of MachinesConfig.
const (
	maxMachines = 1000
	minRate     = 1.0 / 3600
	maxRate     = 10_000.0
)

const (
	ackLimit     = 10 * time.Second // longest wait for a PUBACK
	retryPause   = time.Second      // between two attempts to connect
	alarmEvery   = 20               // telemetry messages to one alarm, on average
	linesOfFloor = 5                // machines that stand in one line of the plant
)

// MachinesConfig configures the publishing machines.
type MachinesConfig struct {
	Broker string       // address of the MQTT broker, host:port
	Count  int          // machines, 1 to 1,000
	Rate   float64      // telemetry messages a second and machine, 1/3600 to 10,000; alarms come on top
	Run    string       // stands in each payload and tells the runs of a plant apart
	Ledger *Ledger      // may be nil
	Log    *slog.Logger // nil: discarded
}

// Machines publish telemetry and alarms with QoS 1, each over a connection of
// its own, each waiting for the PUBACK before its next message: that is what
// makes the order within a topic certain.
//
// Topics are factory/<line>/<machine>/telemetry and …/alarm. The payload is a
// JSON object in which run, topic and n (counted from 1 within the topic)
// together are unique.
type Machines struct {
	cfg         MachinesConfig
	confirmed   atomic.Uint64
	unconfirmed atomic.Uint64
}

// NewMachines checks the config. Nothing starts before Run.
func NewMachines(cfg MachinesConfig) (*Machines, error) {
	if cfg.Count < 1 || cfg.Count > maxMachines {
		return nil, fmt.Errorf("machines: %d is out of range (1 to %d)", cfg.Count, maxMachines)
	}
	if !(cfg.Rate >= minRate && cfg.Rate <= maxRate) { // not a number is out of range too
		return nil, fmt.Errorf("rate: %v/s is out of range (1/h to %v/s)", cfg.Rate, maxRate)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Machines{cfg: cfg}, nil
}

// Confirmed counts messages that the broker acknowledged.
func (m *Machines) Confirmed() uint64 { return m.confirmed.Load() }

// Unconfirmed counts messages whose acknowledgement never came: nobody can know
// whether the broker took them.
func (m *Machines) Unconfirmed() uint64 { return m.unconfirmed.Load() }

// Run publishes until ctx ends, and then still waits for the acknowledgement of
// what is on its way, at most 10 s. A machine that loses its connection makes a
// new one; it never sends a message twice.
func (m *Machines) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for i := range m.cfg.Count {
		wg.Go(func() { m.runMachine(ctx, newMachine(i, m.cfg.Run)) })
	}
	wg.Wait()
	return nil
}

func (m *Machines) runMachine(ctx context.Context, one *machine) {
	for failures := 0; ctx.Err() == nil; failures++ {
		err := m.publishUntil(ctx, one)
		if err == nil {
			return
		}
		if failures%60 == 0 {
			m.cfg.Log.Warn("a machine lost the broker", "machine", one.name, "err", err)
		}
		pause(ctx, retryPause)
	}
}

// publishUntil publishes over one connection until ctx ends, then returns nil.
func (m *Machines) publishUntil(ctx context.Context, one *machine) error {
	client := mqtt.NewClient(mqtt.NewClientOptions().
		AddBroker("tcp://" + m.cfg.Broker).
		SetClientID(one.name + "-" + m.cfg.Run).
		SetProtocolVersion(4).
		SetCleanSession(true).
		SetAutoReconnect(false). // the library would send again what may have arrived
		SetConnectTimeout(ackLimit).
		SetWriteTimeout(ackLimit))
	if err := await(client.Connect()); err != nil {
		return fmt.Errorf("connect to the broker %s: %w", m.cfg.Broker, err)
	}
	defer client.Disconnect(0)
	interval := time.Duration(float64(time.Second) / m.cfg.Rate)
	pause(ctx, time.Duration(one.random.Int64N(int64(interval)+1))) // machines aren't in step
	ticks := time.NewTicker(interval)
	defer ticks.Stop()
	for ctx.Err() == nil {
		for _, msg := range one.next(time.Now()) {
			if err := m.publish(client, msg); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
		case <-ticks.C:
		}
	}
	return nil
}

func (m *Machines) publish(client mqtt.Client, msg message) error {
	m.cfg.Ledger.Sent(msg.topic, msg.n, msg.payload)
	if err := await(client.Publish(msg.topic, 1, false, msg.payload)); err != nil {
		m.unconfirmed.Add(1)
		return fmt.Errorf("publish: %w", err)
	}
	m.cfg.Ledger.Confirmed(msg.topic, msg.n)
	m.confirmed.Add(1)
	return nil
}

var errNoAck = errors.New("no acknowledgement within 10 s")

func await(t mqtt.Token) error {
	if !t.WaitTimeout(ackLimit) {
		return errNoAck
	}
	return t.Error()
}

// machine is one of them: a press that warms up and shakes.
type machine struct {
	name, base, run  string
	telemetry, alarm uint64 // the last numbers given
	random           *rand.Rand
}

// message is one publication.
type message struct {
	topic   string
	n       uint64
	payload []byte
}

// newMachine makes the machine with the number i, counted from 0.
func newMachine(i int, run string) *machine {
	name := fmt.Sprintf("m%02d", i+1)
	return &machine{
		name: name, run: run,
		base:   fmt.Sprintf("factory/L%d/%s", i/linesOfFloor+1, name),
		random: rand.New(rand.NewPCG(uint64(i), 1)),
	}
}

// next is what the machine publishes at one tick.
func (m *machine) next(now time.Time) []message {
	m.telemetry++
	phase := float64(m.telemetry) / 50
	temperature := 70 + 15*math.Sin(phase) + m.random.Float64()
	out := []message{m.message("telemetry", m.telemetry, now, fmt.Sprintf(
		`"temperature":%.2f,"vibration":%.3f,"rpm":%d,"quality":"good"`,
		temperature, 1+m.random.Float64(), 1480+m.random.IntN(40)))}
	if m.random.IntN(alarmEvery) == 0 {
		m.alarm++
		out = append(out, m.message("alarm", m.alarm, now, fmt.Sprintf(
			`"alarm":"temperature","value":%.2f,"limit":80`, temperature)))
	}
	return out
}

func (m *machine) message(kind string, n uint64, now time.Time, fields string) message {
	topic := m.base + "/" + kind
	payload := `{"run":"` + m.run + `","topic":"` + topic + `","n":` + strconv.FormatUint(n, 10) +
		`,"time":"` + now.UTC().Format(time.RFC3339Nano) + `",` + fields + `}`
	return message{topic: topic, n: n, payload: []byte(payload)}
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
