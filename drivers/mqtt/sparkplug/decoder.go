// Package sparkplug decodes Sparkplug B, Eclipse Sparkplug Specification 3.0.0:
// Protocol Buffers over MQTT, in which births name the metrics of an edge node
// and its devices, data refers to them by number, and deaths end them.
//
// The way of a message, with the files along it:
//
//	topic.go   which node and device, and what kind of message
//	wire.go    Protocol Buffers, field by field
//	payload.go its fields; nothing is copied yet
//	scope.go   what a birth tells of its metrics
//	state.go   is it the next message of its node? is the node alive?
//	sheet.go   the metrics, as JSON (value.go, array.go, compound.go, json.go)
//	rebirth.go a request for a birth, where the state is not whole
package sparkplug

import (
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"sluice/drivers"
)

// Config bounds a Decoder. Zero values mean the default.
type Config struct {
	// MaxJSON is the largest event in bytes; a message that would be larger is
	// refused. 0: 4 MiB.
	MaxJSON int
	// MaxState is about how many bytes the names of all metrics may take in
	// memory. Births beyond it are decoded and not remembered. 0: 8 MiB.
	MaxState int
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Defaults of Config.
const (
	defaultMaxJSON  = 4 << 20
	defaultMaxState = 8 << 20
)

// Decoder makes events of messages. Only Stats may be called by several
// goroutines.
type Decoder struct {
	cfg   Config
	state state
	nodes atomic.Int64
	gaps  atomic.Uint64
}

// Message is what a Decoder makes of a message.
type Message struct {
	// Device is NODE or NODE/DEVICE; empty for the state of a host.
	Device string
	// Payload is the event's payload, and ContentType its type.
	Payload     []byte
	ContentType string
	// Ask is the topic of a rebirth request that should be sent; empty: none.
	Ask string
	// Full is true where there was no memory for the names of a birth.
	Full bool
}

// Stats is what a Decoder has seen.
type Stats struct {
	Nodes int    // edge nodes that are known
	Gaps  uint64 // messages whose seq was not the next one
}

// New returns a decoder that knows nothing yet.
func New(cfg Config) *Decoder {
	if cfg.MaxJSON == 0 {
		cfg.MaxJSON = defaultMaxJSON
	}
	if cfg.MaxState == 0 {
		cfg.MaxState = defaultMaxState
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Decoder{cfg: cfg, state: state{nodes: map[string]*node{}, room: cfg.MaxState}}
}

// Stats returns the counts so far.
func (d *Decoder) Stats() Stats { return Stats{Nodes: int(d.nodes.Load()), Gaps: d.gaps.Load()} }

// Missed tells that messages may have been missed, as after a new connection:
// each node is asked for a rebirth with its next message, and till then events
// say so.
func (d *Decoder) Missed() { d.state.missed() }

// Decode makes an event of a message that was taken at that time. The error says
// why there is none; Ask and Full count even then.
func (d *Decoder) Decode(topic string, body []byte, at time.Time) (Message, error) {
	a, err := parseTopic(topic)
	if err != nil {
		return Message{}, err
	}
	if a.verb == hostState {
		return hostMessage(body), nil
	}
	p, err := new(parser).payload(body)
	if err != nil {
		return Message{}, fmt.Errorf("%s: %w", a.verb, err)
	}
	var birth *scope
	if a.verb.birth() {
		if birth, err = new(parser).learn(p.metrics, 0); err != nil {
			return Message{}, fmt.Errorf("%s: %w", a.verb, err)
		}
	}
	now := d.cfg.Now()
	n := d.state.find(a, now)
	o := d.state.follow(n, a, p, birth)
	d.nodes.Store(int64(len(d.state.nodes)))
	d.gaps.Store(d.state.gaps)

	m := Message{Device: a.name(), ContentType: drivers.ContentJSON, Full: o.full}
	r := renderer{left: d.cfg.MaxJSON}
	m.Payload, err = r.event(a, p, o, at)
	data := a.verb == nodeData || a.verb == deviceData
	if (o.ask || data && r.unknown) && n.kept && n.limit.ask(now) {
		m.Ask = a.command()
	}
	if err != nil {
		return m, fmt.Errorf("%s: %w", a.verb, err)
	}
	return m, nil
}

// event writes the JSON of a message.
func (r *renderer) event(a address, p *payload, o outcome, at time.Time) ([]byte, error) {
	stamp := p.time
	// The time in a will is that of the connection, Sparkplug 3.0.0 §5.5.
	if !p.hasTime || stamp > lastTime || a.verb == nodeDeath {
		stamp = uint64(at.UnixMilli())
	}
	r.base = stamp
	var s sheet
	if err := r.sheet(&s, p.metrics, o.known, 0); err != nil {
		return nil, err
	}
	if o.died && o.dead != nil {
		if s.quality = o.dead.allStale(); !r.spend(len(s.quality)) {
			return nil, errLarge
		}
	}
	if !r.spend(len(p.body)/3*4 + len(p.uuid)) {
		return nil, errLarge
	}
	dst := make([]byte, 0, s.size()+256)
	dst = appendTime(appendKey(append(dst, '{'), "time"), stamp)
	if a.verb != nodeDeath && !a.verb.command() {
		dst = strconv.AppendUint(appendKey(dst, "seq"), p.seq, 10)
	}
	for _, flag := range []struct {
		name string
		set  bool
	}{{"birth", a.verb.birth()}, {"death", o.died}, {"command", a.verb.command()}, {"gap", o.gap}} {
		if flag.set {
			dst = append(appendKey(dst, flag.name), "true"...)
		}
	}
	dst = s.append(dst)
	if len(o.devices) > 0 {
		dst = append(appendKey(dst, "devices"), '[')
		for i, device := range o.devices {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendString(dst, device)
		}
		dst = append(dst, ']')
	}
	if p.uuid != "" {
		dst = appendString(appendKey(dst, "uuid"), p.uuid)
	}
	if len(p.body) > 0 {
		dst = appendBase64(appendKey(dst, "body"), p.body)
	}
	return append(dst, '}'), nil
}

// allStale is the quality of all metrics after a death.
func (s *scope) allStale() (dst []byte) {
	for _, d := range s.list {
		dst = appendString(appendKey(dst, d.name), stale)
	}
	return dst
}
