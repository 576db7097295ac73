package modbus

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var chaosTime = flag.Duration("chaos", 5*time.Second, "how long TestChaos lies")

const (
	chaosTimeout = 600 * time.Millisecond // of a request
	chaosUnits   = 3
	chaosBlocks  = 2 // of each unit, read by a request each; all requests have the same shape
)

// spotOf is what one request is about.
type spotOf struct{ unit, block byte }

// oracle knows which answers were honest. Each answer holds a serial number of its
// own, so that no value can be taken for another one.
type oracle struct {
	mu     sync.Mutex
	serial uint32
	honest map[uint32]spotOf
	lie    int               // which one is being told
	told   map[uint32]int    // and which ones were, by serial number
	last   map[spotOf]uint32 // the last value that was taken
	good   map[spotOf]int    // in a row
	taken  int
	bad    map[string]int
}

func newOracle() *oracle {
	return &oracle{honest: map[uint32]spotOf{}, told: map[uint32]int{}, last: map[spotOf]uint32{}, good: map[spotOf]int{}, bad: map[string]int{}}
}

// content makes four registers: unit, block, serial number and a sum over them.
func (o *oracle) content(at spotOf, honest bool) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.serial++
	if honest {
		o.honest[o.serial] = at
	} else {
		o.told[o.serial] = o.lie
	}
	b := binary.BigEndian.AppendUint32([]byte{at.unit, at.block}, o.serial)
	return append(b, crcOf(b)...)
}

// take judges a reading of device "1" to "3" with tags "0" and "1".
func (o *oracle) take(r reading) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	unit, _ := strconv.Atoi(r.Device)
	for name, v := range r.Values {
		block, _ := strconv.Atoi(name)
		at := spotOf{byte(unit), byte(block)}
		n, err := strconv.ParseUint(string(v), 10, 64)
		if err != nil {
			return err
		}
		b := binary.BigEndian.AppendUint64(nil, n)
		serial := binary.BigEndian.Uint32(b[2:])
		if b[0] != at.unit || b[1] != at.block || !bytes.Equal(crcOf(b[:6]), b[6:]) || o.honest[serial] != at || serial <= o.last[at] {
			return fmt.Errorf("unit %d, block %d is % x: honest for %v, lie %d, last was %d", unit, block, b, o.honest[serial], o.told[serial], o.last[at])
		}
		o.last[at] = serial
		o.good[at]++
		o.taken++
	}
	for name, reason := range r.Bad {
		block, _ := strconv.Atoi(name)
		o.good[spotOf{byte(unit), byte(block)}] = 0
		o.bad[reason]++
	}
	return nil
}

// liar answers requests, mostly wrongly.
type liar struct {
	*oracle
	rand   *rand.Rand
	bus    bool
	gap    bool // there is a frame_gap in which a second answer dies
	season *season
	lies   int
	earlie [][]byte // answers to earlier requests that weren't sent, with their numbers (TCP)
}

// season is the time of lies. A busy machine needs longer for as many as it takes to
// show something.
type season struct {
	least, most time.Time // it ends between these
	lies        atomic.Int64
	ended       atomic.Pointer[time.Time]
}

const enoughLies = 150

func (s *season) over() bool {
	now := time.Now()
	if now.After(s.least) && (s.lies.Load() >= enoughLies || now.After(s.most)) {
		s.ended.CompareAndSwap(nil, &now)
	}
	return s.ended.Load() != nil
}

// had says whether a time lies in the season.
func (s *season) had(t time.Time) bool { return !s.over() || t.Before(*s.ended.Load()) }

// question is a request that a liar answers.
type question struct {
	io.WriteCloser
	at   spotOf
	came time.Time
	wrap func(body []byte) []byte // unit and PDU to a frame that belongs to the request

	function byte
	count    int // registers; 4, but in requests that are to settle what is owed
}

// answerOf answers with content, or with so much of it or more as was asked for.
func (q question) answerOf(unit byte, content []byte) []byte {
	if q.count != 4 {
		content = bytes.Repeat(content, 1+q.count/4)[:2*q.count]
	}
	return append([]byte{unit, q.function, byte(len(content))}, content...)
}

