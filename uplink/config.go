package uplink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"sluice/buffer"
	"sluice/uplink/gate"
)

// Defaults and bounds of Config.
const (
	DefaultTopic         = "sluice.{class}"
	DefaultPositionTopic = "sluice.positions"
	DefaultCompression   = "zstd"
	DefaultWindowBytes   = 4 << 20
	DefaultWindowRecords = 5000

	minMaxRate       = 1 << 10
	minWindowBytes   = 64 << 10
	maxWindowBytes   = 1 << 30
	maxWindowRecords = 1_000_000
)

// Timings of the link. They are a trade between noticing a dead link soon and
// not killing a slow one.
const (
	dialTimeout     = 10 * time.Second
	requestOverhead = 5 * time.Second // beyond what a broker may take to answer (10 s for a produce)
	retryMin        = 250 * time.Millisecond
	retryMax        = 2 * time.Second // longest wait after which a healed link is noticed
	idleTimeout     = 5 * time.Minute // of a connection: statuses come each minute
)

// Log is what an uplink needs of the event log.
type Log interface {
	// NextUpTo returns the batch that follows the one it returned before, of the
	// class with the highest priority that has one: at most so many events and
	// about so many bytes, at least one event. It blocks until there is
	// one or ctx ends; a call that ends with ctx's error takes no batch. The
	// batch is read-only. Only one goroutine calls it.
	NextUpTo(ctx context.Context, events int, bytes int64) (buffer.Batch, error)

	// AckRun says that everything of the class up to and including seq that was
	// returned with that Run has been delivered or accounted for. It does not block
	// and only moves forward. Any goroutine may call it.
	AckRun(class string, run uint32, seq uint64)

	// Reject accounts for one event that can never be delivered. It blocks
	// until that is durable; only then is the event acknowledged.
	Reject(ctx context.Context, class string, seq uint64, reason string) error

	// Rewind makes NextUpTo begin again right behind what was acknowledged, and return
	// these classes only from now on; nil: all of the uplink's. No NextUpTo
	// may be under way.
	Rewind(classes []string)

	// Incarnation is that of the log; what was written before it was drawn has
	// another one.
	Incarnation() string
}

// Config configures New. Name, Agent, Brokers and Reader are needed.
type Config struct {
	Name    string            // the uplink's name in the config, for messages
	Agent   string            // the agent's id, [A-Za-z0-9._-], 1 to 64 characters
	Labels  map[string]string // for {label.NAME} in Topic and Key
	Brokers []string          // host:port of one or more brokers of the cluster, tried in random order

	// TLS returns the settings for one connection, so that exchanged certificates and
	// authorities are picked up; nil: plain TCP. An empty ServerName is filled in with
	// the broker's host name. What it returns is cloned, never changed. It may be called
	// by several goroutines at once.
	TLS func() (*tls.Config, error)

	SASL SASL // zero: no login

	// Spread spreads the attempts to reach a cluster that has been away for a while.
	// All clients of the agent that go to the same brokers should share one; nil:
	// one of its own.
	Spread *Spread

	// Topic and Key are templates; their placeholders are {agent} {class}
	// {source} {device} {label.NAME} {mqtt.topic} {mqtt.topic.N}, where N
	// counts the levels of the topic from 1. What is not legal in the name of a
	// topic is replaced ("/" by ".", the rest by "_"). A key that comes out
	// empty is the event's subject.
	Topic string // empty: "sluice.{class}"
	Key   string // empty: the event's subject

	// ExactlyOnce sends in transactions, so that a consumer that reads only what
	// is committed sees each event once, also across a crash. PositionTopic is
	// where the position is kept, a compacted topic that is made when it is
	// missing. The transactional id is "sluice/<Agent>/<Name>".
	ExactlyOnce   bool
	PositionTopic string // empty: "sluice.positions"

	// MaxRate bounds the bytes per second that all connections of the uplink write to
	// their sockets together, as they are on the wire: compressed, with TLS. After a
	// pause what fits into one second may go out at once. With it no more than four
	// seconds' worth is in flight, before compression. A record that takes long to
	// go out is not taken for a broken link; with ExactlyOnce it has 30 s.
	MaxRate int64 // 1 KiB to 1 TiB; 0: unlimited

	// Link says when the uplink may send; nil: always. It is run by Run. While it is
	// closed the uplink has no client and sends nothing, but for events of the classes
	// in Always. What is in flight when it closes is still delivered, within a minute.
	Link   *gate.Link
	Always []string

	Compression string // none, gzip, snappy, lz4 or zstd (level 1); empty: zstd

	// WindowBytes and WindowRecords bound what is in flight, and with it the
	// memory: keys, values and headers of the records that were handed to the
	// client and not yet acknowledged. One record that is larger than the
	// window alone is sent alone.
	WindowBytes   int // 64 KiB to 1 GiB; 0: 4 MiB
	WindowRecords int // 1 to 1,000,000; 0: 5,000

	Reader Log          // where events come from, with a cursor of this uplink's own
	Log    *slog.Logger // nil: discarded
}

