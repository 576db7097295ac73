//go:build torture

package torture

import (
	"math/rand/v2"
	"time"

	"sluice/buffer"
)

// plan is what a child does.
type plan struct {
	config    func() buffer.Config // child and test call it; Dir, Log and ObserveCommit are the child's
	producers int                  // goroutines of each class that append
	size      func(r *rand.Rand) int
	rest      time.Duration // of a producer between two events
	uplinks   map[string]pace
}

// pace is how an uplink takes what it is given.
type pace struct {
	rest     time.Duration // after each batch
	ackEvery int           // acknowledges after this many batches
}

// stalled is an uplink that takes one batch and no more.
var stalled = pace{rest: time.Hour, ackEvery: 1000}

// phase is a plan under kills, in a directory of its own.
type phase struct {
	name  string
	plan  plan
	kills int
	// A kill comes this long after the buffer is open.
	least, most time.Duration
	// Of every three starts this many are killed while they open the buffer
	// or right after, and this many find flipped bytes in a segment.
	early, damaged int
}

// phases is what is killed. Other classes and settings go in as further rows.
var phases = []phase{
	{name: "append", kills: 30, least: 0, most: 150 * time.Millisecond, plan: plan{
		config: classes(block("block", 256<<20)), producers: 4, size: mixed,
		uplinks: map[string]pace{"fast": {}, "slow": {rest: 20 * time.Millisecond, ackEvery: 5}}}},
	{name: "read and acknowledge", kills: 30, least: 0, most: 150 * time.Millisecond, plan: plan{
		config: classes(block("block", 64<<20)), producers: 2, size: small, rest: 50 * time.Microsecond,
		uplinks: map[string]pace{"fast": {ackEvery: 1}, "slow": {rest: time.Millisecond, ackEvery: 3}}}},
	{name: "trim", kills: 30, least: 0, most: 200 * time.Millisecond, plan: plan{
		config: classes(block("block", 1<<20)), producers: 3, size: mixed,
		uplinks: map[string]pace{"fast": {}, "slow": {rest: 2 * time.Millisecond, ackEvery: 2}}}},
	{name: "seal", kills: 30, least: 0, most: 150 * time.Millisecond, plan: plan{
		config: classes(block("block", 2<<20)), producers: 3, size: big,
		uplinks: map[string]pace{"fast": {}, "slow": {rest: time.Millisecond, ackEvery: 4}}}},
	{name: "drop the oldest", kills: 25, least: 20 * time.Millisecond, most: 300 * time.Millisecond, plan: plan{
		config: classes(dropOldest("oldest", 1<<20)), producers: 3, size: mixed, rest: 50 * time.Microsecond,
		uplinks: map[string]pace{"fast": {rest: 5 * time.Millisecond}, "slow": {rest: 60 * time.Millisecond, ackEvery: 2}}}},
	{name: "drop the newest", kills: 25, least: 20 * time.Millisecond, most: 900 * time.Millisecond, plan: plan{
		config: classes(dropNewest("newest", 1<<20)), producers: 3, size: mixed,
		uplinks: map[string]pace{"fast": {rest: 5 * time.Millisecond}, "slow": {rest: 100 * time.Millisecond, ackEvery: 2}}}},
	{name: "start", kills: 60, least: 0, most: 150 * time.Millisecond, early: 2, plan: plan{
		config: classes(block("block", 1<<20), dropOldest("oldest", 1<<20), dropNewest("newest", 1<<20)), producers: 2, size: mixed,
		uplinks: map[string]pace{"fast": {}, "slow": {rest: 5 * time.Millisecond, ackEvery: 3}}}},
	{name: "repair", kills: 90, least: 0, most: 150 * time.Millisecond, damaged: 2, early: 2, plan: plan{
		config: classes(block("block", 1<<20), dropOldest("oldest", 1<<20), dropNewest("newest", 1<<20)), producers: 2, size: mixed,
		uplinks: map[string]pace{"fast": {}, "slow": {rest: 5 * time.Millisecond, ackEvery: 3}}}},
	{name: "repair a backlog", kills: 60, least: 0, most: 100 * time.Millisecond, damaged: 2, early: 2, plan: plan{
		config: classes(block("block", 64<<20)), producers: 3, size: mixed,
		uplinks: map[string]pace{"fast": {rest: time.Millisecond}, "slow": stalled}}},
}

