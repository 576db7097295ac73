package sparkplug

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const ncmd = "spBv1.0/G/NCMD/N"

// step is a message and what comes of it; no want: the event is not looked at.
type step struct {
	topic string // below spBv1.0/G/
	body  []byte
	wait  time.Duration // before it
	want  string
	ask   bool
}

func play(t *testing.T, d *Decoder, c *clock, steps []step) {
	t.Helper()
	for i, s := range steps {
		c.now = c.now.Add(s.wait)
		event, m := got(t, d, "spBv1.0/G/"+s.topic, s.body)
		if s.want != "" {
			delete(event, "time")
			wants(t, event, s.want)
		}
		node := strings.Split(s.topic, "/")[1]
		if want := "spBv1.0/G/NCMD/" + node; s.ask && m.Ask != want || !s.ask && m.Ask != "" {
			t.Errorf("step %d, %s: asks %q, want %v", i, s.topic, m.Ask, s.ask)
		}
		if t.Failed() {
			t.Fatalf("at step %d, %s", i, s.topic)
		}
	}
}

// temp is a metric of a birth, with an alias.
func temp(alias uint64) []byte { return named("temp", num(2, alias), typed(typeInt16), integer(1)) }

// minusOne is a value that only a birth's data type makes negative.
var minusOne = integer(0xffff)

func TestAliasesHoldFromBirthToDeath(t *testing.T) {
	d, c := newDecoder(Config{})
	unknown := `"gap":true,"values":{},"unresolved":[{"alias":7,"value":65535,"quality":"untyped"}]`
	play(t, d, c, []step{
		{topic: "NDATA/N", body: msg(seq(41), aliased(7, minusOne)), want: `{"seq":41,` + unknown + `}`, ask: true},
		{topic: "NBIRTH/N", body: birthOf(3, temp(7)), want: `{"seq":0,"birth":true,"values":{"bdSeq":3,"temp":1}}`},
		{topic: "NDATA/N", body: msg(seq(1), aliased(7, minusOne)), want: `{"seq":1,"values":{"temp":-1}}`},
		{topic: "NDATA/N", body: msg(seq(2), named("temp", minusOne)), want: `{"seq":2,"values":{"temp":-1}}`},
		{topic: "DBIRTH/N/D", body: msg(seq(3), named("x", num(2, 8), typed(typeBoolean), num(14, 1))), want: `{"seq":3,"birth":true,"values":{"x":true}}`},
		{topic: "DDATA/N/D", body: msg(seq(4), aliased(8, num(14, 0))), want: `{"seq":4,"values":{"x":false}}`},
		{topic: "DDEATH/N/D", body: seq(5), want: `{"seq":5,"death":true,"values":{},"quality":{"x":"stale"}}`},
		{topic: "DBIRTH/N/D", body: msg(seq(6), named("y", num(2, 8), typed(typeInt8), integer(2))), want: `{"seq":6,"birth":true,"values":{"y":2}}`},
		{topic: "DDATA/N/D", body: msg(seq(7), aliased(8, integer(255))), want: `{"seq":7,"values":{"y":-1}}`},
		{topic: "NDEATH/N", body: bd(3), want: `{"death":true,"values":{"bdSeq":3},"quality":{"bdSeq":"stale","temp":"stale"},"devices":["D"]}`},
		{topic: "NDATA/N", body: msg(seq(8), aliased(7, minusOne)), wait: time.Minute, want: `{"seq":8,` + unknown + `}`, ask: true},
		{topic: "NBIRTH/N", body: birthOf(4, temp(9)), want: `{"seq":0,"birth":true,"values":{"bdSeq":4,"temp":1}}`},
		{topic: "NDATA/N", body: msg(seq(1), aliased(9, minusOne)), want: `{"seq":1,"values":{"temp":-1}}`},
		{topic: "NDEATH/N", body: bd(4), want: `{"death":true,"values":{"bdSeq":4},"quality":{"bdSeq":"stale","temp":"stale"}}`},
	})
	if s := d.Stats(); s.Gaps != 0 {
		t.Errorf("%d gaps", s.Gaps)
	}
}