// SASL is the login at the brokers.
type SASL struct {
	Mechanism string // plain, scram-sha-256, scram-sha-512 or oauthbearer; empty: no login
	Username  string // not with oauthbearer

	// Password is called at each login, so that a changed secret is picked up
	// without a restart. It may be called by several goroutines at once. What
	// it returns is never logged.
	Password func() (string, error)

	// Token and Extensions (RFC 7628 §3.1) are those of oauthbearer. Token is called
	// at each login, also at those by which a broker wants a connection renewed,
	// as Password is. Its error is shown as it is.
	Token      func(context.Context) (string, error)
	Extensions map[string]string
}

var (
	agentName    = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
	compressions = []string{"none", "gzip", "snappy", "lz4", "zstd"}
	mechanisms   = []string{"plain", "scram-sha-256", "scram-sha-512", "oauthbearer"}
)

// withDefaults returns c with its empty fields filled in.
func (c Config) withDefaults() Config {
	if c.Topic == "" {
		c.Topic = DefaultTopic
	}
	if c.PositionTopic == "" {
		c.PositionTopic = DefaultPositionTopic
	}
	if c.Compression == "" {
		c.Compression = DefaultCompression
	}
	if c.WindowBytes == 0 {
		c.WindowBytes = DefaultWindowBytes
	}
	if c.WindowRecords == 0 {
		c.WindowRecords = DefaultWindowRecords
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Spread == nil {
		c.Spread = &Spread{Brokers: len(c.Brokers)}
	}
	return c
}

// validate returns every problem of c at once, templates excepted.
func (c Config) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Name == "" {
		bad("name is empty")
	}
	if !agentName.MatchString(c.Agent) {
		bad("agent %q is not allowed (1 to 64 characters of A-Z a-z 0-9 . _ -)", c.Agent)
	}
	if c.Reader == nil {
		bad("reader is missing")
	}
	if len(c.Brokers) == 0 {
		bad("brokers is empty (host:port of at least one)")
	}
	for i, b := range c.Brokers {
		if err := checkBroker(b); err != nil {
			bad("brokers[%d] %q: %w", i, b, err)
		}
	}
	if !slices.Contains(compressions, c.Compression) {
		bad("compression %q is unknown (%s)", c.Compression, strings.Join(compressions, ", "))
	}
	if c.WindowBytes < minWindowBytes || c.WindowBytes > maxWindowBytes {
		bad("window bytes %d are out of range (%d to %d)", c.WindowBytes, minWindowBytes, maxWindowBytes)
	}
	if c.MaxRate != 0 && (c.MaxRate < minMaxRate || c.MaxRate > 1<<40) {
		bad("max rate %d is out of range (%d to %d bytes per second, 0: unlimited)", c.MaxRate, minMaxRate, int64(1)<<40)
	}
	if c.WindowRecords < 1 || c.WindowRecords > maxWindowRecords {
		bad("window records %d are out of range (1 to %d)", c.WindowRecords, maxWindowRecords)
	}
	errs = append(errs, c.SASL.validate())
	return errors.Join(errs...)
}

func checkBroker(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" {
		return errors.New("not host:port")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return fmt.Errorf("port %q is not a number from 1 to 65535", port)
	}
	return nil
}

func (s SASL) validate() error {
	switch {
	case s.Mechanism == "" && (s.Username != "" || s.Password != nil || s.Token != nil):
		return fmt.Errorf("sasl.mechanism is missing (%s)", strings.Join(mechanisms, ", "))
	case s.Mechanism == "":
		return nil
	case s.Mechanism == "oauthbearer" && s.Token == nil:
		return errors.New("sasl.token is missing")
	case s.Mechanism == "oauthbearer":
		return nil
	case !slices.Contains(mechanisms, s.Mechanism):
		return fmt.Errorf("sasl.mechanism %q is unknown (%s)", s.Mechanism, strings.Join(mechanisms, ", "))
	case s.Username == "":
		return errors.New("sasl.username is empty")
	case s.Password == nil:
		return errors.New("sasl.password is missing")
	}
	return nil
}

