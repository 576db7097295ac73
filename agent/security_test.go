package agent

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"sluice/agent/config"
	"sluice/drivers"
)

// slowSink takes an event for each token of room.
type slowSink struct {
	room  chan struct{}
	taken chan drivers.Event
}

func (s slowSink) Append(ctx context.Context, e drivers.Event, _ func(error)) error {
	select {
	case <-s.room:
		s.taken <- e
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestReportsNeverWaitAndTellWhatWasLost(t *testing.T) {
	sink := slowSink{make(chan struct{}, 1000), make(chan drivers.Event, 1000)}
	cfg := &config.Config{Agent: config.Agent{ID: "gw"}}
	r := newReporter("gw", sink)
	r.follow(cfg)
	r.report("x", "line", nil) // no uplink sends them
	if len(r.queue) > 0 {
		t.Error("a report without its class")
	}
	cfg.Classes = []config.Class{{Name: config.SecurityClass}}
	r.follow(cfg)
	for range reportQueue + 5 { // nobody reads yet
		r.report("mqtt-refused", "line", map[string]any{"reason": "invalid-topic"})
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.run(ctx) }()
	for range reportQueue {
		sink.room <- struct{}{}
		<-sink.taken
	}
	r.report("mqtt-refused", "line", nil)
	sink.room <- struct{}{}
	e := <-sink.taken
	var body struct {
		Agent, Source, What string
		Lost                int `json:"reports_lost"`
		Time                time.Time
	}
	if err := json.Unmarshal(e.Payload, &body); err != nil || body.Agent != "gw" || body.Source != "line" || body.What != "mqtt-refused" || body.Lost != 5 || !body.Time.Equal(e.Time) {
		t.Errorf("%s: %+v %v", e.Payload, body, err)
	}
	if e.Class != "security" || e.Type != "sluice.security.mqtt-refused.v1" || e.ContentType != drivers.ContentJSON || e.Subject != "line" {
		t.Errorf("%+v", e)
	}
	r.report("a", "line", nil) // is being written when the stop comes, and another waits
	r.report("b", "line", nil)
	cancel()
	sink.room <- struct{}{}
	sink.room <- struct{}{}
	if err := <-ended; err != nil || len(sink.taken) != 2 {
		t.Error(err, len(sink.taken))
	}
}

func TestARefusedMessageIsReported(t *testing.T) {
	p := newPlant(t)
	defer p.start(t)()
	p.publish(t, "factory/1/big", strings.Repeat("x", 2<<20), "good")
	r := p.consume(t, "p7.security", 1)[0]
	var body struct {
		What, Source, Reason, Topic string
		Bytes, Count                int
	}
	if err := json.Unmarshal(r.Value, &body); err != nil || headers(r)["ce_type"] != "sluice.security.mqtt-refused.v1" ||
		body.What != "mqtt-refused" || body.Source != "line" || body.Reason != "too-large" || body.Topic != "factory/1/big" || body.Bytes != 2<<20 || body.Count != 1 {
		t.Errorf("%s %v", r.Value, headers(r))
	}
	if got := p.consume(t, "p7.process", 1)[0]; string(got.Value) != "good" {
		t.Errorf("%.20s", got.Value)
	}
}
