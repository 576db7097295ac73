package sparkplug

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// taken is when the tests' messages were taken.
var taken = time.Date(2026, 1, 2, 3, 4, 5, 678_900_000, time.UTC)

const takenText = "2026-01-02T03:04:05.678Z"

// clock is a Decoder's clock that the test moves.
type clock struct{ now time.Time }

func newDecoder(cfg Config) (*Decoder, *clock) {
	c := &clock{now: taken}
	cfg.Now = func() time.Time { return c.now }
	return New(cfg), c
}

// got decodes a message and returns its event as JSON tells it.
func got(t *testing.T, d *Decoder, topic string, body []byte) (map[string]any, Message) {
	t.Helper()
	m, err := d.Decode(topic, body, taken)
	if err != nil {
		t.Fatalf("%s: %v", topic, err)
	}
	return object(t, m.Payload), m
}

// object reads JSON with all its digits, and fails where a key stands twice.
func object(t *testing.T, b []byte) map[string]any {
	t.Helper()
	var v map[string]any
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil || dec.More() {
		t.Fatalf("not one JSON object: %v: %s", err, b)
	}
	if err := uniqueKeys(json.NewDecoder(bytes.NewReader(b))); err != "" {
		t.Fatalf("the key %s stands twice: %s", err, b)
	}
	return v
}

// uniqueKeys returns the first key that stands twice in its object.
func uniqueKeys(dec *json.Decoder) string {
	type level struct {
		keys  map[string]bool // nil: a list
		value bool            // the next token is a value
	}
	var open []level
	for {
		token, err := dec.Token()
		if err != nil {
			return ""
		}
		top := len(open) - 1
		if key, ok := token.(string); ok && top >= 0 && open[top].keys != nil && !open[top].value {
			if open[top].keys[key] {
				return key
			}
			open[top].keys[key], open[top].value = true, true
			continue
		}
		if top >= 0 {
			open[top].value = false
		}
		switch token {
		case json.Delim('{'):
			open = append(open, level{keys: map[string]bool{}})
		case json.Delim('['):
			open = append(open, level{})
		case json.Delim('}'), json.Delim(']'):
			open = open[:top]
		}
	}
}

// same compares what JSON told; numbers by their digits where they are integers.
func same(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for k, v := range a {
			if w, ok := b[k]; !ok || !same(v, w) {
				return false
			}
		}
		return true
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, same)
	case json.Number:
		b, ok := b.(json.Number)
		if !ok || a == b {
			return ok
		}
		if !strings.ContainsAny(string(a+b), ".eE") {
			return false
		}
		x, err1 := a.Float64()
		y, err2 := b.Float64()
		return err1 == nil && err2 == nil && x == y
	}
	return a == b
}

// wants fails the test unless the event is as the JSON says.
func wants(t *testing.T, event map[string]any, want string) {
	t.Helper()
	if !same(event, object(t, []byte(want))) {
		b, _ := json.Marshal(event)
		t.Errorf("event\n%s, want\n%s", b, want)
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// load reads a list of testdata, numbers with all their digits.
func load(t testing.TB, file string) []map[string]any {
	t.Helper()
	b, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	var list []map[string]any
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := dec.Decode(&list); err != nil {
		t.Fatal(err)
	}
	return list
}

// A message by hand: its payload is made of fields.
func msg(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func num(number, n uint64) []byte              { return appendNumber(nil, number, n) }
func sub(number uint64, p ...[]byte) []byte    { return appendBytes(nil, number, msg(p...)) }
func str(number uint64, s string) []byte       { return appendBytes(nil, number, []byte(s)) }
func seq(n uint64) []byte                      { return num(3, n) }
func mtr(parts ...[]byte) []byte               { return sub(2, parts...) } // a Metric of a Payload, or of a Template
func named(name string, p ...[]byte) []byte    { return mtr(str(1, name), msg(p...)) }
func aliased(n uint64, p ...[]byte) []byte     { return mtr(num(2, n), msg(p...)) }
func typed(typ uint64) []byte                  { return num(4, typ) }
func integer(n uint64) []byte                  { return num(10, n) }
func bd(n uint64) []byte                       { return named("bdSeq", typed(typeInt64), num(11, n)) }
func birthOf(n uint64, parts ...[]byte) []byte { return msg(seq(0), bd(n), msg(parts...)) }

// float64Field is a double_value of a Metric.
func float64Field(f float64) []byte {
	n := math.Float64bits(f)
	b := []byte{13<<3 | wireFixed64}
	for range 8 {
		b, n = append(b, byte(n)), n>>8
	}
	return b
}
