package tree

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

const sample = `version: 1
sources:
  bus-a: { modbus: { devices: { meter-1: { every: 1s }, meter.2: { every: 5s, tags: [ a, 2, true ] } } } }
text: "20"
empty: {}
none: []
pipeline:
  - class: process
    where: 'value.quality == "good"'
  - [ 1, [ two ] ]
long: |
  a
  b
null:
`

func parse(t testing.TB, text string) *Node {
	t.Helper()
	n, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return n
}

func TestEncodeReadsBack(t *testing.T) {
	texts := []string{sample, "a: 1", "{}", "a: \"\\u2028 \\u0001 \\\\ \\\" é 🚀\"\n", "\"a: b\":\n- c\n", "a: 0x1F\nb: 1e3\nc: .inf\nd: 2026-01-02T03:04:05Z\ne: ~\n", "1: 2\ntrue: x\n"}
	for _, file := range []string{"../../config/testdata/full.yaml", "../../../drivers/mqtt/sample.yaml", "../../../drivers/modbus/sample.yaml"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(b))
	}
	for _, text := range texts {
		n := parse(t, text)
		again := parse(t, string(n.Encode()))
		if !Equal(n, again) {
			t.Errorf("%s\nis written as\n%s", text, n.Encode())
		}
		if !Equal(n, n.Clone()) {
			t.Errorf("the clone of\n%s\ndiffers", text)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for name, tt := range map[string]struct{ text, want string }{
		"nothing":             {"", "empty"},
		"a list":              {"- a", "no mapping"},
		"a word":              {"a", "no mapping"},
		"a key twice":         {"a: 1\nb: 2\na: 3\n", "line 3: key \"a\" is there twice"},
		"a nested key twice":  {"a: { b: 1, b: 2 }", "twice"},
		"an anchor":           {"a: &x 1\nb: 2\n", "line 1: anchors"},
		"a bomb of aliases":   {"a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n", "anchors"},
		"an alias":            {"a: *x\n", "anchors"},
		"a tag":               {"a: !!binary x\n", "tags"},
		"a merge key":         {"a:\n  <<: { b: 1 }\n", "line 2: anchors"},
		"two documents":       {"a: 1\n---\nb: 2\n", "second document"},
		"a directive":         {"%YAML 1.2\n---\na: 1\n", "directives"},
		"not UTF-8":           {"a: \xff", "UTF-8"},
		"a NUL":               {"a: \x00", "UTF-8"},
		"deep brackets":       {"a: " + strings.Repeat("[", 100) + strings.Repeat("]", 100), "too deeply"},
		"deep braces":         {"a: " + strings.Repeat("{a: ", 100) + strings.Repeat("}", 100), "too deeply"},
		"deep indent":         {deep(100), "too deeply"},
		"deep dashes":         {"a:\n  " + strings.Repeat("- ", 100) + "x", "too deeply"},
		"many keys":           {strings.Repeat("a:\n", 30000), "30000 keys"},
		"many items in flow":  {"a: [" + strings.Repeat("1,", 30000) + "1]", "keys and list items"},
		"a text that is long": {"a: " + strings.Repeat("x", MaxBytes), "at most"},
		"a list as key":       {"{[a]: 1}\n", "line 1: "},
		"no YAML":             {"a: [", "not valid YAML"},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := Parse([]byte(tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v, error %v; want %q", n, err, tt.want)
			}
		})
	}
}

func deep(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%sa:\n", strings.Repeat(" ", i))
	}
	return b.String()
}