// tokenError says in words why there is no token to log in with.
type tokenError struct{ err error }

func (e *tokenError) Error() string { return "cannot log in: " + e.err.Error() }
func (e *tokenError) Unwrap() error { return e.err }

// mechanism returns the client's side of the login.
func (s SASL) mechanism() sasl.Mechanism {
	password := func() (string, error) {
		p, err := s.Password()
		if err != nil {
			return "", fmt.Errorf("read sasl.password: %w", err)
		}
		return p, nil
	}
	scramAuth := func(context.Context) (scram.Auth, error) {
		p, err := password()
		return scram.Auth{User: s.Username, Pass: p}, err
	}
	switch s.Mechanism {
	case "oauthbearer":
		return oauth.Oauth(func(ctx context.Context) (oauth.Auth, error) {
			token, err := s.Token(ctx)
			if err != nil {
				return oauth.Auth{}, &tokenError{err}
			}
			return oauth.Auth{Token: token, Extensions: s.Extensions}, nil
		})
	case "scram-sha-256":
		return scram.Sha256(scramAuth)
	case "scram-sha-512":
		return scram.Sha512(scramAuth)
	default:
		return plain.Plain(func(context.Context) (plain.Auth, error) {
			p, err := password()
			return plain.Auth{User: s.Username, Pass: p}, err
		})
	}
}

// tlsFor returns the settings for a connection to addr.
func (c Config) tlsFor(addr string) (*tls.Config, error) {
	t, err := c.TLS()
	if err != nil {
		return nil, err
	}
	t = t.Clone()
	if t.ServerName == "" {
		t.ServerName = addr
		if host, _, err := net.SplitHostPort(addr); err == nil {
			t.ServerName = host
		}
	}
	return t, nil
}

func (c Config) codec() kgo.CompressionCodec {
	switch c.Compression {
	case "gzip":
		return kgo.GzipCompression()
	case "snappy":
		return kgo.SnappyCompression()
	case "lz4":
		return kgo.Lz4Compression()
	case "zstd":
		// Level 1 costs a fifth less CPU than the default and telemetry does
		// not get larger by it.
		return kgo.ZstdCompression().WithLevel(1)
	default:
		return kgo.NoCompression()
	}
}

// clientOptions returns the options of the Kafka client, without the hooks.
// Idempotence and acks=all are the client's defaults; no record ever times out.
func (c Config) clientOptions() []kgo.Opt {
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...),
		kgo.ClientID("sluice-" + c.Agent),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchCompression(c.codec()),
		// Batches come in runs already. Measured, waiting for more saved no byte on
		// the wire and cost a tenth of the throughput.
		kgo.ProducerLinger(0),
		// The window is kept by the pump, which must never block inside the
		// client; these limits are only there to be out of reach.
		kgo.MaxBufferedRecords(2*maxWindowRecords + 1),
		kgo.UnknownTopicRetries(-1),
		kgo.AllowAutoTopicCreation(),
		kgo.RequestTimeoutOverhead(requestOverhead),
		kgo.RetryBackoffFn(func(n int) time.Duration { return backoff(n, retryMin, retryMax) }),
		kgo.MetadataMinAge(time.Second),
		kgo.ConnIdleTimeout(idleTimeout),
		kgo.AlwaysRetryEOF(), // what stands in front of a cluster that is away hangs up: no reason to ask for metadata
		kgo.DisableClientMetrics(),
	}
	if c.SASL.Mechanism != "" {
		opts = append(opts, kgo.SASL(c.SASL.mechanism()))
	}
	return opts
}

// backoff returns how long to wait before attempt n (from 1): doubling from low
// up to high, and of that a random part between one half and all of it, because
// the gateways of a plant come back together.
func backoff(n int, low, high time.Duration) time.Duration {
	d := high
	if n < 1 {
		n = 1
	}
	if n < 20 {
		d = min(high, low<<(n-1))
	}
	return d/2 + rand.N(d/2+1)
}

// jitter returns d, give or take up to a quarter of it.
func jitter(d time.Duration) time.Duration {
	return d*3/4 + rand.N(d/2+1)
}

// sleep waits for d or until ctx ends, and then returns ctx's error.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
