package document

import (
	"fmt"
	"strings"
	"testing"

	"sluice/agent/remote/trust"
)

const head = "target: all\nversion: 7\nissued: 2026-01-01T00:00:00Z\nexpires: 2026-02-01T00:00:00Z\n"

func TestParse(t *testing.T) {
	edit := func(old, with string) string { return strings.Replace(head+"config: { version: 1 }\n", old, with, 1) }
	for name, tt := range map[string]struct{ text, wrong string }{
		"good":                  {edit("", ""), ""},
		"with an epoch":         {edit("", "epoch: 3\n"), ""},
		"withdrawn":             {head + "config: {}\n", ""},
		"a patch":               {head + "patch: { a.b: 1, c: null }\n", ""},
		"a canary":              {edit("all", "all/canary\npercent: 0"), ""},
		"the whole as percent":  {edit("", "percent: 100\n"), ""},
		"2^64-1":                {edit("7", "18446744073709551615"), ""},
		"an offset":             {edit("2026-02-01T00:00:00Z", "2026-02-01T00:00:00+02:00"), ""},
		"no target":             {edit("target: all\n", ""), "target: is missing"},
		"no version":            {edit("version: 7\n", ""), "version: is missing"},
		"no issued":             {edit("issued: 2026-01-01T00:00:00Z\n", ""), "issued: is missing"},
		"no expires":            {edit("expires: 2026-02-01T00:00:00Z\n", ""), "expires: is missing"},
		"neither":               {head, "config: is missing"},
		"both":                  {head + "config: {}\npatch: { a: 1 }\n", "one of them only"},
		"an unknown key":        {edit("", "expire: 1\n"), `"expire" is not a known key`},
		"version 0":             {edit("7", "0"), "at least 1"},
		"version -1":            {edit("7", "-1"), "no whole number"},
		"version 2^64":          {edit("7", "18446744073709551616"), "no whole number"},
		"version in quotes":     {edit("7", `"7"`), "no whole number"},
		"version 07":            {edit("7", "07"), "no whole number"},
		"version 0x7":           {edit("7", "0x7"), "no whole number"},
		"version 7.0":           {edit("7", "7.0"), "no whole number"},
		"a list as version":     {edit("7", "[7]"), "a single value"},
		"expires before issued": {edit("2026-02-01", "2025-02-01"), "not after issued"},
		"no time":               {edit("2026-02-01T00:00:00Z", "tomorrow"), "is no time"},
		"the year 1":            {edit("2026-01-01", "0001-01-01"), "is no time"},
		"percent 101":           {edit("all", "all/canary\npercent: 101"), "0 to 100"},
		"a canary without":      {edit("all", "all/canary"), "percent: is missing"},
		"percent without one":   {edit("", "percent: 50\n"), "only a target that ends in /canary"},
		"a strange target":      {edit("all", "fleet"), "is no target"},
		"a config in text":      {head + "config: 'version: 1'\n", "a mapping is needed"},
		"an empty patch":        {head + "patch: {}\n", "a mapping from paths"},
		"a strange path":        {head + "patch: { a..b: 1 }\n", "an empty part"},
		"an alias":              {head + "config: { a: &x 1, b: *x }\n", "anchors"},
		"a key twice":           {head + "config: {}\nversion: 8\n", "twice"},
		"a key twice inside":    {head + "config: { a: 1, a: 2 }\n", "twice"},
		"JSON":                  {`{"target":"all","version":1,"issued":"2026-01-01T00:00:00Z","expires":"2026-02-01T00:00:00Z","config":{}}`, ""},
		"all that is wrong":     {"target: x\nversion: 0\nfoo: 1\n", "target: "},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := Parse([]byte(tt.text))
			wantError(t, err, tt.wrong)
			if err == nil && (d.Version == 0 || d.Issued.IsZero() || d.Config == nil && d.Patch == nil) {
				t.Errorf("%+v", d)
			}
		})
	}
}

func wantError(t *testing.T, err error, part string) {
	t.Helper()
	switch {
	case part == "" && err != nil:
		t.Error(err)
	case part != "" && (err == nil || !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "\n")):
		t.Errorf("error %v, want %q in one line", err, part)
	}
}

func TestTargets(t *testing.T) {
	labels := map[string]string{"site": "plant-7", "ring": "a=b"}
	for text, matches := range map[string]bool{
		"all": true, "agent:gw-1": true, "agent:gw-2": false, "label:site=plant-7": true, "label:site=plant-8": false, "label:ring=a=b": true,
		"label:zone=": false, "all/canary": true, "agent:gw-1/canary": true, "label:site=plant-7/canary": true,
	} {
		target, err := ParseTarget(text)
		if err != nil || target.String() != text || target.Matches("gw-1", labels) != matches {
			t.Errorf("%s: %+v, %v", text, target, err)
		}
	}
	for _, text := range []string{"", "ALL", "all ", "agent:", "agent:a/b", "agent:a b", "agent:..", "label:", "label:x", "label:=v", "label:a b=c", "label:a=\n", "canary", "/canary", "all/canary/canary", "agent:" + strings.Repeat("a", 65)} {
		if target, err := ParseTarget(text); err == nil {
			t.Errorf("%q is taken as %+v", text, target)
		}
	}
	var none Target
	if none.Matches("gw-1", labels) {
		t.Error("no target matches")
	}
}

