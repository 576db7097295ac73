package uplink

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/buffer"
)

// session is one transactional client, from its producer id to the first thing
// that goes wrong.
type session struct {
	x      *exact
	client *kgo.Client
	window *window
	topics learner
	large  bool // for one event that is too large for a usual batch

	// The open transaction, or the last one.
	begun   time.Time         // zero: none
	active  bool              // it is open
	records int               // events in it
	upTo    positions         // what is committed with it
	counts  map[string]uint64 // events by class

	open      atomic.Int64              // events that are not committed
	openSince atomic.Pointer[time.Time] // when the first of them was sent
}

// open makes a session: it ends what an earlier one left open, finds the
// position and has the log go on behind it. It returns a fencedError when another
// agent has taken over.
func (x *exact) open(ctx context.Context) (_ *session, err error) {
	client, err := x.k.newClient(x.options()...)
	if err != nil {
		return nil, err
	}
	s := &session{x: x, client: client, topics: newLearner(client), large: x.large, upTo: positions{}, counts: map[string]uint64{}}
	cfg := &x.k.cfg
	s.window = newWindow(max(1, cfg.WindowRecords>>x.shrink), max(minWindowBytes>>2, cfg.WindowBytes>>x.shrink), func(string, uint32, uint64) {})
	if s.large {
		s.window.large = largestBatch
	}
	s.window.produce = func(r *kgo.Record) {
		s.topics.meet(r.Topic)
		// Not the caller's ctx: its end must not give back what may still be delivered.
		client.Produce(context.Background(), r, s.window.finish)
	}
	x.setCurrent(s)
	if err = s.start(ctx); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// start does what stands before the first event.
func (s *session) start(ctx context.Context) error {
	x := s.x
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	log := positionLog{client: s.client, topic: x.k.cfg.PositionTopic, key: x.name()}
	if err := log.ensure(ctx); err != nil {
		return &stepError{log.topic, "look for the topic of positions", err}
	}
	if !x.claimed {
		if policy := log.policy(ctx); policy != "" && !strings.Contains(policy, "compact") {
			x.k.cfg.Log.Warn("the topic of positions is not compacted: positions are lost after its retention, and then events may come twice after a crash; set cleanup.policy=compact",
				"uplink", x.k.cfg.Name, "topic", log.topic, "cleanup.policy", policy)
		}
	} else { // asking for a producer id would put out whoever has taken over
		// One that has taken over ended this run's transaction, which could hide it.
		if _, err := s.position(ctx, log, false); err != nil {
			return err
		}
	}
	if _, _, err := s.client.ProducerID(ctx); err != nil {
		return &stepError{"", "begin a transaction", err}
	}
	found, err := s.position(ctx, log, true)
	if err != nil {
		return err
	}
	x.adopt(found.classes)
	s.upTo = maps.Clone(x.done)
	if !x.claimed {
		x.before = found.at
		if err := s.begin(); err != nil {
			return err
		}
		return s.commit(ctx)
	}
	return nil
}

// position reads the newest committed position, and returns a fencedError when it
// is of another run that came after this one.
func (s *session) position(ctx context.Context, log positionLog, patient bool) (found, error) {
	x := s.x
	f, err := log.newest(ctx, patient)
	switch {
	case err != nil:
		return found{}, &stepError{log.topic, "read the position", err}
	case !x.claimed || f.session == x.run:
		return f, nil
	case f.session != "" && f.at.after(x.before):
		if f.at != x.rival.at {
			x.rival = sighting{f.at, time.Now()}
		}
		return found{}, &fencedError{x.name(), f.session}
	case !patient: // what this run has written, or another one behind that, is hidden by a transaction of another agent
		return s.position(ctx, log, true)
	}
	// What this run has written is gone, with the topic or with the end of its partition,
	// and nobody has come since.
	x.claimed = false
	return f, nil
}

// close ends the client. What it still had open the next session aborts.
func (s *session) close() {
	s.x.setCurrent(nil)
	s.client.Close()
}

// slow reports whether the open transaction takes longer than is good.
func (s *session) slow() bool { return s.active && time.Since(s.begun) > txnSlow }

// pump sends events until ctx ends, and then what it has begun. It returns why
// it ended; a logError is one of the log.
func (s *session) pump(ctx context.Context) error {
	grace, cancel := s.x.k.withGrace(ctx)
	defer cancel()
	for {
		batch, err := s.next(ctx)
		switch {
		case errors.Is(err, errDue):
			err = s.commit(grace)
		case err == nil:
			err = s.forward(ctx, grace, batch)
		}
		if err == nil {
			continue
		}
		if ctx.Err() != nil && s.active && !s.window.isTroubled() {
			err = s.commit(grace)
		}
		return err
	}
}

// withGrace returns a context that ends a while after ctx does, sooner where the
// link is down.
func (k *Kafka) withGrace(ctx context.Context) (context.Context, context.CancelFunc) {
	grace, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timeout := drainTimeout
		if !k.Stats().Up {
			timeout = drainTimeoutDown
		}
		if sleep(grace, timeout) == nil {
			cancel()
		}
	})
	return grace, func() { stop(); cancel() }
}

