//go:build torture

package torture

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"sluice/buffer"
	"sluice/drivers"
)

// id names an event for ever: the life of the child and the goroutine that
// appended it, and its number there.
type id uint64

func newID(life, producer, n int) id { return id(life)<<44 | id(producer)<<36 | id(n) }

func (i id) String() string { return fmt.Sprintf("%d/%d/%d", i>>44, i>>36&0xff, i&(1<<36-1)) }

// A payload says what it must be: magic, id (8), time (8), size (4), and noise
// that follows from the id, so that an event needs no original to be checked.
const (
	payloadMagic = "TORT"
	payloadHead  = 24
)

func noise(b []byte, seed uint64) {
	r := rand.NewPCG(seed, 7)
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, r.Uint64())
		b = b[8:]
	}
	for i := range b {
		b[i] = byte(r.Uint64())
	}
}

func makeEvent(class string, i id, at time.Time, size int) drivers.Event {
	size = max(size, payloadHead)
	b := make([]byte, size)
	copy(b, payloadMagic)
	binary.BigEndian.PutUint64(b[4:], uint64(i))
	binary.BigEndian.PutUint64(b[12:], uint64(at.UnixNano()))
	binary.BigEndian.PutUint32(b[20:], uint32(size))
	noise(b[payloadHead:], uint64(i))
	return drivers.Event{Class: class, Source: "line", Subject: fmt.Sprintf("plant/m%d", i%7), Type: drivers.TypeMQTTMessage,
		ContentType: drivers.ContentBinary, Time: time.Unix(0, at.UnixNano()).UTC(), Payload: b}
}

// readEvent returns the id of an event that is right in every byte.
func readEvent(class string, e drivers.Event) (id, error) {
	b := e.Payload
	if len(b) < payloadHead || string(b[:4]) != payloadMagic || int(binary.BigEndian.Uint32(b[20:])) != len(b) {
		return 0, fmt.Errorf("a payload of %d bytes that begins with %.24q", len(b), b)
	}
	i := id(binary.BigEndian.Uint64(b[4:]))
	want := makeEvent(class, i, time.Unix(0, int64(binary.BigEndian.Uint64(b[12:]))), len(b))
	if !bytes.Equal(b, want.Payload) {
		return i, fmt.Errorf("event %s: the payload differs", i)
	}
	if e.Class != want.Class || e.Source != want.Source || e.Subject != want.Subject || e.Type != want.Type ||
		e.ContentType != want.ContentType || e.Device != "" || !e.Time.Equal(want.Time) {
		e.Payload, want.Payload = nil, nil
		return i, fmt.Errorf("event %s: %+v, want %+v", i, e, want)
	}
	return i, nil
}

// gapRecord is what a gap record says is missing: first to last without kept.
type gapRecord struct {
	First  uint64   `json:"first"`
	Last   uint64   `json:"last"`
	Count  uint64   `json:"count"`
	Reason string   `json:"reason"`
	Kept   []uint64 `json:"kept,omitempty"`
}

func readGap(class string, e drivers.Event) (gapRecord, error) {
	var g gapRecord
	if err := json.Unmarshal(e.Payload, &g); err != nil {
		return g, fmt.Errorf("gap record %.80q: %w", e.Payload, err)
	}
	inside := func(n uint64) bool { return n >= g.First && n <= g.Last }
	kept := uint64(len(g.Kept))
	switch {
	case e.Type != buffer.TypeGap || e.Source != buffer.SourceBuffer || e.Class != class || e.ContentType != drivers.ContentJSON:
		return g, fmt.Errorf("gap record as %s of %s in class %s", e.Type, e.Source, e.Class)
	case g.First == 0 || g.Last < g.First || g.Reason == "":
		return g, fmt.Errorf("gap record %s", e.Payload)
	case !slices.IsSorted(g.Kept) || kept > 0 && !(inside(g.Kept[0]) && inside(g.Kept[kept-1])):
		return g, fmt.Errorf("gap record with wrong kept: %s", e.Payload)
	case g.Count != g.Last-g.First+1-kept:
		return g, fmt.Errorf("gap record with wrong count: %s", e.Payload)
	}
	return g, nil
}

// span is a run of numbers, both ends included.
type span struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

// spans is a set of numbers. sorted() is needed before it is asked.
type spans []span

func (s *spans) add(first, last uint64) {
	if n := len(*s); n > 0 && first > 0 && (*s)[n-1].Last == first-1 {
		(*s)[n-1].Last = last
		return
	}
	*s = append(*s, span{first, last})
}

func (s spans) sorted() spans {
	s = slices.Clone(s)
	slices.SortFunc(s, func(a, b span) int { return cmp.Compare(a.First, b.First) })
	var out spans
	for _, x := range s {
		n := len(out) - 1
		if n >= 0 && (x.First <= out[n].Last || x.First-1 == out[n].Last) {
			out[n].Last = max(out[n].Last, x.Last)
		} else {
			out = append(out, x)
		}
	}
	return out
}

// has reports whether n is in the set.
func (s spans) has(n uint64) bool { return s.from(n).starts(n) }

// from is the part of the set whose spans end at n or after it.
func (s spans) from(n uint64) spans {
	i, _ := slices.BinarySearchFunc(s, n, func(x span, n uint64) int {
		if x.Last < n {
			return -1
		}
		return 1
	})
	return s[i:]
}

func (s spans) starts(n uint64) bool { return len(s) > 0 && s[0].First <= n }

// count counts the numbers of the set from first to last.
func (s spans) count(first, last uint64) (n uint64) {
	for _, x := range s.from(first) {
		if x.First > last {
			break
		}
		n += min(x.Last, last) - max(x.First, first) + 1
	}
	return n
}

// without is the set less the numbers of b.
func (s spans) without(b spans) (out spans) {
	for _, x := range s {
		first, left := x.First, true
		for _, y := range b.from(x.First) {
			if y.First > x.Last {
				break
			}
			if y.First > first {
				out = append(out, span{first, y.First - 1})
			}
			if left = y.Last < x.Last; !left {
				break
			}
			first = y.Last + 1
		}
		if left {
			out = append(out, span{first, x.Last})
		}
	}
	return out
}

func (s spans) String() string {
	var b strings.Builder
	for i, x := range s {
		if i == 5 {
			fmt.Fprintf(&b, " and %d more", len(s)-i)
			break
		}
		fmt.Fprintf(&b, " %d-%d", x.First, x.Last)
	}
	return strings.TrimSpace(b.String())
}

// explained is what the records say is missing.
func explained(records []gapRecord) spans {
	var s spans
	for _, g := range records {
		first := g.First
		for _, k := range g.Kept {
			if k > first {
				s = append(s, span{first, k - 1})
			}
			first = k + 1
		}
		if first <= g.Last {
			s = append(s, span{first, g.Last})
		}
	}
	return s.sorted()
}
