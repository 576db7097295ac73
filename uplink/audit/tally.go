package audit

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Shares of Config.Memory. What is left is for what is being read and for the
// runtime.
const (
	laneShare  = 2  // half for the lanes and their sets
	orderShare = 16 // a sixteenth for the table of keys
	orderBytes = 40 // of one key in it
)

// tally takes records, in the order of each partition, and keeps account of the
// lanes. It belongs to one goroutine.
type tally struct {
	cfg   *Config
	lanes map[string]*lane
	bytes int64 // of the lanes
	limit int64

	seed     maphash.Seed
	order    map[uint64]uint64 // lane, partition and key → the highest number so far
	orderMax int

	read      uint64 // records
	foreign   uint64
	filtered  uint64
	malformed uint64
	examples  []Malformed
	unordered uint64 // records whose order was not checked, for want of memory
	unheld    uint64 // records of lanes that there was no memory for
	coarse    int    // lanes
	settling  bool   // what comes now only fills holes
}

func newTally(cfg *Config) *tally {
	return &tally{cfg: cfg, lanes: map[string]*lane{}, limit: cfg.Memory / laneShare, seed: maphash.MakeSeed(),
		order: map[uint64]uint64{}, orderMax: int(cfg.Memory / orderShare / orderBytes)}
}

// take takes the next record of p.
func (t *tally) take(p *partition, r *kgo.Record) {
	e, ours := readHeaders(r.Headers)
	if !t.settling {
		t.read++
		if !ours {
			t.foreign++
		}
	}
	if !ours {
		return
	}
	if e.problem != "" {
		t.malform(p, r, e.problem)
		return
	}
	l, problem := t.lane(e.lane)
	switch {
	case problem != "":
		t.malform(p, r, problem)
	case l != nil:
		t.count(l, p, r, e)
		t.watchMemory()
	}
}

// lane finds the lane, or makes it; nil: it is not wanted, or there is no memory.
func (t *tally) lane(name []byte) (l *lane, problem string) {
	if l = t.lanes[string(name)]; l != nil {
		return l, ""
	}
	l = &lane{id: string(name)}
	if l.agent, l.class, l.incarnation, problem = splitLane(l.id); problem != "" {
		return nil, problem
	}
	switch {
	case t.settling: // it began after the audit
		return nil, ""
	case len(t.cfg.Agents) > 0 && !slices.Contains(t.cfg.Agents, l.agent), len(t.cfg.Classes) > 0 && !slices.Contains(t.cfg.Classes, l.class):
		t.filtered++
		return nil, ""
	case t.bytes+laneBytes > t.limit:
		t.unheld++
		return nil, ""
	}
	l.no = uint64(len(t.lanes) + 1)
	t.lanes[l.id] = l
	t.bytes += laneBytes
	return l, ""
}

func (t *tally) malform(p *partition, r *kgo.Record, problem string) {
	if t.settling {
		return
	}
	t.malformed++
	if len(t.examples) < maxExamples {
		id := ""
		for _, h := range r.Headers {
			if h.Key == headerID {
				id = strings.ToValidUTF8(string(h.Value[:min(len(h.Value), 200)]), "\uFFFD")
			}
		}
		t.examples = append(t.examples, Malformed{Place: p.place(0, r.Offset), ID: id, Problem: problem})
	}
}

// count takes a record of l into account.
func (t *tally) count(l *lane, p *partition, r *kgo.Record, e envelope) {
	before := l.setBytes()
	ms := r.Timestamp.UnixMilli()
	if r.Attrs.TimestampType() == 1 { // the broker's time; the event's own is in its header
		if at, err := time.Parse(time.RFC3339Nano, string(e.time)); err == nil {
			ms = at.UnixMilli()
		}
	}
	if e.gap { // a repeated one says the same
		if g, err := parseGap(r.Value, e.seq); err != nil {
			t.malform(p, r, err.Error())
		} else {
			l.explain(g)
		}
	}
	if !t.settling && !e.replay { // a repetition says nothing of the order
		l.meet(p, e.seq, ms)
	}
	if fresh := t.put(l, e); !t.settling && t.within(ms) {
		t.countJudged(l, p, r, e, fresh, ms)
	}
	t.bytes += l.setBytes() - before
}

func (t *tally) put(l *lane, e envelope) (fresh bool) {
	if e.replay {
		l.replay(e.seq)
		return true
	}
	return l.deliver(e.seq)
}

// within reports whether a record of that time is to be judged.
func (t *tally) within(ms int64) bool {
	return (t.cfg.From.IsZero() || ms >= t.cfg.From.UnixMilli()) && (t.cfg.To.IsZero() || ms < t.cfg.To.UnixMilli())
}

func (t *tally) countJudged(l *lane, p *partition, r *kgo.Record, e envelope, fresh bool, ms int64) {
	l.records++
	l.judged(e.seq)
	l.newest = max(l.newest, ms)
	if e.gap && !e.replay {
		l.gaps++
	}
	switch {
	case e.replay:
		l.replays++
	case !fresh:
		l.duplicates++
		if len(l.examples) < maxExamples {
			if l.examples == nil {
				t.bytes += maxExamples * placeBytes
				l.examples = make([]Place, 0, maxExamples)
			}
			l.examples = append(l.examples, p.place(e.seq, r.Offset))
		}
	case !e.late && l.coarse == nil: // live_share gives the order up knowingly; of a coarse lane a repetition isn't known as one
		t.checkOrder(l, p, r.Key, e.seq)
	}
}

// checkOrder compares a number with the highest of its key in the partition. A
// key is known by a hash of 64 bits.
func (t *tally) checkOrder(l *lane, p *partition, key []byte, seq uint64) {
	h := maphash.Bytes(t.seed, key) ^ l.no*0x9e3779b97f4a7c15 ^ uint64(p.no)*0xc2b2ae3d27d4eb4f
	highest, known := t.order[h]
	switch {
	case !known && len(t.order) >= t.orderMax:
		t.unordered++
	case seq < highest:
		l.disorder++
	default:
		t.order[h] = seq
	}
}

// watchMemory makes lanes coarse, the largest first, when the sets take more than
// their share.
func (t *tally) watchMemory() {
	if t.bytes <= t.limit {
		return
	}
	all := make([]*lane, 0, len(t.lanes))
	for _, l := range t.lanes {
		if l.setBytes() > 0 {
			all = append(all, l)
		}
	}
	slices.SortFunc(all, func(a, b *lane) int { return cmp.Compare(b.setBytes(), a.setBytes()) })
	for _, l := range all {
		if t.bytes <= t.limit/8*7 {
			return
		}
		t.bytes -= l.setBytes()
		l.coarsen()
		t.coarse++
	}
}

// limitations says what want of memory left undone.
func (t *tally) limitations() (all []string) {
	if t.coarse > 0 {
		all = append(all, fmt.Sprintf("memory: %d lanes have so many holes that they were only counted; give --memory more, or audit fewer with --agent, --class or --from", t.coarse))
	}
	if t.unheld > 0 {
		all = append(all, fmt.Sprintf("memory: %d records of lanes that there was no room for; give --memory more, or audit fewer with --agent or --class", t.unheld))
	}
	return all
}