// next waits for a batch. It returns errDue when the open transaction, or a sign
// of life, must not wait any longer, and errTroubled when something came back.
func (s *session) next(ctx context.Context) (buffer.Batch, error) {
	due := s.begun.Add(beatEvery)
	if s.active {
		due = s.begun.Add(txnEvery)
	}
	waiting, cancel := context.WithDeadline(ctx, due)
	defer cancel()
	release := s.window.interruptible(cancel)
	batch, err := s.x.k.cfg.Reader.NextUpTo(waiting, 4*chunkRecords, int64(s.window.maxBytes))
	release()
	switch {
	case err == nil:
		return batch, nil
	case ctx.Err() != nil:
		return buffer.Batch{}, ctx.Err()
	case s.window.isTroubled():
		return buffer.Batch{}, errTroubled
	case waiting.Err() != nil:
		return buffer.Batch{}, errDue
	default:
		return buffer.Batch{}, logError{fmt.Errorf("read the log: %w", err)}
	}
}

// forward sends a batch, in as many transactions as it takes.
func (s *session) forward(ctx, grace context.Context, batch buffer.Batch) error {
	for batch = s.x.unsent(batch); len(batch.Events) > 0; {
		n, err := s.send(ctx, batch)
		if err == nil && (n == 0 || s.full()) {
			err = s.commit(grace)
		}
		if err == nil && s.large {
			s.x.large = false
			err = errLarge
		}
		if err != nil {
			return err
		}
		batch.First += uint64(n)
		batch.Events = batch.Events[n:]
	}
	return nil
}

// send takes the first events of batch into the transaction and returns how many;
// 0 when the transaction has to be committed before the next one.
func (s *session) send(ctx context.Context, batch buffer.Batch) (int, error) {
	c, room := s.window.blank(len(batch.Events))
	if s.x.limit > 0 {
		room = min(room, s.x.limit-s.records)
	}
	if s.large {
		room = 1
	}
	n := s.x.k.encoder.encode(c, batch, room, s.window.maxBytes/8)
	if !s.large {
		if n = c.small(); n == 0 && s.active && s.records > 0 {
			return 0, nil
		} else if n == 0 {
			s.x.large = true
			return 0, errLarge
		}
	}
	if !s.active {
		if err := s.begin(); err != nil {
			return 0, err
		}
	}
	c.before = s.records
	bounded, cancel := context.WithDeadline(ctx, s.begun.Add(commitTimeout))
	defer cancel()
	if err := s.window.admit(bounded, batch, c); errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return 0, &stepError{"", "send", err}
	} else if err != nil {
		return 0, err
	}
	s.records += n
	s.counts[batch.Class] += uint64(n)
	s.upTo[batch.Class] = mark{batch.Incarnation, batch.First + uint64(n) - 1}
	s.open.Store(int64(s.records))
	return n, nil
}

// full reports whether the transaction has to be committed although there is more
// to send.
func (s *session) full() bool {
	return s.large || s.x.limit > 0 && s.records >= s.x.limit || time.Since(s.begun) >= txnLongest
}

func (s *session) begin() error {
	if err := s.client.BeginTransaction(); err != nil {
		return &stepError{"", "begin a transaction", err}
	}
	s.begun, s.active, s.records = time.Now(), true, 0
	at := s.begun
	s.openSince.Store(&at)
	clear(s.counts)
	return nil
}

// commit writes the position and commits the transaction, or begins one for the
// position alone. It returns errTroubled when something came back.
func (s *session) commit(ctx context.Context) error {
	if !s.active {
		if err := s.begin(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	topic := s.x.k.cfg.PositionTopic
	written := make(chan error, 1)
	s.topics.meet(topic)
	s.client.Produce(context.Background(), s.x.record(s.upTo), func(_ *kgo.Record, err error) { written <- err })
	err := s.window.wait(ctx, func() bool { return s.window.records == 0 || s.window.troubled })
	if err == nil && s.window.isTroubled() {
		return errTroubled
	}
	if err == nil {
		select {
		case err = <-written:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil {
		return &stepError{topic, "write the position", err}
	}
	if err := s.client.Flush(ctx); err != nil {
		return &stepError{"", "send", err}
	}
	if err := s.topics.await(ctx); err != nil {
		return &stepError{"", "commit a transaction", err}
	}
	if err := s.client.EndTransaction(ctx, kgo.TryCommit); err != nil {
		return &stepError{"", "commit a transaction", err}
	}
	s.active = false
	s.open.Store(0)
	shrink := s.x.shrink
	s.x.committed(s)
	if s.x.shrink != shrink {
		s.window.resize(max(1, s.x.k.cfg.WindowRecords>>s.x.shrink), max(minWindowBytes>>2, s.x.k.cfg.WindowBytes>>s.x.shrink))
	}
	return nil
}
