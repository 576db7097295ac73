package buffer

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// model is what the log must be equal to: all events, and how far each uplink got.
type model struct {
	events  int            // numbered 0…, event n has the sequence number n+1
	acked   map[string]int // events delivered
	read    map[string]int // events read since the last start
	readers map[string]*Reader
}

// TestRandomOperationsMatchAModel appends, reads, acknowledges, stops and
// crashes at random and compares each event read with a model.
func TestRandomOperationsMatchAModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	c := config(t, func(c *Config) {
		c.Uplinks["dr"] = nil
		c.Memory, c.Segment = 64<<10, 1<<20
		c.Classes[0].KeepBytes = 64 << 20
	})
	m := &model{acked: map[string]int{}, read: map[string]int{}, readers: map[string]*Reader{}}
	r := start(t, c)
	m.attach(r)
	operations := 0
	for operations < 60_000 {
		uplink := []string{"central", "dr"}[rnd.IntN(2)]
		switch p := rnd.IntN(1000); {
		case p < 500:
			n := 1 + rnd.IntN(200)
			r.put("process", m.events, n)
			m.events += n
			operations += n
		case p < 850:
			operations += m.readSome(t, uplink)
		case p < 994:
			m.ack(rnd, uplink)
			operations++
		default:
			if crash := rnd.IntN(2) == 0; crash {
				r.put("process", m.events, 1) // carries the cursors
				m.events++
				r.crash()
			} else {
				r.stop()
			}
			r = start(t, c)
			m.attach(r)
			operations++
		}
	}
	for _, uplink := range []string{"central", "dr"} {
		for m.read[uplink] < m.events {
			m.readSome(t, uplink)
		}
	}
	t.Logf("%d operations, %d events", operations, m.events)
}

// attach begins to read at the cursors, which must be where the model has them.
func (m *model) attach(r *running) {
	for _, uplink := range []string{"central", "dr"} {
		m.readers[uplink] = r.reader(uplink)
		m.read[uplink] = m.acked[uplink]
	}
}

func (m *model) readSome(t *testing.T, uplink string) int {
	t.Helper()
	if m.read[uplink] == m.events {
		return 0
	}
	b := next(t, m.readers[uplink])
	for i, e := range b.Events {
		n := m.read[uplink] + i
		if b.First+uint64(i) != uint64(n+1) || string(e.Payload) != fmt.Sprintf("event %d", n) {
			t.Fatalf("%s: read number %d %q, the model has number %d", uplink, b.First+uint64(i), e.Payload, n+1)
		}
	}
	m.read[uplink] += len(b.Events)
	return len(b.Events)
}

func (m *model) ack(rnd *rand.Rand, uplink string) {
	if m.read[uplink] > m.acked[uplink] {
		m.acked[uplink] += 1 + rnd.IntN(m.read[uplink]-m.acked[uplink])
		m.readers[uplink].Ack("process", uint64(m.acked[uplink]))
	}
}
