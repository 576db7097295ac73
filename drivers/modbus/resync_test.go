package modbus

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"testing"
	"time"
)

// TestAnswersThatAreLateByAnyTimeAreNone has a slave that answers each request
// rightly, in turn, and two and a half time-outs late: by then a request for as many
// registers at another address is under way, whose answer it would be.
func TestAnswersThatAreLateByAnyTimeAreNone(t *testing.T) {
	const timeout = 200 * time.Millisecond
	for _, scheme := range []string{schemeRTU, schemeASCII, schemeRTUOnTCP} {
		for count := 1; count <= 2; count++ {
			t.Run(fmt.Sprintf("%s/%d", scheme, count), func(t *testing.T) {
				t.Parallel()
				var late atomic.Bool
				late.Store(true)
				answer := func(s *slave, _ int, req []byte) {
					if late.Load() {
						time.Sleep(timeout * 5 / 2)
					}
					body := []byte{req[0], req[1], 2 * req[5]}
					for i := range int(req[5]) {
						body = binary.BigEndian.AppendUint16(body, binary.BigEndian.Uint16(req[2:])+uint16(i))
					}
					s.say(body...)
				}
				c := Config{Name: "bus", Timeout: timeout, Retries: None, Breaker: Breaker{OpenAfter: None}}
				if scheme == schemeRTUOnTCP {
					c.Connection = behindGateway(t, answer)
				} else {
					_, c.Connection = onPort(t, scheme, answer)
				}
				sink := newMemory()
				c.Sink = sink
				d := Device{Name: "d", Unit: 1, Every: 20 * time.Millisecond, Heartbeat: 100 * time.Millisecond}
				for i := range 4 {
					d.Tags = append(d.Tags, Tag{Name: fmt.Sprint(i), Read: "holding", At: 1000 * i, Type: []string{"uint16", "uint32"}[count-1]})
				}
				c.Devices = []Device{d}
				s := start(t, c)
				judge := func(r reading) (good int) {
					for name, v := range r.Values {
						var i int
						fmt.Sscan(name, &i)
						want := uint64(1000 * i)
						if count == 2 {
							want = want<<16 | want + 1
						}
						if string(v) != fmt.Sprint(want) {
							t.Errorf("tag %s is %s, want %d", name, v, want)
						}
						good++
					}
					return good
				}
				for end := time.Now().Add(12 * timeout); time.Now().Before(end); {
					judge(sink.next(t))
				}
				late.Store(false)
				for judge(sink.next(t)) < len(d.Tags) {
				}
				s.stop()
			})
		}
	}
}

// TestDebtOfAUnit plays what a unit owes: a request isn't sent while an answer of
// its shape may still come.
func TestDebtOfAUnit(t *testing.T) {
	l := newLink(connection{scheme: schemeRTUOnTCP}, time.Second, 0, time.Second)
	holding, l2 := tables["holding"], holdingShape
	l.sent = true
	l.account(1, l2(2), nil)
	if l.debts[1].has(l2(2)) {
		t.Error("an answer makes a debt")
	}
	l.account(1, l2(2), errInvalid)
	if !l.debts[1].has(l2(2)) || l.debts[1].has(l2(3)) || l.debts[2].has(l2(2)) {
		t.Error("a request without an answer: only its own shape is owed, by its own unit")
	}
	l.account(1, l2(3), nil)
	if l.debts[1].has(l2(2)) {
		t.Error("an answer of another shape settles what came before")
	}
	for count := 1; count <= maxRegisters; count++ { // whatever it owes, there is another shape
		l.account(1, l2(count), errInvalid)
		r := l.debts[1].other(holding, 65535, 1)
		if r.at+r.count > 1<<16 || r.count > maxRegisters || l.debts[1].has(r.table.shape(r.count)) || r.table.shape(r.count) == l2(1) {
			t.Fatalf("%d shapes are owed, and %+v is sent", count, r)
		}
	}
	seen := map[shape]bool{}
	d := &debt{shapes: []shape{l2(10)}}
	for range 6 {
		r := d.other(holding, 100, 10)
		s := r.table.shape(r.count)
		if seen[s] {
			t.Errorf("%v is tried again before the others", s)
		}
		seen[s] = true
		d.tried = append(d.tried, s)
	}
	coils := tables["coil"]
	for _, count := range []int{1, 8, 9, 2000} {
		d := &debt{shapes: []shape{coils.shape(count)}}
		for range 6 {
			r := d.other(coils, 65535, count)
			if s := r.table.shape(r.count); d.shapes[0] == s || r.count < 1 || r.count > maxBits || r.at < 0 || r.at+r.count > 1<<16 {
				t.Errorf("%d coils: %+v", count, r)
			}
			d.tried = append(d.tried, shape{})
		}
	}
}

func holdingShape(count int) shape { return tables["holding"].shape(count) }
