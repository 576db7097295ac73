package audit

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// heap is what is in use, in bytes.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// source makes records of lanes without a Kafka.
type source struct {
	tally *tally
	parts []*partition
	r     kgo.Record
}

func newSource(memory int64, partitions int) *source {
	t := &topic{cluster: &cluster{no: 1}, name: "plant.process"}
	s := &source{tally: newTally(&Config{Memory: memory})}
	for i := range partitions {
		s.parts = append(s.parts, &partition{topic: t, no: int32(i), num: int32(i)})
	}
	s.r.Headers = []kgo.RecordHeader{{Key: "ce_specversion", Value: []byte("1.0")}, {Key: headerID}, {Key: "ce_source", Value: []byte("/gw/line")},
		{Key: headerType, Value: []byte("sluice.mqtt.message.v1")}, {Key: headerTime, Value: []byte("2026-01-02T03:04:05.000000000Z")}}
	return s
}

// take has the tally take number seq of a lane.
func (s *source) take(lane string, seq uint64, key string) {
	s.r.Headers[1].Value = fmt.Appendf(s.r.Headers[1].Value[:0], "%s/%d", lane, seq)
	s.r.Key, s.r.Timestamp = []byte(key), origin
	s.tally.take(s.parts[len(key)%len(s.parts)], &s.r)
}

const plantAgents = 10_000

// everyLane calls visit for each lane of 10,000 agents with three classes.
func everyLane(visit func(i int, lane string)) {
	for a := range plantAgents {
		for c, class := range []string{"alarm", "process", "security"} {
			visit(3*a+c, fmt.Sprintf("gateway-%05d/%s/%08x", a, class, a*77))
		}
	}
}

// TestMemoryOfAFleet: 10,000 agents with three classes, each with losses, and with
// keys of their own.
func TestMemoryOfAFleet(t *testing.T) {
	const memory, numbers = 128 << 20, 8
	before := heap()
	s := newSource(memory, 12)
	rnd := rand.New(rand.NewPCG(1, 2))
	lost := map[string]uint64{}
	for seq := uint64(1); seq <= numbers; seq++ {
		everyLane(func(i int, lane string) {
			if rnd.IntN(40) == 0 && seq > 1 && seq < numbers {
				lost[lane]++
				return
			}
			s.take(lane, seq, "machine-"+"0123456789"[:i%10])
		})
	}
	r := newResult(s.tally)
	used := heap() - before
	t.Logf("%d lanes, %d records: %.1f MiB in use, %.1f MiB by the account, %.0f bytes a lane", r.Totals.Lanes, r.Totals.Records,
		float64(used)/(1<<20), float64(s.tally.bytes)/(1<<20), float64(used)/float64(r.Totals.Lanes))
	if used > memory/4*3 {
		t.Errorf("%d bytes in use of %d: nothing is left for reading", used, memory)
	}
	if r.Totals.Lanes != 3*plantAgents || len(r.Incomplete) > 0 || r.Totals.OrderUnchecked > 0 {
		t.Errorf("totals %+v, incomplete %q", r.Totals, r.Incomplete)
	}
	for l := range r.Lanes() {
		if want := lost[l.Agent+"/"+l.Class+"/"+l.Incarnation]; l.Unexplained != want || l.Duplicates > 0 {
			t.Fatalf("%s: unexplained %d, want %d", l.Agent, l.Unexplained, want)
		}
	}
	runtime.KeepAlive(s)
}

// TestRangesAreBounded: of a lane with a hole at each second number, half of them
// explained in turn by two reasons, a verdict holds the first ten ranges of each kind
// and how many there are, and keeps no room for the others. Of one that is only
// counted it has none.
func TestRangesAreBounded(t *testing.T) {
	const numbers = 400_000
	s := newSource(DefaultMemory, 3)
	for seq := uint64(1); seq <= numbers; seq += 2 {
		s.take("gw-1/process/"+inc, seq, "k")
	}
	l := s.tally.lanes["gw-1/process/"+inc]
	for seq := uint64(2); seq < numbers; seq += 4 {
		l.explain(gapRecord{First: seq, Last: seq, Reason: []string{"expired", "corrupt"}[seq/4%2]})
	}
	r := newResult(s.tally)
	out := only(t, r)
	if out.DeliveredRangeCount != numbers/2 || len(out.DeliveredRanges) != maxExamples || out.DeliveredRanges[9] != (Range{19, 19}) {
		t.Errorf("delivered in %d ranges %v", out.DeliveredRangeCount, out.DeliveredRanges)
	}
	if out.ExplainedRangeCount != numbers/4 || len(out.ExplainedRanges) != maxExamples || out.ExplainedRanges[9] != (ExplainedRange{Range{38, 38}, "corrupt"}) {
		t.Errorf("explained in %d ranges %v", out.ExplainedRangeCount, out.ExplainedRanges)
	}
	if out.UnexplainedRanges != numbers/4-1 {
		t.Errorf("%d unexplained ranges", out.UnexplainedRanges)
	}
	if c := cap(out.DeliveredRanges) + cap(out.ExplainedRanges); c > 10*maxExamples {
		t.Errorf("room for %d ranges is kept", c)
	}
	l.coarsen()
	if out = r.judge(l); out.DeliveredRangeCount+out.ExplainedRangeCount > 0 || len(out.DeliveredRanges)+len(out.ExplainedRanges) > 0 {
		t.Errorf("a lane that is only counted has ranges: %+v", out)
	}
}

