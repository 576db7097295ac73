package uplink

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/buffer"
)

// Delivery exactly once: events travel in transactions, and each transaction
// also writes the position that it ends at (position.go). A session
// (session.go) is one transactional client. Whatever goes wrong in it ends it;
// the next one asks Kafka for the newest committed position and reads the log
// again from there, so that no outcome of a commit is ever guessed.

const (
	// txnTimeout is how long a transaction may take before the broker aborts it.
	// Until then one that was left open holds back consumers of its partitions.
	txnTimeout    = 30 * time.Second
	txnEvery      = 100 * time.Millisecond // on a line that is not full a transaction begins no sooner after the one before
	txnLongest    = 200 * time.Millisecond // then it is committed although there is more to send
	txnSlow       = 5 * time.Second        // one that takes longer makes the next ones smaller
	openTimeout   = 60 * time.Second       // for the start of a session
	commitTimeout = 2 * txnTimeout         // for the end of a transaction, then the session is given up
	claimTime     = 2 * time.Second        // a newcomer has to show itself within
	beatEvery     = 5 * time.Minute        // without events, a position is written so often
	fencedCheck   = 30 * time.Second       // how often one that stands back looks for the other
	takeOverAfter = 15 * time.Minute       // and how long the other must have been silent
	maxShrink     = 10                     // times that transactions are halved
	calmCommits   = 8                      // commits after which a narrowed transaction is doubled
)

var (
	errDue   = errors.New("the transaction is due")
	errLarge = errors.New("the next event needs a session of its own") // it is too large for a usual batch
)

// fencedError says that another agent sends under this one's id.
type fencedError struct{ id, session string }

func (e *fencedError) Error() string {
	return fmt.Sprintf("another agent sends as %s (session %s) and this one stands back: give each agent an agent.id of its own, "+
		"or stop the other and restart this one", e.id, e.session)
}

// stepError says what an uplink was doing when something failed.
type stepError struct {
	topic string // that it was about; may be empty
	step  string
	err   error
}

