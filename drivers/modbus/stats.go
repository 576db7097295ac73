package modbus

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"sluice/drivers"
)

// Results that polls are counted by, beside those of reasonOf. Missed,
// breaker-open and held are slots in which the device was not polled.
const (
	resultOK      = "ok"
	resultMissed  = "missed"
	resultBreaker = "breaker-open"
	resultHeld    = "held"
)

// stats is what Stats returns, kept by Run's goroutine.
type stats struct {
	mu         sync.Mutex
	connection string
	started    bool
	linked     bool
	total      drivers.Stats
	devices    map[string]*drivers.DeviceStats
	missed     uint64
	held       []string // the classes that have no room, sorted
}

// PollResults are the results that polls are counted by, of exceptions those that
// the specification has (Modbus Application Protocol V1.1b3 §7). A device may answer
// others, which are counted by their number too.
func PollResults() []string {
	all := []string{resultOK, badTimeout, badConnection, badInvalid, resultMissed, resultBreaker, resultHeld}
	for _, code := range []byte{illegalFunction, illegalAddress, illegalValue, deviceFailure, acknowledged, deviceBusy, parityError, gatewayNoPath, gatewayNoResponse} {
		all = append(all, exceptionResult(code))
	}
	return all
}

// prepare makes every counter that is known beforehand, so that it is there at
// 0 from the start.
func (s *stats) prepare(connection string, devices []*device) {
	s.connection = connection
	s.total = drivers.Stats{Taken: map[string]uint64{}, Rejected: map[string]uint64{}}
	s.devices = map[string]*drivers.DeviceStats{}
	for _, d := range devices {
		polls := map[string]uint64{}
		for _, result := range PollResults() {
			polls[result] = 0
		}
		s.devices[d.name] = &drivers.DeviceStats{Name: d.name, Polls: polls}
		for _, tags := range d.classes {
			s.total.Taken[tags[0].class] = 0
		}
	}
}

// count adds n slots of a device with a result.
func (s *stats) count(device, result string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.devices[device].Polls[result] += uint64(n)
	if result == resultMissed {
		s.missed += uint64(n)
	}
}

// dialed notes whether the devices' line could be opened.
func (s *stats) dialed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started, s.linked = true, err == nil
}

// polled notes what a poll came to.
func (s *stats) polled(device string, o *outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started, s.linked = true, !o.noLink
	d := s.devices[device]
	d.Polls[o.result]++
	if o.err != nil {
		d.LastError, d.LastErrAt = o.err.Error(), time.Now()
		s.total.LastError, s.total.LastErrAt = fmt.Sprintf("device %s: %v", device, o.err), d.LastErrAt
	}
}

// setUp notes whether a device answers, and says whether that is news.
func (s *stats) setUp(device string, up bool) (news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.devices[device]
	news, d.Up = d.Up != up, up
	return news
}

// hold notes which classes have no room.
func (s *stats) hold(classes []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = classes
}

// took counts an event that the sink took.
func (s *stats) took(class string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total.Taken[class]++
}

// stopped notes that nothing is polled any more.
func (s *stats) stopped() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started, s.linked = false, false
	for _, d := range s.devices {
		d.Up = false
	}
}

// snapshot copies the counters.
func (s *stats) snapshot() drivers.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.total
	out.Taken, out.Rejected = maps.Clone(out.Taken), maps.Clone(out.Rejected)
	up := 0
	for _, d := range s.devices {
		one := *d
		one.Polls = maps.Clone(d.Polls)
		out.Devices = append(out.Devices, one)
		if d.Up {
			up++
		}
	}
	slices.SortFunc(out.Devices, func(a, b drivers.DeviceStats) int { return cmp.Compare(a.Name, b.Name) })
	out.Ready = s.linked
	out.Up = s.linked && up > 0
	out.State = s.state(up)
	return out
}

// state puts what is going on into words.
func (s *stats) state(up int) string {
	if !s.started {
		return "not polling " + s.connection
	}
	text := fmt.Sprintf("polling %s, %d of %d devices answer", s.connection, up, len(s.devices))
	if !s.linked {
		text = "not connected to " + s.connection
	}
	if s.missed > 0 {
		text += fmt.Sprintf(", %d polls missed", s.missed)
	}
	if len(s.held) > 0 {
		text += fmt.Sprintf(", polls of class %s are held: the buffer is full", strings.Join(s.held, ", "))
	}
	return text
}
