package modbus

import (
	"encoding/binary"
	"strings"
	"testing"
	"time"
)

// sending plays values of one tag, a second apart, and returns those that were
// sent; "" stands for a poll that made no event.
func sending(t *testing.T, x Tag, values ...any) string {
	t.Helper()
	x.Name, x.Read, x.Scale = "v", or(x.Read, "holding"), or(x.Scale, 1)
	x.Order, x.Heartbeat = "ABCD", or(x.Heartbeat, time.Hour)
	one := newTag(x)
	var out []string
	for i, v := range values {
		at := time.Unix(1_000_000+int64(i), 0)
		switch v := v.(type) {
		case string:
			one.now.set(v)
		case bool:
			one.now.set(one.bit(&one.now.value, v))
		case int:
			data := binary.BigEndian.AppendUint64(nil, uint64(v))
			one.now.set(one.registers(&one.now.value, data[8-2*one.count:]))
		}
		text := string(appendReading(nil, "d", at, []*tag{one}))
		if one.send(at) {
			one.recorded(at)
		}
		_, text, _ = strings.Cut(text, `"values":`)
		out = append(out, strings.TrimSuffix(strings.NewReplacer(`"v":`, "", "{", "", "}", "", `,"bad":`, "").Replace(text), "}"))
	}
	return strings.Join(out, " ")
}

func TestDeadband(t *testing.T) {
	tests := []struct {
		name   string
		tag    Tag
		values []any
		want   string
	}{
		{"none sends every value", Tag{Type: "int16"}, []any{5, 5, 5}, "5 5 5"},
		{"holds back what moved no further than its width", Tag{Type: "int16", Deadband: Deadband{Width: 2}}, []any{5, 7, 3, 8, 6, 5}, "5   8  5"},
		{"measures from what was sent, so that drift shows", Tag{Type: "int16", Deadband: Deadband{Width: 2}}, []any{0, 1, 2, 3, 4}, "0   3 "},
		{"is in units of the scaled value", Tag{Type: "int16", Scale: 0.1, Deadband: Deadband{Width: 0.25}}, []any{0, 2, 3}, "0  0.3"},
		{"a tie is no change, whatever a double makes of it", Tag{Type: "int16", Scale: 0.1, Deadband: Deadband{Width: 0.3}}, []any{0, 3, 1, 4, 5}, "0   0.4 "},
		{"nor is a tie in percent", Tag{Type: "int16", Scale: 0.1, Deadband: Deadband{Width: 30, Percent: true}}, []any{10, 13, 7, 14}, "1   1.4"},
		{"in percent of what was sent", Tag{Type: "int16", Deadband: Deadband{Width: 10, Percent: true}}, []any{100, 110, 111, -100, -91}, "100  111 -100 "},
		{"percent of 0 sends any change", Tag{Type: "int16", Deadband: Deadband{Width: 10, Percent: true}}, []any{0, 0, 1}, "0  1"},
		{"sees one in 2^63", Tag{Type: "uint64", Deadband: Deadband{Width: 0.5}}, []any{-1, -1, -2}, "18446744073709551615  18446744073709551614"},
		{"across zero", Tag{Type: "int64", Deadband: Deadband{Width: 2}}, []any{-1, 1, 2}, "-1  2"},
		{"changes of a bit", Tag{Type: "bool", Read: "coil", Deadband: Deadband{OnChange: true}}, []any{true, true, false, false}, "true  false "},
		{"changes of a number", Tag{Type: "int16", Deadband: Deadband{OnChange: true}}, []any{1, 1, 2}, "1  2"},
		{"heartbeat sends it all the same", Tag{Type: "int16", Deadband: Deadband{Width: 2}, Heartbeat: 3 * time.Second}, []any{5, 5, 5, 6, 6}, "5   6 "},
		{"a value that became bad, and is back", Tag{Type: "int16", Deadband: Deadband{Width: 2}}, []any{5, "timeout", "timeout", "exception-2", 5, 5}, `5 "timeout"  "exception-2" 5 `},
		{"without one bad is said each time", Tag{Type: "int16"}, []any{"timeout", "timeout"}, `"timeout" "timeout"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := sending(t, test.tag, test.values...); got != test.want {
				t.Errorf("sent %q, want %q", got, test.want)
			}
		})
	}
}

// TestHeartbeatOutlivesAClockThatIsSet: by the wall clock alone a tag would be
// silent for as long as that was set back.
func TestHeartbeatOutlivesAClockThatIsSet(t *testing.T) {
	s, err := New(plantConfig("tcp://127.0.0.1", []int{1}, newMemory()))
	if err != nil {
		t.Fatal(err)
	}
	d := s.schedule.devices[0]
	plan(d.tags, d.limits, nil)[0].decode(make([]byte, 2*plantRegisters))
	now := time.Now()
	if err := s.record(t.Context(), d, d.classes, now); err != nil {
		t.Fatal(err)
	}
	// A time without a monotonic clock differs from itself with one.
	if at := d.tags[0].sentAt; at != now || at == now.Round(0) {
		t.Errorf("the heartbeat counts from %v, which has no monotonic clock", at)
	}
}

func TestReadingNamesGoodAndBad(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 123456000, time.FixedZone("", 3600))
	mk := func(name, text, bad string, known bool) *tag {
		x := &tag{spec: &spec{key: append(appendString(nil, name), ':')}}
		x.now = state{known: known, bad: bad, value: value{text: []byte(text)}}
		return x
	}
	tests := []struct {
		name string
		tags []*tag
		want string
	}{
		{"values only", []*tag{mk("b", "12.3", "", true), mk("a", "true", "", true)},
			`{"device":"m-1","time":"2026-01-02T02:04:05.123456000Z","values":{"b":12.3,"a":true}}`},
		{"some bad", []*tag{mk("p", "", "timeout", true), mk("a", "1", "", true), mk("q", "", "exception-2", true)},
			`{"device":"m-1","time":"2026-01-02T02:04:05.123456000Z","values":{"a":1},"bad":{"p":"timeout","q":"exception-2"}}`},
		{"all bad", []*tag{mk("p", "", "timeout", true)},
			`{"device":"m-1","time":"2026-01-02T02:04:05.123456000Z","values":{},"bad":{"p":"timeout"}}`},
		{"not read is not named", []*tag{mk("p", "5", "", false), mk("a", "1", "", true)},
			`{"device":"m-1","time":"2026-01-02T02:04:05.123456000Z","values":{"a":1}}`},
		{"nothing to say", []*tag{mk("p", "5", "", false)}, ``},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := string(appendReading(nil, "m-1", at, test.tags)); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}
