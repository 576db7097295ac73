package simulate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// maxFrame bounds a request or a response, as Kafka's socket.request.max.bytes
// does by default.
const maxFrame = 100 << 20

// The part of a Kafka frame that the link looks at (Kafka protocol guide,
// "Protocol Primitive Types", "Request Header", "Response Header"):
//
//	request   size int32 | api key int16 | api version int16 | correlation id int32 | …
//	response  size int32 | correlation id int32 | tagged fields, in flexible versions | body
const (
	requestHead  = 8
	responseHead = 4
)

// questions remembers which answers of a connection have to be rewritten.
type questions struct {
	mu   sync.Mutex
	open map[int32]question // by correlation id
}

type question struct{ key, version int16 }

// addressOf gives the address that a client is to use for a broker.
type addressOf func(host string, port int32) (string, int32, error)

// forward copies requests from the client to the broker until one side ends.
func (q *questions) forward(broker io.Writer, client io.Reader) error {
	var frame []byte
	for {
		var err error
		if frame, err = readFrame(client, frame, requestHead); err != nil {
			return fmt.Errorf("request: %w", err)
		}
		asked := question{
			key:     int16(binary.BigEndian.Uint16(frame[4:])),
			version: int16(binary.BigEndian.Uint16(frame[6:])),
		}
		if asked.namesBrokers() {
			q.note(int32(binary.BigEndian.Uint32(frame[8:])), asked)
		}
		if _, err := broker.Write(frame); err != nil {
			return fmt.Errorf("request: %w", err)
		}
	}
}

// answer copies responses from the broker to the client until one side ends,
// with the brokers' addresses replaced.
func (q *questions) answer(client io.Writer, broker io.Reader, address addressOf) error {
	var frame []byte
	for {
		var err error
		if frame, err = readFrame(broker, frame, responseHead); err != nil {
			return fmt.Errorf("response: %w", err)
		}
		out := frame
		if asked, ok := q.take(int32(binary.BigEndian.Uint32(frame[4:]))); ok {
			if out, err = rewrite(asked, frame, address); err != nil {
				return err
			}
		}
		if _, err := client.Write(out); err != nil {
			return fmt.Errorf("response: %w", err)
		}
	}
}

func (q *questions) note(id int32, asked question) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.open == nil {
		q.open = make(map[int32]question)
	}
	q.open[id] = asked
}

func (q *questions) take(id int32) (question, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	asked, ok := q.open[id]
	delete(q.open, id)
	return asked, ok
}

// namesBrokers says whether the answer may hold addresses of brokers. Produce
// and Fetch name the new leader since KIP-951.
func (q question) namesBrokers() bool {
	switch kmsg.Key(q.key) {
	case kmsg.Metadata, kmsg.FindCoordinator, kmsg.DescribeCluster:
		return true
	case kmsg.Produce:
		return q.version >= 10
	case kmsg.Fetch:
		return q.version >= 16
	}
	return false
}

// readFrame reads a whole frame, size included, into buf or a larger one.
func readFrame(r io.Reader, buf []byte, atLeast int) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return buf, err
	}
	size := int(int32(binary.BigEndian.Uint32(head[:])))
	if size < atLeast || size > maxFrame {
		return buf, fmt.Errorf("a frame of %d bytes isn't Kafka (%d to %d)", size, atLeast, maxFrame)
	}
	if cap(buf) < 4+size {
		buf = make([]byte, 4+size)
	}
	buf = buf[:4+size]
	copy(buf, head[:])
	_, err := io.ReadFull(r, buf[4:])
	return buf, err
}

// rewrite returns the response frame with the brokers' addresses replaced.
func rewrite(asked question, frame []byte, address addressOf) ([]byte, error) {
	response := kmsg.ResponseForKey(asked.key)
	if response == nil || asked.version > response.MaxVersion() {
		return nil, fmt.Errorf("rewrite: version %d of request %d is unknown here", asked.version, asked.key)
	}
	response.SetVersion(asked.version)
	body := 4 + responseHead
	if response.IsFlexible() {
		n, err := tagsLength(frame[body:])
		if err != nil {
			return nil, fmt.Errorf("rewrite %s: %w", kmsg.NameForKey(asked.key), err)
		}
		body += n
	}
	if err := response.ReadFrom(frame[body:]); err != nil {
		return nil, fmt.Errorf("rewrite %s: %w", kmsg.NameForKey(asked.key), err)
	}
	if err := replaceBrokers(response, address); err != nil {
		return nil, fmt.Errorf("rewrite %s: %w", kmsg.NameForKey(asked.key), err)
	}
	out := response.AppendTo(append([]byte(nil), frame[:body]...))
	binary.BigEndian.PutUint32(out, uint32(len(out)-4))
	return out, nil
}

// replaceBrokers replaces each address in a response that namesBrokers.
func replaceBrokers(response kmsg.Response, address addressOf) error {
	var errs []error
	replace := func(host *string, port *int32) {
		if *host == "" || *port < 1 { // no coordinator yet, for example
			return
		}
		h, p, err := address(*host, *port)
		if err != nil {
			errs = append(errs, err)
			return
		}
		*host, *port = h, p
	}
	switch r := response.(type) {
	case *kmsg.MetadataResponse:
		for i := range r.Brokers {
			replace(&r.Brokers[i].Host, &r.Brokers[i].Port)
		}
	case *kmsg.FindCoordinatorResponse:
		replace(&r.Host, &r.Port)
		for i := range r.Coordinators {
			replace(&r.Coordinators[i].Host, &r.Coordinators[i].Port)
		}
	case *kmsg.DescribeClusterResponse:
		for i := range r.Brokers {
			replace(&r.Brokers[i].Host, &r.Brokers[i].Port)
		}
	case *kmsg.ProduceResponse:
		for i := range r.Brokers {
			replace(&r.Brokers[i].Host, &r.Brokers[i].Port)
		}
	case *kmsg.FetchResponse:
		for i := range r.Brokers {
			replace(&r.Brokers[i].Host, &r.Brokers[i].Port)
		}
	}
	return errors.Join(errs...)
}

var errTags = errors.New("the tagged fields of the response header are broken")

// tagsLength returns how many bytes the tagged fields take (KIP-482): a count,
// and for each a tag, a size and as many bytes.
func tagsLength(b []byte) (int, error) {
	at := 0
	number := func() uint64 {
		v, n := binary.Uvarint(b[at:])
		if n <= 0 {
			at = len(b) + 1
			return 0
		}
		at += n
		return v
	}
	for count := number(); count > 0 && at <= len(b); count-- {
		number()
		if at > len(b) {
			break
		}
		size := number()
		if at > len(b) || size > uint64(len(b)-at) {
			return 0, errTags
		}
		at += int(size)
	}
	if at > len(b) {
		return 0, errTags
	}
	return at, nil
}
