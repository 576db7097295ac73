//go:build e2e && fleet

package e2e

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// linkEnv makes the test binary the link of a fleet: where it listens and where it
// leads to. It is a process of its own, since one may not have that many files open.
const linkEnv = "SLUICE_FLEET_LINK"

// TestFleetLink is no test but that process. It obeys lines on standard input, "cut"
// "heal" and "count": when it took connections since it healed, when agents came for the
// first time, and how many connections each agent made and has open.
func TestFleetLink(*testing.T) {
	at := os.Getenv(linkEnv)
	if at == "" {
		return
	}
	listen, target, _ := strings.Cut(at, " ")
	l := &fleetLink{listen: listen, target: target, conns: map[net.Conn]bool{}}
	l.heal()
	fmt.Println("LINK ready")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		switch lines.Text() {
		case "cut":
			l.cut()
		case "heal":
			l.heal()
		case "count":
			l.mu.Lock()
			b, _ := json.Marshal(l.seen)
			l.mu.Unlock()
			fmt.Println("LINK", string(b))
		}
	}
}

type fleetLink struct {
	listen, target string

	mu     sync.Mutex
	ln     net.Listener
	conns  map[net.Conn]bool
	healed time.Time
	seen   fleetSeen
}

// fleetSeen is what a link saw since it healed, in milliseconds from then.
type fleetSeen struct {
	Took  []int          // connections
	First []int          // agents, by their first connection
	Made  map[string]int // connections by agent
	Open  int            // of them
}

func (l *fleetLink) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ln.Close()
	for c := range l.conns {
		c.Close()
	}
}

func (l *fleetLink) heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	ln, err := net.Listen("tcp", l.listen)
	if err != nil {
		fmt.Println("LINK", err)
		os.Exit(1)
	}
	l.ln, l.healed, l.seen = ln, time.Now(), fleetSeen{Made: map[string]int{}}
	go func() {
		for {
			c, err := ln.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, "link:", err)
				os.Exit(1)
			}
			l.mu.Lock()
			l.seen.Took = append(l.seen.Took, l.now())
			l.conns[c] = true
			l.seen.Open = len(l.conns)
			l.mu.Unlock()
			go l.serve(c)
		}
	}()
}

func (l *fleetLink) now() int { return int(time.Since(l.healed) / time.Millisecond) }

// serve passes bytes. The first request says whose it is: each begins with its
// length, key, version, correlation id and the client's id (Kafka protocol).
func (l *fleetLink) serve(in net.Conn) {
	defer func() {
		in.Close()
		l.mu.Lock()
		delete(l.conns, in)
		l.seen.Open = len(l.conns)
		l.mu.Unlock()
	}()
	head := make([]byte, 14)
	if _, err := io.ReadFull(in, head); err != nil {
		return
	}
	id := make([]byte, min(256, max(0, int(int16(binary.BigEndian.Uint16(head[12:]))))))
	if _, err := io.ReadFull(in, id); err != nil {
		return
	}
	l.mu.Lock()
	if l.seen.Made[string(id)]++; l.seen.Made[string(id)] == 1 {
		l.seen.First = append(l.seen.First, l.now())
	}
	l.mu.Unlock()
	out, err := net.Dial("tcp", l.target)
	if err != nil {
		return
	}
	defer out.Close()
	if _, err = out.Write(append(head, id...)); err != nil {
		return
	}
	go func() { pump(in, out); in.Close() }()
	pump(out, in)
}

// pump copies through a buffer: the splice of io.Copy has two pipes open for each
// connection, and one may not have that many files.
func pump(to io.Writer, from io.Reader) {
	_, _ = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, 8<<10))
}

// busiest is the most that lie within any second, wherever that begins.
func busiest(list []int) (most int) {
	slices.Sort(list)
	first := 0
	for i := range list {
		for list[i]-list[first] >= 1000 {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// stalls are times in which the machine stood still for the agents, in milliseconds from
// healed: what was due then comes right after it, all at once.
type stalls struct {
	mu   sync.Mutex
	list [][2]int
}

// watch looks whether a short sleep is a short one, until stop is closed.
func (s *stalls) watch(healed time.Time, stop <-chan struct{}) {
	for last := time.Now(); ; {
		select {
		case <-stop:
			return
		case <-time.After(20 * time.Millisecond):
		}
		if now := time.Now(); now.Sub(last) > 250*time.Millisecond {
			s.mu.Lock()
			s.list = append(s.list, [2]int{int(last.Sub(healed).Milliseconds()), int(now.Sub(healed).Milliseconds())})
			s.mu.Unlock()
		}
		last = time.Now()
	}
}

// without returns list without what came in a stall or within two seconds after it, and
// for how long that was.
func (s *stalls) without(list []int) (rest []int, out time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	end := 0
	for _, x := range s.list {
		from := max(x[0], end)
		end = x[1] + 2000
		out += time.Duration(end-from) * time.Millisecond
	}
	return slices.DeleteFunc(slices.Clone(list), func(at int) bool {
		return slices.ContainsFunc(s.list, func(x [2]int) bool { return at >= x[0] && at < x[1]+2000 })
	}), out
}

// seconds prints how many came in each second.
func seconds(list []int) string {
	counts := make([]int, 1)
	for _, at := range list {
		for len(counts) <= at/1000 {
			counts = append(counts, 0)
		}
		counts[at/1000]++
	}
	return strings.Trim(fmt.Sprint(counts), "[]")
}
