package uplink

import (
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// guard is a connection to a broker that reads along, to know of a refused batch
// before the client does.
//
// Why it is needed: when a batch is refused the client gives back all that it
// holds of that partition and is at once ready to take more. Its promises tell
// us, but from another goroutine and so a little later:
//
//	client: batch 5..9 refused, given back        pump: hands over 10
//	client: 10 goes out, and is written           promise: "5 came back"
//
// and 10 stands in front of 5 for good. The guard closes the window's gate while
// the answer is still on its way to the client, so that 10 is either given back
// together with 5 or not handed over. The answer is also held until what the client was
// given before is in its partition (route.go), and one that would make the client start
// its producer anew is told in other words (anew.go). So an answer to records is passed on
// when all of it is there.
//
// It follows the framing of the Kafka protocol: INT32 length, then in a request
// INT16 api key, INT16 api version, INT32 correlation id, and in an answer INT32
// correlation id (kafka.apache.org/protocol, "Protocol Primitive Types" and
// "Common Request and Response Structure"). One goroutine writes, one reads.
type guard struct {
	net.Conn
	out, in  frame
	answered func(codes []*kerr.Error) // called for each answer to a produce that has errors in it
	anew     bool                      // the client may start its producer anew by itself
	buf      []byte                    // what was read last; of the goroutine that reads, as ready and given
	ready    []byte                    // what the client may have
	given    int                       // bytes of ready that it has

	// Of silence.go; not set where nobody listens.
	addr    string
	silence *silence
	socket  *meter
	gone    atomic.Pointer[error] // why it was closed
	askNext time.Time             // of the goroutine of listen, as askWait
	askWait time.Duration

	mu       sync.Mutex
	produces map[int32]asked // by correlation id: the produces without an answer, and what surrounds them in a transaction
	owing    int             // requests of any kind without an answer
}

// asked is a request.
type asked struct {
	key     uint16
	version int16
	at      time.Time // when all of it was written; zero: that goes on
}

const (
	keyProduce            = 0
	keyAddPartitionsToTxn = 24
	keyEndTxn             = 26
	requestHeader         = 12 // bytes up to the correlation id, with the length
	answerHeader          = 8
	flexibleProduce       = 9       // from this version on an answer's header has tags
	maxProduceAnswer      = 1 << 20 // a larger one is not read along but counts as refused
	readBuffer            = 4 << 10 // bytes
	maxProducesInFlight   = 1024    // a client has 5; more means that we lost the thread
)

func newGuard(c net.Conn, answered func([]*kerr.Error)) *guard {
	g := &guard{
		Conn: c, answered: answered, produces: map[int32]asked{}, buf: make([]byte, readBuffer),
		out: frame{header: requestHeader}, in: frame{header: answerHeader},
	}
	g.in.pass = func(p []byte) { g.ready = append(g.ready, p...) }
	return g
}

// Write notes the produce requests in p before it sends them.
func (g *guard) Write(p []byte) (int, error) {
	g.out.scan(p, g.request, nil)
	n, err := g.Conn.Write(p)
	if err == nil {
		g.written()
	}
	return n, err
}

// written notes when requests went out. The client writes each with one call.
func (g *guard) written() {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, r := range g.produces {
		if r.at.IsZero() {
			r.at = now
			g.produces[id] = r
		}
	}
}

// Close closes the connection.
func (g *guard) Close() error {
	if g.silence != nil {
		g.silence.forget(g)
	}
	return g.Conn.Close()
}

// Read looks at the answers before the client gets them.
func (g *guard) Read(p []byte) (int, error) {
	for g.given == len(g.ready) {
		g.ready, g.given = g.ready[:0], 0
		n, err := g.Conn.Read(g.buf)
		g.in.scan(g.buf[:n], g.answer, g.check)
		if err == nil || len(g.ready) > 0 {
			continue // an error comes again
		}
		if gone := g.gone.Load(); gone != nil {
			err = *gone
		}
		return 0, err
	}
	n := copy(p, g.ready[g.given:])
	g.given += n
	return n, nil
}

// request notes a produce; it never keeps a request's body.
func (g *guard) request(head []byte) (keep bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.owing++
	if len(head) < requestHeader {
		return false
	}
	key := binary.BigEndian.Uint16(head[4:])
	if key != keyProduce && key != keyAddPartitionsToTxn && key != keyEndTxn {
		return false
	}
	if len(g.produces) >= maxProducesInFlight {
		clear(g.produces)
	}
	g.produces[int32(binary.BigEndian.Uint32(head[8:]))] = asked{key: key, version: int16(binary.BigEndian.Uint16(head[6:]))}
	if g.silence != nil {
		g.silence.wrote()
	}
	return false
}

// answer keeps the body of the answer to a produce.
func (g *guard) answer(head []byte) (keep bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.owing--
	if len(head) < answerHeader {
		return false
	}
	id := int32(binary.BigEndian.Uint32(head[4:]))
	r, ok := g.produces[id]
	if ok && r.key != keyProduce {
		delete(g.produces, id)
		g.took(r)
		return false
	}
	return ok
}

// took tells how long the answer to r took.
func (g *guard) took(r asked) {
	if g.silence != nil && !r.at.IsZero() {
		g.silence.answered(question{g.addr, r.key}, time.Since(r.at))
	}
}

// check reports the errors in the answer to a produce, and returns what the client gets
// in place of its body.
func (g *guard) check(head, body []byte) []byte {
	id := int32(binary.BigEndian.Uint32(head[4:]))
	g.mu.Lock()
	r := g.produces[id]
	delete(g.produces, id)
	g.mu.Unlock()
	g.took(r)
	resp, tags, ok := readAnswer(r.version, body)
	if !ok {
		g.answered([]*kerr.Error{kerr.CorruptMessage})
		return body
	}
	if codes := produceErrors(resp); len(codes) > 0 {
		g.answered(codes)
	}
	if other, ok := disguise(resp, tags); g.anew && ok {
		return other
	}
	return body
}

// produceErrors returns the errors in an answer to a produce, each once.
func produceErrors(resp *kmsg.ProduceResponse) []*kerr.Error {
	var codes []*kerr.Error
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			var e *kerr.Error
			if errors.As(kerr.ErrorForCode(p.ErrorCode), &e) && !slices.Contains(codes, e) {
				codes = append(codes, e)
			}
		}
	}
	return codes
}

