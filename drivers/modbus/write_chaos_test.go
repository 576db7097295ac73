package modbus

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// shelf is one register behind a liar. Each value is written once by the test, so
// that the device knows which request it saw.
type shelf struct {
	mu   sync.Mutex
	rand *rand.Rand
	held uint16
	seen map[uint16]int // writes that arrived, by value
	done map[uint16]bool
}

// take answers a request of function 3, 6 or 16 for one register, and often lies
// about a write: what it says is one thing, what it does another.
func (s *shelf) take(body []byte, say func([]byte)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	unit, f := body[0], body[1]
	if f == 3 {
		say([]byte{unit, 3, 2, byte(s.held >> 8), byte(s.held)})
		return
	}
	v := binary.BigEndian.Uint16(body[len(body)-2:])
	s.seen[v]++
	do := func() { s.held, s.done[v] = v, true }
	right := body[:6]
	switch s.rand.IntN(14) {
	case 0: // refuses
		say([]byte{unit, f | exception, 2 + byte(s.rand.IntN(2))})
	case 1: // says that it failed, or is at it, or that nobody answered, and did it
		do()
		say([]byte{unit, f | exception, []byte{4, 5, 11}[s.rand.IntN(3)]})
	case 2: // keeps silent, and did it
		do()
	case 3: // keeps silent
	case 4: // did it, and is late
		do()
		time.Sleep(chaosTimeout + 50*time.Millisecond)
		say(right)
	case 5: // did another thing
		s.held = v ^ 0x8000
		say(right)
	case 6: // did nothing
		say(right)
	case 7: // did it, and says another one did
		do()
		say(append([]byte{unit ^ 1}, right[1:]...))
	case 8: // did it, and confirms another write
		do()
		say(append(append([]byte{}, right[:5]...), right[5]^1))
	case 9: // does only one of both functions
		if f == 6 {
			s.seen[v]--
			say([]byte{unit, 0x86, 1})
			return
		}
		do()
		say(right)
	default:
		do()
		say(right)
	}
}

// check holds the result of a write against what the device saw and did.
func (s *shelf) check(v uint16, r WriteResult, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	fault := func(what string) error {
		return fmt.Errorf("%d: %s: seen %d times, done %v, holds %d: %+v %w", v, what, s.seen[v], s.done[v], s.held, r, err)
	}
	switch {
	case s.seen[v] > 1:
		return fault("sent again")
	case err == nil && (s.held != v || string(r.ReadBack) != fmt.Sprint(v)):
		return fault("said to be done")
	case errors.Is(err, ErrRefused) && (s.seen[v] > 0 || r.Function != 0):
		return fault("said not to be sent")
	case errors.Is(err, ErrDevice) && s.done[v]:
		return fault("said to be refused")
	case err != nil && !errors.Is(err, ErrRefused) && !errors.Is(err, ErrDevice) && !errors.Is(err, ErrUncertain) && !errors.Is(err, ErrMismatch):
		return fault("an error of no kind")
	case len(r.ReadBackRegisters) == 1 && r.ReadBackRegisters[0] != s.held:
		return fault("read back wrongly")
	}
	return nil
}

// TestWritesToALiar writes through liars while they are polled: what is said of a
// write must be so.
func TestWritesToALiar(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	const lines, each = 8, 12
	failed := make(chan error, lines*each)
	kinds := make(chan string, lines*each)
	var all sync.WaitGroup
	for i := range lines {
		s := &shelf{rand: rand.New(rand.NewPCG(seed, uint64(i))), seen: map[uint16]int{}, done: map[uint16]bool{}}
		var url string
		if i%2 == 0 {
			url = behindGateway(t, func(line *slave, _ int, body []byte) { s.take(body, func(b []byte) { line.say(b...) }) })
		} else {
			url = newPeer(t, func(c net.Conn, _ int, req []byte) {
				body := req[6:]
				if body[1] == 16 { // three bytes more than the others
					rest := make([]byte, 3)
					if _, err := c.Read(rest); err != nil {
						return
					}
					body = append(body, rest...)
				}
				s.take(body, func(b []byte) { c.Write(frameOf(req, b[1:]...)) })
			}, nil).url()
		}
		source := start(t, Config{Name: "bus", Connection: url, Sink: newMemory(), Timeout: chaosTimeout, Retries: None, Devices: []Device{{
			Name: "d", Unit: 2, Every: 100 * time.Millisecond, Tags: []Tag{{Name: "v", Read: "holding", Type: "uint16", Write: bounds(0, 65535)}},
		}}})
		all.Go(func() {
			for n := range each {
				v := uint16(1 + i*each + n)
				begin := time.Now()
				r, err := source.Write(context.Background(), WriteRequest{Device: "d", Tag: "v", Value: json.RawMessage(fmt.Sprint(v)), Issued: begin, Until: begin.Add(chaosTimeout)})
				if err := s.check(v, r, err); err != nil {
					failed <- err
				}
				kinds <- kindOf(err)
			}
		})
	}
	all.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	count := map[string]int{}
	for range lines * each {
		count[<-kinds]++
	}
	t.Log(count)
	for _, kind := range []string{"done", "device", "uncertain", "mismatch"} {
		if count[kind] == 0 {
			t.Errorf("no write came to be %q: this shows nothing of it", kind)
		}
	}
}

func kindOf(err error) string {
	for name, kind := range map[string]error{"refused": ErrRefused, "device": ErrDevice, "uncertain": ErrUncertain} {
		if errors.Is(err, kind) {
			return name
		}
	}
	if errors.Is(err, ErrMismatch) {
		return "mismatch"
	}
	return "done"
}
