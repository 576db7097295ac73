//go:build torture

package powercut

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"sluice/buffer"
	"sluice/drivers"
)

// scenario is a way to use the buffer, recorded once and cut at many instants.
type scenario struct {
	name      string
	classes   []buffer.Class
	uplinks   map[string][]string
	edit      func(*buffer.Config)       // what else is not as usual; may be nil
	reasons   []string                   // of gap records that may stand for acknowledged events
	unwritten []string                   // of gap records that may stand for events that all uplinks have, or that were not acknowledged
	size      func(id int) int           // of an event's payload
	past      func(id int) time.Duration // how long before the recording an event was taken; nil: a fixed time
	every     time.Duration              // between two events, where the time is fixed; 0: next to nothing
	lives     []func(*child) error       // processes, one after the other
	fresh     bool                       // the buffer makes its folder itself
	few       bool                       // each of its states takes long to judge
	least     fates                      // what must at least happen to segments
	shows     []string                   // reasons that gap records of the recording must have

	mu     sync.Mutex
	events map[string]drivers.Event
}

const (
	process = "process"
	alarm   = "alarm-of-a-plant-with-names-that-fill-the-state-file"
	central = "central-site-with-a-name-that-makes-the-state-file-longer"
	slow    = "second-site-with-a-name-that-makes-the-state-file-longer"
)

// keepLeast is the least that a class may keep; its segments then have 256 KiB.
const keepLeast = 1 << 20

func one(c buffer.Class) []buffer.Class {
	c.Name = process
	if c.KeepBytes == 0 {
		c.KeepBytes = keepLeast
	}
	return []buffer.Class{c}
}

// withIdle adds a class that gets nothing: the state is then longer than a
// sector, and may be torn.
func withIdle(classes []buffer.Class) []buffer.Class {
	return append(classes, buffer.Class{Name: alarm, KeepBytes: keepLeast})
}

func only(uplink string) map[string][]string { return map[string][]string{uplink: nil} }

// scenarios are cut at every instant. brief ones are recorded again with each of
// their calls failing.
var scenarios = []scenario{
	{name: "first start", classes: one(buffer.Class{}), uplinks: only(central), size: mixed, fresh: true, least: fates{made: 1},
		lives: []func(*child) error{firstLife}},
	{name: "block", classes: one(buffer.Class{}), uplinks: only(central), size: mixed, least: fates{made: 6, removed: 3},
		lives: []func(*child) error{blockLife}},
	{name: "two uplinks", size: mixed, least: fates{made: 6, removed: 3},
		classes: []buffer.Class{{Name: alarm, Priority: 10, KeepBytes: keepLeast}, {Name: process, KeepBytes: 2 << 20}},
		uplinks: map[string][]string{central: nil, slow: {process}}, lives: []func(*child) error{paceLife}},
	{name: "drop oldest", classes: withIdle(one(buffer.Class{WhenFull: buffer.DropOldest})), uplinks: only(central), size: mixed,
		reasons: []string{"drop_oldest"}, shows: []string{"drop_oldest"}, least: fates{made: 7, removed: 4}, lives: []func(*child) error{dropOldestLife}},
	{name: "drop newest", classes: withIdle(one(buffer.Class{WhenFull: buffer.DropNewest})), uplinks: only(central), size: mixed,
		reasons: []string{"drop_newest"}, shows: []string{"drop_newest"}, least: fates{made: 5, removed: 2}, lives: []func(*child) error{dropNewestLife}},
	{name: "expire", classes: one(buffer.Class{KeepAge: time.Hour}), uplinks: only(central), size: mixed, past: halfIsOld,
		reasons: []string{"expired"}, shows: []string{"expired"}, least: fates{made: 4, removed: 3}, lives: []func(*child) error{expireLife}},
	{name: "restart", classes: one(buffer.Class{KeepBytes: 2 << 20}), uplinks: map[string][]string{central: nil, slow: nil}, size: mixed,
		least: fates{made: 5, removed: 2}, lives: []func(*child) error{killedLife, killedLife, closedLife}},
	{name: "write-behind", classes: one(buffer.Class{KeepBytes: 2 << 20}), uplinks: map[string][]string{central: nil, slow: nil}, size: mixed,
		edit: func(c *buffer.Config) { c.SpillAfter = 60 * time.Millisecond }, unwritten: []string{"restart"}, shows: []string{"restart"},
		least: fates{made: 3}, lives: []func(*child) error{behindLife, behindLife, closedLife}},
	{name: "many numbers", classes: one(buffer.Class{}), uplinks: only(central), size: tiny, few: true,
		edit: func(c *buffer.Config) { c.SpillAfter = 300 * time.Millisecond }, unwritten: []string{"restart"}, lives: []func(*child) error{manyLife}},
	{name: "thin", classes: one(buffer.Class{Thin: []time.Duration{100 * time.Millisecond, time.Second}}), uplinks: only(central), size: mixed,
		every: 5 * time.Millisecond, reasons: []string{"thinned"}, shows: []string{"thinned"}, least: fates{made: 8, rewritten: 4, removed: 4},
		lives: []func(*child) error{thinLife}},
	{name: "merge", classes: one(buffer.Class{KeepBytes: 2 << 20}), uplinks: map[string][]string{central: nil, slow: nil}, size: little,
		least: fates{made: 5, rewritten: 2, removed: 3}, lives: []func(*child) error{mergeLife}},
}

