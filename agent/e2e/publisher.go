//go:build e2e

package e2e

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// machines is how many topics, and so keys, a publisher uses in turn.
const machines = 20

// publisher sends numbered QoS 1 messages to Mosquitto, as a plant of machines
// with a topic each would. Only what Mosquitto acknowledged counts as sent.
type publisher struct {
	client mqtt.Client
	acked  atomic.Int64
	held   atomic.Int64 // messages that may be sent
	failed atomic.Pointer[error]
	done   chan struct{}
}

// topicOf is the MQTT topic of a machine, and the key of its records.
func topicOf(machine int) string { return fmt.Sprintf("factory/hall-1/m%02d/telemetry", machine) }

// payloadOf is the n-th message (from 1) of a machine, about 190 bytes.
func payloadOf(machine, n int) []byte {
	return fmt.Appendf(nil, `{"machine":%d,"n":%d,"temperature":%.2f,"vibration":%.4f,"pressure":%.3f,"running":%t,`+
		`"operator":"shift-%d","recipe":"R-%05d","note":"the quick brown press stamps over the lazy sheet"}`,
		machine, n, 40+float64(n%600)/10, float64(n%97)/1000, 5+float64(n%31)/100, n%17 != 0, n%3, n%1000)
}

// share returns how many of the first total messages are machine's, when the
// machines send in turn.
func share(machine, total int) int { return (total - machine + machines - 1) / machines }

// startPublisher sends total messages at perSecond (0: as fast as they are
// acknowledged) in the background; at most 500 wait for their PUBACK.
func startPublisher(t testing.TB, m *mosquitto, total, perSecond int) *publisher {
	t.Helper()
	return startHeldPublisher(t, m, total, total, perSecond)
}

// startHeldPublisher is startPublisher, and stops before message held until more are
// let go.
func startHeldPublisher(t testing.TB, m *mosquitto, held, total, perSecond int) *publisher {
	t.Helper()
	opts := mqtt.NewClientOptions().AddBroker(m.url()).SetClientID("plant").SetProtocolVersion(4).
		SetAutoReconnect(false).SetConnectTimeout(10 * time.Second)
	p := &publisher{client: mqtt.NewClient(opts), done: make(chan struct{})}
	if token := p.client.Connect(); !token.WaitTimeout(patience) || token.Error() != nil {
		t.Fatalf("publisher: connect to mosquitto: %v", token.Error())
	}
	p.held.Store(int64(held))
	inFlight := make(chan mqtt.Token, 500)
	stop := make(chan struct{})
	go p.send(inFlight, stop, total, perSecond)
	go p.collect(inFlight)
	t.Cleanup(func() {
		close(stop)
		p.client.Disconnect(100)
		<-p.done
	})
	return p
}

func (p *publisher) send(inFlight chan<- mqtt.Token, stop <-chan struct{}, total, perSecond int) {
	defer close(inFlight)
	start := time.Now()
	for i := range total {
		if perSecond > 0 && i%100 == 0 {
			time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / time.Duration(perSecond))))
		}
		for int64(i) >= p.held.Load() {
			select {
			case <-time.After(10 * time.Millisecond):
			case <-stop:
				return
			}
		}
		token := p.client.Publish(topicOf(i%machines), 1, false, payloadOf(i%machines, i/machines+1))
		select {
		case inFlight <- token:
		case <-stop:
			return
		}
	}
}

// letGo takes the hold further, to the first n messages.
func (p *publisher) letGo(n int) { p.held.Store(int64(n)) }

// collect counts PUBACKs in the order of the messages.
func (p *publisher) collect(inFlight <-chan mqtt.Token) {
	defer close(p.done)
	for token := range inFlight {
		if !token.WaitTimeout(patience) {
			err := fmt.Errorf("no PUBACK for message %d within %s", p.acked.Load()+1, patience)
			p.failed.CompareAndSwap(nil, &err)
		} else if err := token.Error(); err != nil {
			p.failed.CompareAndSwap(nil, &err)
		}
		if p.failed.Load() == nil {
			p.acked.Add(1)
		}
	}
}

// waitAcked waits until Mosquitto has acknowledged n messages.
func (p *publisher) waitAcked(t testing.TB, n int) {
	t.Helper()
	waitFor(t, fmt.Sprintf("%d PUBACKs", n), func() bool {
		if err := p.failed.Load(); err != nil {
			t.Fatalf("publisher: %v", *err)
		}
		return p.acked.Load() >= int64(n)
	})
}