// answer answers one request.
func (l *liar) answer(q question) {
	truth := func() []byte { return q.wrap(q.answerOf(q.at.unit, l.content(q.at, true))) }
	if l.season.over() || l.rand.IntN(3) == 0 {
		q.Write(truth())
		return
	}
	l.lies++
	l.season.lies.Add(1)
	kind := l.rand.IntN(19)
	l.mu.Lock()
	l.lie = kind
	l.mu.Unlock()
	lie := l.content(q.at, false)
	other := spotOf{1 + (q.at.unit % chaosUnits), q.at.block}
	switch kind {
	case 0: // silence
	case 1: // late, by less than another time-out or by several, while further requests come and wait
		time.Sleep(chaosTimeout + time.Duration(30+l.rand.IntN(3000))*time.Millisecond)
		q.Write(q.wrap(q.answerOf(q.at.unit, lie)))
	case 2: // twice at once
		f := truth()
		q.Write(append(f, f...))
	case 3: // twice, not at once
		f := truth()
		q.Write(f)
		time.Sleep(time.Duration(l.rand.IntN(10)) * time.Millisecond)
		if !l.bus || l.gap && time.Since(q.came) < 20*time.Millisecond {
			q.Write(f)
		}
	case 4: // in pieces, in time
		for piece := range slices.Chunk(truth(), 1+l.rand.IntN(5)) {
			q.Write(piece)
			time.Sleep(time.Millisecond)
		}
	case 5: // by another unit
		q.Write(q.wrap(q.answerOf(other.unit, lie)))
	case 6: // what another unit has, as that one's and as this one's function
		q.Write(q.wrap(append([]byte{other.unit, 7 - q.function, 8}, l.content(other, false)...)))
	case 7: // another function
		q.Write(q.wrap(append([]byte{q.at.unit, 7 - q.function, 8}, lie...)))
	case 8: // an exception of another function, or without a code
		q.Write(q.wrap([]byte{q.at.unit, (7 - q.function) | exception, 2}[:2+l.rand.IntN(2)]))
	case 9: // a failure
		q.Write(q.wrap([]byte{q.at.unit, q.function | exception, 4}))
	case 10: // sound, and too short
		q.Write(q.wrap(append([]byte{q.at.unit, q.function, byte(2*q.count - 2)}, make([]byte, 2*q.count-2)...)))
	case 11: // sound, and too long
		q.Write(q.wrap(append([]byte{q.at.unit, q.function, byte(2*q.count + 2)}, make([]byte, 2*q.count+2)...)))
	case 12: // sound, and its count says more or less than there is
		f := q.answerOf(q.at.unit, lie)
		f[2] += byte(2 * (1 - 2*l.rand.IntN(2)))
		q.Write(q.wrap(f))
	case 13: // noise before it
		q.Write(append(l.noise(20), truth()...))
	case 14: // noise behind it
		q.Write(append(truth(), l.noise(20)...))
	case 15: // half of it
		f := q.wrap(q.answerOf(q.at.unit, lie))
		q.Write(f[:1+l.rand.IntN(len(f)-1)])
	default:
		l.answerByKind(q, lie, other)
	}
}

// answerByKind lies in a way that only a bus, or only Modbus TCP, knows.
func (l *liar) answerByKind(q question, lie []byte, other spotOf) {
	frame := q.wrap(q.answerOf(q.at.unit, lie))
	switch kind := l.rand.IntN(3); {
	case l.bus && kind == 0: // a bit flipped; that may make a small letter of ASCII, which means the same
		f := q.wrap(q.answerOf(q.at.unit, l.content(q.at, true)))
		f[l.rand.IntN(len(f))] ^= 1 << l.rand.IntN(7)
		q.Write(f)
	case l.bus: // a dialogue of another master with another unit, then the answer
		q.Write(q.wrap([]byte{other.unit, 3, 0, 0, 0, 4}))
		q.Write(q.wrap(q.answerOf(other.unit, l.content(other, false))))
		q.Write(q.wrap(q.answerOf(q.at.unit, l.content(q.at, true))))
	case kind == 0: // late by a request: it comes before the next answer, which is right
		l.earlie = append(l.earlie, frame)
		return
	case kind == 1: // a number that was, or is to come
		binary.BigEndian.PutUint16(frame, binary.BigEndian.Uint16(frame)+uint16(1+l.rand.IntN(40000)))
		q.Write(frame)
	default:
		q.Write(frame[:l.rand.IntN(len(frame))])
		if l.rand.IntN(2) == 0 {
			reset(q.WriteCloser.(net.Conn))
		}
		q.Close()
	}
}

func (l *liar) noise(most int) []byte {
	b := make([]byte, 1+l.rand.IntN(most))
	for i := range b {
		b[i] = byte(l.rand.Uint32())
	}
	return b
}

// chaosTCP starts a liar that speaks Modbus TCP.
func chaosTCP(t *testing.T, l *liar) string {
	var mu sync.Mutex
	return newPeer(t, func(c net.Conn, _ int, req []byte) {
		mu.Lock()
		defer mu.Unlock()
		for _, f := range l.earlie {
			c.Write(f)
		}
		l.earlie = nil
		l.answer(question{c, spotOf{req[6], req[9] / 100}, time.Now(), func(body []byte) []byte { return wrapTCP(req, body) }, req[7], int(req[11])})
	}, nil).url()
}

