package modbus

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sluice/drivers"
)

const (
	// stopTime is how long recording what was read may take after ctx has ended.
	stopTime = 2 * time.Second
	// shortWait is how long the bus stands still for a class that is just busy.
	shortWait = 50 * time.Millisecond
	// lookForRoom is how soon a group that was held is looked at again.
	lookForRoom = time.Second
)

// outlet hands the events of one class to the sink, one at a time. A class that
// takes its time must not hold up the bus, which others share: an event that isn't
// taken soon waits in the background, and until it is taken the class is held.
type outlet struct {
	class string
	sink  drivers.Sink
	stats *stats
	log   *slog.Logger

	waits  atomic.Bool // an event waits in the background
	slow   atomic.Bool // the last one had to
	wg     sync.WaitGroup
	broken chan<- error // where the sink's error goes if it comes late
}

// hand gives an event to the sink, or to the background. It returns the sink's
// error. If ctx ends before the sink has room the event is offered once more for
// a short time, since it has been read already.
func (o *outlet) hand(ctx context.Context, e drivers.Event) error {
	if !o.slow.Load() {
		soon, cancel := context.WithTimeout(ctx, shortWait)
		err := o.sink.Append(soon, e, nil)
		cancel()
		if err == nil {
			o.stats.took(o.class)
			return nil
		}
		if !errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return o.offer(ctx, e)
	}
	o.waits.Store(true)
	o.slow.Store(true)
	o.wg.Go(func() {
		defer o.waits.Store(false)
		begin := time.Now()
		err := o.offer(ctx, e)
		o.slow.Store(time.Since(begin) > shortWait)
		switch {
		case err == nil:
		case ctx.Err() == nil:
			select {
			case o.broken <- err:
			default: // Run ends with another one
			}
		default:
			o.log.Warn("stopped before the buffer had room for the last reading", slog.String("class", o.class), slog.Any("error", err))
		}
	})
	return nil
}

// offer waits until the sink takes e, at most stopTime once ctx has ended.
func (o *outlet) offer(ctx context.Context, e drivers.Event) error {
	err := o.sink.Append(ctx, e, nil)
	if err != nil && ctx.Err() != nil {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
		defer cancel()
		err = o.sink.Append(last, e, nil)
	}
	if err == nil {
		o.stats.took(o.class)
	}
	return err
}

// room asks, without waiting, whether an event of a class would be taken, and
// notes it for holds and the status.
func (s *Source) room(class string, now time.Time) bool {
	room := !s.outlets[class].waits.Load() && (s.roomy == nil || s.roomy.Room(class))
	i, was := slices.BinarySearch(s.held, class)
	switch {
	case room && was:
		s.held = slices.Delete(slices.Clone(s.held), i, i+1)
		s.log.Info("the buffer has room again", slog.String("class", class))
	case !room && !was:
		s.held = slices.Insert(slices.Clone(s.held), i, class)
		s.log.repeatedAbout(now, slog.LevelWarn, "polls of a class are held: the buffer is full", slog.String("class", class))
	default:
		return room
	}
	s.stats.hold(s.held)
	return room
}

func (s *Source) isHeld(class string) bool {
	return len(s.held) > 0 && slices.Contains(s.held, class)
}

// checkRoom looks for room for each class of a group, and says whether there is
// none for any of them.
func (s *Source) checkRoom(g *group, now time.Time) (held bool) {
	held = true
	for _, tags := range g.classes {
		if s.room(tags[0].class, now) {
			held = false
		}
	}
	return held
}

// holds says whether a request reads nothing but tags of held classes.
func (s *Source) holds(r *request) bool {
	if len(s.held) == 0 {
		return false
	}
	return !slices.ContainsFunc(r.tags, func(t *tag) bool { return !s.isHeld(t.class) })
}