func TestANodesBirthEndsTheBirthsOfItsDevices(t *testing.T) {
	d, c := newDecoder(Config{})
	device := named("x", num(2, 8), typed(typeInt8), integer(1))
	play(t, d, c, []step{
		{topic: "NBIRTH/N", body: birthOf(1)},
		{topic: "DBIRTH/N/D", body: msg(seq(1), device)},
		{topic: "NBIRTH/N", body: birthOf(1)},
		{topic: "DDATA/N/D", body: msg(seq(1), aliased(8, integer(3))), want: `{"seq":1,"values":{},"unresolved":[{"alias":8,"value":3,"quality":"untyped"}]}`, ask: true},
		{topic: "NDEATH/N", body: bd(1), want: `{"death":true,"values":{"bdSeq":1},"quality":{"bdSeq":"stale"}}`},
	})
}

// Aliases are unique in a node, but some number each device from 0 on.
func TestDevicesMayUseTheSameAliases(t *testing.T) {
	d, c := newDecoder(Config{})
	play(t, d, c, []step{
		{topic: "NBIRTH/N", body: birthOf(1, named("a", num(2, 0), typed(typeInt8), integer(1)))},
		{topic: "DBIRTH/N/D1", body: msg(seq(1), named("b", num(2, 0), typed(typeInt8), integer(1)))},
		{topic: "DBIRTH/N/D2", body: msg(seq(2), named("c", num(2, 0), typed(typeInt8), integer(1)))},
		{topic: "DDATA/N/D1", body: msg(seq(3), aliased(0, integer(255))), want: `{"seq":3,"values":{"b":-1}}`},
		{topic: "DDATA/N/D2", body: msg(seq(4), aliased(0, integer(255))), want: `{"seq":4,"values":{"c":-1}}`},
		{topic: "NDATA/N", body: msg(seq(5), aliased(0, integer(255))), want: `{"seq":5,"values":{"a":-1}}`},
	})
}

func TestAnAliasOfTwoMetricsNamesNeither(t *testing.T) {
	d, c := newDecoder(Config{})
	play(t, d, c, []step{
		{topic: "NBIRTH/N", body: birthOf(1, temp(5), named("other", num(2, 5), typed(typeInt8), integer(1)))},
		{topic: "NDATA/N", body: msg(seq(1), aliased(5, integer(2))), want: `{"seq":1,"values":{},"unresolved":[{"alias":5,"value":2,"quality":"untyped"}]}`, ask: true},
	})
}

func TestSeqRunsTo255AndGapsAskForARebirth(t *testing.T) {
	d, c := newDecoder(Config{})
	play(t, d, c, []step{{topic: "NBIRTH/N", body: birthOf(1, temp(7))}})
	for n := uint64(1); n < 600; n++ { // twice around
		play(t, d, c, []step{{topic: "NDATA/N", body: seq(n % 256), want: fmt.Sprintf(`{"seq":%d,"values":{}}`, n%256)}})
	}
	if s := d.Stats(); s.Gaps != 0 {
		t.Fatalf("%d gaps", s.Gaps)
	}
	play(t, d, c, []step{
		{topic: "NDATA/N", body: msg(seq(89), aliased(7, minusOne)), want: `{"seq":89,"gap":true,"values":{"temp":-1}}`, ask: true},
		{topic: "NDATA/N", body: seq(90), want: `{"seq":90,"gap":true,"values":{}}`}, // asked already
		{topic: "NBIRTH/N", body: birthOf(1, temp(7))},
		{topic: "NDATA/N", body: seq(1), want: `{"seq":1,"values":{}}`},
		{topic: "NDATA/N", body: seq(1), wait: time.Hour, want: `{"seq":1,"gap":true,"values":{}}`, ask: true}, // the same again
	})
	if s := d.Stats(); s.Gaps != 2 {
		t.Errorf("%d gaps, want 2", s.Gaps)
	}
}

// An encoder of proto3 leaves a seq of 0 out; a birth may begin anywhere.
func TestSeqLeftOutIsZeroAndBirthsBeginAnywhere(t *testing.T) {
	d, c := newDecoder(Config{})
	play(t, d, c, []step{
		{topic: "NBIRTH/N", body: msg(seq(254), bd(1))},
		{topic: "DBIRTH/N/D", body: seq(255)},
		{topic: "NDATA/N", body: nil, want: `{"seq":0,"values":{}}`},
		{topic: "NDATA/N", body: seq(1), want: `{"seq":1,"values":{}}`},
	})
}