// TestMemoryWithTooManyHoles: every second number is lost for good. The largest
// lanes are only counted then, which the result says; what it says is true.
func TestMemoryWithTooManyHoles(t *testing.T) {
	const limit, lanes, numbers = 2 << 20, 20, 150_000
	before := heap()
	s := newSource(MinMemory, 3)
	s.tally.limit = limit
	for seq := uint64(1); seq <= numbers; seq += 2 {
		for lane := range lanes {
			if lane > 2 && seq > 4000 { // some have few
				break
			}
			s.take(fmt.Sprintf("gw-%d/process/0badcafe", lane), seq, "k")
			if s.tally.bytes > s.tally.limit {
				t.Fatalf("the account says %d bytes of %d", s.tally.bytes, s.tally.limit)
			}
		}
	}
	r := newResult(s.tally)
	used := heap() - before
	t.Logf("%.1f MiB in use, %.1f MiB by the account, %d coarse lanes", float64(used)/(1<<20), float64(s.tally.bytes)/(1<<20), s.tally.coarse)
	if used > limit/2*3 { // with the table of keys
		t.Errorf("%d bytes in use of %d", used, limit)
	}
	if s.tally.coarse == 0 || len(r.Incomplete) == 0 || r.Unread {
		t.Errorf("%d coarse lanes, incomplete %q", s.tally.coarse, r.Incomplete)
	}
	for l := range r.Lanes() {
		want := l.Last / 2
		if l.Coarse && (l.Unexplained > want || l.Unexplained < want-1) || !l.Coarse && l.Unexplained != want {
			t.Errorf("%s: unexplained %d of %d, coarse %t, want %d", l.Agent, l.Unexplained, l.Last, l.Coarse, want)
		}
	}
	runtime.KeepAlive(s)
}

// TestMemoryOfEndlessLanes: somebody makes up agents.
func TestMemoryOfEndlessLanes(t *testing.T) {
	const memory = MinMemory
	before := heap()
	s := newSource(memory, 3)
	for i := range 100_000 {
		s.take(fmt.Sprintf("gw-%d/process/%08x", i, i), 1, fmt.Sprint("key ", i))
	}
	r := newResult(s.tally)
	used := heap() - before
	t.Logf("%.1f MiB in use, %.1f MiB by the account, %d lanes", float64(used)/(1<<20), float64(s.tally.bytes)/(1<<20), r.Totals.Lanes)
	if used > memory/4*3 || s.tally.unheld == 0 || len(r.Incomplete) == 0 {
		t.Errorf("%d bytes in use of %d, %d records without room, incomplete %q", used, memory, s.tally.unheld, r.Incomplete)
	}
	runtime.KeepAlive(s)
}

// TestCoarseIsALowerBound turns lanes coarse at some moment of a story: what it
// then calls missing is missing.
func TestCoarseIsALowerBound(t *testing.T) {
	found := 0
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		m, records := story(rnd, "gw-1/process/"+inc)
		s := newSource(MinMemory, 3)
		at := rnd.IntN(len(records))
		for i, rec := range records {
			s.tally.take(s.parts[rec.Partition], rec)
			if i == at {
				s.tally.lanes["gw-1/process/"+inc].coarsen()
			}
		}
		_, _, missing := m.verdict()
		for l := range newResult(s.tally).Lanes() {
			if l.Unexplained > uint64(len(missing)) || !l.Coarse {
				t.Errorf("seed %d: %d unexplained, %d are missing", seed, l.Unexplained, len(missing))
			}
			if l.Unexplained > 0 {
				found++
			}
		}
	}
	if found < 20 {
		t.Errorf("coarse lanes found losses in %d of 200 stories", found)
	}
}
