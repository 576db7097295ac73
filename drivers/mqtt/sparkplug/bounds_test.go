package sparkplug

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestTopics(t *testing.T) {
	for _, c := range []struct{ topic, device, ask string }{
		{"spBv1.0/G/NBIRTH/N", "N", ""},
		{"spBv1.0/G/NDATA/N", "N", ncmd},
		{"spBv1.0/G/DDATA/N/D", "N/D", ncmd},
		{"spBv1.0/Grüße 1/NDATA/N", "N", "spBv1.0/Grüße 1/NCMD/N"},
		{"spBv1.0/STATE/NDATA/N", "N", "spBv1.0/STATE/NCMD/N"}, // a group of that name
		{"spBv1.0/STATE/host", "", ""},
		{"STATE/host", "", ""},
	} {
		d, _ := newDecoder(Config{})
		m, err := d.Decode(c.topic, nil, taken)
		if err != nil || m.Device != c.device || m.Ask != c.ask {
			t.Errorf("%s: device %q, asks %q, %v", c.topic, m.Device, m.Ask, err)
		}
	}
	for _, topic := range []string{
		"", "a", "plant/a", "spBv1.0", "spBv1.0/G", "spBv1.0/G/NDATA", "spBv1.0/G/NDATA/N/D", "spBv1.0/G/DDATA/N", "spBv1.0/G/DDATA/N/D/x",
		"spBv1.0/G/ndata/N", "spBv1.0/G/NREBIRTH/N", "spBv1.0//NDATA/N", "spBv1.0/G/NDATA/", "spBv1.0/G/DDATA/N/", "spAv1.0/G/NDATA/N", "spBv1.0/STATE", "STATE", "STATE/",
	} {
		d, _ := newDecoder(Config{})
		if _, err := d.Decode(topic, nil, taken); !errors.Is(err, errTopic) {
			t.Errorf("%q: %v", topic, err)
		}
	}
}

func TestTheStateOfAHostPassesAsItIs(t *testing.T) {
	d, _ := newDecoder(Config{})
	for body, content := range map[string]string{
		`{"online":true,"timestamp":1486144502122}`: "application/json", "ONLINE": "application/octet-stream", "": "application/octet-stream",
		"{": "application/octet-stream", "{\"a\":\"\xff\"}": "application/octet-stream",
	} {
		m, err := d.Decode("spBv1.0/STATE/host", []byte(body), taken)
		if err != nil || string(m.Payload) != body || m.ContentType != content {
			t.Errorf("%q: %+v, %v", body, m, err)
		}
	}
}

