// Package audit reads Kafka topics and tells from their records alone whether
// everything that agents numbered has arrived.
//
// Each record of an agent carries <agent>/<class>/<incarnation>/<seq>, and seq
// has no holes from 1 on: what was not delivered is named by a gap record. For
// each lane (agent, class, incarnation) the audit keeps the set of delivered
// numbers and the sets that gap records explain. What is in neither is
// unexplained: a loss, or not there yet.
//
//	audit.go     Config, Run                 cluster.go  connect, topics, offsets
//	fetch.go     reads partitions in step    record.go   headers and gap records
//	tally.go     takes records               lane.go     the account of one lane
//	set.go       sets of numbers             judge.go    what follows: Result
//
// Memory is bounded: partitions are read in step by the time of their records,
// so that the sets stay a few ranges long; a lane that has too many holes all the
// same is only counted from then on, and the result says so.
package audit

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"
)

// Defaults and bounds of Config.
const (
	DefaultMemory   = 256 << 20
	MinMemory       = 32 << 20
	DefaultSettle   = 5 * time.Second
	DefaultPatience = time.Minute
)

// Config configures Run. Clusters and Topics are needed.
type Config struct {
	// Clusters are read together, as one: a record that is in any of them is
	// there. One that is in two counts as a duplicate.
	Clusters []Cluster

	// Topics are names, or patterns: "*" and a placeholder such as {class} stand
	// for any characters of a name, or none, and what begins with "^" is a regular
	// expression (RE2) for a whole name.
	Topics []string

	Agents, Classes []string // only these; empty: all

	// From and To bound the time of the records that are judged: From is
	// included, To is not; zero: unbounded. Records outside still count as
	// there, and gap records that come later still explain.
	From, To time.Time

	// Uncommitted reads what transactions have not committed, and what they aborted.
	Uncommitted bool

	// Memory bounds the account and what is being read, in bytes, at least 32 MiB;
	// 0: 256 MiB. The Go runtime's own limit is up to the caller.
	Memory int64

	// Settle is how long after its beginning the audit looks again for numbers that
	// were not there: records of one moment reach partitions at different times.
	// 0: 5 s; negative: it does not look again.
	Settle time.Duration

	// Patience is how long a broker or partition may be unavailable; 0: 1 min.
	Patience time.Duration

	// Progress is called about once a second from Run's goroutine; nil: never.
	Progress func(Progress)
}

// Cluster is a Kafka cluster and how to log in there.
type Cluster struct {
	Brokers []string    // host:port of one or more
	TLS     *tls.Config // nil: plain TCP. It is cloned, never changed
	Login   Login       // zero: no login
}

// Login is a login by SASL.
type Login struct {
	Mechanism string // plain, scram-sha-256, scram-sha-512 or oauthbearer; empty: no login
	Username  string
	Password  func() (string, error) // called at each login; what it returns is never shown

	// Of oauthbearer, in place of the two: called at each login, and RFC 7628 §3.1.
	Token      func(context.Context) (string, error)
	Extensions map[string]string
}

// Progress is how far an audit has come.
type Progress struct {
	Records   uint64 // so far
	PerSecond float64
	Offsets   int64 // read so far, of All; offsets that hold no record count, too
	All       int64
}

// ErrConfig is in the chain of errors that are about Config.
var ErrConfig = errors.New("the audit's configuration is wrong")

// withDefaults returns c with its empty fields filled in, or what is wrong with it.
func (c Config) withDefaults() (Config, error) {
	if c.Memory == 0 {
		c.Memory = DefaultMemory
	}
	if c.Settle == 0 {
		c.Settle = DefaultSettle
	}
	if c.Patience == 0 {
		c.Patience = DefaultPatience
	}
	switch {
	case len(c.Clusters) == 0:
		return c, fmt.Errorf("%w: no cluster", ErrConfig)
	case len(c.Topics) == 0:
		return c, fmt.Errorf("%w: no topic", ErrConfig)
	case c.Memory < MinMemory:
		return c, fmt.Errorf("%w: memory is %d bytes (at least %d)", ErrConfig, c.Memory, MinMemory)
	case !c.From.IsZero() && !c.To.IsZero() && !c.From.Before(c.To):
		return c, fmt.Errorf("%w: the range from %s to %s is empty", ErrConfig, c.From.Format(time.RFC3339), c.To.Format(time.RFC3339))
	}
	for i, cl := range c.Clusters {
		if len(cl.Brokers) == 0 {
			return c, fmt.Errorf("%w: cluster %d has no brokers", ErrConfig, i+1)
		}
	}
	return c, nil
}

// Run audits the topics up to their ends as they are now. It returns an error
// when there was nothing to judge: the configuration is wrong, no cluster answers,
// a topic is not there. A part that cannot be read, and the end of ctx, make the
// result incomplete. It blocks until everything is read.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	patterns, err := parsePatterns(cfg.Topics)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	j := &job{cfg: &cfg, begin: begin, tally: newTally(&cfg)}
	defer j.close()
	for i, c := range cfg.Clusters {
		if err := j.open(ctx, i, c, patterns); err != nil {
			return nil, err
		}
	}
	if err := j.topicsFound(patterns); err != nil {
		return nil, err
	}
	j.read(ctx)
	result := j.result()
	if cfg.Settle > 0 && !result.Unread && result.Totals.Unexplained > 0 && j.settle(ctx) {
		result = j.result()
	}
	return result, nil
}