func TestRebirthRequestsAreLimited(t *testing.T) {
	d, c := newDecoder(Config{})
	var asked []time.Duration
	for at := time.Duration(0); at <= time.Hour; at += time.Second {
		c.now = taken.Add(at)
		_, m := got(t, d, "spBv1.0/G/NDATA/N", seq(uint64(at/time.Second)%256))
		if m.Ask != "" {
			asked = append(asked, at)
		}
	}
	if want := "[0s 10s 30s 1m10s 2m30s 5m10s 10m30s 20m30s 30m30s 40m30s 50m30s]"; fmt.Sprint(asked) != want {
		t.Errorf("asked after %v, want %s", asked, want)
	}
	// Long after the last, the waits begin anew.
	play(t, d, c, []step{
		{topic: "NBIRTH/N", body: birthOf(1)},
		{topic: "NDATA/N", body: seq(9), wait: time.Hour, ask: true},
		{topic: "NDATA/N", body: seq(10), wait: 9 * time.Second},
		{topic: "NDATA/N", body: seq(11), wait: time.Second, ask: true},
	})
}

// What can be told without a birth needs none.
func TestUnknownMetricsAskForARebirth(t *testing.T) {
	float := float64Field(1.5)
	for _, c := range []struct {
		name, topic string
		metric      []byte
		want        string
		ask         bool
	}{
		{"an alias", "NDATA/N", aliased(99, float), `{"seq":1,"values":{},"unresolved":[{"alias":99,"value":1.5}]}`, true},
		{"an integer without a type", "NDATA/N", named("new", integer(5)), `{"seq":1,"values":{"new":5},"quality":{"new":"untyped"}}`, true},
		{"an integer with a type", "NDATA/N", named("new", typed(typeInt8), integer(255)), `{"seq":1,"values":{"new":-1}}`, false},
		{"a float", "NDATA/N", named("new", float), `{"seq":1,"values":{"new":1.5}}`, false},
		{"a device", "DDATA/N/D", named("new", float), `{"seq":1,"values":{"new":1.5}}`, true},
		{"a member of a template", "NDATA/N", named("new", sub(18, named("in", integer(5)))), `{"seq":1,"values":{"new":{"values":{"in":5},"quality":{"in":"untyped"}}}}`, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, clock := newDecoder(Config{})
			play(t, d, clock, []step{{topic: "NBIRTH/N", body: birthOf(1)}, {topic: c.topic, body: msg(seq(1), c.metric), want: c.want, ask: c.ask}})
		})
	}
}

func TestTwoNodesAreApart(t *testing.T) {
	d, c := newDecoder(Config{})
	play(t, d, c, []step{
		{topic: "NBIRTH/A", body: birthOf(1, named("a", num(2, 1), typed(typeInt8), integer(1)))},
		{topic: "NBIRTH/B", body: birthOf(2, named("b", num(2, 1), typed(typeUInt8), integer(1)))},
		{topic: "NDATA/A", body: msg(seq(1), aliased(1, integer(255))), want: `{"seq":1,"values":{"a":-1}}`},
		{topic: "NDATA/B", body: msg(seq(1), aliased(1, integer(255))), want: `{"seq":1,"values":{"b":255}}`},
		{topic: "NDATA/A", body: seq(7), want: `{"seq":7,"gap":true,"values":{}}`, ask: true},
		{topic: "NDATA/B", body: seq(2), want: `{"seq":2,"values":{}}`},
		{topic: "NDEATH/A", body: bd(1), want: `{"death":true,"values":{"bdSeq":1},"quality":{"bdSeq":"stale","a":"stale"}}`},
		{topic: "NDATA/B", body: msg(seq(3), aliased(1, integer(5))), want: `{"seq":3,"values":{"b":5}}`},
	})
	other, _ := got(t, d, "spBv1.0/OTHER/NDATA/B", msg(seq(4), aliased(1, integer(5)))) // a node is group and name
	if other["unresolved"] == nil {
		t.Errorf("a node of another group took the names: %v", other)
	}
}