func TestWhatIsNotAPayloadIsRefused(t *testing.T) {
	nested := func(n int) []byte { // templates within each other
		m := named("x", integer(1))
		for range n {
			m = named("t", sub(18, m))
		}
		return m
	}
	sets := func(n int) []byte { // property sets within each other
		p := msg(str(1, "k"), sub(2, num(3, 1)))
		for range n {
			p = msg(str(1, "k"), sub(2, sub(9, p)))
		}
		return named("m", sub(9, p))
	}
	group := func(n int) []byte {
		return msg([]byte(strings.Repeat("\x6b", n)), []byte(strings.Repeat("\x6c", n))) // field 13
	}
	for _, c := range []struct {
		name string
		body []byte
		want error
	}{
		{"nothing", nil, nil},
		{"unknown fields of each wire type", msg(num(9, 1), str(10, "x"), []byte{11<<3 | wireFixed32, 1, 2, 3, 4}, []byte{12<<3 | wireFixed64, 1, 2, 3, 4, 5, 6, 7, 8}, group(3)), nil},
		{"a field of the wrong wire type", msg(str(3, "x"), num(2, 5), named("m", str(10, "x"), num(15, 1), num(1, 1))), nil},
		{"a tag cut off", []byte{0x80}, errShort},
		{"a number cut off", []byte{0x18}, errShort},
		{"a length beyond the end", []byte{0x12, 5, 0}, errShort},
		{"a length one beyond the end", []byte{0x22, 2, 'a'}, errShort},
		{"a length one beyond the end of its message", msg(mtr([]byte{0x0a, 2, 'a'}), seq(1)), errShort},
		{"a huge length", []byte{0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, errShort},
		{"a number of 11 bytes", []byte{0x18, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0}, errVarint},
		{"field 0", []byte{0, 0}, errField},
		{"a field number too high", msg([]byte{0x80, 0x80, 0x80, 0x80, 0x10, 0}), errField},
		{"wire type 6", []byte{14}, errField},
		{"a group's end alone", []byte{0x6c}, errField},
		{"a group that another ends", []byte{0x6b, 0x74}, errGroups},
		{"a group without an end", []byte{0x6b}, errGroups},
		{"groups too deep", group(maxGroups + 1), errGroups},
		{"fixed32 cut off", []byte{11<<3 | wireFixed32, 1}, errShort},
		{"fixed64 cut off", []byte{11<<3 | wireFixed64, 1}, errShort},
		{"a metric cut off", mtr([]byte{0x0a, 9}), errShort},
		{"a data set cut off", named("d", sub(17, []byte{0x22, 9})), errShort},
		{"a row cut off", named("d", sub(17, sub(4, []byte{0x0a, 9}))), errShort},
		{"a cell cut off", named("d", sub(17, sub(4, sub(1, []byte{0x08})))), errShort},
		{"packed types cut off", named("d", sub(17, str(3, "\x80"))), errVarint},
		{"a template cut off", named("d", sub(18, []byte{0x12, 9})), errShort},
		{"a parameter cut off", named("d", sub(18, sub(3, []byte{0x0a, 9}))), errShort},
		{"properties cut off", named("d", sub(9, []byte{0x12, 9})), errShort},
		{"a property cut off", named("d", sub(9, str(1, "k"), sub(2, []byte{0x08}))), errShort},
		{"metadata cut off", named("d", sub(8, []byte{0x12, 9})), errShort},
		{"templates", nested(maxDepth - 2), nil},
		{"templates too deep", nested(maxDepth + 1), errDepth},
		{"property sets", sets(maxDepth - 2), nil},
		{"property sets too deep", sets(maxDepth + 1), errDepth},
		{"many metrics", []byte(strings.Repeat("\x12\x00", maxMetrics)), nil},
		{"too many metrics", []byte(strings.Repeat("\x12\x00", maxMetrics+1)), errMetrics},
		{"too many columns", named("d", sub(17, []byte(strings.Repeat("\x12\x00", maxColumns+1)))), errColumns},
		{"too many rows", named("d", sub(17, []byte(strings.Repeat("\x22\x00", maxMetrics+1)))), errColumns},
		{"too many properties", named("d", sub(9, []byte(strings.Repeat("\x0a\x00", maxColumns+1)))), errColumns},
		{"too many parameters", named("d", sub(18, []byte(strings.Repeat("\x1a\x00", maxColumns+1)))), errColumns},
	} {
		for _, topic := range []string{"spBv1.0/G/NDATA/N", "spBv1.0/G/NBIRTH/N"} {
			d, _ := newDecoder(Config{})
			m, err := d.Decode(topic, c.body, taken)
			if !errors.Is(err, c.want) {
				t.Errorf("%s, %s: %v, want %v", c.name, topic, err, c.want)
			}
			if err == nil {
				object(t, m.Payload)
			}
		}
	}
}

// A few bytes on the wire can stand for many in JSON.
func TestEventsAreBounded(t *testing.T) {
	const limit = 1 << 16
	long := strings.Repeat("n", 1000)
	many := func(n int, part []byte) []byte { return []byte(strings.Repeat(string(part), n)) }
	d, _ := newDecoder(Config{MaxJSON: limit})
	got(t, d, "spBv1.0/G/NBIRTH/N", birthOf(1, named(long, num(2, 1), typed(typeInt8), integer(1))))
	control := strings.Repeat("\x01", limit/2)
	for _, c := range []struct {
		name string
		body []byte
	}{
		{"names by alias", many(200, aliased(1, integer(1)))},
		{"bits", named("b", typed(typeBooleanArray), sub(16, []byte{0, 0, 8, 0}, make([]byte, 0x10000)))},
		{"bytes as numbers", named("b", typed(typeInt8Array), sub(16, many(limit/3, []byte{0x80})))},
		{"bytes in base64", named("b", typed(typeBytes), sub(16, make([]byte, limit-100)))},
		{"control characters", named("b", typed(typeString), str(15, control))},
		{"control characters in a name", named(control)},
		{"control characters in strings", named("b", typed(typeStringArray), sub(16, []byte(control+"\x00")))},
		{"rows", named("b", sub(17, many(limit/4, []byte{0x22, 0})))},
		{"property sets", named("b", sub(9, str(1, "k"), sub(2, sub(10, many(limit/2, []byte{0x0a, 0})))))},
		{"a body", str(5, strings.Repeat("x", limit))},
		{"unresolved", many(4000, aliased(9))},
	} {
		_, err := d.Decode("spBv1.0/G/NDATA/N", c.body, taken)
		if !errors.Is(err, errLarge) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := d.Decode("spBv1.0/G/NDATA/N", many(50, aliased(1, integer(1))), taken); err != nil {
		t.Errorf("an event within the limit: %v", err)
	}
}

func TestTextThatIsNotUTF8(t *testing.T) {
	d, _ := newDecoder(Config{})
	got(t, d, "spBv1.0/G/NBIRTH/N", birthOf(1, named("a\xff"), named("a\xfe"))) // one key in JSON
	event, _ := got(t, d, "spBv1.0/G/NBIRTH/N", birthOf(1, named("a\xffb", typed(typeString), str(15, "x\xfe"))))
	wants(t, event["values"].(map[string]any), `{"bdSeq":1,"a\ufffdb":"x\ufffd"}`)
	wants(t, event["quality"].(map[string]any), `{"a\ufffdb":"bad"}`)
}

func TestTimes(t *testing.T) {
	d, _ := newDecoder(Config{})
	event, _ := got(t, d, "spBv1.0/G/NBIRTH/N", msg(num(1, 1486144502122), seq(0), named("a", num(3, 1486144502122)), named("b", num(3, 1<<63)), named("c", num(3, 0))))
	if event["time"] != "2017-02-03T17:55:02.122Z" {
		t.Errorf("time %v", event["time"])
	}
	wants(t, event["times"].(map[string]any), `{"b":null,"c":"1970-01-01T00:00:00.000Z"}`)
	event, _ = got(t, d, "spBv1.0/G/NDATA/N", msg(num(1, 1<<60), seq(1))) // no year that RFC 3339 has
	if event["time"] != takenText {
		t.Errorf("time %v", event["time"])
	}
}

func TestQualityCodes(t *testing.T) {
	d, _ := newDecoder(Config{})
	quality := func(code, typ, value []byte) []byte {
		return named(fmt.Sprintf("%x", code), typed(typeDouble), value, sub(9, str(1, "Quality"), sub(2, typ, code)))
	}
	event, _ := got(t, d, "spBv1.0/G/NBIRTH/N", birthOf(1,
		quality(num(3, 0), num(1, 3), float64Field(1)), quality(num(3, 192), num(1, 3), float64Field(1)), quality(num(3, 500), nil, float64Field(1)),
		quality(num(3, 64), nil, float64Field(1)), quality(num(3, 0xffffffff), nil, float64Field(1)), quality(str(8, "x"), nil, float64Field(1)),
		named("bad one", typed(typeBoolean), float64Field(1), sub(9, str(1, "Quality"), sub(2, num(3, 500))))))
	wants(t, event["quality"].(map[string]any), `{"1800":"bad","18f403":"stale","1840":"code-64","18ffffffff0f":"code--1","bad one":"bad"}`)
	if event["properties"] != nil {
		t.Errorf("the quality is a property, too: %v", event["properties"])
	}
}

func TestAnAliasCosts(t *testing.T) {
	d, _ := newDecoder(Config{MaxState: 10_000})
	var metrics []byte
	for i := range 1000 {
		metrics = append(metrics, named("x", num(2, uint64(i)))...)
	}
	for _, topic := range []string{"spBv1.0/G/NBIRTH/N", "spBv1.0/G/DBIRTH/N/D"} {
		if _, m := got(t, d, topic, birthOf(1, metrics)); !m.Full {
			t.Errorf("%s: a thousand aliases cost nothing", topic)
		}
	}
}

func TestANodeWithoutRoomCostsNothing(t *testing.T) {
	d, _ := newDecoder(Config{MaxState: 450})
	_, m := got(t, d, "spBv1.0/G/NBIRTH/N", birthOf(1))
	if !m.Full || d.state.room != 450 {
		t.Errorf("full %v, room %d", m.Full, d.state.room)
	}
	if _, m := got(t, d, "spBv1.0/G/NDATA/N", seq(1)); m.Ask != "" {
		t.Error("asked for a birth that cannot be remembered")
	}
}

// Births beyond the bound are decoded and not remembered; nodes of which nothing
// certain is known make room.
func TestMemoryOfNamesIsBounded(t *testing.T) {
	const limit = 100 << 10
	d, c := newDecoder(Config{MaxState: limit})
	var metrics []byte
	for i := range 100 {
		metrics = append(metrics, named(fmt.Sprintf("metric %d", i), num(2, uint64(i)), typed(typeInt16), integer(1))...)
	}
	full, alive := 0, 0
	for i := range 10 {
		_, m := got(t, d, fmt.Sprintf("spBv1.0/G/NBIRTH/N%d", i), birthOf(1, metrics))
		if m.Full {
			full++
		}
	}
	for i := range 10 {
		event, _ := got(t, d, fmt.Sprintf("spBv1.0/G/NDATA/N%d", i), msg(seq(1), aliased(5, minusOne)))
		if event["unresolved"] == nil {
			alive++
		}
	}
	if full == 0 || alive == 0 || full+alive != 10 {
		t.Fatalf("%d births were not remembered, %d nodes are known", full, alive)
	}
	if d.state.room < 0 {
		t.Fatalf("%d bytes of room", d.state.room)
	}
	// A node that dies makes room for another.
	c.now = c.now.Add(time.Second)
	got(t, d, "spBv1.0/G/NDEATH/N0", bd(1))
	if _, m := got(t, d, "spBv1.0/G/NBIRTH/N9", birthOf(1, metrics)); m.Full {
		t.Error("no room after a death")
	}
	// Names out of nowhere push out each other, and not what is alive.
	for i := range 2000 {
		got(t, d, fmt.Sprintf("spBv1.0/X/NDATA/%d", i), seq(1))
	}
	if event, _ := got(t, d, "spBv1.0/G/NDATA/N9", msg(seq(1), aliased(5, minusOne))); event["unresolved"] != nil {
		t.Error("a node that is alive was forgotten")
	}
	total := 0
	for _, n := range d.state.nodes {
		total += n.cost
	}
	if total+d.state.room != limit {
		t.Errorf("nodes cost %d, room is %d: not %d together", total, d.state.room, limit)
	}
}

// The bound is of memory, so what is counted must not be far from the truth.
func TestTheCostOfNamesIsCounted(t *testing.T) {
	var metrics []byte
	for i := range 20_000 {
		metrics = append(metrics, named(fmt.Sprintf("Folder/Sub/metric number %05d", i), num(2, uint64(i)), typed(typeInt16), integer(1))...)
	}
	d, _ := newDecoder(Config{MaxState: 64 << 20})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	got(t, d, "spBv1.0/G/NBIRTH/N", birthOf(1, metrics))
	runtime.GC()
	runtime.ReadMemStats(&after)
	held, counted := int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(64<<20-d.state.room)
	t.Logf("%d bytes in memory, %d counted", held, counted)
	if held > counted*5/4 || held < counted/3 {
		t.Errorf("%d bytes in memory, %d counted", held, counted)
	}
	runtime.KeepAlive(d)
}