var brief = []scenario{
	{name: "brief block", classes: one(buffer.Class{}), uplinks: map[string][]string{central: nil, slow: nil}, size: bulky,
		least: fates{made: 3, removed: 1}, lives: []func(*child) error{briefLife}},
	{name: "brief drop oldest", classes: one(buffer.Class{WhenFull: buffer.DropOldest}), uplinks: only(central), size: bulky,
		reasons: []string{"drop_oldest"}, least: fates{made: 5, removed: 1}, lives: []func(*child) error{briefDropLife}},
	{name: "brief drop newest", classes: one(buffer.Class{WhenFull: buffer.DropNewest}), uplinks: only(central), size: bulky,
		reasons: []string{"drop_newest"}, least: fates{made: 3, removed: 2}, lives: []func(*child) error{briefRefuseLife}},
	{name: "brief thin", classes: one(buffer.Class{WhenFull: buffer.DropOldest, Thin: []time.Duration{100 * time.Millisecond}}), uplinks: only(central),
		size: bulky, every: 5 * time.Millisecond, reasons: []string{"thinned", "drop_oldest"}, least: fates{made: 6, rewritten: 2, removed: 2},
		lives: []func(*child) error{briefDropLife}},
	{name: "brief write-behind", classes: one(buffer.Class{}), uplinks: map[string][]string{central: nil, slow: nil}, size: bulky,
		edit: func(c *buffer.Config) { c.SpillAfter = 20 * time.Millisecond }, unwritten: []string{"restart", "corrupt"}, least: fates{made: 2},
		lives: []func(*child) error{briefLife}},
}

// killed ones are recorded again with their first process killed at each call.
var killed = []scenario{
	{name: "killed", classes: one(buffer.Class{}), uplinks: map[string][]string{central: nil, slow: nil}, size: bulky,
		least: fates{made: 3, removed: 1}, lives: []func(*child) error{briefLife, afterKill}},
	{name: "killed drop oldest", classes: one(buffer.Class{WhenFull: buffer.DropOldest}), uplinks: only(central), size: bulky,
		reasons: []string{"drop_oldest"}, least: fates{made: 5, removed: 1}, lives: []func(*child) error{briefDropLife, afterKill}},
}

func scenarioNamed(name string) (*scenario, error) {
	for _, list := range [][]scenario{scenarios, brief, killed} {
		for i := range list {
			if list[i].name == name {
				return &list[i], nil
			}
		}
	}
	return nil, fmt.Errorf("there is no scenario %q", name)
}

// life is the i-th process of the scenario. After those of its own come processes
// that start on what a power cut has left.
func (s *scenario) life(i int) func(*child) error {
	if i < len(s.lives) {
		return s.lives[i]
	}
	return afterCut
}

func (s *scenario) config(dir string) buffer.Config {
	c := buffer.Config{Dir: dir, Classes: s.classes, Uplinks: s.uplinks, Segment: 1 << 20, Memory: 2 << 20}
	if s.edit != nil {
		s.edit(&c)
	}
	return c
}

// mixed is mostly small with a large one now and then: commits of one page and of many.
func mixed(id int) int {
	switch {
	case id%17 == 0:
		return 40_000 + id%7*1000
	case id%4 == 0:
		return 6000 + id%5*700
	}
	return 100 + id%11*90
}

// bulky fills a segment with few commits.
func bulky(id int) int { return 60_000 + id%3*9000 }

// tiny is for many.
func tiny(int) int { return 0 }

// little makes many small commits fill a segment.
func little(id int) int { return 300 + id%7*100 }

const oldEvents = 130

// halfIsOld has the first events of each life expired when they come.
func halfIsOld(id int) time.Duration {
	if id%1000 < oldEvents {
		return 2 * time.Hour
	}
	return 0
}

// event is the event with this id; two with the same id are the same. base is
// the time of the recording.
func (s *scenario) event(base time.Time, class string, id int) drivers.Event {
	taken := time.Unix(1_700_000_000, 0).Add(time.Duration(id) * max(s.every, 1))
	if s.past != nil {
		taken = base.Add(time.Duration(id)*time.Microsecond - s.past(id))
	}
	payload := fmt.Appendf(nil, "%s %d|", class, id)
	rnd := rand.NewPCG(uint64(id), uint64(len(class)))
	for range s.size(id) / 8 {
		payload = binary.LittleEndian.AppendUint64(payload, rnd.Uint64())
	}
	return drivers.Event{Class: class, Source: "line", Subject: fmt.Sprintf("m%d", id%5), Type: drivers.TypeMQTTMessage,
		ContentType: drivers.ContentBinary, Time: taken.UTC(), Payload: payload}
}

// idOf reads the id out of a payload.
func idOf(class string, payload []byte) (int, bool) {
	rest, ok := bytes.CutPrefix(payload, []byte(class+" "))
	if !ok {
		return 0, false
	}
	digits, _, ok := bytes.Cut(rest[:min(len(rest), 20)], []byte("|"))
	if !ok {
		return 0, false
	}
	id, err := strconv.Atoi(string(digits))
	return id, err == nil
}