func TestCanaryShareIsStable(t *testing.T) {
	// The number is a promise: scripts compute it, too.
	for id, want := range map[string]int{"gw-1": 57, "gw-17": 6, "plant-7.line.1": 36} {
		if got := Share(id); got != want {
			t.Errorf("%s has the share %d, was %d", id, got, want)
		}
	}
	d := Document{Target: Target{Kind: All, Canary: true}}
	last := map[string]bool{}
	for _, percent := range []int{0, 1, 25, 50, 99, 100} {
		d.Percent = percent
		n, now := 0, map[string]bool{}
		for i := range 10000 {
			id := fmt.Sprintf("gw-%d", i)
			if now[id] = d.For(id, nil); now[id] {
				n++
			} else if last[id] {
				t.Fatalf("%s took part before %d %%", id, percent)
			}
		}
		if last = now; n < percent*100-300 || n > percent*100+300 || percent == 0 && n > 0 || percent == 100 && n < 10000 {
			t.Errorf("%d of 10,000 agents take part at %d %%", n, percent)
		}
	}
}

func TestParseCommand(t *testing.T) {
	good := "id: c-1\ntarget: agent:gw-1\nissued: 2026-01-01T00:00:00Z\nexpires: 2026-01-01T01:00:00Z\nkind: log-level\nargs: { level: debug }\n"
	for name, tt := range map[string]struct{ old, with, wrong string }{
		"good": {"", "", ""}, "without args": {"log-level\nargs: { level: debug }\n", "diagnostics\n", ""}, "without args that it needs": {"args: { level: debug }\n", "", "args: level: is missing"}, "the longest life": {"2026-01-01T01", "2026-01-08T00", ""},
		"too long a life": {"2026-01-01T01", "2026-01-08T01", "more than 168h"}, "an unknown kind": {"log-level", "reboot", "is unknown"},
		"no id": {"id: c-1\n", "", "id: is missing"}, "a strange id": {"c-1", "'a b'", "id: 1 to 64"}, "a canary": {"gw-1", "gw-1/canary", "no canary"},
		"a list as args": {"{ level: debug }", "[ 1 ]", "a mapping"}, "an unknown key": {"", "version: 1\n", `"version" is not`},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := ParseCommand([]byte(strings.Replace(good, tt.old, tt.with, 1)))
			wantError(t, err, tt.wrong)
			if err == nil && (c.Args == nil || c.Type() != trust.TypeCommand) {
				t.Errorf("%+v", c)
			}
		})
	}
}

func TestParseTrust(t *testing.T) {
	good := "number: 2\nepoch: 1\nissued: 2026-01-01T00:00:00Z\nthreshold: 1\ntrust: [ 'ed25519:A', 'ed25519:B config' ]\n"
	for name, tt := range map[string]struct{ old, with, wrong string }{
		"good": {"", "", ""}, "number 0": {"number: 2", "number: 0", "at least 1"}, "no keys": {"[ 'ed25519:A', 'ed25519:B config' ]", "[]", "a list of keys"},
		"a mapping": {"[ 'ed25519:A', 'ed25519:B config' ]", "[ { a: 1 } ]", "a list of keys"}, "an unknown key": {"", "expires: 1\n", "expires"}, "a huge threshold": {"threshold: 1", "threshold: 18446744073709551615", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r, issued, err := ParseTrust([]byte(strings.Replace(good, tt.old, tt.with, 1)))
			wantError(t, err, tt.wrong)
			if err == nil && (r.Number != 2 || r.Epoch != 1 || r.Threshold < 1 || len(r.Trust) != 2 || issued.IsZero()) {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestTypeOf(t *testing.T) {
	for text, want := range map[string]string{
		head + "config: {}": trust.TypeConfig, "target: all\nkind: replay": trust.TypeCommand, "target: all\nkind: update": trust.TypeUpdate, "number: 1": trust.TypeTrust, "version: 1": "",
	} {
		if got, err := TypeOf([]byte(text)); got != want || (err == nil) != (want != "") {
			t.Errorf("%q is %q, %v", text, got, err)
		}
	}
}

// FuzzDocument: whatever the text, each reader returns something usable or an
// error of one line.
func FuzzDocument(f *testing.F) {
	f.Add([]byte(head + "config: { a: 1 }"))
	f.Add([]byte(head + "patch: { a.b[0]: { c: [ 1 ] } }"))
	f.Add([]byte("id: c\ntarget: all\nissued: 2026-01-01T00:00:00Z\nexpires: 2026-01-01T01:00:00Z\nkind: update"))
	f.Add([]byte("number: 2\nissued: 2026-01-01T00:00:00Z\nthreshold: 1\ntrust: [ x ]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 8<<10 {
			return // time is for variety
		}
		d, err1 := Parse(text)
		if err1 == nil && (d.Target.Kind == 0 || !d.Expires.After(d.Issued) || d.Percent < 0 || d.Percent > 100 || (d.Config == nil) == (d.Patch == nil)) {
			t.Fatalf("%+v", d)
		}
		c, err2 := ParseCommand(text)
		if err2 == nil && (c.ID == "" || c.Expires.Sub(c.Issued) > MaxLife || c.Target.Kind == 0) {
			t.Fatalf("%+v", c)
		}
		r, _, err3 := ParseTrust(text)
		if err3 == nil {
			_, _ = r.Anchor()
		}
		_, err4 := TypeOf(text)
		for _, err := range []error{err1, err2, err3, err4} {
			if err != nil && strings.ContainsAny(err.Error(), "\n\r\x00") {
				t.Fatalf("error %q", err)
			}
		}
	})
}
