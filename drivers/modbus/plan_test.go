package modbus

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func mkTag(area string, at, count int) *tag {
	return &tag{spec: &spec{name: fmt.Sprintf("%s-%d-%d", area, at, count), table: tables[area], at: at, count: count}}
}

func TestTagsAreMerged(t *testing.T) {
	type req struct{ at, count int }
	std := Grouping{MaxGap: 16, MaxRegisters: 125, MaxBits: 2000}
	tests := []struct {
		name   string
		limits Grouping
		tags   []*tag
		want   []req
	}{
		{"neighbours, whatever their order", std, []*tag{mkTag("holding", 2, 2), mkTag("holding", 0, 2)}, []req{{0, 4}}},
		{"over a gap that is allowed", std, []*tag{mkTag("holding", 0, 1), mkTag("holding", 17, 1)}, []req{{0, 18}}},
		{"not over a larger gap", std, []*tag{mkTag("holding", 0, 1), mkTag("holding", 18, 1)}, []req{{0, 1}, {18, 1}}},
		{"no gap at all", Grouping{MaxRegisters: 125}, []*tag{mkTag("holding", 0, 1), mkTag("holding", 1, 1), mkTag("holding", 3, 1)}, []req{{0, 2}, {3, 1}}},
		{"not over the largest request", std, []*tag{mkTag("holding", 0, 124), mkTag("holding", 124, 2)}, []req{{0, 124}, {124, 2}}},
		{"up to the largest request", std, []*tag{mkTag("holding", 0, 123), mkTag("holding", 123, 2)}, []req{{0, 125}}},
		{"limit of the device", Grouping{MaxGap: 16, MaxRegisters: 4, MaxBits: 8}, []*tag{mkTag("input", 0, 2), mkTag("input", 2, 2), mkTag("input", 4, 2)}, []req{{0, 4}, {4, 2}}},
		{"bits by their own limit", Grouping{MaxGap: 16, MaxRegisters: 4, MaxBits: 8}, []*tag{mkTag("coil", 0, 1), mkTag("coil", 7, 1), mkTag("coil", 8, 1)}, []req{{0, 8}, {8, 1}}},
		{"tables apart", std, []*tag{mkTag("holding", 0, 1), mkTag("input", 1, 1)}, []req{{0, 1}, {1, 1}}},
		{"the same address twice", std, []*tag{mkTag("holding", 5, 1), mkTag("holding", 5, 2)}, []req{{5, 2}}},
		{"one within another", std, []*tag{mkTag("holding", 0, 8), mkTag("holding", 2, 1), mkTag("holding", 8, 1)}, []req{{0, 9}}},
		{"last address", std, []*tag{mkTag("holding", 65535, 1)}, []req{{65535, 1}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got []req
			for _, r := range plan(test.tags, test.limits, nil) {
				got = append(got, req{r.at, r.count})
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestPlanCoversEachTagOnceWithinLimits(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	areas := []string{"holding", "input", "coil", "discrete"}
	for range 1000 {
		limits := Grouping{MaxGap: r.IntN(20), MaxRegisters: 4 + r.IntN(122), MaxBits: 1 + r.IntN(200)}
		var tags []*tag
		for range 1 + r.IntN(60) {
			area, count := areas[r.IntN(4)], 1
			if !tables[area].bits() {
				count = 1 << r.IntN(3)
			}
			tags = append(tags, mkTag(area, r.IntN(300), count))
		}
		checkPlan(t, plan(tags, limits, nil), tags, limits)
	}
}

func checkPlan(t *testing.T, requests []*request, tags []*tag, limits Grouping) {
	t.Helper()
	seen := map[*tag]int{}
	for _, r := range requests {
		longest := limits.MaxRegisters
		if r.table.bits() {
			longest = limits.MaxBits
		}
		if r.count < 1 || r.count > longest {
			t.Fatalf("a request of %d, the limit is %d", r.count, longest)
		}
		end := r.at
		for _, x := range r.tags {
			seen[x]++
			if x.table != r.table || x.at < r.at || x.at+x.count > r.at+r.count {
				t.Fatalf("%s isn't within %v %d+%d", x.name, r.table, r.at, r.count)
			}
			if x.at-end > limits.MaxGap {
				t.Fatalf("a gap of %d, the limit is %d", x.at-end, limits.MaxGap)
			}
			end = max(end, x.at+x.count)
		}
		if end != r.at+r.count {
			t.Fatalf("%v %d+%d reads beyond its last tag", r.table, r.at, r.count)
		}
	}
	for _, x := range tags {
		if seen[x] != 1 {
			t.Fatalf("%s is in %d requests", x.name, seen[x])
		}
	}
}

func TestPlanHasTheFewestRequests(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		limits := Grouping{MaxGap: r.IntN(6), MaxRegisters: 4 + r.IntN(20), MaxBits: 10}
		var tags []*tag
		for at := r.IntN(5); len(tags) < 12; at += r.IntN(8) {
			x := mkTag("holding", at, 1+r.IntN(4))
			tags = append(tags, x)
			at += x.count
		}
		if got, want := len(plan(tags, limits, nil)), fewest(tags, limits); got != want {
			t.Fatalf("%d requests, %d would do (limits %+v)", got, want, limits)
		}
	}
}

// fewest tries every way to cut a row of tags that don't overlap.
func fewest(tags []*tag, limits Grouping) int {
	best := make([]int, len(tags)+1)
	for i := len(tags) - 1; i >= 0; i-- {
		best[i] = len(tags) + 1
		for j := i; j < len(tags); j++ {
			last := tags[j]
			if last.at+last.count-tags[i].at > limits.MaxRegisters || j > i && last.at-tags[j-1].at-tags[j-1].count > limits.MaxGap {
				break
			}
			best[i] = min(best[i], 1+best[j+1])
		}
	}
	return best[0]
}

// TestPlanHasTheFewestRequestsOfTagsThatOverlap tries every way to part a few tags.
func TestPlanHasTheFewestRequestsOfTagsThatOverlap(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 500 {
		limits := Grouping{MaxGap: r.IntN(4), MaxRegisters: 4 + r.IntN(8), MaxBits: 10}
		var tags []*tag
		for range 2 + r.IntN(5) {
			tags = append(tags, mkTag("holding", r.IntN(20), 1+r.IntN(4)))
		}
		requests := plan(tags, limits, nil)
		checkPlan(t, requests, tags, limits)
		if got, want := len(requests), fewestParts(tags, nil, limits); got != want {
			t.Fatalf("%d requests, %d would do (limits %+v)", got, want, limits)
		}
	}
}

// fewestParts puts each tag into every part there is, or a new one.
func fewestParts(tags []*tag, parts [][]*tag, limits Grouping) int {
	if len(tags) == 0 {
		for _, p := range parts {
			if !oneRequest(p, limits) {
				return 1 << 30
			}
		}
		return len(parts)
	}
	best := fewestParts(tags[1:], append(slices.Clone(parts), []*tag{tags[0]}), limits)
	for i := range parts {
		more := slices.Clone(parts)
		more[i] = append(slices.Clone(parts[i]), tags[0])
		best = min(best, fewestParts(tags[1:], more, limits))
	}
	return best
}

// oneRequest says whether one request may read these tags.
func oneRequest(tags []*tag, limits Grouping) bool {
	wanted := map[int]bool{}
	first, end := 1<<30, 0
	for _, x := range tags {
		first, end = min(first, x.at), max(end, x.at+x.count)
		for i := range x.count {
			wanted[x.at+i] = true
		}
	}
	gap := 0
	for at := first; at < end; at++ {
		if gap++; wanted[at] {
			gap = 0
		}
		if gap > limits.MaxGap {
			return false
		}
	}
	return end-first <= limits.MaxRegisters
}

func TestPlanKeepsToWhatWasLearned(t *testing.T) {
	tags := []*tag{mkTag("holding", 0, 2), mkTag("holding", 2, 2), mkTag("holding", 4, 2), mkTag("holding", 6, 2), mkTag("holding", 8, 2), mkTag("input", 4, 2)}
	limits := Grouping{MaxGap: 16, MaxRegisters: 125, MaxBits: 2000}
	show := func(l *lessons) string {
		var out []string
		for _, r := range plan(tags, limits, l) {
			out = append(out, fmt.Sprintf("%v %d+%d", r.table, r.at, r.count))
		}
		return fmt.Sprint(out)
	}
	l := newLessons()
	now := time.Unix(1_000_000, 0)
	for _, step := range []struct {
		do   func()
		want string
	}{
		{func() {}, "[holding 0+10 input 4+2]"},
		{func() { l.refuse(tags[1], "exception-2", now) }, "[holding 0+2 holding 4+6 input 4+2]"},
		{func() { l.separate(cut{tags[0].table, 6}, now) }, "[holding 0+2 holding 4+2 holding 6+4 input 4+2]"},
		{func() { l.allow(tags[1]) }, "[holding 0+6 holding 6+4 input 4+2]"},
		{func() { l.expire(now.Add(cutsKept - 1)) }, "[holding 0+6 holding 6+4 input 4+2]"},
		{func() { l.expire(now.Add(cutsKept)) }, "[holding 0+10 input 4+2]"},
	} {
		step.do()
		if got := show(l); got != step.want {
			t.Errorf("planned %s, want %s", got, step.want)
		}
	}
}
