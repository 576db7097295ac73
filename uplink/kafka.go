// Package uplink forwards events from the log to a Kafka cluster in order, at
// least once or exactly once.
//
// One goroutine, the pump, reads batches from the log, turns each event into a
// record (record.go, template.go) and hands it to the Kafka client. A window
// (window.go, chunk.go) bounds what is in flight; the client's promises settle
// records in it, and the log's cursor moves over the settled ones from the
// front. When the window is full the pump waits, and the backlog stays in the
// log: that is the back-pressure.
//
// The client repeats by itself whatever a broken link takes. What it gives back
// is judged in one function (classify.go): the pump stops, waits until nothing
// is in flight, and hands the open records over again in their order
// (recover.go), or sets one aside that can never be taken. A connection that
// reads along (guard.go, route.go) sees to it that nothing overtakes meanwhile; one that is
// dead without a word is found by its silence (silence.go). Since the
// client is idempotent and what was acknowledged is never sent again, duplicates
// come only from a crash. With delivery exactly once (exact.go, session.go,
// position.go) not from that either.
//
// A link may be open at times only (opening.go, package gate), and be bounded in
// what it carries (pace.go). Where another cluster takes over, a Chain (chain.go,
// choice.go) has one uplink send after the other.
package uplink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	drainTimeout     = 5 * time.Second        // a stop waits so long for acknowledgements
	drainTimeoutDown = 500 * time.Millisecond // and so long where the link is down
	abandonTimeout   = 2 * time.Second        // and then so long for the client to let go
	watchEvery       = time.Second
)

// Kafka is one uplink.
type Kafka struct {
	cfg     Config
	encoder *encoder
	options []kgo.Opt
	health  *health
	pace    *pace
	silence *silence
	exact   *exact         // nil: at least once
	helpers sync.WaitGroup // goroutines that Run waits for
	quiet   limiter

	renewAfter time.Duration
	idleAfter  time.Duration
	asked      time.Time // when a broker last owed an answer to records; of the goroutine of watch
	quietAfter time.Duration
	takes      []string // classes, of the uplink's; nil: all
	only       []string // that the log returns; nil: all. Of the goroutine of send
	duty       atomic.Int32
	stir       chan struct{} // capacity 1: the duty changed

	mu        sync.Mutex
	window    *window     // replaced by the goroutine of send alone
	client    *kgo.Client // while something is sent; nil with exact
	renewedAt time.Time
	served    bool // the window was used
}

// New returns an uplink. It checks all of cfg, says every problem at once, and
// starts nothing.
func New(cfg Config) (*Kafka, error) {
	cfg = cfg.withDefaults()
	topic, topicErr := parseTopic(cfg.Topic, cfg.Agent, cfg.Labels)
	key, keyErr := parseTemplate(cfg.Key, cfg.Agent, cfg.Labels)
	err := errors.Join(cfg.validate(), named("topic", topicErr), named("key", keyErr))
	if err != nil {
		return nil, fmt.Errorf("uplink %q: %w", cfg.Name, err)
	}
	pace := newPace(cfg.MaxRate)
	cfg.WindowBytes = pace.window(cfg.WindowBytes)
	k := &Kafka{
		cfg:     cfg,
		pace:    pace,
		silence: newSilence(),
		encoder: newEncoder(cfg.Agent, topic, key),
		window:  newWindow(cfg.WindowRecords, cfg.WindowBytes, cfg.Reader.AckRun),
		health:  &health{}, renewAfter: renewAfter, idleAfter: idleAfter, quietAfter: quietAfter, stir: make(chan struct{}, 1),
	}
	k.options = append(cfg.clientOptions(),
		kgo.WithHooks(k.health, placing{}), kgo.WithLogger(clientLog{k.health}), kgo.Dialer(k.dial))
	if cfg.ExactlyOnce {
		k.exact = newExact(k)
	}
	if err := kgo.ValidateOpts(k.options...); err != nil {
		return nil, fmt.Errorf("uplink %q: %w", cfg.Name, err)
	}
	return k, nil
}

func named(field string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %w", field, err)
}

// Run forwards until ctx ends, reconnecting by itself whatever breaks; an
// unreachable cluster is no error. Then it waits up to 5 s for what is in
// flight, moves the cursors over what was acknowledged, and returns nil when all
// its goroutines have ended. It returns an error only when the log does. It may
// be called once.
func (k *Kafka) Run(ctx context.Context) error {
	k.setDuty(sends)
	attending, stop := context.WithCancel(ctx)
	k.attend(attending)
	err := k.send(ctx)
	stop()
	k.helpers.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("uplink %q: %w", k.cfg.Name, err)
}

// attend keeps an eye on the link until ctx ends, whether anything is sent or
// not; helpers tells when that has ended.
func (k *Kafka) attend(ctx context.Context) {
	k.helpers.Go(func() { k.watch(ctx) })
	k.helpers.Go(func() { k.probe(ctx) })
	k.helpers.Go(func() { k.listen(ctx) })
	if k.cfg.Link != nil {
		k.helpers.Go(func() { _ = k.cfg.Link.Run(ctx) }) // it always returns nil
	}
}