// chaosBus starts a liar on a bus.
func chaosBus(t *testing.T, l *liar, scheme string) string {
	var mu sync.Mutex
	answer := func(s *slave, _ int, req []byte) {
		mu.Lock()
		defer mu.Unlock()
		l.answer(question{s, spotOf{req[0], req[3] / 100}, time.Now(), s.frame, req[1], int(req[5])})
	}
	if scheme == schemeRTUOnTCP {
		return behindGateway(t, answer)
	}
	s, url := onPort(t, scheme, answer)
	stop := make(chan struct{})
	var noisy sync.WaitGroup
	r := rand.New(rand.NewPCG(l.rand.Uint64(), 1))
	noisy.Go(func() { // whatever else is on the line
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(200+r.IntN(800)) * time.Millisecond):
				if !l.season.over() {
					s.Write(bytes.Repeat([]byte{byte(r.Uint32())}, 1+r.IntN(30)))
				}
			}
		}
	})
	t.Cleanup(func() { close(stop); noisy.Wait() })
	return url
}

// TestChaos has liars on lines of each kind, for a while: requests for the same
// number of registers follow each other, most answers are wrong in some way, and
// what was late or left over lies in wait for the next request. Every value that
// is taken must be the honest answer to a request for just that value, and newer
// than the one before. Then they turn honest, and everything must come right.
func TestChaos(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	now := time.Now()
	season := &season{least: now.Add(*chaosTime), most: now.Add(*chaosTime + patience)}
	var lines []string
	for scheme, n := range map[string]int{schemeTCP: 6, schemeRTUOnTCP: 6, schemeRTU: 6, schemeASCII: 4} {
		lines = append(lines, slices.Repeat([]string{scheme}, n)...)
	}
	slices.Sort(lines)
	var running []func(*testing.T) (lies, beside int)
	lies, beside := 0, 0
	for i, scheme := range lines { // all at once, since they wait most of the time
		l := &liar{oracle: newOracle(), rand: rand.New(rand.NewPCG(seed, uint64(i))), season: season, bus: scheme != schemeTCP, gap: i%2 == 1}
		c := Config{Name: "bus", Timeout: chaosTimeout, Retries: []int{None, 1, 2}[i%3], Breaker: Breaker{OpenAfter: None}}
		if l.bus {
			c.Connection = chaosBus(t, l, scheme)
		} else {
			c.Connection = chaosTCP(t, l)
		}
		if l.gap {
			c.FrameGap = 50 * time.Millisecond
		}
		running = append(running, startChaos(t, l, c))
	}
	for i, check := range running {
		t.Run(fmt.Sprintf("%s-%d", lines[i], i), func(t *testing.T) {
			l, b := check(t)
			lies, beside = lies+l, beside+b
		})
	}
	if lies < 100 || beside < 10 {
		t.Errorf("%d values were taken beside %d lies: this shows nothing", beside, lies)
	}
}

// startChaos polls a liar and returns a test that waits until it is honest and
// everything has come right; it returns how often it lied, and how many values were
// taken meanwhile.
func startChaos(t *testing.T, l *liar, c Config) func(*testing.T) (lies, beside int) {
	for unit := 1; unit <= chaosUnits; unit++ {
		d := Device{Name: fmt.Sprint(unit), Unit: unit, Every: 20 * time.Millisecond, Heartbeat: 100 * time.Millisecond}
		for block := range chaosBlocks {
			d.Tags = append(d.Tags, Tag{Name: fmt.Sprint(block), Read: "holding", At: 100 * block, Type: "uint64"})
		}
		c.Devices = append(c.Devices, d)
	}
	sink := newMemory()
	c.Sink = sink
	s := start(t, c)
	return func(t *testing.T) (lies, beside int) {
		wrong, lied := 0, 0
		judge := func() {
			r := sink.next(t)
			if err := l.take(r); err != nil {
				if wrong++; wrong <= 5 {
					t.Error(err)
				}
			}
			if l.season.had(r.Time) {
				lied = l.taken
			}
		}
		// Some in a row: what was left behind would show within the first few.
		for healed := 0; healed < chaosUnits*chaosBlocks; {
			judge()
			healed = 0
			for _, n := range l.good {
				if n >= 8 && l.season.over() {
					healed++
				}
			}
		}
		if err := s.stop(); err != nil {
			t.Error(err)
		}
		for len(sink.events) > 0 {
			judge()
		}
		t.Logf("%d lies; taken: %d values beside them, %d in all, %d wrong; bad: %v", l.lies, lied, l.taken, wrong, l.bad)
		return l.lies, lied
	}
}
