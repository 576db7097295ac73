package sparkplug

import (
	"slices"
	"time"
)

// node is what is known of an edge node.
type node struct {
	key     string
	own     *scope            // of its NBIRTH; nil: none came, or it is dead
	devices map[string]*scope // of the DBIRTHs since then

	dead   bool   // an NDEATH came, and no NBIRTH since
	unsure bool   // messages were missed since the NBIRTH
	seq    byte   // of the last message
	bdSeq  uint64 // of the NBIRTH
	tied   bool   // it had one

	heard time.Time
	limit limiter
	kept  bool // false: there was no room for it
	cost  int  // bytes in memory, about
}

func (n *node) born() bool { return n.own != nil }

// known is what a birth told of the metrics at an address; nil for nothing.
func (n *node) known(device string) *scope {
	if device == "" {
		return n.own
	}
	return n.devices[device]
}

// state is what is known of all edge nodes, within a bound of memory.
type state struct {
	nodes map[string]*node
	room  int // bytes that are left
	gaps  uint64
}

// outcome is what a message did to the state.
type outcome struct {
	known   *scope   // for the message's metrics
	dead    *scope   // the metrics that are stale from now on
	devices []string // the devices that are dead from now on, with their node
	died    bool
	gap     bool // the state may not be the node's: its birth or other messages were missed
	ask     bool // a rebirth would help
	full    bool // the birth could not be remembered
}

// follow takes a message into the state. birth is what it tells, if it is one.
func (s *state) follow(n *node, a address, p *payload, birth *scope) outcome {
	switch a.verb {
	case nodeBirth:
		return s.nodeBirth(n, p, birth)
	case nodeDeath:
		return s.nodeDeath(n, p)
	case nodeCommand, deviceCommand:
		return outcome{known: n.known(a.device)}
	}
	s.count(n, p)
	o := outcome{gap: n.unsure || !n.born(), ask: n.unsure || !n.born()}
	switch a.verb {
	case deviceBirth:
		o.known = birth
		o.full = !s.keepDevice(n, a.device, birth)
	case deviceDeath:
		o.dead, o.died = n.devices[a.device], true
		o.known = o.dead
		s.dropDevice(n, a.device)
	default: // NDATA, DDATA
		o.known = n.known(a.device)
		o.ask = o.ask || o.known == nil
	}
	return o
}

// count checks that the message is the next one of its node: seq goes up by one
// in each, from 255 back to 0 (Sparkplug 3.0.0 §6.4.5). One without seq has 0,
// as encoders of proto3 leave it out. No time is given for messages out of order
// to come after all (§5.9): MQTT keeps their order on one connection.
func (s *state) count(n *node, p *payload) {
	seq := byte(p.seq)
	if n.born() && seq != n.seq+1 {
		n.unsure = true
		s.gaps++
	}
	n.seq = seq
}

// nodeBirth begins a session: all that was known of the node is replaced, and
// its devices have to be born again (Sparkplug 3.0.0 §4.2.1.1).
func (s *state) nodeBirth(n *node, p *payload, birth *scope) outcome {
	s.clear(n)
	n.dead, n.unsure, n.seq = false, false, byte(p.seq)
	n.bdSeq, n.tied = p.bdSeq()
	full := !s.take(n, birth.cost)
	if !full {
		n.own = birth
	}
	return outcome{known: birth, full: full}
}

// nodeDeath ends a session. A death certificate is the will of an MQTT connection
// and may come when the node has long begun the next session, or twice; bdSeq
// tells (Sparkplug 3.0.0 §5.4, §5.5). Where messages were missed a later session
// than the one that is known may have ended.
func (s *state) nodeDeath(n *node, p *payload) outcome {
	number, tied := p.bdSeq()
	other := n.born() && tied && n.tied && number != n.bdSeq
	later := byte(number)-byte(n.bdSeq) < 128
	if n.dead || other && !(n.unsure && later) {
		return outcome{known: n.own}
	}
	o := outcome{known: n.own, dead: n.own, died: true}
	for device := range n.devices {
		o.devices = append(o.devices, device)
	}
	slices.Sort(o.devices)
	s.clear(n)
	n.dead = true
	return o
}

// find returns the node at an address. One that there is no room for is not
// remembered, and never asked for a rebirth.
func (s *state) find(a address, now time.Time) *node {
	n := s.nodes[a.key()]
	if n == nil {
		n = &node{key: a.key(), kept: true, limit: newLimiter()}
		if n.kept = s.take(n, costNode+len(n.key)); n.kept {
			s.nodes[n.key] = n
		}
	}
	n.heard = now
	return n
}

// take takes room for something of n, if need be that of nodes of which nothing
// certain is known, the longest unheard first.
func (s *state) take(n *node, cost int) bool {
	if !n.kept {
		return false
	}
	for s.room < cost {
		oldest := s.oldest(n)
		if oldest == nil {
			return false
		}
		s.room += oldest.cost
		delete(s.nodes, oldest.key)
	}
	s.room -= cost
	n.cost += cost
	return true
}

func (s *state) oldest(except *node) (oldest *node) {
	for _, n := range s.nodes {
		if n != except && (!n.born() || n.unsure) && (oldest == nil || n.heard.Before(oldest.heard)) {
			oldest = n
		}
	}
	return oldest
}

// give gives back room of n.
func (s *state) give(n *node, cost int) {
	n.cost -= cost
	s.room += cost
}

// clear forgets the births of n and its devices.
func (s *state) clear(n *node) {
	for device := range n.devices {
		s.dropDevice(n, device)
	}
	if n.own != nil {
		s.give(n, n.own.cost)
		n.own = nil
	}
}

func (s *state) keepDevice(n *node, device string, birth *scope) bool {
	s.dropDevice(n, device)
	if !s.take(n, birth.cost+len(device)) {
		return false
	}
	if n.devices == nil {
		n.devices = map[string]*scope{}
	}
	n.devices[device] = birth
	return true
}

func (s *state) dropDevice(n *node, device string) {
	if old := n.devices[device]; old != nil {
		s.give(n, old.cost+len(device))
		delete(n.devices, device)
	}
}

// missed notes that messages of any node may have been missed.
func (s *state) missed() {
	for _, n := range s.nodes {
		n.unsure = true
	}
}
