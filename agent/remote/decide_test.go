package remote

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"sluice/agent/remote/floor"
	"sluice/agent/remote/trust"
)

const own = "agent:gw-1"

// edit changes the JSON of an envelope.
func edit(t testing.TB, value []byte, change func(map[string]any)) []byte {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(value, &m); err != nil {
		t.Fatal(err)
	}
	change(m)
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Version 5 runs. Whatever comes is adopted only if it is newer and well signed.
func TestAttacks(t *testing.T) {
	a := gateway(t)
	running := doc{version: 5}.signed(t)
	m := adopt(t, floor.Memory{}, a, own, running)
	next := doc{version: 6}.signed(t)
	payloadOf := func(value []byte) (p any) {
		edit(t, value, func(m map[string]any) { p = m["payload"] })
		return p
	}
	two := a
	two.Trust = anchorOf(t, 2, keys(1, 2)...)
	twice := a
	twice.Trust = trust.Anchor{Set: trust.Set{Keys: anchorOf(t, 1, append(keys(1), keys(1)[0]+" config")...).Keys, Threshold: 2}}
	late := a
	for name, tt := range map[string]struct {
		a      Agent
		key    string
		value  []byte
		clock  time.Time
		action Action
		code   trust.Code
	}{
		"newer":                         {a, own, next, now, Adopt, ""},
		"the one that runs":             {a, own, running, now, Ignore, ""},
		"the one that runs, expired":    {a, own, running, now.Add(10000 * time.Hour), Ignore, ""},
		"for another agent":             {a, "agent:gw-2", doc{target: "agent:gw-2", version: 9}.signed(t), now, Ignore, ""},
		"for another label":             {a, "label:site=p8", doc{target: "label:site=p8", version: 9}.signed(t), now, Ignore, ""},
		"junk for another agent":        {a, "agent:gw-2", []byte("junk"), now, Ignore, ""},
		"under a strange key":           {a, "gw-1", next, now, Ignore, ""},
		"without a key":                 {a, "", next, now, Ignore, ""},
		"deleted":                       {a, own, nil, now, Ignore, ""},
		"unsigned":                      {a, own, edit(t, next, func(m map[string]any) { m["signatures"] = []any{} }), now, Refuse, trust.Unsigned},
		"without the member signatures": {a, own, edit(t, next, func(m map[string]any) { delete(m, "signatures") }), now, Refuse, trust.Unsigned},
		"a plain document":              {a, own, []byte(doc{version: 6}.text()), now, Refuse, trust.Malformed},
		"by another key":                {a, own, doc{version: 6}.signed(t, 2), now, Refuse, trust.WrongKey},
		"tampered payload":              {a, own, edit(t, next, func(m map[string]any) { m["payload"] = payloadOf(doc{version: 7}.signed(t)) }), now, Refuse, trust.Tampered},
		"mix of two": {a, own, edit(t, next, func(m map[string]any) {
			m["signatures"] = append(m["signatures"].([]any), json.RawMessage(fmt.Sprintf(`{"keyid":"","sig":"%s"}`, strings.Repeat("A", 86))))
			m["payload"] = payloadOf(doc{version: 8}.signed(t, 2))
		}), now, Refuse, trust.Tampered},
		"tampered type":           {a, own, edit(t, next, func(m map[string]any) { m["payloadType"] = trust.TypeCommand }), now, Refuse, trust.WrongType},
		"a command as config":     {a, own, envelope(t, trust.TypeCommand, doc{version: 6}.text(), 1).Encode(), now, Refuse, trust.WrongType},
		"renamed command":         {a, own, edit(t, envelope(t, trust.TypeCommand, doc{version: 6}.text(), 1).Encode(), func(m map[string]any) { m["payloadType"] = trust.TypeConfig }), now, Refuse, trust.Tampered},
		"tampered signature":      {a, own, bytes.Replace(next, []byte(`"sig":"`), []byte(`"sig":"A`), 1), now, Refuse, trust.Tampered},
		"cut off":                 {a, own, next[:len(next)/2], now, Refuse, trust.Malformed},
		"older":                   {a, own, doc{version: 4}.signed(t), now, Refuse, trust.Older},
		"of an older epoch":       {a, own, doc{version: 4}.signed(t), now, Refuse, trust.Older},
		"same, other content":     {a, own, doc{version: 5, body: "config: { version: 2 }"}.signed(t), now, Refuse, trust.SameVersion},
		"same, signed again":      {a, own, doc{version: 5}.signed(t, 1, 2), now, Ignore, ""},
		"expired":                 {a, own, doc{version: 6, issued: now.Add(-48 * time.Hour), expires: now.Add(-time.Second)}.signed(t), now, Refuse, trust.Expired},
		"expires just now":        {a, own, doc{version: 6, expires: now}.signed(t), now, Refuse, trust.Expired},
		"expired, clock set back": {a, own, doc{version: 6, issued: now.Add(-300 * time.Hour), expires: now.Add(-200 * time.Hour)}.signed(t), now.Add(-250 * time.Hour), Refuse, trust.Expired},
		"clock of 1970":           {a, own, next, time.Unix(0, 0), Adopt, ""},
		"signed for another":      {a, own, doc{target: "agent:gw-2", version: 6}.signed(t), now, Refuse, trust.WrongTarget},
		"signed for all":          {a, own, doc{target: "all", version: 6}.signed(t), now, Refuse, trust.WrongTarget},
		"canary as stable":        {a, own, doc{target: own + "/canary", percent: 100, version: 6}.signed(t), now, Refuse, trust.WrongTarget},
		"10 MiB of junk":          {a, own, bytes.Repeat([]byte("junk"), 10<<18), now, Refuse, trust.TooLarge},
		"not valid":               {a, own, doc{version: 6, body: "config: { nonsense: true }"}.signed(t), now, Refuse, trust.Invalid},
		"not a document":          {a, own, envelope(t, trust.TypeConfig, "- a\n", 1).Encode(), now, Refuse, trust.Invalid},
		"unknown field":           {a, own, doc{version: 6, body: "config: { version: 1 }\nexpire: never"}.signed(t), now, Refuse, trust.Invalid},
		"version 2^63":            {a, own, doc{version: 1 << 63}.signed(t), now, Refuse, trust.VersionJump},
		"a jump of 10^9":          {a, own, doc{version: 5 + MaxJump}.signed(t), now, Adopt, ""},
		"a jump of 10^9 + 1":      {a, own, doc{version: 6 + MaxJump}.signed(t), now, Refuse, trust.VersionJump},
		"epoch 2^63":              {a, own, doc{epoch: 1 << 63, version: 1}.signed(t), now, Refuse, trust.VersionJump},
		"a new epoch":             {a, own, doc{epoch: 1, version: 1}.signed(t), now, Adopt, ""},
		"one of two keys":         {two, own, next, now, Refuse, trust.TooFewSignatures},
		"two of two keys":         {two, own, doc{version: 6}.signed(t, 2, 1), now, Adopt, ""},
		"one key under two ids": {twice, own, edit(t, next, func(m map[string]any) {
			sig := m["signatures"].([]any)[0].(map[string]any)["sig"]
			m["signatures"] = append(m["signatures"].([]any), map[string]any{"keyid": "other", "sig": sig})
		}), now, Refuse, trust.TooFewSignatures},
		"not yet known": {late, "all", doc{target: "all", version: 1}.signed(t), now, Ignore, ""},
	} {
		t.Run(name, func(t *testing.T) {
			before := m.Clone()
			d := expect(t, Decide(m, tt.a, tt.key, tt.value, tt.clock), tt.action, tt.code)
			if !reflect.DeepEqual(m, before) {
				t.Error("the memory was changed")
			}
			if (d.Config != nil) != (tt.action == Adopt) {
				t.Errorf("config %q", d.Config)
			}
			if d.Action == Adopt && (!d.Save || d.Memory.Documents[own].Digest != d.Digest || d.Memory.Highest.Before(m.Highest)) {
				t.Errorf("%+v", d.Memory)
			}
		})
	}
}

// A gateway that has never seen a right time waits for one: it cannot know what has
// expired. One that has seen any goes by that.
func TestAClockThatIsNotSet(t *testing.T) {
	a := gateway(t)
	value := doc{version: 1}.signed(t)
	unset := time.Unix(100, 0)
	var m floor.Memory
	m.See(unset)
	if d := expect(t, Decide(m, a, own, value, unset), Refuse, trust.NotYet); d.Save {
		t.Error("it is remembered")
	}
	expect(t, Decide(m, a, own, doc{version: 1, body: "config: {}"}.signed(t), unset), Refuse, trust.NotYet)
	expect(t, Decide(m, a, own, value, now.Add(31*24*time.Hour)), Refuse, trust.Expired)
	expect(t, Decide(m, a, own, value, now), Adopt, "")
	m.See(now)
	expect(t, Decide(m, a, own, value, unset), Adopt, "")
}

// 20,000 signatures that are none cost nothing, neither together in one envelope
// nor as the most that an envelope may hold.
func TestBogusSignaturesAreCheap(t *testing.T) {
	a := gateway(t)
	a.Trust = anchorOf(t, 2, keys(1, 2, 3, 4, 5, 6, 7, 8)...)
	sig := func(i int) map[string]any {
		return map[string]any{"keyid": fmt.Sprint(i), "sig": fmt.Sprintf("%085dA", i)}
	}
	bogus := func(n int) []byte {
		return edit(t, doc{version: 1}.signed(t, 8, 1), func(m map[string]any) {
			list := []any{}
			for i := range n - 2 {
				list = append(list, sig(i))
			}
			m["signatures"] = append(list, m["signatures"].([]any)...)
		})
	}
	cost := func(value []byte, code trust.Code, action Action) time.Duration {
		begin := time.Now()
		expect(t, Decide(floor.Memory{}, a, own, value, now), action, code)
		return time.Since(begin)
	}
	t.Logf("20,000: %s", cost(bogus(20000), trust.TooLarge, Refuse))
	t.Logf("8,000 in 1 MiB: %s", cost(bogus(8000), trust.TooManySignatures, Refuse))
	t.Logf("16: %s", cost(bogus(16), "", Adopt))
}

// The state was deleted. What the running config says of itself is the least, so
// that nothing older comes back.
func TestReplayAfterTheStateWasDeleted(t *testing.T) {
	a := gateway(t)
	dir := t.TempDir()
	running := adopt(t, floor.Memory{}, a, own, doc{version: 5}.signed(t)).Applied
	s, _, err := floor.Open(dir, running, now)
	if err != nil {
		t.Fatal(err)
	}
	m := s.Memory()
	expect(t, Decide(m, a, own, doc{version: 4}.signed(t), now), Refuse, trust.Older)
	expect(t, Decide(m, a, own, doc{version: 5, body: "config: { version: 3 }"}.signed(t), now), Refuse, trust.SameVersion)
	expect(t, Decide(m, a, own, doc{version: 5}.signed(t), now), Ignore, "")
	expect(t, Decide(m, a, own, doc{version: 6}.signed(t), now), Adopt, "")
	old := command{issued: now.Add(-time.Minute)}
	expect(t, DecideCommand(m, a, old.signed(t), now), Refuse, trust.Older)
	// Without a running one, an agent takes what it finds, as at its first start.
	expect(t, Decide(floor.Memory{}, a, own, doc{version: 4}.signed(t), now), Adopt, "")
}

// The most specific target counts, then the highest version; a canary is of its
// target; a withdrawn document gives way.
func TestChoice(t *testing.T) {
	a := gateway(t) // share 57
	records := map[string][]byte{}
	m := floor.Memory{}
	put := func(action Action, key string, d doc) Decision {
		t.Helper()
		d.target = key
		records[key] = d.signed(t)
		got := expect(t, Decide(m, a, key, records[key], now), action, "")
		if got.Save {
			m = got.Memory
		}
		if got.Action == Adopt {
			m = Running(m, By(m, a, got))
		}
		return got
	}
	again := func(key string) {
		t.Helper()
		d := expect(t, Decide(m, a, key, records[key], now), Adopt, "")
		m = Running(m, By(m, a, d))
	}
	put(Adopt, "all", doc{version: 3})
	put(Ignore, "all/canary", doc{version: 4, percent: 57})
	put(Adopt, "all/canary", doc{version: 5, percent: 58})
	put(Adopt, "all", doc{version: 5}) // promoted
	put(Adopt, "label:site=p7", doc{version: 1})
	put(Ignore, "all", doc{version: 9})
	put(Ignore, "all/canary", doc{version: 10, percent: 100})
	put(Adopt, "label:ring=a", doc{version: 2})
	put(Ignore, "label:site=p8", doc{version: 9})
	put(Adopt, own, doc{version: 1})
	put(Ignore, "label:ring=a", doc{version: 7})
	if d := put(Withdraw, own, doc{version: 2, body: "config: {}"}); d.Target != "label:ring=a" {
		t.Errorf("what counts now: %q", d.Target)
	}
	// A crash here: the same again.
	if d := expect(t, Decide(m, a, own, records[own], now.Add(10000*time.Hour)), Withdraw, ""); d.Target != "label:ring=a" {
		t.Errorf("what counts now: %q", d.Target)
	}
	again("label:ring=a")
	expect(t, Decide(m, a, own, records[own], now), Ignore, "")
	put(Ignore, "label:site=p7", doc{version: 3, body: "config: {}"})
	if d := put(Withdraw, "label:ring=a", doc{version: 8, body: "config: {}"}); d.Target != "all/canary" {
		t.Errorf("what counts now: %q", d.Target)
	}
	again("all/canary")
	// Out of the canary again.
	if d := put(Withdraw, "all/canary", doc{version: 11, percent: 10}); d.Target != "all" {
		t.Errorf("what counts now: %q", d.Target)
	}
	again("all")
	if d := put(Withdraw, "all", doc{version: 10, body: "config: {}"}); d.Target != "" {
		t.Errorf("what counts now: %q", d.Target)
	}
	m = Running(m, floor.Applied{})
	expect(t, Decide(m, a, "all", records["all"], now), Ignore, "")
	// A deletion, which nobody signs, takes nothing back.
	expect(t, Decide(m, a, own, nil, now), Ignore, "")
	expect(t, Decide(m, a, own, doc{version: 1}.signed(t), now), Refuse, trust.Older)
}

// A document that was saved and not yet applied when the power went is tried
// again; one that was rolled back is not.
func TestTriedAgainAfterACrashAndNotAfterARollback(t *testing.T) {
	a := gateway(t)
	value := doc{version: 5}.signed(t)
	d := expect(t, Decide(floor.Memory{}, a, own, value, now), Adopt, "")
	m := d.Memory
	d = expect(t, Decide(m, a, own, value, now), Adopt, "")
	if d.Save {
		t.Error("there is nothing new to save")
	}
	m = RolledBack(m, d.Document.Target.String(), d.Digest)
	expect(t, Decide(m, a, own, value, now), Ignore, "")
	expect(t, Decide(m, a, own, doc{version: 6}.signed(t), now), Adopt, "")
}

// A stolen key cannot poison the clock: a time of issue far ahead is not
// believed. One that is near is.
func TestTimeSeen(t *testing.T) {
	a := gateway(t)
	far := doc{version: 1, issued: now.Add(1000 * time.Hour), expires: now.Add(2000 * time.Hour)}
	if d := expect(t, Decide(floor.Memory{}, a, own, far.signed(t), now), Adopt, ""); !d.Memory.Highest.Equal(now) {
		t.Errorf("%s", d.Memory.Highest)
	}
	near := doc{version: 1, issued: now.Add(time.Hour)}
	d := expect(t, Decide(floor.Memory{}, a, own, near.signed(t), now), Adopt, "")
	if !d.Memory.Highest.Equal(now.Add(time.Hour)) {
		t.Errorf("%s", d.Memory.Highest)
	}
	// From now on the clock is not believed to be before it.
	old := doc{version: 2, issued: now.Add(-2 * time.Hour), expires: now}
	expect(t, Decide(d.Memory, a, own, old.signed(t), now.Add(-time.Hour)), Refuse, trust.Expired)
}

func TestFirstVersionMayBeATime(t *testing.T) {
	a := gateway(t)
	m := adopt(t, floor.Memory{}, a, own, doc{version: uint64(now.Unix())}.signed(t))
	expect(t, Decide(m, a, own, doc{version: uint64(now.Unix() + 86400)}.signed(t), now), Adopt, "")
	expect(t, Decide(floor.Memory{}, a, own, doc{version: MaxFirst + 1}.signed(t), now), Refuse, trust.VersionJump)
}
