package sparkplug

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"
	"time"
)

// Each payload was made by another encoder, which says what it means.
func TestEveryDataType(t *testing.T) {
	seen := map[string]bool{}
	for i, c := range load(t, "datatypes.json") {
		typ := c["type"].(string)
		seen[typ] = true
		t.Run(fmt.Sprintf("%d %s %v", i, typ, c["note"]), func(t *testing.T) {
			d, _ := newDecoder(Config{})
			event, _ := got(t, d, "spBv1.0/G/NBIRTH/N", unhex(t, c["hex"].(string)))
			value, there := event["values"].(map[string]any)["m"]
			if !there || !same(value, c["want"]) {
				t.Errorf("value %v, want %v", value, c["want"])
			}
			quality, _ := event["quality"].(map[string]any)
			if quality["m"] != c["quality"] {
				t.Errorf("quality %v, want %v", quality["m"], c["quality"])
			}
		})
	}
	for n, name := range typeNames {
		if n != typePropertySet && n != typePropertyList && !seen[name] {
			t.Errorf("no payload of type %s", name)
		}
	}
}

func TestSessionsOfOtherEncoders(t *testing.T) {
	d, _ := newDecoder(Config{})
	for _, c := range load(t, "session.json") {
		topic := c["topic"].(string)
		event, m := got(t, d, topic, unhex(t, c["hex"].(string)))
		want := c["want"].(map[string]any)
		if want["time"] == "taken" {
			want["time"] = takenText
		}
		if !same(event, want) {
			t.Errorf("%s (%s):\n%s, want\n%v", topic, c["note"], m.Payload, want)
		}
		asks := c["note"] == "an alias that no birth told"
		if (m.Ask != "") != asks {
			t.Errorf("%s (%s) asks %q", topic, c["note"], m.Ask)
		}
	}
	if got := d.Stats(); got != (Stats{Nodes: 2}) {
		t.Errorf("stats %+v", got)
	}
}

// The metric of a file tells its name.
func TestFileNameIsPassed(t *testing.T) {
	for _, c := range load(t, "datatypes.json") {
		if c["type"] != "File" || c["want"] == nil {
			continue
		}
		d, _ := newDecoder(Config{})
		event, _ := got(t, d, "spBv1.0/G/NBIRTH/N", unhex(t, c["hex"].(string)))
		wants(t, event["metadata"].(map[string]any), `{"m":{"file_name":"a.json"}}`)
	}
}

func TestRebirthRequestIsThatOfOtherEncoders(t *testing.T) {
	for _, c := range load(t, "rebirth.json") {
		at, err := c["at"].(json.Number).Int64()
		if err != nil {
			t.Fatal(err)
		}
		if got := RebirthRequest(time.UnixMilli(at)); !bytes.Equal(got, unhex(t, c["hex"].(string))) {
			t.Errorf("%x, want %s", got, c["hex"])
		}
	}
}
