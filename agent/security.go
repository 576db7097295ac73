package agent

import (
	"context"
	"encoding/json"
	"slices"
	"sync/atomic"
	"time"

	"sluice/agent/config"
	"sluice/drivers"
	"sluice/drivers/mqtt"
)

const (
	reportQueue = 64              // reports that wait for the buffer; what is more is counted and told with a later one
	reportGrace = 1 * time.Second // for the last reports at a stop

	ownSource = "agent" // the source of what the agent reports of itself
)

// reporter writes security events: what somebody who watches over the plant wants
// to know at once. They go through the buffer like all others. A report never
// makes its sender wait.
type reporter struct {
	sink  drivers.Sink
	agent string
	queue chan drivers.Event
	lost  atomic.Uint64
	on    atomic.Bool // an uplink sends the class; else the log alone tells
}

func newReporter(agent string, sink drivers.Sink) *reporter {
	return &reporter{sink: sink, agent: agent, queue: make(chan drivers.Event, reportQueue)}
}

// follow takes up whether the config has the class.
func (r *reporter) follow(cfg *config.Config) { r.on.Store(cfg.Class(config.SecurityClass) != nil) }

// report queues an event of type sluice.security.<what>.v1 about a source, or
// about the agent where source is empty. details are its payload's other members.
// It may be called from any goroutine.
func (r *reporter) report(what, source string, details map[string]any) {
	if !r.on.Load() {
		return
	}
	now := time.Now().UTC()
	body := map[string]any{"agent": r.agent, "what": what, "time": now.Format(time.RFC3339Nano)}
	if source != "" {
		body["source"] = source
	}
	for k, v := range details {
		body[k] = v
	}
	lost := r.lost.Swap(0)
	if lost > 0 {
		body["reports_lost"] = lost
	}
	payload, err := json.Marshal(body)
	if err != nil {
		payload = []byte(`{"what":"` + what + `"}`) // details are plain values: it can't happen
	}
	subject := source
	if subject == "" {
		source, subject = ownSource, "config"
	}
	e := drivers.Event{Class: config.SecurityClass, Source: source, Subject: subject, Type: drivers.TypeSecurity(what),
		ContentType: drivers.ContentJSON, Time: now, Payload: payload}
	select {
	case r.queue <- e:
	default:
		r.lost.Add(lost + 1)
	}
}

// refused reports what an MQTT source refused, or was refused.
func (r *reporter) refused(source string, x mqtt.Refusal) {
	what := "mqtt-connection"
	if slices.Contains(mqtt.MessageReasons(), x.Reason) {
		what = "mqtt-refused"
	}
	details := map[string]any{"reason": x.Reason, "server": x.Server, "count": x.Count}
	if x.Topic != "" {
		details["topic"], details["qos"] = x.Topic, x.QoS
	}
	if x.Bytes > 0 {
		details["bytes"] = x.Bytes
	}
	r.report(what, source, details)
}

// run hands reports to the buffer until ctx ends, and then those that wait.
func (r *reporter) run(ctx context.Context) error {
	for {
		select {
		case e := <-r.queue:
			if r.sink.Append(ctx, e, nil) != nil { // ctx has ended
				r.last(e)
				return nil
			}
		case <-ctx.Done():
			r.last()
			return nil
		}
	}
}

// last writes what is left, within reportGrace.
func (r *reporter) last(left ...drivers.Event) {
	ctx, cancel := context.WithTimeout(context.Background(), reportGrace)
	defer cancel()
	for {
		for _, e := range left {
			if r.sink.Append(ctx, e, nil) != nil {
				return
			}
		}
		select {
		case e := <-r.queue:
			left = []drivers.Event{e}
		default:
			return
		}
	}
}
