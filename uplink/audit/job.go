package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// job is one audit under way.
type job struct {
	cfg      *Config
	begin    time.Time
	clusters []*cluster
	topics   []*topic
	warnings []string
	failures []string // why not everything was read
	tally    *tally

	total, done int64 // offsets
	said        time.Time
	saidRecords uint64
}

func (j *job) close() {
	for _, c := range j.clusters {
		c.client.Close()
	}
}

func (j *job) warn(format string, args ...any) {
	j.warnings = append(j.warnings, fmt.Sprintf(format, args...))
}

// open connects to a cluster and finds the topics and where they begin and end.
func (j *job) open(ctx context.Context, i int, cfg Cluster, patterns []pattern) error {
	c, err := connect(ctx, i+1, cfg, j.cfg.Patience)
	if err != nil {
		return err
	}
	j.clusters = append(j.clusters, c)
	var found []*topic
	if err := j.persist(ctx, func() error {
		if found, err = c.topics(ctx, patterns); err != nil {
			return err
		}
		return j.bounds(ctx, c, found)
	}); err != nil {
		return err
	}
	if err := c.configs(ctx, found); err != nil {
		j.warn("cluster %d: how long the topics keep records cannot be read (%v): what they lost is judged by the first records that are left", c.no, err)
	}
	no := j.partitions()
	for _, t := range found {
		if t.compacted {
			j.warn("cluster %d topic %s is compacted: numbers that compaction removed look like losses", c.no, t.name)
		}
		for _, p := range t.partitions {
			p.no, p.next, p.size = int32(no), p.begin, j.chunk()
			no++
			if p.high > p.end {
				j.warn("%s: %d offsets behind an open transaction are not judged", p, p.high-p.end)
			}
			j.total += p.end - p.begin
		}
		j.topics = append(j.topics, t)
	}
	return j.edges(ctx, found)
}

// partitions is how many are known so far.
func (j *job) partitions() (n int) {
	for _, t := range j.topics {
		n += len(t.partitions)
	}
	return n
}

// chunk is how many bytes one fetch asks for.
func (j *job) chunk() int32 {
	return int32(min(1<<20, j.cfg.Memory/256))
}

// bounds finds the offsets of the topics' partitions.
func (j *job) bounds(ctx context.Context, c *cluster, found []*topic) error {
	committed := !j.cfg.Uncommitted
	err := c.offsets(ctx, found, atEnd, committed, func(p *partition, o int64) { p.end, p.high = o, o })
	if err == nil && committed {
		err = c.offsets(ctx, found, atEnd, false, func(p *partition, o int64) { p.high = max(p.high, o) })
	}
	if err == nil {
		err = c.offsets(ctx, found, atStart, false, func(p *partition, o int64) { p.start, p.begin = o, o })
	}
	if err == nil && !j.cfg.From.IsZero() {
		err = c.offsets(ctx, found, j.cfg.From.UnixMilli(), false, func(p *partition, o int64) {
			if p.begin = max(o, p.start); o < 0 {
				p.begin = p.end
			}
		})
	}
	if err != nil {
		return err
	}
	for _, t := range found {
		for _, p := range t.partitions {
			p.begin = min(p.begin, p.end)
			p.cut = p.start > 0 && p.begin == p.start
		}
	}
	return nil
}

// edges finds up to which time the topics may have lost records: that of the
// first records that are left, or of what is old enough to be deleted.
func (j *job) edges(ctx context.Context, found []*topic) error {
	for _, t := range found {
		var old int64
		if t.retention > 0 {
			old = j.begin.Add(-t.retention).UnixMilli()
		}
		for _, p := range t.partitions {
			if !p.cut {
				continue
			}
			t.cuts++
			at := old
			if p.begin < p.end {
				var first int64
				if err := j.persist(ctx, func() (err error) { first, err = p.firstTime(ctx, j.cfg.Uncommitted); return err }); err != nil {
					return err
				}
				at = max(at, first)
			} else if old == 0 {
				at = j.begin.UnixMilli()
				j.warn("%s is empty and was not always: what it held cannot be told from losses", p)
			}
			t.edge = max(t.edge, at)
		}
	}
	return nil
}

// topicsFound makes sure that every pattern has named a topic somewhere.
func (j *job) topicsFound(patterns []pattern) error {
	for _, p := range patterns {
		if !slices.ContainsFunc(j.topics, func(t *topic) bool { return p.matches(t.name) }) {
			return fmt.Errorf("no topic %s in the cluster (or this login may not see it)", p.text)
		}
	}
	return nil
}

// persist repeats what fails for a while for as long as Patience says.
func (j *job) persist(ctx context.Context, do func() error) error {
	for begin := time.Now(); ; {
		err := do()
		if err == nil || ctx.Err() != nil || time.Since(begin) > j.cfg.Patience || !passing(err) {
			return err
		}
		pause(ctx, retryEvery)
	}
}

// passing reports whether an error may go away by itself.
func passing(err error) bool {
	var e *kerr.Error
	return !errors.As(err, &e) || e.Retriable
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// settle reads on, to what has arrived since the beginning, for the numbers that
// were missing then. It reports whether it could.
func (j *job) settle(ctx context.Context) bool {
	pause(ctx, time.Until(j.begin.Add(j.cfg.Settle)))
	ends := map[*partition]int64{}
	for _, c := range j.clusters {
		if err := c.offsets(ctx, j.topics, atEnd, !j.cfg.Uncommitted, func(p *partition, o int64) { ends[p] = o }); err != nil {
			j.warn("looking again for what was missing failed: %v", err)
			return false
		}
	}
	for p, end := range ends {
		if end > p.end {
			j.total += end - p.end
			p.end = end
		}
	}
	j.tally.settling = true
	j.read(ctx)
	if len(j.failures) > 0 { // what was asked for had been read
		j.warn("looking again for what was missing failed: %s", j.failures[0])
		j.failures = nil
	}
	return true
}

// result works out what was found.
func (j *job) result() *Result {
	r := newResult(j.tally)
	r.Began, r.Ended, r.Warnings = j.begin, time.Now(), j.warnings
	r.Unread = len(j.failures) > 0
	r.Incomplete = append(slices.Clone(j.failures), r.Incomplete...)
	if r.Totals.Lanes == 0 {
		r.Warnings = append(r.Warnings, "nothing was judged: these topics have no record of such agents and classes in this range of time, so nothing is proven")
	}
	for _, t := range j.topics {
		r.Topics = append(r.Topics, Topic{Cluster: t.cluster.no, Name: t.name, Partitions: len(t.partitions), CutPartitions: t.cuts})
	}
	return r
}