// stream forwards with a client of its own until ctx ends, which is sooner than run
// does where the link closes, or the log fails. It returns when nothing is in
// flight any more or was given up.
func (k *Kafka) stream(run, ctx context.Context) error {
	if k.exact != nil {
		return k.exact.loop(ctx)
	}
	client, err := k.newClient()
	if err != nil {
		return err
	}
	k.mu.Lock()
	if k.served {
		k.window = k.window.successor() // the one before may have something in it that the client never gave back
	}
	k.client, k.renewedAt, k.served = client, time.Now(), true
	k.mu.Unlock()
	k.window.produce = k.produce
	err = k.pump(ctx)
	if ctx.Err() != nil {
		k.closing(run)
	}
	k.drain()
	k.mu.Lock()
	k.client = nil
	k.mu.Unlock()
	return err
}

// newClient returns a client like Run's. The library sorts the codecs of the
// options it is given in place, so that each client gets a list of its own.
func (k *Kafka) newClient(more ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(slices.Concat(k.options, []kgo.Opt{kgo.ProducerBatchCompression(k.cfg.codec())}, more)...)
}

// link returns the client that is in use, nil without one.
func (k *Kafka) link() *kgo.Client {
	if k.exact == nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.client
	}
	k.exact.mu.Lock()
	defer k.exact.mu.Unlock()
	if k.exact.current == nil {
		return nil
	}
	return k.exact.current.client
}

// drain ends the client: first it gives what is in flight time to be
// acknowledged, then it gives up the rest, which the log still has.
func (k *Kafka) drain() {
	timeout := drainTimeout
	if !k.Stats().Up {
		timeout = drainTimeoutDown
	}
	if !k.idleWithin(timeout) {
		ctx, cancel := context.WithTimeout(context.Background(), drainTimeoutDown)
		// Its error says that something is still on the wire; closing ends it.
		_ = k.link().AbortBufferedRecords(ctx)
		cancel()
	}
	k.link().Close()
	k.idleWithin(abandonTimeout)
	k.window.ackAll()
}

func (k *Kafka) idleWithin(d time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return k.window.waitIdle(ctx) == nil
}

// watch moves cursors that stand within a chunk and logs changes of the state.
func (k *Kafka) watch(ctx context.Context) {
	up, said := false, false
	for sleep(ctx, watchEvery) == nil {
		k.inFlight().ackAll()
		k.checkStuck()
		s := k.Stats()
		if s.Up == up && (said || s.LastError == "") { // at the start "down" is news once it has a reason
			continue
		}
		up, said = s.Up, true
		level := slog.LevelInfo
		if !up && !s.Closed {
			level = slog.LevelWarn
		}
		k.cfg.Log.Log(ctx, level, "uplink changed", slog.String("uplink", k.cfg.Name),
			slog.Bool("up", up), slog.String("state", s.State))
	}
}

// dial opens a connection to a broker: the socket with a meter, TLS, the pace, and a
// guard on top.
func (k *Kafka) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if k.exact != nil { // a transaction takes several connections, and not long
		ctx = context.WithValue(ctx, atOnce{}, true)
	}
	if k.inFlight().progress().inFlight > 0 {
		ctx = withRank(ctx, waiting)
	}
	return k.cfg.Spread.Dial(ctx, addr, func(ctx context.Context) (net.Conn, error) {
		g, err := k.dialNow(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		k.silence.watch(g, addr)
		return g, nil
	})
}

func (k *Kafka) dialNow(ctx context.Context, network, addr string) (*guard, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	plain := net.Dialer{KeepAlive: 15 * time.Second}
	conn, err := plain.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	socket := newMeter(conn, k.pace)
	conn = socket
	if k.cfg.TLS != nil {
		config, err := k.cfg.tlsFor(addr)
		if err != nil {
			_ = conn.Close() // as below
			return nil, err
		}
		secure := tls.Client(conn, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = conn.Close() // it carried nothing yet
			return nil, err
		}
		conn = secure
	}
	g := newGuard(newPacedConn(conn, k.pace), k.answered)
	g.socket, g.anew = socket, k.exact == nil
	return g, nil
}

// ErrNoClient is returned by Request while the uplink has no client, since it stands
// by or its link is closed.
var ErrNoClient = errors.New("the uplink has no client")

// Request sends a request of another purpose to a broker over the connections that the
// uplink has anyway, or makes one that it uses as well. It blocks until there is an
// answer or ctx ends, and is not repeated. Any goroutine may call it.
func (k *Kafka) Request(ctx context.Context, broker int32, req kmsg.Request) (kmsg.Response, error) {
	client := k.link()
	if client == nil {
		return nil, ErrNoClient
	}
	k.health.foreign.Add(1)
	defer k.health.foreign.Add(-1)
	return client.Broker(int(broker)).Request(ctx, req)
}

// answered is told of errors in the answer to a produce before the client is.
func (k *Kafka) answered(codes []*kerr.Error) {
	for _, e := range codes {
		k.health.complain(e, "")
		if givesBack(e) && k.exact == nil {
			w := k.inFlight()
			w.shut()
			w.awaitPlaced()
		}
	}
}

// inFlight is the window in use, for others than the goroutine of send.
func (k *Kafka) inFlight() *window {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.window
}
