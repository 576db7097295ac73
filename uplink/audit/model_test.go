package audit

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// modelLane is what was done to one lane, number by number.
type modelLane struct {
	delivered, replayed map[uint64]bool
	explained           map[uint64]string // by the reason that was first of all in the lane
	reasons             []string
	duplicates, replays uint64
	disorder            uint64
	highest             map[string]uint64 // by partition and key
	last                uint64
}

func newModelLane() *modelLane {
	return &modelLane{delivered: map[uint64]bool{}, replayed: map[uint64]bool{}, explained: map[uint64]string{}, highest: map[string]uint64{}}
}

// sent takes one record into account.
func (m *modelLane) sent(r *kgo.Record, seq uint64, replay bool) {
	m.last = max(m.last, seq)
	switch {
	case replay:
		m.replays++
		m.replayed[seq] = true
		return
	case m.delivered[seq]:
		m.duplicates++
		return
	}
	m.delivered[seq] = true
	at := fmt.Sprintf("%d %s", r.Partition, r.Key)
	if seq < m.highest[at] {
		m.disorder++
	}
	m.highest[at] = max(m.highest[at], seq)
}

func (m *modelLane) explain(first, last uint64, reason string, kept []uint64) {
	if !slices.Contains(m.reasons, reason) {
		m.reasons = append(m.reasons, reason)
	}
	for n := first; n <= last; n++ {
		before, there := m.explained[n]
		if !slices.Contains(kept, n) && (!there || slices.Index(m.reasons, reason) < slices.Index(m.reasons, before)) {
			m.explained[n] = reason
		}
	}
}

// verdict is what an audit has to find.
func (m *modelLane) verdict() (delivered uint64, explained map[string]uint64, missing []uint64) {
	explained = map[string]uint64{}
	for n := uint64(1); n <= m.last; n++ {
		switch reason := m.explained[n]; {
		case m.delivered[n] || m.replayed[n]:
			delivered++
		case reason != "":
			explained[reason]++
		default:
			missing = append(missing, n)
		}
	}
	return delivered, explained, missing
}

// story makes the records of one lane with random losses, repetitions, gap records,
// swaps and replays.
func story(rnd *rand.Rand, lane string) (*modelLane, []*kgo.Record) {
	m := newModelLane()
	var out, recent []*kgo.Record
	lossy := []float64{0, 0.002, 0.3}[rnd.IntN(3)]
	for n, last := uint64(1), uint64(100+rnd.IntN(900)); n <= last; n++ {
		r := eventOf(lane, n)
		r.Partition = int32((n%7 + n/100) % 3) // a key may change its partition
		switch dice := rnd.Float64(); {
		case dice < lossy:
			continue
		case dice < lossy+0.01 && n > 20: // some numbers before, or a part of them
			first := 1 + rnd.Uint64N(n-10)
			end := min(first+rnd.Uint64N(30), n-1)
			var kept []uint64
			if rnd.IntN(3) == 0 && end > first {
				kept = []uint64{first + rnd.Uint64N(end-first+1)}
			}
			reason := []string{"drop_oldest", "expired", "corrupt", "restart", "thinned"}[rnd.IntN(5)]
			m.explain(first, end, reason, kept)
			r = gapOf(lane, n, first, end, reason, kept...)
		}
		out, recent = append(out, r), append(recent, r)
		m.sent(r, n, false)
		switch rnd.IntN(60) {
		case 0: // what was sent last comes again, as after a kill
			for _, again := range recent[max(0, len(recent)-rnd.IntN(5)):] {
				out = append(out, again)
				m.sent(again, seqOf(again), false)
			}
		case 1:
			back := 1 + rnd.Uint64N(n)
			again := header(eventOf(lane, back), headerReplay, "r")
			out = append(out, again)
			m.sent(again, back, true)
		}
	}
	return m, out
}

func seqOf(r *kgo.Record) uint64 {
	_, seq, _ := splitID(r.Headers[0].Value)
	return seq
}

// shuffle swaps neighbours of one partition now and then: that is disorder
// where they have one key.
func shuffle(rnd *rand.Rand, records []*kgo.Record) {
	for i := 1; i < len(records); i++ {
		if rnd.IntN(100) == 0 && !isGap(records[i]) && !isGap(records[i-1]) {
			records[i], records[i-1] = records[i-1], records[i]
		}
	}
}

func isGap(r *kgo.Record) bool { return string(r.Headers[1].Value) == typeGap }

// TestModel makes random streams, and compares what an audit finds with what was
// done to each number.
func TestModel(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { modelRun(t, rand.New(rand.NewPCG(seed, 7))) })
	}
}

