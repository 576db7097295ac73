package uplink

import (
	"fmt"
	"strings"
	"time"
)

// Stats is what an uplink knows of itself. Counters start at 0 with the process.
type Stats struct {
	Up        bool              // the last round trip with a broker worked, and acknowledgements come
	State     string            // a few words for people
	LastError string            // the last thing that went wrong, in words, without secrets; empty if nothing did
	LastErrAt time.Time         // when that was
	Delivered map[string]uint64 // by class: records that the cluster acknowledged; rejected ones don't count
	InFlight  int               // records handed to the client and not yet acknowledged
	SentBytes uint64            // bytes written to the sockets, with TLS
	Closed    bool              // the link may not be used now; State says why
	Metered   bool              // it is paid for by the byte, or that is not known
	Fenced    bool              // another agent sends under this one's id, and this one stands back
	Stuck     time.Duration     // how long a link that works otherwise has not answered a record; 0: it does
	LastAck   time.Time         // of the last acknowledgement; zero: none yet
}

// Stats returns the counters so far. It may be called at any time from any
// goroutine and does not block on the cluster.
func (k *Kafka) Stats() Stats {
	p, fenced, trouble := k.progress()
	v := k.health.look(p.stalled)
	says := state(v, p)
	if v.up && p.inFlight > 0 && k.pace.sinceHeld() < heldLately {
		says += ", held to max_rate"
	}
	link := k.Link()
	switch {
	case !link.Open:
		v.up, says = false, link.Why
		if len(k.cfg.Always) > 0 {
			says += "; sent all the same: " + strings.Join(k.cfg.Always, ", ")
		}
	case v.up && duty(k.duty.Load()) != sends:
		says = "reachable, stands by"
	case fenced != "":
		v.up, v.lastError, v.lastErrAt, says = false, fenced, time.Now(), fenced // as long as that lasts
	case trouble != "" && v.up:
		v.up, v.lastError, v.lastErrAt, says = false, trouble, time.Now(), "cannot send: "+trouble
	}
	return Stats{
		Up: v.up, State: says, Closed: !link.Open, Metered: link.Metered, Fenced: fenced != "", Stuck: k.stuck(v, p),
		LastError: v.lastError, LastErrAt: v.lastErrAt,
		Delivered: p.delivered, InFlight: p.inFlight,
		SentBytes: k.pace.sent.Load(), LastAck: p.lastAck,
	}
}

// progress is what is known of delivery. What waits for max_rate is not stalled.
func (k *Kafka) progress() (p progress, fenced, trouble string) {
	if k.exact != nil {
		p, fenced, trouble = k.exact.progress()
	} else {
		p, trouble = k.inFlight().progress(), k.health.refused()
	}
	p.stalled = min(p.stalled, k.pace.sinceHeld())
	return p, fenced, trouble
}

func state(v view, p progress) string {
	switch {
	case v.up && p.inFlight > 0:
		return fmt.Sprintf("connected to %s, %d records in flight", v.peer, p.inFlight)
	case v.up:
		return fmt.Sprintf("connected to %s", v.peer)
	case p.stalled > stallAfter:
		return fmt.Sprintf("nothing acknowledged for %s, %d records in flight", p.stalled.Round(time.Second), p.inFlight)
	case v.lastError != "":
		return "not connected: " + v.lastError
	default:
		return "connecting"
	}
}
