package uplink

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// pipe is a connection whose reads come from one buffer in pieces.
type pipe struct {
	net.Conn
	in    *bytes.Reader
	piece func() int
}

func (p *pipe) Read(b []byte) (int, error) { return p.in.Read(b[:min(len(b), p.piece())]) }

func (p *pipe) Write(b []byte) (int, error) { return len(b), nil }

// request is a frame as a client sends it.
func request(key, version int16, id int32, body []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(8+len(body)))
	b = binary.BigEndian.AppendUint16(b, uint16(key))
	b = binary.BigEndian.AppendUint16(b, uint16(version))
	b = binary.BigEndian.AppendUint32(b, uint32(id))
	return append(b, body...)
}

// produceAnswer is a frame as a broker sends it.
func produceAnswer(version int16, id int32, codes ...int16) []byte {
	resp := kmsg.NewPtrProduceResponse()
	resp.SetVersion(version)
	topic := kmsg.NewProduceResponseTopic()
	topic.Topic = "plant.process"
	for i, code := range codes {
		p := kmsg.NewProduceResponseTopicPartition()
		p.Partition, p.ErrorCode = int32(i), code
		topic.Partitions = append(topic.Partitions, p)
	}
	resp.Topics = append(resp.Topics, topic)
	var tags []byte
	if version >= flexibleProduce {
		tags = []byte{0}
	}
	return answer(id, append(tags, resp.AppendTo(nil)...))
}

func answer(id int32, body []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(4+len(body)))
	b = binary.BigEndian.AppendUint32(b, uint32(id))
	return append(b, body...)
}

func TestGuardSeesRefusals(t *testing.T) {
	tests := []struct {
		name  string
		codes []int16
		want  []*kerr.Error
	}{
		{"all taken", []int16{0, 0, 0}, nil},
		{"one refused", []int16{0, kerr.MessageTooLarge.Code, 0}, []*kerr.Error{kerr.MessageTooLarge}},
		{"each code once", []int16{-1, 19, -1}, []*kerr.Error{kerr.UnknownServerError, kerr.NotEnoughReplicas}},
		{"no partition", nil, nil},
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for _, tt := range tests {
		for _, version := range []int16{3, 7, 8, 9, 12, 13} {
			t.Run(fmt.Sprintf("%s v%d", tt.name, version), func(t *testing.T) {
				in := slices.Concat(answer(1, noise(5000)), produceAnswer(version, 2, tt.codes...), answer(3, nil), produceAnswer(version, 4))
				var got []*kerr.Error
				g := newGuard(&pipe{in: bytes.NewReader(in), piece: func() int { return 1 + rnd.IntN(40) }},
					func(codes []*kerr.Error) { got = append(got, codes...) })
				out := slices.Concat(request(3, 12, 1, noise(300)), request(0, version, 2, noise(3000)), request(18, 3, 3, nil), request(0, version, 4, nil))
				for len(out) > 0 {
					n, _ := g.Write(out[:min(len(out), 1+rnd.IntN(100))])
					out = out[n:]
				}
				read := readAll(g)
				if !bytes.Equal(read, in) {
					t.Error("the client gets other bytes than the broker sent")
				}
				if !slices.Equal(got, tt.want) {
					t.Errorf("saw %v, want %v", got, tt.want)
				}
				if len(g.produces) != 0 {
					t.Errorf("%d produces are left", len(g.produces))
				}
			})
		}
	}
}

func readAll(g *guard) []byte {
	var all []byte
	buf := make([]byte, 64)
	for {
		n, err := g.Read(buf)
		all = append(all, buf[:n]...)
		if err != nil {
			return all
		}
	}
}

func TestGuardTakesAnswersItCannotReadAsRefusals(t *testing.T) {
	for name, body := range map[string][]byte{
		"cut off":   produceAnswer(9, 7, -1)[8:20],
		"nonsense":  bytes.Repeat([]byte{255}, 100),
		"empty":     {},
		"too large": make([]byte, maxProduceAnswer+2),
	} {
		t.Run(name, func(t *testing.T) {
			var got []*kerr.Error
			g := newGuard(&pipe{in: bytes.NewReader(answer(7, body)), piece: func() int { return 1 << 16 }},
				func(codes []*kerr.Error) { got = codes })
			_, _ = g.Write(request(0, 9, 7, nil))
			readAll(g)
			if !slices.Equal(got, []*kerr.Error{kerr.CorruptMessage}) {
				t.Errorf("saw %v", got)
			}
		})
	}
}

// TestGuardHidesWhatMakesTheClientStartAnew asks that the client gets another refusal in
// place of one that would have it send on by itself, and all else as it was.
func TestGuardHidesWhatMakesTheClientStartAnew(t *testing.T) {
	hidden := []*kerr.Error{kerr.OutOfOrderSequenceNumber, kerr.UnknownProducerID, kerr.InvalidProducerIDMapping, kerr.InvalidProducerEpoch}
	for _, anew := range []bool{true, false} {
		for _, version := range []int16{3, 8, 9, 13} {
			for _, e := range hidden {
				t.Run(fmt.Sprintf("%s v%d, by itself %t", e.Message, version, anew), func(t *testing.T) {
					first := answer(1, noise(500))
					in := slices.Concat(first, produceAnswer(version, 2, 0, e.Code, kerr.NotLeaderForPartition.Code), answer(3, nil))
					want := in
					if anew {
						want = slices.Concat(first, produceAnswer(version, 2, 0, forgotten.Code, kerr.NotLeaderForPartition.Code), answer(3, nil))
					}
					var got []*kerr.Error
					g := newGuard(&pipe{in: bytes.NewReader(in), piece: func() int { return 13 }}, func(codes []*kerr.Error) { got = codes })
					g.anew = anew
					_, _ = g.Write(request(0, version, 2, noise(3000)))
					if !bytes.Equal(readAll(g), want) {
						t.Error("the client gets something else")
					}
					if !slices.Equal(got, []*kerr.Error{e, kerr.NotLeaderForPartition}) {
						t.Errorf("saw %v", got)
					}
				})
			}
		}
	}
}

// FuzzGuard asks that no stream of bytes in either direction breaks the guard or
// is changed by it, but for an answer that was cut off.
func FuzzGuard(f *testing.F) {
	f.Add(request(0, 9, 2, nil), produceAnswer(9, 2, -1, 0))
	f.Add(request(0, 3, 2, nil), produceAnswer(3, 2, 10))
	f.Add([]byte{0, 0, 0, 1, 2, 255, 255, 255, 255, 0}, []byte{0, 0, 0, 0, 128, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, out, in []byte) {
		g := newGuard(&pipe{in: bytes.NewReader(in), piece: func() int { return 7 }}, func(codes []*kerr.Error) {
			if len(codes) == 0 {
				t.Error("called without an error")
			}
		})
		_, _ = g.Write(out)
		if read := readAll(g); !bytes.HasPrefix(in, read) || len(in)-len(read) != len(g.in.head)+len(g.in.body) && g.in.keep {
			t.Error("bytes were changed")
		}
		if len(g.in.body) > maxProduceAnswer+64 || len(g.out.body) > 0 || len(g.in.head) > answerHeader || len(g.out.head) > requestHeader {
			t.Error("kept too much")
		}
	})
}
