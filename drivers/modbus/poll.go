package modbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	mb "github.com/goburrow/modbus"
)

// Why a tag is bad when no answer came that can be believed. Beside these there
// is exception-N, the unit's own refusal.
const (
	badTimeout    = "timeout"
	badConnection = "connection"
	badInvalid    = "invalid"
)

// errBreaker is why a device isn't asked whose unit didn't answer another one.
var errBreaker = errors.New("its unit didn't answer the other devices that share it")

// Exceptions (Modbus Application Protocol V1.1b3 §7).
const (
	illegalFunction   = 1
	illegalAddress    = 2
	illegalValue      = 3 // some devices answer this where they mean illegalAddress
	deviceFailure     = 4
	acknowledged      = 5
	deviceBusy        = 6
	parityError       = 8 // of the memory that a file record is in
	gatewayNoPath     = 10
	gatewayNoResponse = 11
)

// outcome is what a poll came to.
type outcome struct {
	probing bool   // the breaker is open and lets one request through
	asked   bool   // some request was sent
	rested  bool   // some request was not, since the unit keeps silent to it
	alive   bool   // the unit answered some request, if only with an exception
	data    bool   // ... and one with data
	silent  int    // requests without an answer
	lost    int    // of those, in a row at the end, that were answered the last time
	noLink  bool   // there is no connection at all
	result  string // "ok", or why the first request that failed did
	err     error  // the first failure
	budget  int    // requests left for splitting

	alone []*request // of one tag each, refused
	cuts  []cut      // both sides were read, the whole was refused
	mute  []*request // without an answer
}

// fail notes that a request failed and returns its reason.
func (o *outcome) fail(err error) (reason string) {
	reason = reasonOf(err)
	if o.err == nil {
		o.result, o.err = reason, err
	}
	o.noLink = o.noLink || errors.Is(err, errDial)
	if fromUnit(err) {
		o.alive, o.lost = true, 0
	} else {
		o.silent++
	}
	return reason
}

// mostLost is how many requests in a row, each of which was answered the last
// time, may be lost before a unit that answered is taken to have died meanwhile.
const mostLost = 3

// hopeless says that the unit won't answer further requests of this poll
// either. One more than the first is tried, since some devices keep silent
// where they should refuse an address.
func (o *outcome) hopeless() bool {
	return o.noLink || o.lost >= mostLost || !o.alive && (o.silent > 1 || o.probing && o.silent > 0)
}

// attempts returns how often the next request may be sent.
func (o *outcome) attempts(retries int) int {
	if !o.alive && (o.probing || o.silent > 0) {
		return 1
	}
	return 1 + retries
}

// reasonOf puts an error of link.read into the word that readings use.
func reasonOf(err error) string {
	var exception *mb.ModbusError
	var network net.Error
	switch {
	case errors.As(err, &exception):
		return exceptionResult(exception.ExceptionCode)
	case errors.Is(err, errDial):
		return badConnection
	case errors.Is(err, errInvalid):
		return badInvalid
	case errors.As(err, &network) && network.Timeout():
		return badTimeout
	default:
		return badConnection
	}
}

// exceptionResult is the word for a unit's refusal.
func exceptionResult(code byte) string { return fmt.Sprintf("exception-%d", code) }

// code returns the exception code that err is, or 0.
func code(err error) byte {
	var exception *mb.ModbusError
	if errors.As(err, &exception) {
		return exception.ExceptionCode
	}
	return 0
}

// fromUnit says that the unit itself sent this exception; 10 and 11 come from
// the gateway in front of it.
func fromUnit(err error) bool {
	c := code(err)
	return c != 0 && c != gatewayNoPath && c != gatewayNoResponse
}

// repeatable says that sending the request once more may help: not after an
// exception, which is an answer, nor without a connection.
func repeatable(err error) bool {
	return code(err) == 0 && !errors.Is(err, errDial)
}

// refused says that the unit doesn't have one of the addresses.
func refused(err error) bool {
	c := code(err)
	return c == illegalAddress || c == illegalValue
}

// turn gives a group its turn: polls it unless its breaker is open or the sink
// has no room for it, records what came, and sets its next slot. It returns the
// sink's error.
func (s *Source) turn(ctx context.Context, g *group) error {
	start, name := time.Now(), g.device.name
	inSlot := !start.Before(g.slot)
	var err error
	held := s.checkRoom(g, start)
	switch {
	case held:
		if inSlot {
			s.stats.count(name, resultHeld, 1)
		}
	case g.device.breaker.allows(start):
		err = s.poll(ctx, g)
		if s.observe != nil {
			s.observe(time.Since(start))
		}
	default:
		s.stats.count(name, resultBreaker, 1)
		if !g.device.down() {
			err = s.fellSilent(ctx, g.device, g.device.breaker.reason, errBreaker)
		}
	}
	now := time.Now()
	if missed := g.advance(now); missed > 0 {
		s.stats.count(name, resultMissed, missed)
		s.log.repeated(now, slog.LevelWarn, "polls missed: the device is slower than the intervals ask for", name)
	}
	if held {
		g.hurry(now.Add(lookForRoom)) // an hourly value needn't wait another hour
	}
	return err
}