// givesBack reports whether the client may give records back after e, rather
// than produce them again by itself.
func givesBack(e *kerr.Error) bool {
	return !e.Retriable || e == kerr.CorruptMessage || e == kerr.UnknownTopicID
}

// frame follows one direction of a connection.
type frame struct {
	header int          // bytes of a header, with the length
	pass   func([]byte) // is given the stream, but for what is kept; nil: nobody wants it
	head   []byte
	left   int // bytes of the frame that are still to come after head
	keep   bool
	body   []byte
}

// scan walks over the next bytes of the stream. It calls begin at the end of each
// header, which says whether the body is kept, and then end with the body of a
// kept frame; what that returns is passed on in its place. One that is larger than
// maxProduceAnswer is not kept: end is called with nil as soon as that is known.
func (f *frame) scan(p []byte, begin func(head []byte) bool, end func(head, body []byte) []byte) {
	for len(p) > 0 {
		if want := f.wanted(); len(f.head) < want {
			n := min(want-len(f.head), len(p))
			f.head = append(f.head, p[:n]...)
			p = p[n:]
			if len(f.head) < f.wanted() {
				continue
			}
			f.begin(begin, end)
		}
		n := min(f.left, len(p))
		if f.keep {
			f.body = append(f.body, p[:n]...)
		} else {
			f.give(p[:n])
		}
		f.left -= n
		p = p[n:]
		if f.left == 0 {
			f.finish(end)
		}
	}
}

// begin is called at the end of a header.
func (f *frame) begin(begin func(head []byte) bool, end func(head, body []byte) []byte) {
	f.left = max(0, f.length()+4-len(f.head))
	f.keep = begin(f.head)
	if f.keep && f.left > maxProduceAnswer {
		f.keep = false
		end(f.head, nil)
	}
	if !f.keep {
		f.give(f.head)
	}
}

func (f *frame) finish(end func(head, body []byte) []byte) {
	if f.keep {
		body := end(f.head, append([]byte{}, f.body...))
		binary.BigEndian.PutUint32(f.head, uint32(len(f.head)-4+len(body)))
		f.give(f.head)
		f.give(body)
	}
	f.head, f.body, f.keep = f.head[:0], f.body[:0], false
}

func (f *frame) give(p []byte) {
	if f.pass != nil {
		f.pass(p)
	}
}

// wanted returns how long this frame's header is: as configured, or less where
// the whole frame is shorter.
func (f *frame) wanted() int {
	if len(f.head) < 4 {
		return 4
	}
	return min(f.header, 4+max(0, f.length()))
}

// length is what the frame's first four bytes say.
func (f *frame) length() int { return int(int32(binary.BigEndian.Uint32(f.head))) }
