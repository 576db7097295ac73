package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"sluice/agent/control"
	"sluice/buffer"
	"sluice/uplink"
)

// sayReplay is how often a replay says how far it is.
const sayReplay = time.Second

// Replay implements control.Commands.
func (a *Agent) Replay(ctx context.Context, r control.ReplayRequest, progress func(control.ReplayProgress)) (control.ReplayProgress, error) {
	to, stored, err := a.replayEnds(r)
	if err != nil {
		return control.ReplayProgress{}, err
	}
	id := fmt.Sprintf("%s/%d", a.parts().cfg.Agent.ID, time.Now().UnixNano())
	log := a.log.With("replay", id, "class", r.Class, "uplink", r.Uplink)
	log.Info("replay begins", "from", r.From, "to", r.To, "topic", r.Topic)
	said := time.Now()
	show := func(d uplink.Replayed) control.ReplayProgress {
		return control.ReplayProgress{ID: id, Sent: d.Sent, Refused: d.Refused, Missing: missing(stored), At: d.At}
	}
	done, err := to.Replay(ctx, uplink.Replay{ID: id, Topic: r.Topic, Next: stored.Next, Progress: func(d uplink.Replayed) {
		if time.Since(said) >= sayReplay {
			said = time.Now()
			progress(show(d))
		}
	}})
	log.Info("replay ends", "sent", done.Sent, "refused", done.Refused, "outcome", outcome(err))
	return show(done), err
}

// replayEnds finds what is read and where it goes.
func (a *Agent) replayEnds(r control.ReplayRequest) (*uplink.Kafka, *buffer.RangeReader, error) {
	p := a.parts()
	to := p.legsOf(r.Uplink)
	if len(to) == 0 {
		return nil, nil, fmt.Errorf("there is no uplink %q (%s)", r.Uplink, strings.Join(p.names(), ", "))
	}
	if p.cfg.Class(r.Class) == nil {
		return nil, nil, fmt.Errorf("there is no class %q (%s)", r.Class, strings.Join(slices.Sorted(maps.Keys(p.buffer.Stats().Classes)), ", "))
	}
	stored, err := p.buffer.Range(r.Class, r.From, r.To)
	return to[0].kafka, stored, err
}

func missing(r *buffer.RangeReader) (n uint64) {
	for _, m := range r.Missing() {
		n += m.Last - m.First + 1
	}
	return n
}