func TestDeathsOfOtherSessions(t *testing.T) {
	dead := `{"death":true,"values":{"bdSeq":%d},"quality":{"bdSeq":"stale"}}`
	alive := `{"values":{"bdSeq":%d}}`
	for _, c := range []struct {
		name   string
		steps  []step
		number uint64
		want   string
	}{
		{"its own", []step{{topic: "NBIRTH/N", body: birthOf(5)}}, 5, dead},
		{"an earlier", []step{{topic: "NBIRTH/N", body: birthOf(5)}}, 4, alive},
		{"a later, or an earlier one before a restart at 0", []step{{topic: "NBIRTH/N", body: birthOf(0)}}, 57, alive},
		{"a later, after a gap", []step{{topic: "NBIRTH/N", body: birthOf(255)}, {topic: "NDATA/N", body: seq(9), ask: true}}, 0, dead},
		{"an earlier, after a gap", []step{{topic: "NBIRTH/N", body: birthOf(0)}, {topic: "NDATA/N", body: seq(9), ask: true}}, 255, alive},
		{"twice", []step{{topic: "NBIRTH/N", body: birthOf(5)}, {topic: "NDEATH/N", body: bd(5)}}, 5, alive},
		{"unknown", nil, 5, `{"death":true,"values":{"bdSeq":%d}}`},
		{"birth without bdSeq", []step{{topic: "NBIRTH/N", body: msg(seq(0), named("bdSeq"))}}, 5, dead},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, clock := newDecoder(Config{})
			play(t, d, clock, append(c.steps, step{topic: "NDEATH/N", body: bd(c.number), want: fmt.Sprintf(c.want, c.number)}))
		})
	}
}

func TestMissedMessagesMakeAllNodesUnsure(t *testing.T) {
	d, c := newDecoder(Config{})
	play(t, d, c, []step{
		{topic: "NBIRTH/A", body: birthOf(1, temp(7))},
		{topic: "NBIRTH/B", body: birthOf(1)},
	})
	d.Missed()
	play(t, d, c, []step{
		{topic: "NDATA/A", body: msg(seq(1), aliased(7, minusOne)), want: `{"seq":1,"gap":true,"values":{"temp":-1}}`, ask: true},
		{topic: "NBIRTH/B", body: birthOf(2)},
		{topic: "NDATA/B", body: seq(1), want: `{"seq":1,"values":{}}`},
		{topic: "NBIRTH/A", body: birthOf(1, temp(8))},
		{topic: "NDATA/A", body: msg(seq(1), aliased(8, minusOne)), want: `{"seq":1,"values":{"temp":-1}}`},
	})
	if s := d.Stats(); s.Gaps != 0 {
		t.Errorf("%d gaps", s.Gaps)
	}
}

func TestCommandsChangeNothing(t *testing.T) {
	d, c := newDecoder(Config{})
	play(t, d, c, []step{
		{topic: "NBIRTH/N", body: birthOf(1, temp(7))},
		{topic: "NCMD/N", body: msg(aliased(7, minusOne), aliased(99, integer(1))),
			want: `{"command":true,"values":{"temp":-1},"unresolved":[{"alias":99,"value":1,"quality":"untyped"}]}`},
		{topic: "DCMD/N/D", body: named("x", integer(1)), want: `{"command":true,"values":{"x":1},"quality":{"x":"untyped"}}`},
		{topic: "NDATA/N", body: seq(1), want: `{"seq":1,"values":{}}`},
	})
}

// A birth that is too large for an event is refused, but its names are known.
func TestARefusedBirthIsKnownAllTheSame(t *testing.T) {
	d, c := newDecoder(Config{MaxJSON: 200})
	if _, err := d.Decode("spBv1.0/G/NBIRTH/N", birthOf(1, temp(7), named("long", str(15, strings.Repeat("x", 200)))), taken); err == nil {
		t.Fatal("no error")
	}
	play(t, d, c, []step{{topic: "NDATA/N", body: msg(seq(1), aliased(7, minusOne)), want: `{"seq":1,"values":{"temp":-1}}`}})
}

func TestARefusedMessageIsAGap(t *testing.T) {
	d, c := newDecoder(Config{})
	play(t, d, c, []step{{topic: "NBIRTH/N", body: birthOf(1)}})
	if _, err := d.Decode("spBv1.0/G/NDATA/N", []byte{0xff}, taken); err == nil {
		t.Fatal("no error")
	}
	play(t, d, c, []step{{topic: "NDATA/N", body: seq(2), want: `{"seq":2,"gap":true,"values":{}}`, ask: true}})
}