// poll reads a group and records it. It returns the sink's error.
func (s *Source) poll(ctx context.Context, g *group) error {
	for _, t := range g.tags {
		t.now.known = false
	}
	o := s.readGroup(ctx, g)
	if !o.asked && o.rested {
		s.stats.count(g.device.name, resultBreaker, 1)
	}
	if ctx.Err() != nil || !o.asked {
		// Stopping: what was read is recorded, what wasn't is nobody's fault.
		return s.record(ctx, g.device, g.classes, time.Now())
	}
	s.stats.polled(g.device.name, &o)
	if o.alive {
		s.answers(g)
		g.letRest(&o, time.Now())
		return s.record(ctx, g.device, g.classes, time.Now())
	}
	alive := !o.noLink && s.othersAnswer(ctx, g)
	g.answered = false
	switch {
	case ctx.Err() != nil:
		return nil
	case alive:
		g.letRest(&o, time.Now())
		return s.record(ctx, g.device, g.classes, time.Now())
	case !o.noLink && g.device.breaker.failed(time.Now(), o.result):
		s.log.repeated(time.Now(), slog.LevelWarn, "unit is polled less often until it answers", g.device.name,
			slog.Int("unit", int(g.device.unit)), slog.String("reason", o.result))
	}
	return s.fellSilent(ctx, g.device, o.result, o.err)
}

// answers notes that the device of a group does. If it had fallen silent, its
// values are all sent again, and those of its other groups are read at once.
func (s *Source) answers(g *group) {
	dev := g.device
	g.answered = true
	dev.breaker.succeeded()
	if s.stats.setUp(dev.name, true) {
		s.log.Info("device answers", slog.String("device", dev.name))
	}
	if !dev.down() {
		return
	}
	dev.reason = ""
	dev.lessons.tryAll(time.Now())
	for _, t := range dev.tags {
		t.sent.known = false
	}
	for _, other := range dev.groups {
		for _, r := range other.requests {
			r.rest.succeeded() // it may have come back as another one
		}
		if other != g {
			other.hurry(time.Now())
		}
	}
}

// othersAnswer says whether other groups of the device are answered, so that
// silence in this one concerns its addresses only. What is known from their last
// poll is asked again when this group has only now fallen silent.
func (s *Source) othersAnswer(ctx context.Context, g *group) bool {
	for _, other := range g.device.groups {
		if other == g || !other.answered {
			continue
		}
		if !g.answered {
			return true
		}
		if len(other.requests) == 0 {
			continue
		}
		r := other.requests[0]
		_, err := s.link.read(ctx, g.device.unit, r.table, r.at, r.count)
		if err == nil || fromUnit(err) {
			return true
		}
		other.answered = false
	}
	return false
}

// fellSilent notes that a device doesn't answer. One reading says so, in which
// all its tags are bad; the next ones come with its heartbeats.
func (s *Source) fellSilent(ctx context.Context, d *device, reason string, cause error) error {
	for _, g := range d.groups {
		g.answered = false
	}
	s.stats.setUp(d.name, false)
	was := d.down()
	d.reason = reason
	if was {
		return nil
	}
	now := time.Now()
	s.log.repeated(now, slog.LevelWarn, "device doesn't answer", d.name, slog.String("reason", reason), slog.Any("error", cause))
	for i := range d.beats {
		d.beats[i] = now
	}
	return s.sayDown(ctx, d, now)
}

// sayDown records, for each class that has to be told now, a reading in which all
// tags of a silent device are bad. A class without room is told a little later.
func (s *Source) sayDown(ctx context.Context, d *device, now time.Time) error {
	for i, tags := range d.classes {
		class := tags[0].class
		switch {
		case now.Before(d.beats[i]):
			continue
		case !s.room(class, now):
			d.beats[i] = now.Add(lookForRoom)
			continue
		}
		d.beats[i] = now.Add(d.heartbeat)
		for _, t := range tags {
			t.now.set(d.reason)
			t.sent.known = false // a deadband holds nothing of this back
		}
		if err := s.record(ctx, d, d.classes[i:i+1], now); err != nil {
			return err
		}
	}
	d.beat = slices.MinFunc(d.beats, time.Time.Compare)
	return nil
}
