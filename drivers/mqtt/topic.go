package mqtt

import (
	"bytes"
	"errors"
	"fmt"
	"sort"
	"strings"
	"sync/atomic"
	"unicode/utf8"
)

// Bounds of the memory of topics: more topics empty it, longer ones are never
// in it, so that no broker can make it grow beyond about 3 MB.
const (
	maxSeenTopics    = 8192
	maxSeenTopicSize = 256
)

// checkFilter checks a subscription's filter, MQTT 3.1.1 §4.7.1, and the shape
// of a shared one, $share/GROUP/FILTER.
func checkFilter(filter string) error {
	if len(filter) > maxString || !cleanString(filter) {
		return fmt.Errorf("%d bytes (up to %d bytes of UTF-8 without NUL)", len(filter), maxString)
	}
	if strings.HasPrefix(filter, "$share/") {
		parts := strings.SplitN(filter, "/", 3)
		if len(parts) < 3 || parts[1] == "" || strings.ContainsAny(parts[1], "+#") {
			return fmt.Errorf("%q is not a shared subscription ($share/GROUP/FILTER)", filter)
		}
		filter = parts[2]
	}
	if filter == "" {
		return errors.New("is empty")
	}
	levels := strings.Split(filter, "/")
	for i, level := range levels {
		switch {
		case level == "#" && i < len(levels)-1:
			return fmt.Errorf("%q: # must be the last level", filter)
		case level != "#" && strings.Contains(level, "#"), level != "+" && strings.Contains(level, "+"):
			return fmt.Errorf("%q: a wildcard must be a level of its own, not %q", filter, level)
		}
	}
	return nil
}

// checkTopic says whether a topic may stand in a PUBLISH, MQTT 3.1.1 §3.3.2.1
// and §4.7.3. Brokers with bugs, and hostile ones, send others.
func checkTopic(topic []byte) bool {
	return len(topic) > 0 && utf8.Valid(topic) && !bytes.ContainsAny(topic, "+#\x00")
}

// route is one filter, ready for matching.
type route struct {
	levels []string
	class  string
}

// newRoutes orders the subscriptions so that the first match is the most
// specific one.
func newRoutes(subs []Subscription) []route {
	routes := make([]route, len(subs))
	for i, sub := range subs {
		filter := sub.Filter
		if strings.HasPrefix(filter, "$share/") {
			filter = strings.SplitN(filter, "/", 3)[2]
		}
		routes[i] = route{levels: strings.Split(filter, "/"), class: sub.Class}
	}
	sort.SliceStable(routes, func(i, j int) bool { return moreSpecific(routes[i].levels, routes[j].levels) })
	return routes
}

// moreSpecific compares level by level. For two filters that match the same
// topic the first level of another kind decides; for others the order is of no
// importance, it only has to be one.
func moreSpecific(a, b []string) bool {
	for i := 0; i < len(a) && i < len(b); i++ {
		if ra, rb := rank(a[i]), rank(b[i]); ra != rb {
			return ra < rb
		}
	}
	return len(a) < len(b) // a/b is more specific than a/b/#
}

func rank(level string) int {
	switch level {
	case "#":
		return 2
	case "+":
		return 1
	}
	return 0
}

// match follows MQTT 3.1.1 §4.7: # takes its parent level too, and a filter
// that starts with a wildcard takes no topic that starts with $.
func (r route) match(topic string) bool {
	if topic[0] == '$' && rank(r.levels[0]) > 0 {
		return false
	}
	rest, more := topic, true
	for _, level := range r.levels {
		if level == "#" {
			return true
		}
		if !more {
			return false
		}
		var name string
		name, rest, more = strings.Cut(rest, "/")
		if level != "+" && level != name {
			return false
		}
	}
	return !more
}

// topic is what is known of one topic.
type topic struct {
	name, class string
	taken       bool   // hash is that of the last message that was taken
	hash        uint64 // of topic and payload
	retainedOn  uint64 // the connection on which a retained message came last
}

// topics finds the class of a topic and remembers what it found, because a
// plant sends on the same topics for years. The goroutine that reads the
// connection owns it; only forget may be called by others.
type topics struct {
	routes []route
	seen   map[string]*topic
	stale  atomic.Bool
}

func newTopics(subs []Subscription) *topics {
	return &topics{routes: newRoutes(subs), seen: make(map[string]*topic)}
}

// resolve returns the topic named by raw, or the reason why it is refused.
func (t *topics) resolve(raw []byte) (*topic, string) {
	if t.stale.Swap(false) {
		clear(t.seen)
	}
	if known := t.seen[string(raw)]; known != nil {
		return known, ""
	}
	if !checkTopic(raw) {
		return nil, reasonTopic
	}
	name := string(raw)
	for _, r := range t.routes {
		if r.match(name) {
			return t.remember(&topic{name: name, class: r.class}), ""
		}
	}
	return nil, reasonRoute
}

func (t *topics) remember(found *topic) *topic {
	if len(found.name) > maxSeenTopicSize {
		return found
	}
	if len(t.seen) >= maxSeenTopics {
		clear(t.seen)
	}
	t.seen[found.name] = found
	return found
}

// forget drops what is remembered before the next topic is looked up.
func (t *topics) forget() { t.stale.Store(true) }

// retainedAgain says whether a message only repeats what was taken last on its
// topic: the broker sends each retained message again whenever the filters are
// subscribed, which is at each connect. Only the first retained message of a
// topic on a connection can be that; brokers that leave the flag on ordinary
// messages must not lose the second of two equal ones.
func (t *topic) retainedAgain(hash, connection uint64) bool {
	first := t.retainedOn != connection
	t.retainedOn = connection
	return first && t.taken && t.hash == hash
}