func TestSetAndLookup(t *testing.T) {
	one := &Node{Text: "1", Bare: true}
	for _, tt := range []struct {
		path  string
		value *Node
		want  string // a line of the result; "-…": a line that is gone
	}{
		{"sources.bus-a.modbus.devices.meter-1.every", &Node{Text: "2s"}, `          every: "2s"`},
		{"sources.bus-a.modbus.devices.meter.2.every", &Node{Text: "2s"}, `          every: "2s"`},
		{"sources.bus-a.modbus.devices.meter.2.tags[1]", &Node{Text: "x"}, `            - x`},
		{"sources.bus-a.modbus.devices.meter.2.tags[0]", &Node{Kind: Null}, `-            - a`},
		{`sources."b.c".mqtt`, one, `  b.c:`},
		{"classes.process.keep.bytes", &Node{Text: "2GiB"}, `      bytes: "2GiB"`},
		{"pipeline[0].class", &Node{Text: "alarm"}, `  - class: alarm`},
		{"text", &Node{Kind: Null}, `-text: "20"`},
		{"nowhere.at.all", &Node{Kind: Null}, `version: 1`},
		{"null.x", one, `  x: 1`},
		{"empty", &Node{Kind: Mapping, Entries: []Entry{{"a", one}}}, `empty:`},
	} {
		n := parse(t, sample)
		if err := n.Set(tt.path, tt.value); err != nil {
			t.Errorf("%s: %v", tt.path, err)
			continue
		}
		lines := strings.Split(string(n.Encode()), "\n")
		want, gone := strings.CutPrefix(tt.want, "-")
		has := false
		for _, l := range lines {
			has = has || l == want
		}
		if has == gone {
			t.Errorf("%s: line %q in\n%s", tt.path, tt.want, n.Encode())
		}
		if got, err := n.Lookup(tt.path); err != nil || tt.value.Kind != Null && !Equal(got, tt.value) {
			t.Errorf("%s: found %+v, %v", tt.path, got, err)
		}
	}
}

func TestSetRefuses(t *testing.T) {
	for path, want := range map[string]string{
		"": "0 bytes", "a..b": "an empty part", ".a": "an empty part", "a.": "an empty part", "a[x]": "[ without", "a[1": "[ without", `"a`: "a quote",
		`"a"b`: "a dot", "a.\xff": "UTF-8", "version.x": "no mapping", "pipeline[7].x": "no item", "pipeline.x": "no mapping", "version[0]": "no item",
		strings.Repeat("a.", 400) + "a": "levels", strings.Repeat("a", 2000): "2000 bytes",
	} {
		n := parse(t, sample)
		before := string(n.Encode())
		err := n.Set(path, &Node{Text: "x"})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: error %v, want %q", path, err, want)
		}
		if string(n.Encode()) != before {
			t.Errorf("%.20q: changed all the same:\n%s", path, n.Encode())
		}
	}
}

func TestLeaves(t *testing.T) {
	n := parse(t, sample)
	for _, l := range n.Leaves() {
		got, err := n.Lookup(l.Path)
		if err != nil || got != l.Node {
			t.Errorf("%s is not found: %v", l.Path, err)
		}
	}
	if got := n.Leaves()[2]; got.Path != `sources.bus-a.modbus.devices."meter.2".every` || fmt.Sprint(got.Keys) != "[sources bus-a modbus devices meter.2 every]" {
		t.Errorf("%+v", got)
	}
}

// A patch is looked through before anybody knows what it will be put on.
func TestLeavesAt(t *testing.T) {
	v := parse(t, "password: x\nlist: [ a ]\n")
	got, err := LeavesAt(`sources.line.subscribe[7]`, v)
	if err != nil || len(got) != 2 || got[0].Path != "sources.line.subscribe[7].password" || fmt.Sprint(got[1].Keys) != "[sources line subscribe  list ]" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := LeavesAt("a..b", v); err == nil {
		t.Error("a path with an empty part is taken")
	}
}

// FuzzTree: whatever the text, there is a tree that reads back from what it
// encodes to, or an error of one line.
func FuzzTree(f *testing.F) {
	f.Add([]byte(sample), "sources.bus-a")
	f.Add([]byte("a: \"\\u2028\"\nb: [ x, { y: z } ]"), "b[1].y")
	f.Fuzz(func(t *testing.T, text []byte, path string) {
		if len(text) > 8<<10 {
			return // time is for variety
		}
		n, err := Parse(text)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r\x00") {
				t.Fatalf("error %q", err)
			}
			return
		}
		again, err := Parse(n.Encode())
		if err != nil || !Equal(n, again) {
			t.Fatalf("encoded as\n%s\n%v", n.Encode(), err)
		}
		if n.Set(path, &Node{Text: "new: x"}) == nil {
			if got, err := n.Lookup(path); err != nil || got == nil || got.Text != "new: x" {
				t.Fatalf("set at %q, found %+v, %v", path, got, err)
			}
			if again, err := Parse(n.Encode()); err != nil || !Equal(n, again) {
				t.Fatalf("encoded as\n%s\n%v", n.Encode(), err)
			}
		}
	})
}