// plans are those of the other tests.
var plans = map[string]plan{
	// The backlog grows and nothing of it may go.
	"fill": {config: classes(block("block", 1<<30)), producers: 3, size: mixed, rest: 20 * time.Microsecond,
		uplinks: map[string]pace{"fast": stalled, "slow": stalled}},
	// As "one file" with uplinks that take what there is.
	"deliver": {config: segments(64<<20, block("block", 1<<30)), producers: 3, size: mixed, rest: 20 * time.Microsecond,
		uplinks: map[string]pace{"fast": {}, "slow": {}}},
	// As "fill", and what is older makes way.
	"fill and drop": {config: classes(dropOldest("oldest", 1<<30)), producers: 3, size: mixed, rest: 20 * time.Microsecond,
		uplinks: map[string]pace{"fast": stalled, "slow": stalled}},
	// As that with uplinks that are no faster than what comes.
	"deliver and drop": {config: classes(dropOldest("oldest", 1<<30)), producers: 3, size: mixed, rest: 20 * time.Microsecond,
		uplinks: map[string]pace{"fast": {rest: 5 * time.Millisecond}, "slow": {rest: 20 * time.Millisecond, ackEvery: 2}}},
	// As "fill", and a disk counts as full when half of it is.
	"min free": {config: minFree(0.5, block("block", 1<<30)), producers: 3, size: mixed, rest: 20 * time.Microsecond,
		uplinks: map[string]pace{"fast": stalled, "slow": stalled}},
	// As "fill" in files as large as what fits, for a limit of the file size.
	"one file": {config: segments(64<<20, block("block", 1<<30)), producers: 3, size: mixed, rest: 20 * time.Microsecond,
		uplinks: map[string]pace{"fast": stalled, "slow": stalled}},
	// Everything at once: rolls, trims, reads of sealed segments.
	"flow": {config: classes(block("block", 2<<20)), producers: 3, size: mixed, rest: 20 * time.Microsecond,
		uplinks: map[string]pace{"fast": {}, "slow": {rest: 2 * time.Millisecond, ackEvery: 2}}},
}

func findPlan(name string) (plan, bool) {
	for _, ph := range phases {
		if ph.name == name {
			return ph.plan, true
		}
	}
	p, ok := plans[name]
	return p, ok
}

// classes is a config with small queues and segments, so that kills meet every
// step often: of KeepBytes 1 MiB a segment gets 256 KiB.
func classes(list ...buffer.Class) func() buffer.Config {
	return func() buffer.Config {
		return buffer.Config{Classes: list, Uplinks: map[string][]string{"fast": nil, "slow": nil}, Segment: 1 << 20,
			CommitDelay: time.Millisecond, Memory: 2 << 20}
	}
}

func minFree(share float64, list ...buffer.Class) func() buffer.Config {
	return func() buffer.Config {
		c := classes(list...)()
		c.MinFree = share
		return c
	}
}

func segments(bytes int64, list ...buffer.Class) func() buffer.Config {
	return func() buffer.Config {
		c := classes(list...)()
		c.Segment = bytes
		return c
	}
}

func block(name string, keep int64) buffer.Class { return buffer.Class{Name: name, KeepBytes: keep} }

func dropOldest(name string, keep int64) buffer.Class {
	return buffer.Class{Name: name, KeepBytes: keep, WhenFull: buffer.DropOldest}
}

func dropNewest(name string, keep int64) buffer.Class {
	return buffer.Class{Name: name, KeepBytes: keep, WhenFull: buffer.DropNewest}
}

// lossy reports whether a class of the plan may miss events by its own rule.
func (p plan) lossy(class string) bool {
	for _, c := range p.config().Classes {
		if c.Name == class {
			return c.WhenFull != "" && c.WhenFull != buffer.Block || c.KeepAge > 0
		}
	}
	return true
}

func (p plan) ledger() *ledger {
	var names, uplinks []string
	c := p.config()
	for _, class := range c.Classes {
		names = append(names, class.Name)
	}
	for u := range c.Uplinks {
		uplinks = append(uplinks, u)
	}
	return newLedger(names, uplinks)
}

// Payloads: small ones as machines send them, some that fill pages, few that
// need a block of their own.
func small(r *rand.Rand) int { return 40 + r.IntN(300) }

func mixed(r *rand.Rand) int {
	switch n := r.IntN(1000); {
	case n < 900:
		return 40 + r.IntN(900)
	case n < 995:
		return 1000 + r.IntN(8000)
	default:
		return 20_000 + r.IntN(100_000)
	}
}

func big(r *rand.Rand) int { return 2000 + r.IntN(30_000) }
