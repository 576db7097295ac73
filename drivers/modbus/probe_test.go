package modbus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func probed(t *testing.T, s *Source) []DeviceProbe {
	t.Helper()
	out, err := s.Probe(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for i := range out {
		if out[i].RoundSeconds <= 0 {
			t.Errorf("device %s took %v s", out[i].Device, out[i].RoundSeconds)
		}
		out[i].RoundSeconds = 0
	}
	return out
}

func TestProbeSaysWhatIsReadable(t *testing.T) {
	t.Parallel()
	p := &plant{holding: registersFrom(0, 20)}
	delete(p.holding, 7)
	dir := t.TempDir()
	c := Config{Name: "bus", Connection: serve(t, p), Sink: newMemory(), StateDir: dir, Timeout: time.Second, Retries: None, Devices: []Device{
		{Name: "whole", Unit: 1, Tags: []Tag{
			{Name: "a", Read: "holding", At: 5, Type: "uint16", Unit: "kW"},
			{Name: "b", Read: "holding", At: 7, Base: 1, Type: "uint16"},
			{Name: "gone", Read: "holding", At: 7, Type: "uint16"},
			{Name: "wide", Read: "holding", At: 8, Type: "uint32", Every: 5 * time.Second},
			{Name: "word", Read: "holding", At: 1, Type: "uint16", Map: map[int64]string{0: "off"}},
		}},
		{Name: "away", Unit: 7, Tags: []Tag{{Name: "v", Read: "input", At: 3, Type: "uint16"}}},
	}}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // it learns nothing
		got := probed(t, s)
		if !strings.HasPrefix(got[0].Error, "read holding 1 to 7 of unit 1: exception 2, illegal address") || !strings.Contains(got[1].Error, "read input 3 to 3 of unit 7: exception 11, no unit answers the gateway") {
			t.Errorf("errors %q and %q", got[0].Error, got[1].Error)
		}
		got[0].Error, got[1].Error = "", ""
		text, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		const want = `[{"device":"whole","unit":1,"answers":true,"requests":2,"round_seconds":0,"tags":[` +
			`{"tag":"a","table":"holding","address":5,"count":1,"value":5,"unit":"kW"},` +
			`{"tag":"b","table":"holding","address":6,"count":1,"value":6},` +
			`{"tag":"gone","table":"holding","address":7,"count":1,"bad":"exception-2"},` +
			`{"tag":"wide","table":"holding","address":8,"count":2,"value":524297},` +
			`{"tag":"word","table":"holding","address":1,"count":1,"bad":"unmapped-1"}]},` +
			`{"device":"away","unit":7,"answers":false,"requests":1,"round_seconds":0,"tags":[` +
			`{"tag":"v","table":"input","address":3,"count":1,"bad":"exception-11"}]}]`
		if string(text) != want {
			t.Errorf("got  %s\nwant %s", text, want)
		}
	}
	if st := s.Stats(); st.Devices[0].Polls[resultOK] != 0 {
		t.Errorf("counted as polls: %+v", st)
	}
	text, err := json.Marshal(s.Plan())
	if err != nil {
		t.Fatal(err)
	}
	const plan = `[{"device":"whole","unit":1,"table":"holding","first":1,"count":7,"tags":["word","a","b","gone"],"every_seconds":1},` +
		`{"device":"whole","unit":1,"table":"holding","first":8,"count":2,"tags":["wide"],"every_seconds":5},` +
		`{"device":"away","unit":7,"table":"input","first":3,"count":1,"tags":["v"],"every_seconds":1}]`
	if string(text) != plan {
		t.Errorf("planned %s\nwant    %s", text, plan)
	}
}

func TestProbeEnds(t *testing.T) {
	t.Parallel()
	c := Config{Name: "bus", Connection: serve(t, &plant{holding: registersFrom(0, 1)}), Sink: newMemory(), Devices: []Device{
		{Name: "d", Unit: 1, Tags: []Tag{{Name: "v", Read: "holding", Type: "uint16"}}},
	}}
	s := start(t, c)
	until(t, "it runs", func() bool { return s.polls("d", resultOK) > 0 })
	if _, err := s.Probe(context.Background()); !errors.Is(err, errOwned) {
		t.Errorf("beside Run: %v", err)
	}
	s.stop()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Probe(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("after its end: %v", err)
	}
	c.Connection, c.Sink = "tcp://"+freeAddress(t), newMemory()
	lone, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(probed(t, lone)[0].Answers, probed(t, lone)[0].Tags[0].Bad); got != "falseconnection" {
		t.Errorf("without a server: %s", got)
	}
}
