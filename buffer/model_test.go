package buffer

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// model is what the log must be equal to: all events, and how far each uplink got.
type model struct {
	t       *testing.T
	rnd     *rand.Rand
	cfg     Config
	r       *running
	events  int            // numbered 0…, event n has the sequence number n+1
	acked   map[string]int // events delivered
	read    map[string]int // events read since the last start
	readers map[string]*Reader

	appended, reads, acks, trims, stops, crashes, replays int
}

var modelUplinks = []string{"central", "dr"}

// TestRandomOperationsMatchAModel appends, reads, acknowledges, trims, replays,
// stops and crashes at random and compares each event read with a model. A read is one
// call, whatever it brings. SLUICE_MODEL_SEED repeats what a seed chose.
func TestRandomOperationsMatchAModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if v := os.Getenv("SLUICE_MODEL_SEED"); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatal("SLUICE_MODEL_SEED:", err)
		}
	}
	t.Logf("seed %d", seed)
	m := &model{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), acked: map[string]int{}, read: map[string]int{}, readers: map[string]*Reader{}}
	m.cfg = config(t, func(c *Config) {
		c.Uplinks["dr"] = nil
		c.Memory, c.Segment = 64<<10, 1<<20
		c.Classes[0].KeepBytes = 6 << 20 // segments of 768 KiB
		c.Log = nil
	})
	m.begin()
	for m.appended+m.reads+m.acks+m.replays < 100_000 {
		uplink := modelUplinks[m.rnd.IntN(2)]
		switch p := m.rnd.IntN(1000); {
		case p < 450:
			n := 1 + m.rnd.IntN(40)
			m.put(n)
		case p < 830:
			m.readSome(uplink)
		case p < 975:
			m.ack(uplink)
		case p < 988:
			m.catchUp()
		case p < 994:
			m.replay()
		case p < 997:
			m.stops++
			m.r.stop()
			m.begin()
		default:
			m.crash()
		}
	}
	for _, uplink := range modelUplinks {
		for m.read[uplink] < m.events {
			m.readSome(uplink)
		}
	}
	t.Logf("%d appends, %d reads, %d acknowledgements, %d trims, %d replays, %d stops, %d crashes",
		m.appended, m.reads, m.acks, m.trims, m.replays, m.stops, m.crashes)
	if m.trims == 0 || m.replays == 0 || m.stops == 0 || m.crashes == 0 {
		t.Error("an operation never happened")
	}
}

// begin opens the log and reads from the cursors, which must be where the model
// has them.
func (m *model) begin() {
	m.r = start(m.t, m.cfg)
	for _, uplink := range modelUplinks {
		m.readers[uplink] = m.r.reader(uplink)
		m.read[uplink] = m.acked[uplink]
	}
}

func (m *model) put(n int) {
	m.r.put("process", m.events, n)
	m.events += n
	m.appended += n
}

// crash goes on with what kill -9 would leave. The event before carries the
// cursors.
func (m *model) crash() {
	m.crashes++
	m.put(1)
	left := image(m.t, m.cfg)
	m.r.stop()
	if err := os.RemoveAll(m.cfg.Dir); err != nil {
		m.t.Fatal(err)
	}
	m.cfg = left
	m.begin()
}

func (m *model) readSome(uplink string) {
	m.t.Helper()
	if m.read[uplink] == m.events {
		return
	}
	b := next(m.t, m.readers[uplink])
	m.same(b, m.read[uplink])
	m.read[uplink] += len(b.Events)
	m.reads++
}

// same holds a batch against the events from n on.
func (m *model) same(b Batch, n int) {
	m.t.Helper()
	for i, e := range b.Events {
		if b.First+uint64(i) != uint64(n+i+1) || string(e.Payload) != fmt.Sprintf("event %d", n+i) {
			m.t.Fatalf("number %d %q, the model has number %d", b.First+uint64(i), e.Payload, n+i+1)
		}
	}
}

func (m *model) ack(uplink string) {
	if m.read[uplink] > m.acked[uplink] {
		m.acked[uplink] += 1 + m.rnd.IntN(m.read[uplink]-m.acked[uplink])
		m.readers[uplink].Ack("process", uint64(m.acked[uplink]))
		m.acks++
	}
}

// catchUp acknowledges all that was read, so that segments are trimmed.
func (m *model) catchUp() {
	before := m.r.Stats().Classes["process"].First
	for _, uplink := range modelUplinks {
		for m.read[uplink] < m.events {
			m.readSome(uplink)
		}
		m.acked[uplink] = m.read[uplink]
		m.readers[uplink].Ack("process", uint64(m.acked[uplink]))
	}
	m.put(1)
	if m.r.Stats().Classes["process"].First > before {
		m.trims++
	}
}

// replay reads a range of time again: all of it that is still stored, and nothing
// else. Event n has the time n ns.
func (m *model) replay() {
	m.t.Helper()
	stored := max(m.r.Stats().Classes["process"].First, 1)
	if m.events == 0 || stored > uint64(m.events) {
		return
	}
	from := int(stored) - 1 + m.rnd.IntN(m.events-int(stored)+1)
	to := from + 1 + m.rnd.IntN(m.events-from)
	rd, err := m.r.Range("process", event("process", from).Time, event("process", to).Time)
	if err != nil {
		m.t.Fatal(err)
	}
	at := from
	for {
		b, err := rd.Next(m.t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			m.t.Fatal(err)
		}
		if m.trimmed(rd, at, b.First) {
			at = int(b.First) - 1
		}
		m.same(b, at)
		at += len(b.Events)
	}
	if at != to && m.r.Stats().Classes["process"].First <= uint64(to) {
		m.t.Fatalf("a replay of %d to %d ended at %d", from, to, at)
	}
	m.replays++
}

// trimmed reports whether all from event n up to the number first was trimmed while
// rd read, which holds nothing back: it is not stored, and rd says so.
func (m *model) trimmed(rd *RangeReader, n int, first uint64) bool {
	if first <= uint64(n+1) || first > m.r.Stats().Classes["process"].First {
		return false
	}
	return len(subtract([]span{{uint64(n + 1), first - 1}}, rd.missing)) == 0
}