func modelRun(t *testing.T, rnd *rand.Rand) {
	r := newRig(t, plant)
	models := map[string]*modelLane{}
	var streams [][]*kgo.Record
	for agent := range 1 + rnd.IntN(4) {
		for _, class := range []string{"alarm", "process"}[:1+rnd.IntN(2)] {
			for boot := range 1 + rnd.IntN(2) {
				lane := fmt.Sprintf("gw-%d/%s/%08x", agent, class, boot)
				m, records := story(rnd, lane)
				models[lane], streams = m, append(streams, records)
			}
		}
	}
	var all []*kgo.Record
	for len(streams) > 0 { // interleaved
		i := rnd.IntN(len(streams))
		n := min(1+rnd.IntN(20), len(streams[i]))
		for _, rec := range streams[i][:n] {
			again := *rec
			all = append(all, &again) // one that is there twice is two records
		}
		if streams[i] = streams[i][n:]; len(streams[i]) == 0 {
			streams = slices.Delete(streams, i, i+1)
		}
	}
	r.produce(t, all...)
	res := r.audit(t, "plant.process")
	if res.Totals.Lanes != len(models) || res.Totals.Records != uint64(len(all)) || res.Totals.Malformed > 0 {
		t.Errorf("totals %+v, want %d lanes, %d records", res.Totals, len(models), len(all))
	}
	for l := range res.Lanes() {
		compareLane(t, l, models[l.Agent+"/"+l.Class+"/"+l.Incarnation])
	}
}

func compareLane(t *testing.T, l Lane, m *modelLane) {
	t.Helper()
	delivered, explained, missing := m.verdict()
	if l.Delivered != delivered || !maps.Equal(l.Explained, explained) || l.Unexplained != uint64(len(missing)) || l.Last != m.last {
		t.Errorf("%s/%s/%s: delivered %d, explained %v, unexplained %d; want %d, %v, %d", l.Agent, l.Class, l.Incarnation,
			l.Delivered, l.Explained, l.Unexplained, delivered, explained, len(missing))
	}
	if l.Duplicates != m.duplicates || l.Replayed != m.replays || l.OutOfOrder != m.disorder || l.CutOff != 0 {
		t.Errorf("%s/%s: duplicates %d, replayed %d, out of order %d; want %d, %d, %d", l.Agent, l.Class, l.Duplicates, l.Replayed, l.OutOfOrder,
			m.duplicates, m.replays, m.disorder)
	}
	compareRanges(t, l, m)
	ranges := rangesOf(missing)
	if l.UnexplainedRanges != uint64(len(ranges)) || !slices.Equal(l.UnexplainedExamples, ranges[:min(len(ranges), maxExamples)]) {
		t.Errorf("%s/%s: %d ranges %v, want %v", l.Agent, l.Class, l.UnexplainedRanges, l.UnexplainedExamples, ranges)
	}
}

// rangesOf are the runs of ascending numbers.
func rangesOf(numbers []uint64) (ranges []Range) {
	for _, n := range numbers {
		if k := len(ranges) - 1; k >= 0 && ranges[k].Last+1 == n {
			ranges[k].Last = n
		} else {
			ranges = append(ranges, Range{n, n})
		}
	}
	return ranges
}

// compareRanges compares the runs of what is there and of what is explained.
func compareRanges(t *testing.T, l Lane, m *modelLane) {
	t.Helper()
	var there []uint64
	reasons := map[string][]uint64{}
	for n := uint64(1); n <= m.last; n++ {
		if m.delivered[n] || m.replayed[n] {
			there = append(there, n)
		} else if reason := m.explained[n]; reason != "" {
			reasons[reason] = append(reasons[reason], n)
		}
	}
	delivered := rangesOf(there)
	if l.DeliveredRangeCount != uint64(len(delivered)) || !slices.Equal(l.DeliveredRanges, delivered[:min(len(delivered), maxExamples)]) {
		t.Errorf("%s/%s: delivered in %d ranges %v, want %v", l.Agent, l.Class, l.DeliveredRangeCount, l.DeliveredRanges, delivered)
	}
	var explained []ExplainedRange
	for reason, numbers := range reasons {
		for _, r := range rangesOf(numbers) {
			explained = append(explained, ExplainedRange{r, reason})
		}
	}
	slices.SortFunc(explained, func(a, b ExplainedRange) int { return cmp.Compare(a.First, b.First) })
	if l.ExplainedRangeCount != uint64(len(explained)) || !slices.Equal(l.ExplainedRanges, explained[:min(len(explained), maxExamples)]) {
		t.Errorf("%s/%s: explained in %d ranges %v, want %v", l.Agent, l.Class, l.ExplainedRangeCount, l.ExplainedRanges, explained)
	}
}

// TestModelOfOrder swaps records: each that stands behind a later one of its key
// counts.
func TestModelOfOrder(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 9))
		r := newRig(t, plant)
		records := events(1, 2000)
		shuffle(rnd, records)
		for i := range 60 { // and some keys again, behind others
			j := rnd.IntN(len(records) - 10)
			records[j], records[j+7*(i%2)] = records[j+7*(i%2)], records[j]
		}
		m := newModelLane()
		for _, rec := range records {
			m.sent(rec, seqOf(rec), false)
		}
		r.produce(t, records...)
		if l := only(t, r.audit(t, "plant.process")); l.OutOfOrder != m.disorder || m.disorder == 0 || l.Unexplained != 0 {
			t.Errorf("seed %d: out of order %d, want %d (unexplained %d)", seed, l.OutOfOrder, m.disorder, l.Unexplained)
		}
	}
}
