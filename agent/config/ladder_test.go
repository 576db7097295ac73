package config

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

// ladderText has ladders in each form, and uplinks that are removed, between
// those that are not.
const ladderText = `version: 1
sources: { m: { mqtt: { servers: [ "tcp://h:1883" ], subscribe: [ { filter: a } ] } } }
uplinks:
  old: { removed: true }
  k: { kafka: { brokers: [ "h:9092" ] } }
  older: { removed: true }
  j: { kafka: { brokers: [ "h:9092" ] }, removed: false }
buffer: { spill_after: 1m }
classes:
  process: { when_full: [ thin: 1s, thin: 1m, drop_oldest ] }
  alarm:
    when_full:
      - thin: 100ms
      - { "thin": "1s" }
      - thin: 90m
      - thin: ${HOURS:-24h}
      - "block"
  word: { when_full: "${WORD:-drop_newest}" }
  last: { when_full: [ { thin: 0.5h }, "${WORD:-drop_newest}" ] }
`

func TestALadderIsReadInEachForm(t *testing.T) {
	c := mustParse(t, ladderText)
	for class, want := range map[string]WhenFull{
		"process": {Thin: []time.Duration{time.Second, time.Minute}, Word: "drop_oldest"},
		"alarm":   {Thin: []time.Duration{100 * time.Millisecond, time.Second, 90 * time.Minute, 24 * time.Hour}, Word: "block"},
		"word":    {Word: "drop_newest"},
		"last":    {Thin: []time.Duration{30 * time.Minute}, Word: "drop_newest"},
	} {
		if got := c.Class(class).WhenFull; !reflect.DeepEqual(got, want) {
			t.Errorf("class %s: %+v, want %+v", class, got, want)
		}
	}
	if c.Buffer.SpillAfter != time.Minute {
		t.Errorf("spill_after is %s", c.Buffer.SpillAfter)
	}
}

func TestALadderIsPrintedAsAListAndAWordAsAWord(t *testing.T) {
	printed := string(mustParse(t, ladderText).YAML())
	for _, want := range []string{
		"    when_full:\n      - thin: 1s\n      - thin: 1m\n      - drop_oldest\n",
		"    when_full:\n      - thin: 100ms\n      - thin: 1s\n      - thin: 90m\n      - thin: 24h\n      - block\n",
		"    when_full: drop_newest\n",
	} {
		if !strings.Contains(printed, want) {
			t.Errorf("printed:\n%swant in it:\n%s", printed, want)
		}
	}
}

func TestRemovedUplinksAreNone(t *testing.T) {
	c := mustParse(t, ladderText)
	var names []string
	for _, u := range c.Uplinks {
		names = append(names, u.Name)
		if u.Kafka == nil {
			t.Errorf("the uplink %s has no kind", u.Name)
		}
	}
	if want := []string{"k", "j"}; !reflect.DeepEqual(names, want) {
		t.Errorf("uplinks %v, want %v", names, want)
	}
	if want := []string{"old", "older"}; !reflect.DeepEqual(c.Removed, want) {
		t.Errorf("removed %v, want %v", c.Removed, want)
	}
	if c.Uplink("old") != nil {
		t.Error("a removed uplink is found by its name")
	}
	if printed := string(c.YAML()); !strings.Contains(printed, "\n  old:\n    removed: true\n  older:\n    removed: true\n") {
		t.Errorf("printed without the removed uplinks:\n%s", printed)
	}
}

func TestALadderFromAFileIsPrintedUnexpanded(t *testing.T) {
	o := machine()
	o.ReadFile = func(path string) ([]byte, error) {
		return []byte(map[string]string{"/d": "5s\n", "/w": "block\n"}[path]), nil
	}
	text := minimal + `classes: { process: { when_full: [ thin: "${file:/d}", "${file:/w}" ] } }` + "\n"
	c, err := Parse("c.yaml", []byte(text), o)
	if err != nil {
		t.Fatal(err)
	}
	if want := "      - thin: \"${file:/d}\"\n      - \"${file:/w}\"\n"; !strings.Contains(string(c.YAML()), want) {
		t.Errorf("printed:\n%swant in it:\n%s", c.YAML(), want)
	}
	if got := c.Class("process").WhenFull; got.Word != "block" || len(got.Thin) != 1 || got.Thin[0] != 5*time.Second {
		t.Errorf("read as %+v", got)
	}
}