func (e *stepError) Error() string { return e.step + ": " + e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// logError is an error of the log, which ends Run.
type logError struct{ error }

func (e logError) Unwrap() error { return e.error }

// exact is the part of an uplink that delivers exactly once. Its fields belong
// to the goroutine of Run but for those below mu.
type exact struct {
	k        *Kafka
	run      string    // names this run of the agent in the positions that it writes
	claimed  bool      // this run has committed one
	before   spot      // of the newest one when it did
	done     positions // committed, as far as is known
	limit    int       // events in a transaction while a poisonous one is looked for; 0: there is no search
	calm     int       // commits since limit changed
	large    bool      // the next event is too large for a usual batch
	shrink   int       // how often the window was halved
	attempts int       // sessions that failed since the last commit
	rival    sighting
	doubt    *session // the last one, where it is not known whether its transaction was committed

	takeOverAfter time.Duration
	fencedCheck   time.Duration

	mu        sync.Mutex
	current   *session // nil: none is open
	delivered map[string]uint64
	lastDone  time.Time // of the last commit that carried events
	fenced    string    // why this uplink stands back; empty: it doesn't
	trouble   string    // why no session lasts; empty: the last one did
}

// sighting is the position of another agent with this one's id.
type sighting struct {
	at    spot
	since time.Time
}

func newExact(k *Kafka) *exact {
	id := make([]byte, 8)
	_, _ = rand.Read(id) // it never fails, by its documentation
	return &exact{k: k, run: hex.EncodeToString(id), done: positions{}, delivered: map[string]uint64{},
		takeOverAfter: takeOverAfter, fencedCheck: fencedCheck}
}

// name is the transactional id and, without its prefix, the key of the position.
func (x *exact) name() string { return x.k.cfg.Agent + "/" + x.k.cfg.Name }

// loop opens sessions until ctx ends or the log fails.
func (x *exact) loop(ctx context.Context) error {
	for {
		s, err := x.open(ctx)
		if err == nil {
			err = s.pump(ctx)
			if ctx.Err() == nil {
				err = x.mend(ctx, s, err)
			}
			s.close()
		}
		if broken, ok := errors.AsType[logError](err); ok {
			return broken.error
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := x.wait(ctx, err); err != nil {
			return err
		}
	}
}

// mend looks at why a session ended. What it can do something about it does and
// returns nil; else it returns the error to wait for.
func (x *exact) mend(ctx context.Context, s *session, err error) error {
	if errors.Is(err, errLarge) {
		return nil
	}
	if _, ok := errors.AsType[logError](err); ok {
		return err
	}
	x.doubt = nil
	if s.active {
		x.doubt = s
	}
	if s.slow() {
		x.shrink = min(x.shrink+1, maxShrink)
	}
	failed := s.window.failures()
	x.k.restamp(failed)
	for _, f := range failed {
		if v := classify(f.err); v != poison {
			return &stepError{f.record().Topic, "send", f.err}
		}
	}
	if len(failed) > 0 {
		return x.isolate(ctx, s, failed)
	}
	return err
}

// isolate narrows the next transactions until the event that the broker refuses
// stands alone, and then sets that one aside.
func (x *exact) isolate(ctx context.Context, s *session, failed []failure) error {
	first := s.records
	for _, f := range failed {
		first = min(first, f.chunk.before+f.index)
	}
	x.calm = 0
	switch {
	case s.records > 1 && first > 0:
		x.limit = first // what comes before is fine
		return nil
	case s.records > 1:
		x.limit = max(1, s.records/2)
		return nil
	}
	f := failed[0]
	if f.isGap() {
		return &stepError{f.record().Topic, "send", f.err}
	}
	class, seq := f.chunk.lane.class, f.seq()
	if err := x.k.reject(ctx, class, seq, f); err != nil {
		return logError{err}
	}
	x.done[class] = mark{s.upTo[class].incarnation, seq}
	x.k.cfg.Reader.AckRun(class, 0, seq)
	x.limit, x.large = 0, false
	return nil
}

// wait says why the last session ended and waits before the next one, longer
// each time unless something was committed in between.
func (x *exact) wait(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if fence, ok := errors.AsType[*fencedError](err); ok {
		return x.standBack(ctx, fence)
	}
	x.attempts++
	v, topic, cause := classify(err), "", err
	if step, ok := errors.AsType[*stepError](err); ok {
		topic, cause = step.topic, step.err
	}
	if v == poison { // of a gap record or a position, which are not set aside
		v = refused
	}
	text := explain(cause, topic)
	if v != fenced || x.attempts > 1 {
		x.k.say(v, text)
		x.mu.Lock()
		x.trouble = text
		x.mu.Unlock()
	}
	switch v {
	case refused:
		return sleep(ctx, backoff(x.attempts, refusedMin, refusedMax))
	case fenced: // by a newcomer, or because it took too long: the position will tell
		return sleep(ctx, claimTime)
	default:
		return sleep(ctx, backoff(x.attempts, recoverMin, retryMax))
	}
}

// standBack leaves the link to another agent and looks later whether that one
// still shows itself.
func (x *exact) standBack(ctx context.Context, fence *fencedError) error {
	x.mu.Lock()
	x.fenced = fence.Error()
	x.mu.Unlock()
	x.k.say(fenced, fence.Error())
	if time.Since(x.rival.since) > x.takeOverAfter {
		x.claimed = false // the other is gone
		return nil
	}
	return sleep(ctx, jitter(x.fencedCheck))
}

// committed takes over what a session has committed.
func (x *exact) committed(s *session) {
	x.mu.Lock()
	for class, n := range s.counts {
		x.delivered[class] += n
	}
	if s.records > 0 {
		x.lastDone = time.Now()
	}
	x.fenced, x.trouble = "", ""
	x.mu.Unlock()
	x.claimed, x.attempts = true, 0
	for class, at := range s.upTo {
		if x.done[class] != at {
			x.k.cfg.Reader.AckRun(class, 0, at.seq)
		}
	}
	x.done = maps.Clone(s.upTo)
	if x.calm++; x.limit > 0 && x.calm >= calmCommits {
		x.calm, x.limit = 0, 2*x.limit
		if x.limit >= x.k.cfg.WindowRecords {
			x.limit = 0
		}
	}
	switch took := time.Since(s.begun); {
	case took > txnSlow:
		x.shrink = min(x.shrink+1, maxShrink)
	case took < txnSlow/5 && s.records > 0:
		x.shrink = max(x.shrink-1, 0)
	}
}

// unsent cuts off what is committed already: events that the log gives again
// because its cursor was behind.
func (x *exact) unsent(b buffer.Batch) buffer.Batch {
	at, ok := x.done[b.Class]
	if !ok || at.incarnation != b.Incarnation || b.First > at.seq {
		return b
	}
	n := min(uint64(len(b.Events)), at.seq-b.First+1)
	b.First, b.Events = b.First+n, b.Events[n:]
	if len(b.Events) == 0 {
		x.k.cfg.Reader.AckRun(b.Class, 0, b.First-1)
	}
	return b
}

// adopt takes over a position that was read: the log goes on behind it. Where the
// topic knows less than this run does, it was emptied meanwhile.
func (x *exact) adopt(found positions) {
	for class, at := range found {
		if known, ok := x.done[class]; ok && (at.seq <= known.seq || at.incarnation != known.incarnation) {
			continue
		}
		x.done[class] = at
		if x.doubt != nil && x.doubt.upTo[class] == at { // it was
			x.mu.Lock()
			x.delivered[class] += x.doubt.counts[class]
			x.mu.Unlock()
		}
	}
	x.doubt = nil
	reader := x.k.cfg.Reader
	for class, at := range x.done {
		if at.incarnation == reader.Incarnation() {
			reader.AckRun(class, 0, at.seq)
		}
	}
	reader.Rewind(x.k.only)
}

func (x *exact) setCurrent(s *session) {
	x.mu.Lock()
	x.current = s
	x.mu.Unlock()
}

// progress is what is known of delivery, as window.progress tells it: in flight
// is what is not committed. fenced and trouble say why nothing is sent.
func (x *exact) progress() (p progress, fenced, trouble string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	p = progress{delivered: maps.Clone(x.delivered), lastAck: x.lastDone}
	for _, n := range p.delivered {
		p.total += n
	}
	if s := x.current; s != nil {
		p.inFlight = int(s.open.Load())
		if at := s.openSince.Load(); at != nil && p.inFlight > 0 {
			p.stalled = time.Since(*at)
		}
	}
	return p, x.fenced, x.trouble
}

// options of a session's client.
func (x *exact) options() []kgo.Opt {
	opts := []kgo.Opt{kgo.TransactionalID("sluice/" + x.name()), kgo.TransactionTimeout(txnTimeout),
		kgo.RequestRetries(6), kgo.UnknownTopicRetries(4)} // a transaction does not wait for somebody who makes a topic
	if x.large {
		opts = append(opts, kgo.ProducerBatchMaxBytes(largestBatch))
	}
	return opts
}

// say reports an error in words, in the status and, now and then, in the log.
func (k *Kafka) say(v verdict, text string) {
	k.health.report(text)
	if k.quiet.allow(text) {
		k.cfg.Log.Warn("cannot send", slog.String("uplink", k.cfg.Name), slog.String("verdict", v.String()), slog.String("error", text))
	}
}
